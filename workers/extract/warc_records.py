"""The records of a WARC file, also of a damaged one: what can be read is, the rest is told.

fastwarc reads until something is wrong. Then the next place where a record begins is looked for:
a gzip member, a zstd frame or, in a plain file, a version line; and the record before it is read by
itself. So damage costs the record that it is in and no other, and a record that is only unusual (to
fastwarc, names of headers have a case and lines end in CRLF) is read.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable, Iterator
from email.parser import HeaderParser
from typing import BinaryIO, NamedTuple

from fastwarc.warc import ArchiveIterator, WarcRecordType

from workers.base.compressed import (
    GZIP,
    ZSTD,
    DamageError,
    Format,
    Member,
    beginning,
    format_of,
    unpack,
)

#: A larger record is passed over.
MAX_RECORD_BYTES = 64 << 20

_FORMS = (GZIP, ZSTD)
_PLAIN = b"WARC/"

#: More than a record and its header.
_MOST_CONTENT = 2 * MAX_RECORD_BYTES

_VERSION_LINE = re.compile(rb"WARC/\d\.\d+\r?\n[A-Za-z-]+[ \t]*:")

#: The header of a record: the version line, the fields and an empty line.
_HEAD = re.compile(rb"WARC/\d\.\d+\r?\n((?:[^\r\n]++\r?\n)*+)\r?\n")
_END = re.compile(rb"\r?\n\r?\n")

#: Bytes that are read at a time while the next record is looked for.
_CHUNK = 1 << 16


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
    form = _form(file)
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
                if _is_short(record, file, form):
                    break
            else:
                if last is not None:
                    yield last
                start = yield from _behind(file, begun, last, form)
                continue
        except _ReadError as problem:
            error = str(problem)
        place = begun if last is None else last.offset
        following = _next_record(file, place + 1, form)
        whole = _read_alone(file, place, following, form)
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
    file: BinaryIO, start: int, last: RawRecord | None, form: Format | None
) -> Generator[Damage, None, int | None]:
    """What is behind the place where fastwarc sees the end; gives where the next record begins.

    It sees one in an empty member, too, and where a file is cut soon after a record begins.
    """
    whole = None if last is None else _read_alone(file, last.offset, None, form)
    end = start if last is None else whole and whole[1]
    if form is None or end is None or _is_end(file, end):
        return None
    following = _next_record(file, max(end, start + 1), form)
    if not _is_empty(file, end, form, following):
        error = "the file ends inside a record" if following is None else "no record begins here"
        yield Damage(end, "", error)
    return following


def _is_empty(file: BinaryIO, start: int, form: Format, end: int | None) -> bool:
    """Whether there are members or frames of blank lines at most, to the file's end or another."""
    file.seek(start)
    rest = file.read(_CHUNK if end is None else min(_CHUNK, end - start))
    start += len(rest)
    try:
        while rest:
            plain, used = unpack(rest, form, _MOST_CONTENT)
            if plain.strip(b"\r\n"):
                return False
            rest = rest[used:]
    except DamageError:
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


def _is_short(record: RawRecord, file: BinaryIO, form: Format | None) -> bool:
    """Whether there is less of a record than it says; a wrong length must not pass over others."""
    if record.length > MAX_RECORD_BYTES:
        place = file.tell()  # where fastwarc goes on
        is_whole = _is_whole(record, file, form)
        file.seek(place)
        return not is_whole
    return record.length < 0 or len(record.block) < record.length


def _is_whole(record: RawRecord, file: BinaryIO, form: Format | None) -> bool:
    """Whether all of a large record is there, and ends where it says, without holding it."""
    file.seek(record.offset)
    if form is None:
        head = _HEAD.match(file.read(_CHUNK))
        file.seek(record.offset + (head.end() if head else 0) + record.length)
        return head is not None and _END.match(file.read(4)) is not None
    left, member = record.length, Member(form)
    try:
        while left > 0 and not member.has_ended and (stored := file.read(_CHUNK)):
            left -= sum(map(len, member.feed(stored)))
    except DamageError:
        return False
    return left <= 0


def _form(file: BinaryIO) -> Format | None:
    """What every record of a file is: a gzip member, a zstd frame or, None, itself."""
    head = file.read(len(_PLAIN))
    form = format_of(head)
    if head.startswith(_PLAIN) or form in _FORMS:
        return form
    # The first bytes are damaged: what do the other records begin with?
    return next((form for form in _FORMS if _next_record(file, 0, form) is not None), None)


def _next_record(file: BinaryIO, start: int, form: Format | None) -> int | None:
    """The first place from ``start`` on where a record begins, or None."""
    magic = form.magic if form else _PLAIN
    held = b""
    file.seek(start)
    while chunk := file.read(_CHUNK):
        held += chunk
        first = start
        at = held.find(magic)
        while at >= 0:
            if _begins_record(file, first + at, form):
                return first + at
            at = held.find(magic, at + 1)
        kept = held[1 - len(magic) :]
        start += len(held) - len(kept)
        held = kept
        file.seek(start + len(held))
    return None


def _begins_record(file: BinaryIO, at: int, form: Format | None) -> bool:
    """Whether a magic is one, and no such bytes within compressed data or a page."""
    file.seek(at)
    if form is None:
        return _VERSION_LINE.match(file.read(1024)) is not None
    return beginning(file, form, len(_PLAIN)) == _PLAIN


def _read_alone(
    file: BinaryIO, at: int, following: int | None, form: Format | None
) -> tuple[RawRecord, int] | None:
    """The record at a place and where it ends in the file; None if it is damaged."""
    file.seek(at)
    size = MAX_RECORD_BYTES if following is None else following - at
    raw = file.read(min(size, MAX_RECORD_BYTES))
    try:
        plain, used = unpack(raw, form, _MOST_CONTENT) if form else (raw, len(raw))
    except DamageError:
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
    if form is None:
        return record, at + end.end()
    return None if plain[end.end() :].strip(b"\r\n") else (record, at + used)
