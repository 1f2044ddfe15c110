"""The lines of a text file, decompressed and in UTF-8; of a damaged one, those that are whole."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from io import RawIOBase
from typing import BinaryIO

from workers.base.compressed import DamageError, decompressed

#: A longer line is no row: nobody's caption has this many bytes.
MAX_LINE_BYTES = 8 << 20

#: Stands for each byte that is no UTF-8: a noncharacter, which no text holds.
NOT_TEXT = "\ufdd0"

#: Stands for a line that is too long. It is no row of any format: nothing in it parts fields.
LONG_LINE = f"{NOT_TEXT} a line of more than {MAX_LINE_BYTES} bytes"

#: Bytes that are held beside lines.
_CHUNK = 1 << 18

#: How a text in UTF-16 begins: its byte order mark, or a sign of ASCII without one.
_UTF16 = (
    (re.compile(rb"\xff\xfe|[^\0]\0", re.DOTALL), "utf-16-le"),
    (re.compile(rb"\xfe\xff|\0[^\0]", re.DOTALL), "utf-16-be"),
)
_LINE_END = re.compile(rb"\r\n|\r|\n")


def _not_text(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return NOT_TEXT * (error.end - error.start), error.end


codecs.register_error("not_text", _not_text)


class LongLineError(ValueError):
    """A first line that is too long to be one."""


class TextStream(RawIOBase):
    """A readable stream over a plain or compressed file, in time linear in its length.

    UTF-16 becomes UTF-8, a byte order mark is no part of the text, and where the first line ends
    with a carriage return alone, as on old Macs, line feeds stand for all of them.

    Where the compressed data breaks off, the stream ends after the last whole line, so that no
    half row is taken for a whole one; ``error`` then says what happened. A line of more than
    MAX_LINE_BYTES becomes LONG_LINE, so that it costs neither memory nor the lines after it.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._chunks = _with_line_feeds(_in_utf8(_content(file)))
        self._ready = bytearray()  # whole lines
        self._line = bytearray()  # what is known of the next
        self._in_long_line = False
        self._quotes = 0  # in the long line
        self._ended = False
        self.error = ""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        """At most ``size`` bytes, or all; b"" at the end."""
        while not self._ended and (size < 0 or len(self._ready) < size):
            self._fill()
        return self._give(len(self._ready) if size < 0 else size)

    def read_lines(self, size: int) -> bytes:
        """Whole lines, of ``size`` bytes together or a little more; b"" at the end."""
        while not self._ended and len(self._ready) < size:
            self._fill()
        return self._give(len(self._ready))

    def first_lines(self, size: int) -> bytes:
        """As ``read_lines``, but never reads through a long line: those before it.

        Raises LongLineError where the first line is one.
        """
        while not self._ended and not self._in_long_line and len(self._ready) < size:
            self._fill()
        if self._in_long_line and not self._ready:
            raise LongLineError(f"the first line has more than {MAX_LINE_BYTES:,} bytes")
        return self._give(len(self._ready))

    def _give(self, size: int) -> bytes:
        given = bytes(self._ready[:size])
        del self._ready[:size]
        return given

    def _fill(self) -> None:
        try:
            chunk = next(self._chunks, b"")
        except (OSError, DamageError) as error:
            self.error = str(error)
            self._ended = True
            return
        if not chunk:
            self._ended = True
            self._end_line(b"")
            return
        first = chunk.find(b"\n") + 1
        if first:
            last = chunk.rfind(b"\n") + 1
            self._go_on(chunk[: first - 1])
            self._end_line(b"\n")
            self._ready += _valid(chunk[first:last])
            chunk = chunk[last:]
        self._go_on(chunk)

    def _go_on(self, piece: bytes) -> None:
        """A line goes on, or begins."""
        if not self._in_long_line:
            self._line += piece
            if len(self._line) <= MAX_LINE_BYTES:
                return
            self._in_long_line, self._quotes, piece = True, 0, bytes(self._line)
            self._line.clear()
        self._quotes += piece.count(b'"')

    def _end_line(self, line_feed: bytes) -> None:
        if self._in_long_line:
            # Of CSV, what begins or ends a quoted text must still do so.
            self._ready += LONG_LINE.encode() + b'"' * (self._quotes % 2) + line_feed
            self._in_long_line = False
        else:
            self._ready += _valid(bytes(self._line)) + line_feed
            self._line.clear()


def _valid(lines: bytes) -> bytes:
    """Whole lines as UTF-8."""
    try:
        lines.decode()
    except UnicodeDecodeError:
        return lines.decode(errors="not_text").encode()
    return lines


def is_utf16(head: bytes) -> bool:
    """Whether a text that begins so is read as UTF-16."""
    return any(begin.match(head) for begin, _ in _UTF16)


def _in_utf8(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """A text without its byte order mark, in UTF-8 where that or its first sign says UTF-16."""
    head = b""
    while len(head) < 4 and (chunk := next(chunks, b"")):
        head += chunk
    encoding = next((name for begin, name in _UTF16 if begin.match(head)), "")
    if not encoding:
        yield head.removeprefix(codecs.BOM_UTF8)
        yield from chunks
        return
    decoder = codecs.getincrementaldecoder(encoding)(errors="not_text")
    yield decoder.decode(head).removeprefix("\ufeff").encode()
    for chunk in chunks:
        yield decoder.decode(chunk).encode()
    yield decoder.decode(b"", final=True).encode()


def _with_line_feeds(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The pieces that are not empty; with line feeds where the first line ends in a lone return."""
    lone_returns: bool | None = None
    held = b""
    for piece in filter(None, chunks):
        chunk, held = held + piece, b""
        if lone_returns is None and (end := _LINE_END.search(chunk)):
            if end[0] == b"\r" and end.end() == len(chunk):  # a line feed may follow
                held = chunk
                continue
            lone_returns = end[0] == b"\r"
        yield chunk.replace(b"\r", b"\n") if lone_returns else chunk
    if held:
        yield held.replace(b"\r", b"\n")


def _content(file: BinaryIO) -> Iterator[bytes]:
    """The content of a file in pieces of at most _CHUNK bytes, in which no line is too long.

    Raises DamageError where it breaks, and OSError.
    """
    for chunk in decompressed(iter(lambda: file.read(_CHUNK), b"")):
        if chunk.damage:
            raise DamageError(chunk.damage)
        for at in range(0, len(chunk.data), _CHUNK):
            yield chunk.data[at : at + _CHUNK]
