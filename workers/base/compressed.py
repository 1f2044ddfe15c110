"""Compressed files, whole or damaged: gzip members, bz2 streams, zstd frames, one after the other.

They are told apart by their first bytes, never by a name. After a damaged place reading goes on at
the next gzip member, bz2 block or zstd frame that is whole.
"""

from __future__ import annotations

import bz2
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import BinaryIO, NamedTuple, Protocol

import zstandard

from workers.base import bz2_blocks

#: Stored bytes in which the next member is looked for after damage, back from there: more than a
#: block of zstd's, which one that is cut off takes of those behind it before it says so.
LOOK_BACK_BYTES = 3 << 16

#: Bytes that a gzip member or zstd frame may have before content comes of it: a header with a name,
#: a block of zstd's.
MOST_BEFORE_CONTENT = 1 << 18

#: Bytes that are tried at a time at a member's beginning, so that damage soon after it matters not.
_FIRST_BYTES = 16

#: Bytes that a member is given at first.
_FIRST_STEP = 1 << 10

#: Content that is held before it is handed on.
_PIECE_BYTES = 1 << 17

#: zstd's --long=31, the longest there is.
_ZSTD_WINDOW = 1 << 31

_ERRORS = (OSError, EOFError, zlib.error, zstandard.ZstdError)
_PADDING = re.compile(rb"\0*+")

NO_END = "truncated: the compressed stream has no end"


class DamageError(ValueError):
    """Stored bytes that cannot be decompressed."""


