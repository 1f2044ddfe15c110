"""The lines of a part of a text file, for whoever reads other parts of it elsewhere."""

from __future__ import annotations

from io import RawIOBase
from typing import BinaryIO

#: Bytes that are read at a time.
_CHUNK = 1 << 18


class LineSpan(RawIOBase):
    """A readable stream of the lines of a file that begin from one byte of it until before another.

    Lines end with a line feed. So the spans of a file that follow each other have each line once.
    """

    def __init__(self, file: BinaryIO, start: int, end: int) -> None:
        self._file, self._end = file, end
        self._is_over = False
        self._at = start
        self._ready = b""
        if start:
            file.seek(start - 1)  # a line begins behind a line feed
            self._skip_line()

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        """At most ``size`` bytes, or all; b"" at the end."""
        if size < 0:
            return b"".join(iter(lambda: self.read(_CHUNK), b""))
        if self._is_over:
            return b""
        chunk = self._ready or self._file.read(size)
        chunk, self._ready = chunk[:size], chunk[size:]
        # The line that the last byte of the span is of goes on behind it.
        last = chunk.find(b"\n", max(0, self._end - 1 - self._at)) + 1
        if last or not chunk:
            self._is_over, chunk = True, chunk[:last] if last else b""
        self._at += len(chunk)
        return chunk

    def _skip_line(self) -> None:
        self._at -= 1
        while chunk := self._file.read(_CHUNK):
            if end := chunk.find(b"\n") + 1:
                self._ready = chunk[end:]
                self._at += end
                break
            self._at += len(chunk)
        self._is_over = self._at >= self._end or not chunk
