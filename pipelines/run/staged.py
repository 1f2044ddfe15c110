"""What an object store is to hold next: sent beside what it holds, then copied into place.

Nothing is renamed there. New objects wait under names of their own; a list of them, and of what
goes, is written last. Cut off before that, all is as it was; after it, whoever takes the bucket
next ends what was begun.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from workers.base.copies import Copy

#: Where new objects wait, and the list of them.
FOLDER = "_staged"
_SEAL = "seal.json"


class _Seal(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    written: dict[str, int]  # bytes by name
    removed: list[str]
    #: The one of what is written that goes before all else is done, and comes after it: while it
    #: is there, nothing is to be done. None: all is to be done, however often.
    proof: str | None


def replace_objects(
    copy: Copy, written: Mapping[str, Path], removed: Iterable[str], proof: str | None = None
) -> None:
    """Give objects the content of files, and remove others: all of it, or nothing.

    Args:
        written: the files by name.
        proof: the one of them that tells of the others: it goes first, and comes last.
    """
    token = f"{FOLDER}/{secrets.token_hex(8)}"
    for name, path in written.items():
        copy.send(path, f"{token}/{name}")
    sizes = {name: path.stat().st_size for name, path in written.items()}
    seal = _Seal(written=sizes, removed=sorted(removed), proof=proof)
    content = seal.model_dump_json().encode()
    copy.bucket.write_over(f"{token}/{_SEAL}", content, copy.may_write)
    _put_in_place(copy, token, seal)


def _put_in_place(copy: Copy, token: str, seal: _Seal) -> None:
    if seal.proof:  # here it may be the new one by now
        copy.may_write()
        copy.bucket.delete([seal.proof])
    for name in sorted(seal.written.keys() - {seal.proof}):
        _place(copy, token, seal, name)
    copy.remove(seal.removed)
    if seal.proof:
        _place(copy, token, seal, seal.proof)
    # The list goes first: what it names would be missing else.
    _clear(copy, [f"{token}/{name}" for name in (_SEAL, *seal.written)])


def _place(copy: Copy, token: str, seal: _Seal, name: str) -> None:
    copy.may_write()
    copy.bucket.copy(f"{token}/{name}", name, seal.written[name])
    copy.sizes[name] = seal.written[name]


def _clear(copy: Copy, names: Sequence[str]) -> None:
    """Remove what waited: nobody else knows of its names."""
    copy.bucket.delete(names)
    for name in names:
        copy.sizes.pop(name, None)


def finish_staged(copy: Copy) -> bool:
    """End what killed processes were putting in place; the lease is held. Whether there was any."""
    tokens: dict[str, list[str]] = {}
    for name in copy.sizes:
        if name.startswith(f"{FOLDER}/"):
            tokens.setdefault("/".join(name.split("/")[:2]), []).append(name)
    for token, names in sorted(tokens.items()):
        if f"{token}/{_SEAL}" in names:
            _finish(copy, token)
        _clear(copy, names)
    return bool(tokens)


def _finish(copy: Copy, token: str) -> None:
    content, _ = copy.bucket.read(f"{token}/{_SEAL}")
    try:
        seal = _Seal.model_validate_json(content)
    except ValidationError:
        return
    if seal.proof not in copy.sizes:  # else it had not begun, or was through
        _put_in_place(copy, token, seal)
