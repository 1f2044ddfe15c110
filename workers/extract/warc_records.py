"""The records of a WARC file, also of a damaged one: what can be read is, the rest is told.

fastwarc reads until something is wrong. Then the next place where a record begins is looked for:
a gzip member, a zstd frame or, in a plain file, a version line; and the record before it is read by
itself. So damage costs the record that it is in and no other, and a record that is only unusual (to
fastwarc, names of headers have a case and lines end in CRLF) is read.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Generator, Iterable, Iterator
from email.parser import HeaderParser
from typing import Any, BinaryIO, NamedTuple

import zstandard
from fastwarc.stream_io import ZstdReader
from fastwarc.warc import ArchiveIterator, WarcRecordType

#: A larger record is passed over.
MAX_RECORD_BYTES = 64 << 20

_MARKERS = _GZIP, _ZSTD, _PLAIN = b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"WARC/"

_VERSION_LINE = re.compile(rb"WARC/\d\.\d+\r?\n[A-Za-z-]+[ \t]*:")

#: The header of a record: the version line, the fields and an empty line.
_HEAD = re.compile(rb"WARC/\d\.\d+\r?\n((?:[^\r\n]++\r?\n)*+)\r?\n")
_END = re.compile(rb"\r?\n\r?\n")

#: Bytes that are read at a time while the next record is looked for.
_CHUNK = 1 << 16

#: Bytes that are unpacked at a time.
_STEP = 1 << 10
_UNPACK_ERRORS = (OSError, zlib.error, zstandard.ZstdError)
#: zstd's --long=31, the longest there is.
_ZSTD_WINDOW = 1 << 31


class RawRecord(NamedTuple):
    """A record and where it begins in the file."""

    offset: int
    headers: dict[str, str]  # names in lower case; of two with one name, the first
    length: int  # of the block, as the record says
    block: bytes  # empty if longer than MAX_RECORD_BYTES

    @property
    def kind(self) -> str:
        """The WARC-Type in lower case, "" where there is none."""
        return self.headers.get("warc-type", "").strip().lower()

    @property
    def url(self) -> str:
        """The WARC-Target-URI; some writers put it in angle brackets, as WARC 1.0 seemed to ask."""
        return self.headers.get("warc-target-uri", "").strip().strip("<>")

    @property
    def content_type(self) -> str:
        return self.headers.get("content-type", "").strip()

    @property
    def is_http(self) -> bool:
        """Whether the block is an HTTP message, by its type or, where none is given, its look."""
        if not self.content_type:
            return self.block.startswith(b"HTTP/")
        return self.content_type.lower().startswith("application/http")


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
        begun = start
        last: RawRecord | None = None
        error = "the record is shorter than its Content-Length"
        try:
            for record in _iterate(file, begun):
                if last is not None:
                    yield last
                last = record
                if _is_short(record, file, marker):
                    break
            else:
                if last is not None:
                    yield last
                start = yield from _behind(file, begun, last, marker)
                continue
        except _ReadError as problem:
            error = str(problem)
        place = begun if last is None else last.offset
        following = _next_record(file, place + 1, marker)
        whole = _read_alone(file, place, following, marker)
        if whole is not None:
            yield whole[0]
        if whole is None:
            yield Damage(place, "" if last is None else last.url, error)
        elif whole[1] != following and not _is_end(file, whole[1]):
            yield Damage(whole[1], "", error)
        start = following


def _is_end(file: BinaryIO, at: int) -> bool:
    file.seek(at)
    return not file.read(1)


def _behind(
    file: BinaryIO, start: int, last: RawRecord | None, marker: bytes
) -> Generator[Damage, None, int | None]:
    """What is behind the place where fastwarc sees the end; gives where the next record begins.

    It sees one in an empty member, too, and where a file is cut soon after a record begins.
    """
    whole = None if last is None else _read_alone(file, last.offset, None, marker)
    end = start if last is None else whole and whole[1]
    if marker == _PLAIN or end is None or _is_end(file, end):
        return None
    following = _next_record(file, max(end, start + 1), marker)
    if not _is_empty(file, end, marker, following):
        error = "the file ends inside a record" if following is None else "no record begins here"
        yield Damage(end, "", error)
    return following


def _is_empty(file: BinaryIO, start: int, marker: bytes, end: int | None) -> bool:
    """Whether there are members or frames of blank lines at most, to the file's end or another."""
    file.seek(start)
    rest = file.read(_CHUNK if end is None else min(_CHUNK, end - start))
    start += len(rest)
    try:
        while rest:
            plain, used = _unpack(rest, marker)
            if plain.strip(b"\r\n"):
                return False
            rest = rest[used:]
    except _UNPACK_ERRORS:
        return False
    return _is_end(file, start) if end is None else start == end


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
            headers = _by_name(record.headers.items())
            length = _length(headers)
            if any("\n" in value for value in headers.values()):
                raise _ReadError("lines of its header end in LF, not CRLF")
            block = b"" if length > MAX_RECORD_BYTES else record.reader.read()
        except OSError as error:
            raise _ReadError(str(error)) from error
        yield RawRecord(record.stream_pos, headers, length, block)


