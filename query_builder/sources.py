"""Dumps as files: found by name, and cut into parts that workers read side by side."""

from __future__ import annotations

import bz2
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from workers.file_systems import exists, list_files, open_file, size_of

#: Stored bytes of a part: some seconds of work, so that parts spread evenly over workers.
PART_BYTES = 16_000_000

BZ2_MAGIC = b"BZh"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Part:
    """A range of a dump's stored bytes that can be read by itself; without an end, to the end."""

    file: str
    start: int = 0
    end: int | None = None


def find_dumps(patterns: Iterable[str]) -> list[str]:
    """The dumps that paths, globs, folders, ``package:`` names and URLs name: sorted, each once.

    The indices of multistream dumps, which a glob may match too, are left out. Raises OSError
    for a pattern that names no file, or whose file system is not there.
    """
    found: set[str] = set()
    for pattern in patterns:
        _, names = list_files(pattern)
        dumps = [name for name in names if "-multistream-index" not in name]
        if not dumps:
            raise FileNotFoundError(f"there is no dump {pattern}")
        found.update(dumps)
    return sorted(found)


def parts(dump: str) -> list[Part]:
    """The parts of a dump: many if it is bz2 multistream and its index lies beside it."""
    index = index_of(dump)
    if index is None:
        return [Part(dump)]
    cuts = list(_cuts(index, size_of(dump)))
    if not _fits(dump, cuts):
        _log.warning("%s does not fit %s, which is read as one", index, dump)
        return [Part(dump)]
    ends = [*cuts, None]
    return [Part(dump, start or 0, end) for start, end in pairwise([0, *ends])]


def index_of(dump: str) -> str | None:
    """The index beside a multistream dump, named as Wikimedia names it; None if there is none."""
    folder, slash, name = dump.rpartition("/")
    if "-multistream" not in name or not name.endswith(".bz2"):
        return None
    index = name.replace("-multistream", "-multistream-index", 1).replace(".xml", ".txt", 1)
    for candidate in (index, index.removesuffix(".bz2")):
        if exists(path := f"{folder}{slash}{candidate}"):
            return path
    return None


def _cuts(index: str, size: int) -> Iterator[int]:
    """Where to cut: at starts of streams that are PART_BYTES apart."""
    last = 0
    for offset in _offsets(index):
        if last + PART_BYTES <= offset <= size - PART_BYTES:
            yield offset
            last = offset


def _offsets(index: str) -> Iterator[int]:
    """The stream's start from each line ``offset:page id:title``."""
    with open_file(index) as stored:
        for line in bz2.BZ2File(stored) if index.endswith(".bz2") else stored:
            offset, _, _ = line.partition(b":")
            yield int(offset) if offset.isdigit() else 0


def _fits(dump: str, cuts: Iterable[int]) -> bool:
    """Whether a stream starts at each cut."""
    with open_file(dump) as file:
        for cut in cuts:
            file.seek(cut)
            if file.read(len(BZ2_MAGIC)) != BZ2_MAGIC:
                return False
    return True
