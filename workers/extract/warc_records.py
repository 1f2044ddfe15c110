"""The records of a WARC file, also of a damaged one: what can be read is, the rest is told.

fastwarc reads until something is wrong. Then the next place where a record begins is looked for:
a gzip member, a zstd frame or, in a plain file, a version line. So damage costs the record that it
is in and no other.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from io import BytesIO
from typing import Any, BinaryIO, NamedTuple

from fastwarc.stream_io import ZstdReader
from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType

#: A larger record is passed over.
MAX_RECORD_BYTES = 64 << 20

_MARKERS = _GZIP, _ZSTD, _PLAIN = b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"WARC/1."

_VERSION_LINE = re.compile(rb"WARC/1\.[01]\r?\n[A-Za-z-]+:")

#: Bytes that are read at a time while the next record is looked for.
_CHUNK = 1 << 20


class RawRecord(NamedTuple):
    """A record and where it begins in the file."""

    offset: int
    kind: WarcRecordType
    headers: Any
    is_http: bool
    length: int  # of the block, as the record says
    block: bytes  # empty if longer than MAX_RECORD_BYTES

    @property
    def url(self) -> str:
        return (self.headers.get("WARC-Target-URI") or "").strip("<>")


class Damage(NamedTuple):
    """A part of the file that gives no record."""

    offset: int
    url: str  # of the record, where its header can be read
    error: str


def read_records(file: BinaryIO) -> Iterator[RawRecord | Damage]:
    """The whole records of a WARC file and its damaged parts, in the file's order.

    ``file`` must be able to seek. Raises OSError only if the file itself cannot be read.
    """
    marker = _marker(file)
    start: int | None = 0
    while start is not None:
        last: RawRecord | None = None
        error = "the record is shorter than its Content-Length"
        try:
            for record in _iterate(file, start):
                if last is not None:
                    yield last
                last = record
                if _is_short(record):
                    break
            else:
                if last is not None:
                    yield last
                yield from _cut_end(file, start, last, marker)
                return
        except _ReadError as problem:
            error = str(problem)
        place = start if last is None else last.offset
        following = _next_record(file, place + 1, marker)
        end = None if last is None else _whole_end(file, last, following, marker)
        if last is not None and end is not None:
            yield last
        if end is None or end != following:
            yield Damage(end or place, "" if last is None or end else last.url, error)
        start = following


def _cut_end(file: BinaryIO, start: int, last: RawRecord | None, marker: bytes) -> Iterator[Damage]:
    """The damage of a file that ends so soon after a record begins that fastwarc sees none."""
    end = start if last is None else _whole_end(file, last, None, marker)
    size = file.seek(0, 2)
    if marker != _PLAIN and end is not None and end < size:
        yield Damage(end, "", "the file ends inside a record")


class _ReadError(Exception):
    """fastwarc cannot go on."""


def _iterate(file: BinaryIO, start: int) -> Iterator[RawRecord]:
    file.seek(start)
    records = iter(ArchiveIterator(file, WarcRecordType.any_type, parse_http=False))
    while True:
        try:
            record = next(records, None)
            if record is None:
                return
            length = _length(record)
            block = b"" if length > MAX_RECORD_BYTES else record.reader.read()
        except OSError as error:
            raise _ReadError(str(error)) from error
        yield RawRecord(
            record.stream_pos, record.record_type, record.headers, record.is_http, length, block
        )


def _length(record: WarcRecord) -> int:
    """The Content-Length that a record gives itself; -1 where it gives none, as a cut header."""
    value = record.headers.get("Content-Length") or ""
    return int(value) if value.isdecimal() else -1


def _is_short(record: RawRecord) -> bool:
    return record.length < 0 or len(record.block) < record.length <= MAX_RECORD_BYTES


def _marker(file: BinaryIO) -> bytes:
    """What every record of a file begins with."""
    head = file.read(len(_PLAIN))
    for marker in _MARKERS:
        if head.startswith(marker):
            return marker
    # The first bytes are damaged: what do the other records begin with?
    found = (marker for marker in _MARKERS if _next_record(file, 0, marker) is not None)
    return next(found, _PLAIN)


def _next_record(file: BinaryIO, start: int, marker: bytes) -> int | None:
    """The first place from ``start`` on where a record begins, or None."""
    held = b""
    file.seek(start)
    while chunk := file.read(_CHUNK):
        held += chunk
        first = start
        at = held.find(marker)
        while at >= 0:
            if _begins_record(file, first + at, marker):
                return first + at
            at = held.find(marker, at + 1)
        kept = held[1 - len(marker) :]
        start += len(held) - len(kept)
        held = kept
        file.seek(start + len(held))
    return None


def _begins_record(file: BinaryIO, at: int, marker: bytes) -> bool:
    """Whether a marker is one, and no such bytes within compressed data or a page."""
    file.seek(at)
    head = file.read(1024)
    if marker == _PLAIN:
        return _VERSION_LINE.match(head) is not None
    try:
        if marker == _GZIP:
            plain = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16).decompress(head, len(_PLAIN))
        else:
            file.seek(at)
            plain = ZstdReader(file).read(len(_PLAIN))
    except (OSError, zlib.error):
        return False
    return plain.startswith(_PLAIN)


def _whole_end(
    file: BinaryIO, record: RawRecord, following: int | None, marker: bytes
) -> int | None:
    """Where a record ends in the file, None if it is itself damaged."""
    file.seek(record.offset)
    size = MAX_RECORD_BYTES if following is None else following - record.offset
    raw = file.read(min(size, MAX_RECORD_BYTES))
    try:
        plain, used = _unpack(raw, marker)
    except (OSError, zlib.error):
        return None
    block_end = plain.find(b"\r\n\r\n") + 4 + record.length
    rest = plain[block_end:]
    if record.length < 0 or not rest.startswith(b"\r\n\r\n"):
        return None
    if marker == _PLAIN:
        return record.offset + block_end + 4
    return None if rest.strip(b"\r\n") else record.offset + used


def _unpack(raw: bytes, marker: bytes) -> tuple[bytes, int]:
    """A record's own bytes, and how many bytes of ``raw`` they are made of."""
    if marker == _PLAIN:
        return raw, len(raw)
    if marker == _ZSTD:
        return _unpack_frame(raw[: raw.find(_ZSTD, len(_ZSTD)) % (len(raw) + 1)])
    member = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    plain = member.decompress(raw, 2 * MAX_RECORD_BYTES)
    if not member.eof:
        raise OSError("the gzip member does not end")
    return plain, len(raw) - len(member.unused_data)


def _unpack_frame(frame: bytes) -> tuple[bytes, int]:
    """As ``_unpack``, for a zstd frame behind which the first bytes of another may stand."""
    try:
        return ZstdReader(BytesIO(frame)).read(), len(frame)
    except OSError:
        for begun in (_ZSTD[:n] for n in range(1, len(_ZSTD))):
            if frame.endswith(begun):
                return _unpack_frame(frame.removesuffix(begun))
        raise
