"""The XML of a dump, piece by piece: decompressed, as UTF-8, with its damaged places marked.

bz2 (also multistream), gzip (also several members), zstd (also several frames) and plain files
are told apart by their first bytes. After a damaged place reading goes on at the next bz2 block,
gzip member or zstd frame that is whole.
"""

from __future__ import annotations

import bz2
import codecs
import re
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import BinaryIO, Protocol

import webencodings
import zstandard

from query_builder import bz2_blocks, progress
from query_builder.sources import BZ2_MAGIC, Part
from workers.base.file_systems import open_file

#: Bytes read from the file at a time.
CHUNK_BYTES = 1 << 16

GZIP_MAGIC = b"\x1f\x8b\x08"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"

#: Bytes that a gzip member or zstd frame may have before content comes of it: a header with a name,
#: a block of zstd's.
MOST_BEFORE_CONTENT = 1 << 18

_NO_END = "truncated: the compressed stream has no end"

#: zstd's --long=31, the longest there is.
_ZSTD_WINDOW = 1 << 31

_DECLARED = re.compile(rb"""\s*<\?xml[^>]*?encoding=["']([\w.:-]+)["']""")
_SNIFFED = (
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
    ("<?".encode("utf-16-le"), "utf-16-le"),
    ("<?".encode("utf-16-be"), "utf-16-be"),
)
#: Labels of the web that no declaration in a dump can mean.
_NO_XML = ("utf-16le", "utf-16be", "replacement", "x-user-defined")


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of XML, or a damaged place, and where it begins in the file as it is stored."""

    offset: int
    xml: bytes = b""
    damage: str | None = None


class Decompressor(Protocol):
    """What bz2, zlib and zstandard have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /) -> bytes: ...


def read_xml(part: Part) -> Generator[Chunk, None, None]:
    """The XML of a part of a dump. Raises OSError if the file cannot be opened or read."""
    with open_file(part.file) as file:
        # The declaration stands at the start of the file, wherever the part is.
        head = _head(file) if part.start else b""
        found = (chunk for chunk in _decompressed(file, part) if chunk.xml or chunk.damage)
        first = next(found, Chunk(part.start))
        chunks = chain([first], found)
        encoding = _encoding(head or first.xml)
        yield from chunks if encoding == "utf-8" else _as_utf8(chunks, encoding)


def first_xml(dump: str, size: int) -> bytes:
    """The XML that a dump begins with, up to damage: ``size`` bytes or more, if it has them.

    Raises OSError if the file cannot be opened or read.
    """
    xml = b""
    with closing(read_xml(Part(dump))) as chunks:
        for chunk in chunks:
            xml += chunk.xml
            if chunk.damage or len(xml) >= size:
                break
    return xml


def decompressed(file: Path) -> Iterator[Chunk]:
    """The content of a file that is no XML, with its damaged places marked."""
    with file.open("rb") as stored:
        yield from _decompressed(stored, Part(str(file)))


def _head(file: BinaryIO) -> bytes:
    """The start of a bz2 file's XML; nothing if it is damaged."""
    try:
        return bz2.BZ2Decompressor().decompress(file.read(CHUNK_BYTES), max_length=CHUNK_BYTES)
    except OSError:
        return b""


def _encoding(head: bytes) -> str:
    """The encoding that a document begins with or declares; UTF-8 is XML's default.

    Labels are the web's, never Python's codecs, some of which are no encodings. Who can read a
    declaration byte by byte, as here, is not in UTF-16, whatever it says.
    """
    for mark, encoding in _SNIFFED:
        if head.startswith(mark):
            return encoding
    declared = _DECLARED.match(head.removeprefix(codecs.BOM_UTF8))
    known = webencodings.lookup(declared[1].decode()) if declared else None
    if known is None or known.name in _NO_XML:
        return "utf-8"  # the pages that are not will be reported
    return str(known.codec_info.name)


def _decompressed(file: BinaryIO, part: Part) -> Iterator[Chunk]:
    file.seek(part.start)
    magic = file.read(len(ZSTD_MAGIC))
    file.seek(part.start)
    stored = _stored(file, part)
    if magic.startswith(BZ2_MAGIC):
        return _bz2_streams(stored)
    if magic.startswith(GZIP_MAGIC):
        return _frames(stored, lambda: zlib.decompressobj(wbits=31), GZIP_MAGIC)
    if magic.startswith(ZSTD_MAGIC):
        zstd = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
        return _frames(stored, zstd.decompressobj, ZSTD_MAGIC)
    return stored


def _stored(file: BinaryIO, part: Part) -> Iterator[Chunk]:
    """The part as it is stored."""
    offset = part.start
    while part.end is None or offset < part.end:
        data = file.read(CHUNK_BYTES if part.end is None else min(CHUNK_BYTES, part.end - offset))
        if not data:
            break
        progress.advance(len(data))
        yield Chunk(offset, data)
        offset += len(data)


def _frames(
    stored: Iterable[Chunk], new: Callable[[], Decompressor], magic: bytes
) -> Iterator[Chunk]:
    """Decompress one gzip member or zstd frame after the other."""
    frames = _Frames(new, magic)
    for chunk in stored:
        yield from frames.add(chunk)
    yield from frames.end()


