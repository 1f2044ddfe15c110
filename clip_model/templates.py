"""The paper's prompts by name: class names of its data sets, and the sentences they go into.

Data of openai/CLIP; `prompts/README.md` says where each table comes from.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TypeAlias

ClassName: TypeAlias = str | tuple[str, ...]  # one name, or several for the same class

_FOLDER = Path(__file__).parent / "prompts"
SLOT = "{}"  # where a class's name goes


def template_sets() -> list[str]:
    """Names that `template_set` takes.

    "bare" is the class's name alone, "one" is `a photo of a {}.`, "ImageNet" the 80 templates and
    "ImageNet7" the 7 of them that do as well; the others are the paper's data sets.
    """
    return list(_table("templates"))


def template_set(name: str) -> tuple[str, ...]:
    """The sentences of a set, with `{}` where the class's name goes; case does not matter.

    Raises:
        ValueError: there is no such set.
    """
    return tuple(_lookup("templates", name))  # type: ignore[arg-type]  # sentences only


def class_sets() -> list[str]:
    """Names that `class_set` takes: the paper's data sets."""
    return list(_table("classes"))


def class_set(name: str) -> tuple[ClassName, ...]:
    """The classes of a data set in the order of their labels; case of `name` does not matter.

    Two pairs of ImageNet's classes have one name, as in the original.

    Raises:
        ValueError: there is no such data set.
    """
    return tuple(
        entry if isinstance(entry, str) else tuple(entry) for entry in _lookup("classes", name)
    )


def sentences(templates: Sequence[str] | str) -> tuple[str, ...]:
    """The sentences of ``templates``: several, one, or those of a set's name.

    Raises:
        ValueError: there is no such set; or a sentence has no place for a name, or others.
    """
    if isinstance(templates, str):
        return (templates,) if SLOT in templates else template_set(templates)
    if without_slot := [template for template in templates if SLOT not in template]:
        raise ValueError(f"templates without {{}}: {without_slot}")
    for template in templates:
        try:
            template.format("")
        except (ValueError, LookupError) as error:
            raise ValueError(f"{template!r} is no template: {{}} alone may stand in it") from error
    return tuple(templates)


def fill(templates: tuple[str, ...], class_name: ClassName) -> list[str]:
    """Every prompt of one class."""
    names = (class_name,) if isinstance(class_name, str) else class_name
    return [template.format(name) for name in names for template in templates]


def _lookup(table: str, name: str) -> list[str | list[str]]:
    entries = {key.lower(): value for key, value in _table(table).items()}
    if name.lower() not in entries:
        raise ValueError(f"no {table} are called {name!r}; there are: {', '.join(_table(table))}")
    return entries[name.lower()]


@cache
def _table(name: str) -> dict[str, list[str | list[str]]]:
    table: dict[str, list[str | list[str]]] = json.loads(
        (_FOLDER / f"{name}.json").read_text(encoding="utf-8")
    )
    return table
