"""Configurations of others: every key is known and obeyed, known and the same here, or refused.

A key that is there and not obeyed loads without a word, and the features are wrong. So is one that
is absent, if what its program takes instead is not what is done here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clip_model.state_dict import shown


@dataclass(frozen=True)
class Same:
    """A key that must say what is done here.

    Args:
        allowed: its values; any at all, if there is none: it changes no feature, or is obeyed.
        absent: what its program takes if it is absent; by default what is allowed.
    """

    allowed: tuple[Any, ...] = ()
    absent: Any = ...


ANY = Same()


def same(*allowed: Any, absent: Any = ...) -> Same:
    """A key with these values alone."""
    return Same(allowed, absent)


def check_keys(fields: Mapping[str, Any], known: Mapping[str, Same], where: str) -> None:
    """Compare a table with what is known.

    Args:
        where: the file, or the file and the table, for the error.

    Raises:
        RuntimeError: a key is not known, or says something else than what is done here.
    """
    if unknown := [key for key in fields if key not in known]:
        raise RuntimeError(f"{where}: nothing is known of {shown(unknown)}")
    for key, rule in known.items():
        value = fields.get(key, rule.absent)
        if value is ... or not rule.allowed:
            continue
        if not any(_equal(value, allowed) for allowed in rule.allowed):
            wanted = " or ".join(map(repr, rule.allowed))
            absent = "" if key in fields else ", what its absence means"
            raise RuntimeError(
                f"{where}: {key!r} must be {wanted} for this CLIP, not {shown([value])}{absent}"
            )


def check_square(value: Any, side: int, keys: Sequence[str], what: str) -> None:
    """Raises RuntimeError: a size is neither a number nor a table or list of the same numbers."""
    sides = list(value.values()) if isinstance(value, dict) and set(value) <= set(keys) else value
    sides = sides if isinstance(sides, list) else [sides]
    if not sides or not all(_equal(each, side) for each in sides):
        raise RuntimeError(f"{what} must be {side}, as the weights are, not {shown([value])}")


def _equal(value: Any, allowed: Any) -> bool:
    value = tuple(value) if isinstance(value, list) else value
    return isinstance(value, bool) == isinstance(allowed, bool) and bool(value == allowed)
