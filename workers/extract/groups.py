"""Inputs in groups of about one size: many small ones together, a huge one in pieces.

Each group is worked on alone, and made anew where one of its inputs changes. So where a group ends
is told by the input itself, by a hash of its name and its size: an input that is new among others
falls into one group, and leaves the others as they are.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import pyarrow.parquet as pq

from workers.base.compressed import format_of
from workers.base.file_systems import open_file
from workers.base.storage import DAMAGED_PARQUET
from workers.base.text_stream import is_utf16
from workers.extract.inputs import Input, InputKind

#: Bytes that tell whether a text is plain.
_HEAD_BYTES = 8

#: A group has no more than this many times the size that is asked for, but for one large input.
_MOST = 2


@dataclass(frozen=True)
class Sized:
    """An input and the bytes of its files."""

    source: Input
    bytes: int


def group_inputs(inputs: Iterable[Sized], target: int) -> Iterator[tuple[Input, ...]]:
    """The inputs in groups of ``target`` bytes on average; one that is larger is cut into pieces
    where its format allows, and is alone in a group where not.
    """
    group: list[Input] = []
    size = 0
    for one in (piece for whole in inputs for piece in cut(whole, target)):
        if group and (one.bytes >= target or size + one.bytes > _MOST * target):
            yield tuple(group)
            group, size = [], 0
        group.append(one.source)
        size += one.bytes
        if _chance(one.source) * target < one.bytes:
            yield tuple(group)
            group, size = [], 0
    if group:
        yield tuple(group)


def _chance(source: Input) -> float:
    """A number in [0, 1) that is a function of an input's name alone."""
    digest = hashlib.blake2b(_name(source).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") / (1 << 32)


def group_names(groups: Iterable[Sequence[Input]]) -> Iterator[str]:
    """What groups are called: by the names of their inputs, wherever these lie, so that a folder
    can be moved. Further ones with the same names have a number.
    """
    known = Counter[str]()
    for group in groups:
        name = hashlib.blake2b("\n".join(map(_name, group)).encode(), digest_size=8).hexdigest()
        yield f"{name}-{known[name]}" if known[name] else name
        known[name] += 1


def _name(source: Input) -> str:
    return f"{source.name} {source.files} {source.row_groups or source.span}"


def cut(whole: Sized, target: int) -> Iterator[Sized]:
    """An input in pieces of about ``target`` bytes: Parquet by its row groups, JSON lines that are
    not compressed at line ends; others as a whole.

    One that cannot be read is a whole, and fails where it is worked on.
    """
    kind = whole.source.kind
    if whole.bytes > target and kind is InputKind.PARQUET:
        yield from _row_groups(whole, target)
    elif whole.bytes > target and kind is InputKind.JSONL and _has_line_feeds(whole.source):
        for start in range(0, whole.bytes, target):
            end = min(start + target, whole.bytes)
            yield Sized(replace(whole.source, span=(start, end)), end - start)
    else:
        yield whole


def _has_line_feeds(source: Input) -> bool:
    """Whether a line feed in a file is the end of a line: of plain text in bytes of ASCII."""
    try:
        with open_file(source.url) as file:
            head = file.read(_HEAD_BYTES)
    except OSError:
        return False
    return format_of(head) is None and not is_utf16(head)


def _row_groups(whole: Sized, target: int) -> Iterator[Sized]:
    source = whole.source
    try:
        with open_file(source.url) as file:
            metadata = pq.ParquetFile(file).metadata
            sizes = [_bytes_of(metadata, number) for number in range(metadata.num_row_groups)]
    except DAMAGED_PARQUET:
        yield whole
        return
    first, size = 0, 0
    for number, more in enumerate(sizes):
        size += more
        if size >= target or number == len(sizes) - 1:
            yield Sized(replace(source, row_groups=(first, number + 1)), size)
            first, size = number + 1, 0


def _bytes_of(metadata: pq.FileMetaData, row_group: int) -> int:
    group = metadata.row_group(row_group)
    return sum(group.column(n).total_compressed_size for n in range(group.num_columns))
