"""Dumps as files: found by name, opened, and cut into parts that workers read side by side.

A name with a scheme (``s3://``, ``gs://``, ``https://``, ``memory://``, ...) is opened by fsspec,
every other one is a local file.
"""

from __future__ import annotations

import bz2
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, cast

from fsspec.core import url_to_fs

from workers.settings import find_files

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


def is_remote(name: str) -> bool:
    """Whether fsspec opens the file."""
    return "://" in name


def find_dumps(patterns: Iterable[str]) -> list[str]:
    """The dumps that paths, globs, ``package:`` names and URLs name: sorted, each once.

    The indices of multistream dumps, which a glob may match too, are left out. Raises OSError
    for a pattern that names no file, or whose file system is not there.
    """
    found: set[str] = set()
    for pattern in patterns:
        names = _find_remote(pattern) if is_remote(pattern) else map(str, find_files([pattern]))
        dumps = [name for name in names if "-multistream-index" not in name]
        if not dumps:
            raise FileNotFoundError(f"there is no dump {pattern}")
        found.update(dumps)
    return sorted(found)


def _find_remote(pattern: str) -> list[str]:
    files, path = _file_system(pattern)
    # In a URL of the web, ? and * are ordinary characters.
    if not pattern.startswith("http") and any(map(pattern.__contains__, "*?[")):
        return [str(files.unstrip_protocol(name)) for name in files.glob(path)]
    if not files.exists(path):
        raise FileNotFoundError(f"there is no file {pattern}")
    return [pattern]


def _file_system(name: str) -> tuple[Any, str]:
    """Raises OSError, with what to install, where fsspec lacks the file system."""
    try:
        return cast("tuple[Any, str]", url_to_fs(name))
    except (ImportError, ValueError) as error:
        raise OSError(f"{name}: {error}") from error


def open_dump(name: str) -> BinaryIO:
    """Open a dump to read its stored bytes; it can be sought in. Raises OSError."""
    if not is_remote(name):
        return Path(name).open("rb")
    files, path = _file_system(name)
    return cast("BinaryIO", files.open(path, "rb"))


def stored_bytes(name: str) -> int:
    """A dump's size as it is stored; 0 where a server does not tell."""
    if not is_remote(name):
        return Path(name).stat().st_size
    files, path = _file_system(name)
    return int(files.size(path) or 0)


def fingerprint(name: str) -> str:
    """What tells a remote file's content from another's without reading it: fsspec's key."""
    files, path = _file_system(name)
    return str(files.ukey(path))


def parts(dump: str) -> list[Part]:
    """The parts of a dump: many if it is bz2 multistream and its index lies beside it."""
    index = index_of(dump)
    if index is None:
        return [Part(dump)]
    cuts = list(_cuts(index, stored_bytes(dump)))
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
        if _exists(path := f"{folder}{slash}{candidate}"):
            return path
    return None


def _exists(name: str) -> bool:
    if not is_remote(name):
        return Path(name).is_file()
    files, path = _file_system(name)
    return bool(files.exists(path))


def _cuts(index: str, size: int) -> Iterator[int]:
    """Where to cut: at starts of streams that are PART_BYTES apart."""
    last = 0
    for offset in _offsets(index):
        if last + PART_BYTES <= offset <= size - PART_BYTES:
            yield offset
            last = offset


def _offsets(index: str) -> Iterator[int]:
    """The stream's start from each line ``offset:page id:title``."""
    with open_dump(index) as stored:
        for line in bz2.BZ2File(stored) if index.endswith(".bz2") else stored:
            offset, _, _ = line.partition(b":")
            yield int(offset) if offset.isdigit() else 0


def _fits(dump: str, cuts: Iterable[int]) -> bool:
    """Whether a stream starts at each cut."""
    with open_dump(dump) as file:
        for cut in cuts:
            file.seek(cut)
            if file.read(len(BZ2_MAGIC)) != BZ2_MAGIC:
                return False
    return True
