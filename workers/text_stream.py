"""The bytes of a text file, decompressed; of a damaged one, the whole lines before the damage."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from io import RawIOBase
from typing import BinaryIO

from fastwarc.stream_io import ZstdReader

_CHUNK = 1 << 20
_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"


class TextStream(RawIOBase):
    """A readable stream over a plain, gzip or zstd file.

    Where the compressed data breaks off, the stream ends after the last whole line, so that no
    half row is taken for a whole one; ``error`` then says what happened.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._chunks = _decompressed(file)
        self._ready = b""
        self._held = b""  # after the last line feed so far
        self._ended = False
        self.error = ""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        """At most ``size`` bytes, or all; b"" at the end."""
        while not self._ended and (size < 0 or len(self._ready) < size):
            self._fill()
        if size < 0:
            size = len(self._ready)
        given, self._ready = self._ready[:size], self._ready[size:]
        return given

    def _fill(self) -> None:
        try:
            chunk = next(self._chunks, b"")
        except (OSError, EOFError, zlib.error) as error:
            self.error = str(error)
            self._ended = True
            return
        if not chunk:
            self._ended = True
            self._ready += self._held
            return
        whole, line_feed, rest = (self._held + chunk).rpartition(b"\n")
        self._ready += whole + line_feed
        self._held = rest


def _decompressed(file: BinaryIO) -> Iterator[bytes]:
    """The content of a file in pieces; raises OSError, EOFError or zlib.error where it breaks."""
    magic = file.read(4)
    file.seek(0)
    if magic.startswith(_GZIP):
        return _gunzip(file)
    reader = ZstdReader(file) if magic == _ZSTD else file
    return iter(lambda: reader.read(_CHUNK), b"")


def _gunzip(file: BinaryIO) -> Iterator[bytes]:
    # fastwarc's and zlib's own readers take a cut file for a whole one.
    member = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    started = False
    while chunk := file.read(_CHUNK):
        while chunk:
            if piece := member.decompress(chunk):
                yield piece
            started, chunk = not member.eof, member.unused_data
            if member.eof:
                member = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    if started:
        raise EOFError("the file ends inside a gzip member")
