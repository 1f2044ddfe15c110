"""Files that pictures or their names come in: Qt's resources, Stellarium's catalogue."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import zstandard

_COMPRESSED, _FOLDER, _COMPRESSED_ZSTD = 1, 2, 4  # flags of a node


def qt_resources(path: Path) -> dict[str, bytes]:
    """The files in a Qt resource file (`.rcc`), by their path in it.

    It is a tree of nodes, then names, then data, each found by its offset in the header; all
    numbers are big-endian (Qt's rcc.cpp and qresource.cpp).

    Raises:
        ValueError: it is no such file.
    """
    content = path.read_bytes()
    if content[:4] != b"qres":
        raise ValueError(f"{path.name} is no Qt resource file")
    return dict(_Resources(content).files())


class _Resources:
    def __init__(self, content: bytes) -> None:
        self._content = content
        version, self._tree, self._data, self._names = self._read(">4I", 4)
        self._node_size = 22 if version >= 2 else 14  # newer ones end with a time

    def files(self, node: int = 0, folder: str = "") -> Iterator[tuple[str, bytes]]:
        """The paths and contents below a node; the first node is the root."""
        at = self._tree + node * self._node_size
        name_at, flags = self._read(">IH", at)
        path = f"{folder}/{self._name(name_at)}".lstrip("/") if node else ""
        if flags & _FOLDER:
            count, first = self._read(">II", at + 6)
            for child in range(first, first + count):
                yield from self.files(child, path)
        else:
            (data_at,) = self._read(">I", at + 10)
            yield path, self._file(data_at, flags)

    def _file(self, data_at: int, flags: int) -> bytes:
        (size,) = self._read(">I", self._data + data_at)
        first = self._data + data_at + 4
        stored = self._content[first : first + size]
        if flags & _COMPRESSED_ZSTD:
            return zstandard.ZstdDecompressor().decompressobj().decompress(stored)
        return zlib.decompress(stored[4:]) if flags & _COMPRESSED else stored

    def _name(self, name_at: int) -> str:
        (letters,) = self._read(">H", self._names + name_at)
        first = self._names + name_at + 6  # behind the length and a hash
        return self._content[first : first + 2 * letters].decode("utf-16-be")

    def _read(self, layout: str, at: int) -> tuple[int, ...]:
        return struct.unpack_from(layout, self._content, at)


#: What Stellarium's numbers of an object's type are called here (its Nebula.hpp); others are rare,
#: unsure or no kind that a picture shows.
KINDS = {
    0: "galaxy",
    1: "galaxy",
    2: "galaxy",
    3: "interacting galaxies",
    6: "open star cluster",
    7: "globular star cluster",
    11: "planetary nebula",
    12: "dark nebula",
    13: "reflection nebula",
    17: "emission nebula",
}

#: How the names of Stellarium's pictures begin, by the catalogue that a record's number is of.
_PREFIXES = {"n": 0, "ic": 1, "m": 2, "barnard": 4, "sh2-": 5, "vdb": 6, "rcw": 7, "ldn": 8} | {
    "lbn": 9,
    "p": 12,
    "u": 13,
}


def deep_sky_kinds(path: Path) -> dict[str, set[str]]:
    """By what Stellarium's pictures are called ("n224", "ic342"), the kinds of that object.

    The catalogue is a QDataStream of records: number, type, brightness, sizes, distances, then the
    object's numbers in other catalogues (its NebulaMgr.cpp, version 3.16).

    Raises:
        ValueError: it is of another version.
    """
    with gzip.open(path) as file:
        stream = _Stream(file.read())
    if (version := stream.text()) != "3.16":
        raise ValueError(f"{path.name} is of version {version}, not 3.16")
    stream.text()  # its edition
    kinds: dict[str, set[str]] = {}
    while stream.more():
        type_, numbers = _deep_sky_object(stream)
        for prefix, catalogue in _PREFIXES.items():
            if numbers[catalogue]:
                names = kinds.setdefault(f"{prefix}{numbers[catalogue]}", set())
                names.add(KINDS.get(type_, ""))
    return kinds


def _deep_sky_object(stream: _Stream) -> tuple[int, tuple[int, ...]]:
    type_ = stream.numbers(">I4dI")[-1]
    stream.text()  # its morphology
    stream.numbers(">2di6d")
    catalogues = stream.numbers(">14I")
    stream.text()
    stream.numbers(">2I")
    for _ in range(7):
        stream.text()
    stream.numbers(">5I")
    return type_, catalogues


class _Stream:
    def __init__(self, content: bytes) -> None:
        self._content, self._at = content, 0

    def more(self) -> bool:
        return self._at < len(self._content)

    def numbers(self, layout: str) -> tuple[int, ...]:
        values = struct.unpack_from(layout, self._content, self._at)
        self._at += struct.calcsize(layout)
        return values

    def text(self) -> str:
        (size,) = self.numbers(">I")
        if size == 0xFFFFFFFF:  # a null string
            return ""
        self._at += size
        return self._content[self._at - size : self._at].decode("utf-16-be")