def _by_name(fields: Iterable[tuple[str, str]]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, value in fields:
        headers.setdefault(name.lower(), value)
    return headers


def _length(headers: dict[str, str]) -> int:
    """The Content-Length that a record gives itself; -1 where it gives none, as a cut header."""
    value = headers.get("content-length", "").strip()
    return int(value) if re.fullmatch(r"[0-9]{1,15}", value) else -1


def _is_short(record: RawRecord, file: BinaryIO, marker: bytes) -> bool:
    """Whether there is less of a record than it says; a wrong length must not pass over others."""
    if record.length > MAX_RECORD_BYTES:
        place = file.tell()  # where fastwarc goes on
        is_whole = _is_whole(record, file, marker)
        file.seek(place)
        return not is_whole
    return record.length < 0 or len(record.block) < record.length


def _is_whole(record: RawRecord, file: BinaryIO, marker: bytes) -> bool:
    """Whether all of a large record is there, and ends where it says, without holding it."""
    file.seek(record.offset)
    if marker == _PLAIN:
        head = _HEAD.match(file.read(_CHUNK))
        file.seek(record.offset + (head.end() if head else 0) + record.length)
        return head is not None and _END.match(file.read(4)) is not None
    left, member = record.length, _decompressor(marker)
    while left > 0 and not member.eof and (piece := file.read(_STEP)):
        try:
            left -= len(member.decompress(piece))
        except _UNPACK_ERRORS:
            return False
    return left <= 0


def _decompressor(marker: bytes) -> Any:
    """Of a gzip member or a zstd frame, as zlib and zstandard have it."""
    if marker == _GZIP:
        return zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    return zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW).decompressobj()


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


def _read_alone(
    file: BinaryIO, at: int, following: int | None, marker: bytes
) -> tuple[RawRecord, int] | None:
    """The record at a place and where it ends in the file; None if it is damaged."""
    file.seek(at)
    size = MAX_RECORD_BYTES if following is None else following - at
    raw = file.read(min(size, MAX_RECORD_BYTES))
    try:
        plain, used = _unpack(raw, marker)
    except _UNPACK_ERRORS:
        return None
    head = _HEAD.match(plain)
    if head is None:
        return None
    headers = _by_name(HeaderParser().parsestr(head[1].decode("utf-8", "replace")).items())
    length = _length(headers)
    end = _END.match(plain, head.end() + length)
    if length < 0 or end is None:
        return None
    record = RawRecord(at, headers, length, plain[head.end() : head.end() + length])
    if marker == _PLAIN:
        return record, at + end.end()
    return None if plain[end.end() :].strip(b"\r\n") else (record, at + used)


def _unpack(raw: bytes, marker: bytes) -> tuple[bytes, int]:
    """A record's own bytes, and how many bytes of ``raw`` they are made of.

    In small steps, since each may give 32,000 times as much. Raises one of _UNPACK_ERRORS.
    """
    if marker == _PLAIN:
        return raw, len(raw)
    member, plain = _decompressor(marker), bytearray()
    for at in range(0, len(raw), _STEP):
        plain += member.decompress(raw[at : at + _STEP])
        if member.eof:
            return bytes(plain), min(at + _STEP, len(raw)) - len(member.unused_data)
        if len(plain) > 2 * MAX_RECORD_BYTES:
            break
    raise OSError("the gzip member or zstd frame does not end")