class Decompressor(Protocol):
    """What bz2, zlib and zstandard have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /) -> bytes: ...


class Format(NamedTuple):
    """A way of compression."""

    magic: bytes  # what a member begins with
    new: Callable[[], Decompressor]
    step: int  # stored bytes that are decompressed at a time: each may become 32,000


def _new_zstd() -> Decompressor:
    return zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW).decompressobj()


GZIP = Format(b"\x1f\x8b\x08", lambda: zlib.decompressobj(wbits=zlib.MAX_WBITS | 16), 1 << 16)
BZ2 = Format(b"BZh", bz2.BZ2Decompressor, 1 << 14)
ZSTD = Format(b"\x28\xb5\x2f\xfd", _new_zstd, 1 << 11)


def format_of(head: bytes) -> Format | None:
    """How a file is compressed, by its first bytes; None for a plain one."""
    return next((each for each in (GZIP, BZ2, ZSTD) if head.startswith(each.magic)), None)


class Member:
    """A gzip member, a bz2 stream or a zstd frame."""

    def __init__(self, form: Format) -> None:
        self._inner = form.new()
        self._step = form.step
        self.used = 0  # stored bytes that were read as its own

    @property
    def has_ended(self) -> bool:
        return self._inner.eof

    def feed(self, stored: bytes, at: int = 0) -> Iterator[bytes]:
        """The content of what is stored from ``at`` on, up to the member's end, in small pieces.

        Raises DamageError; ``used`` is then where the piece begins in which the damage is.
        """
        while at < len(stored) and not self.has_ended:
            # No more than it has taken so far: what follows a small one need not be copied often.
            piece = stored[at : at + min(self._step, max(_FIRST_STEP, self.used))]
            try:
                content = self._inner.decompress(piece)
            except _ERRORS as error:
                raise DamageError(f"damaged compression: {error}") from error
            taken = len(piece) - len(self._inner.unused_data)
            self.used += taken
            at += taken
            yield content


def unpack(stored: bytes, form: Format, most: int) -> tuple[bytes, int]:
    """The content of the member that ``stored`` begins with, and how many bytes it takes there.

    Raises DamageError where it is not whole, or has more than ``most`` bytes of content.
    """
    member, content = Member(form), bytearray()
    for piece in member.feed(stored):
        content += piece
        if len(content) > most:
            raise DamageError(f"more than {most:,} bytes of content")
    if not member.has_ended:
        raise DamageError(NO_END)
    return bytes(content), member.used


def beginning(file: BinaryIO, form: Format, size: int) -> bytes:
    """The content that the member at the file's place begins with, ``size`` bytes at most.

    Empty where none begins there.
    """
    member, content = Member(form), b""
    try:
        while len(content) < size and not member.has_ended and member.used < MOST_BEFORE_CONTENT:
            if not (stored := file.read(_FIRST_BYTES)):
                break
            content += b"".join(member.feed(stored))
    except DamageError:
        pass
    return content[:size]


class Chunk(NamedTuple):
    """A piece of content, or a damaged place, and where it begins in the file as it is stored."""

    offset: int
    data: bytes = b""
    damage: str | None = None


def decompressed(stored: Iterable[bytes], start: int = 0) -> Iterator[Chunk]:
    """The content of a file from ``start`` on, its damaged places marked.

    ``stored``: what stands there, in pieces that are not empty.
    """
    pieces = iter(stored)
    head = next(pieces, b"")
    while len(head) < len(ZSTD.magic) and (piece := next(pieces, b"")):
        head += piece
    form = format_of(head)
    pieces = chain([head] if head else [], pieces)
    if form is None:
        return _plain(pieces, start)
    return _gathered(_bz2_streams(pieces, start) if form is BZ2 else _members(pieces, start, form))


def _plain(pieces: Iterable[bytes], offset: int) -> Iterator[Chunk]:
    for piece in pieces:
        yield Chunk(offset, piece)
        offset += len(piece)


def _gathered(chunks: Iterable[Chunk]) -> Iterator[Chunk]:
    """The same in pieces of about _PIECE_BYTES."""
    held: list[bytes] = []
    offset = size = 0
    for chunk in chunks:
        if not held:
            offset = chunk.offset
        held.append(chunk.data)
        size += len(chunk.data)
        if size >= _PIECE_BYTES or (chunk.damage and size):
            yield Chunk(offset, b"".join(held))
            held, size = [], 0
        if chunk.damage:
            yield chunk
    if size:
        yield Chunk(offset, b"".join(held))


def _members(pieces: Iterable[bytes], start: int, form: Format) -> Iterator[Chunk]:
    members = _Members(form, start)
    for piece in pieces:
        members.add(piece)
        yield from members.read()
    yield from members.end()


class _Members:
    """gzip members or zstd frames, one after the other.

    After damage the next one is looked for also in what the damaged one has taken for its own. One
    begins where content comes of it: its first bytes may stand anywhere.
    """

    def __init__(self, form: Format, start: int) -> None:
        self._form = form
        self._data, self._start = b"", start  # what is held of the file, and where it stands there
        self._begun = 0  # where the member begins in ``_data``, or the next one may
        self._member: Member | None = None
        self._has_content = False  # the member
        self._lost = False  # after damage

    def add(self, stored: bytes) -> None:
        kept = self._look_again() if self._has_content else self._begun
        self._data, self._start = self._data[kept:] + stored, self._start + kept
        self._begun -= kept

    def read(self) -> Iterator[Chunk]:
        """The content of what is held."""
        while self._member or self._begin():
            assert self._member
            try:
                yield from self._content(self._member)
            except DamageError as damage:
                yield from self._lose(str(damage))
                continue
            if self._member.has_ended:
                self._begun, self._lost = self._at, False
                self._member, self._has_content = None, False
            elif not self._has_content and self._member.used >= MOST_BEFORE_CONTENT:
                yield from self._lose(NO_END)
            else:
                return

    def end(self) -> Iterator[Chunk]:
        """What is wrong with the file's end, and the content of what it hides."""
        while self._member:
            yield from self._lose(NO_END)
            yield from self.read()

    @property
    def _at(self) -> int:
        """Where the member's next bytes are in ``_data``."""
        return self._begun + (self._member.used if self._member else 0)

    def _begin(self) -> bool:
        """Go to where a member may begin; False where there is no such place yet."""
        if self._lost:
            magic = self._form.magic
            found = self._data.find(magic, self._begun)
            # What the data end with may be its start.
            self._begun = (
                found if found >= 0 else max(self._begun, len(self._data) + 1 - len(magic))
            )
            if found < 0:
                return False
        elif padding := _PADDING.match(self._data, self._begun):
            self._begun = padding.end()
        if self._begun < len(self._data):
            self._member = Member(self._form)
        return self._member is not None

    def _content(self, member: Member) -> Iterator[Chunk]:
        offset = self._start + self._at
        for content in member.feed(self._data, self._at):
            if content:
                self._has_content, self._lost = True, False
                yield Chunk(offset, content)
            offset = self._start + self._at

    def _lose(self, error: str) -> Iterator[Chunk]:
        if not self._lost:
            place = self._at if self._has_content else self._begun
            yield Chunk(self._start + place, damage=error)
        self._begun = self._look_again() if self._has_content else self._begun + 1
        self._member, self._has_content, self._lost = None, False, True

    def _look_again(self) -> int:
        """From where on the next member would be looked for if this one turned out damaged."""
        return max(self._begun + 1, self._at - LOOK_BACK_BYTES)


def _bz2_streams(pieces: Iterator[bytes], start: int) -> Iterator[Chunk]:
    """Decompress one bz2 stream after the other; from a damaged place on, block by block."""
    recent = bz2_blocks.Recent()
    stream, begun = Member(BZ2), start
    end = start
    for piece in pieces:
        recent.add_stored(end, piece)
        first, end = end, end + len(piece)
        while (offset := begun + stream.used) < end:
            if stream.has_ended:
                stream, begun = Member(BZ2), offset
            try:
                for content in stream.feed(piece, offset - first):
                    recent.add_content(content)
                    yield Chunk(first, content)
            except DamageError:
                blocks = bz2_blocks.recover(recent, begun + stream.used, pieces)
                yield from (Chunk(*block) for block in blocks)
                return
    if not stream.has_ended:
        yield Chunk(end, damage=NO_END)