class _Frames:
    """gzip members or zstd frames.

    After damage the next one is looked for also in what the damaged one has taken for its own. One
    begins where content comes of it: its first bytes may stand anywhere.
    """

    def __init__(self, new: Callable[[], Decompressor], magic: bytes) -> None:
        self._new, self._magic = new, magic
        self._member: Decompressor | None = None
        self._data, self._offset = b"", 0  # what is to be worked on, and where it is in the file
        self._taken = b""  # the last of what the member was given, but for its first byte
        self._lost = False  # after damage

    def add(self, chunk: Chunk) -> Iterator[Chunk]:
        self._offset = chunk.offset - len(self._data)
        self._data += chunk.xml
        yield from self._go_on(MOST_BEFORE_CONTENT)

    def end(self) -> Iterator[Chunk]:
        yield from self._go_on(0)
        if self._member is not None:
            yield Chunk(self._offset, damage=_NO_END)

    def _go_on(self, patience: int) -> Iterator[Chunk]:
        """Work on the data; what may begin a member waits for more of it, to so many bytes."""
        while self._data:
            begins = self._member is None
            if begins and not self._begin():
                return
            assert self._member
            try:
                xml, error = self._member.decompress(self._data), ""
            except (zlib.error, zstandard.ZstdError) as problem:
                xml, error = b"", f"damaged compression: {problem}"
            if begins and not (xml or error or self._member.eof):
                if len(self._data) < patience:
                    self._member = None
                    return
                error = _NO_END
            if error:
                yield from self._lose(error, begins)
            else:
                yield Chunk(self._offset, xml)
                self._take(begins)

    def _begin(self) -> bool:
        """Go to where a member may begin; False where there is no such place yet."""
        padding = len(self._data) - len(self._data.lstrip(b"\0"))
        self._skip(_beginning(self._data, self._magic) if self._lost else padding)
        if not self._data or (self._lost and not self._data.startswith(self._magic)):
            return False
        self._member, self._taken = self._new(), b""
        return True

    def _take(self, begins: bool) -> None:
        assert self._member
        used = len(self._data) - len(self._member.unused_data)
        self._taken = (self._taken + self._data[begins:used])[-CHUNK_BYTES:]
        self._skip(used)
        self._lost = False
        if self._member.eof:
            self._member = None

    def _lose(self, error: str, begins: bool) -> Iterator[Chunk]:
        if not self._lost:
            yield Chunk(self._offset, damage=error)
        self._skip(begins)
        self._data, self._offset = self._taken + self._data, self._offset - len(self._taken)
        self._member, self._taken, self._lost = None, b"", True

    def _skip(self, size: int) -> None:
        self._data, self._offset = self._data[size:], self._offset + size


def _beginning(data: bytes, magic: bytes) -> int:
    """Where a member or frame may begin: at the magic, or at the end, which may be its start."""
    at = data.find(magic)
    return at if at >= 0 else max(0, len(data) - len(magic) + 1)


def _bz2_streams(stored: Iterator[Chunk]) -> Iterator[Chunk]:
    """Decompress one bz2 stream after the other; from a damaged place on, block by block."""
    decompressor = bz2.BZ2Decompressor()
    recent = bz2_blocks.Recent()
    offset = 0
    for chunk in stored:
        recent.add_stored(chunk.offset, chunk.xml)
        data, offset = chunk.xml, chunk.offset + len(chunk.xml)
        while data:
            if decompressor.eof:
                decompressor = bz2.BZ2Decompressor()
            try:
                xml = decompressor.decompress(data)
            except OSError:
                blocks = bz2_blocks.recover(recent, offset - len(data), (c.xml for c in stored))
                yield from (Chunk(*block) for block in blocks)
                return
            recent.add_xml(xml)
            yield Chunk(chunk.offset, xml)
            data = decompressor.unused_data if decompressor.eof else b""
    if not decompressor.eof:
        yield Chunk(offset, damage=_NO_END)


def _as_utf8(chunks: Iterable[Chunk], encoding: str) -> Iterator[Chunk]:
    """The same XML in UTF-8.

    After damage it starts with a page: only there the start of a character is certain.
    """
    decoder = codecs.getincrementaldecoder(encoding)()
    page = "<page".encode(encoding)
    lost, carried = False, b""
    for chunk in chunks:
        data, carried = carried + chunk.xml, b""
        if chunk.damage:
            decoder.reset()
            lost = True
            yield chunk
            continue
        while data:
            if lost:
                at = data.find(page)
                if at < 0:
                    carried = data[1 - len(page) :]
                    break
                data, lost = data[at:], False
            try:
                yield Chunk(chunk.offset, decoder.decode(data).encode())
                break
            except UnicodeDecodeError as error:
                whole, data = error.object[: error.start], error.object[error.end :]
                yield Chunk(chunk.offset, whole.decode(encoding).encode())
                yield Chunk(chunk.offset, damage=f"not {encoding}: {error.reason}")
                decoder.reset()
                lost = True
