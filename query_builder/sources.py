"""Dumps as files: found by name, and cut into parts that workers read side by side."""

from __future__ import annotations

import bz2
import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import BinaryIO

from query_builder import progress
from query_builder.wikis import UNKNOWN, Wiki
from workers.base.compressed import BZ2
from workers.base.file_systems import exists, is_away, list_files, open_file, size_of

#: Stored bytes of a part: some seconds of work, so that parts spread evenly over workers.
PART_BYTES = 16_000_000

#: Bytes read from a file at a time.
CHUNK_BYTES = 1 << 16

_OFFSET = re.compile(rb"[0-9]{1,18}(?=:)")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Part:
    """A range of a dump's stored bytes that can be read by itself; without an end, to the end."""

    file: str
    start: int = 0
    end: int | None = None
    wiki: Wiki = UNKNOWN


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
    cuts = _cuts(index, size_of(dump))
    if cuts is None or not _fits(dump, cuts):
        _log.warning("%s is damaged or does not fit %s, which is read as one", index, dump)
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


def read_stored(file: BinaryIO, part: Part) -> Iterator[bytes]:
    """The part as it is stored, in pieces."""
    file.seek(part.start)
    offset = part.start
    while part.end is None or offset < part.end:
        data = file.read(CHUNK_BYTES if part.end is None else min(CHUNK_BYTES, part.end - offset))
        if not data:
            break
        progress.advance(len(data))
        yield data
        offset += len(data)


def _cuts(index: str, size: int) -> list[int] | None:
    """Where to cut: at starts of streams that are PART_BYTES apart; None if the index is damaged.

    A line of it is ``offset:page id:title``, with the start of the page's stream.
    """
    cuts: list[int] = []
    with open_file(index) as stored:
        try:
            for line in bz2.BZ2File(stored) if index.endswith(".bz2") else stored:
                offset = int(found[0]) if (found := _OFFSET.match(line)) else 0
                if (cuts[-1] if cuts else 0) + PART_BYTES <= offset <= size - PART_BYTES:
                    cuts.append(offset)
        except (OSError, EOFError) as error:
            if is_away(index, error):
                raise
            return None
    return cuts


def _fits(dump: str, cuts: Iterable[int]) -> bool:
    """Whether a stream starts at each cut."""
    with open_file(dump) as file:
        for cut in cuts:
            file.seek(cut)
            if file.read(len(BZ2.magic)) != BZ2.magic:
                return False
    return True
