"""Pages into a WARC/1.1 file that comes out the same whenever the pages are the same, and back.

Records are spooled in the order in which pages arrive and copied in the order of their URLs.
Only ``WARC-Date`` differs between two crawls of unchanged pages, and its length is constant,
so the offset of a page changes only when a page changes, and ``content_hash`` does.
"""

from __future__ import annotations

import base64
import hashlib
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from operator import itemgetter
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from workers.base.preferences import OPT_OUT_HEADERS
from workers.base.storage import replacing

#: The response headers that are stored: what the body is and what may be done with it. Dates,
#: cookies, request numbers and the like differ on every visit and would move the offsets.
STORED_HEADERS = ("Content-Type", "Content-Language", *OPT_OUT_HEADERS)

_RECORD_END = b"\r\n\r\n"
_DATE = "%Y-%m-%dT%H:%M:%SZ"


class WarcWriter:
    """Collects pages in a temporary file beside the final one; memory holds URLs alone."""

    def __init__(self, path: Path, about: Mapping[str, str]) -> None:
        self._path = path
        self._about = about
        self._spool: BinaryIO = tempfile.TemporaryFile(dir=path.parent)  # noqa: SIM115
        self._index: dict[str, tuple[int, int]] = {}  # by URL: offset and length in the spool

    def __enter__(self) -> WarcWriter:
        return self

    def __exit__(
        self,
        error: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._spool.close()

    def add(
        self,
        url: str,
        status: int,
        headers: Mapping[str, str],
        body: bytes,
        fetched: datetime | None = None,
    ) -> None:
        """Add the response of a page: ``body`` without any transfer or content encoding.

        It was ``fetched`` now, if nothing else is said.
        """
        record = response_record(url, status, headers, body, fetched or datetime.now(UTC))
        offset = self._spool.seek(0, 2)
        self._spool.write(record)
        self._index[url] = offset, len(record)

    def drop(self, url: str) -> None:
        """Leave a page out that was added."""
        del self._index[url]

    def finish(self) -> None:
        """Write the file, the records sorted by URL."""
        with replacing(self._path) as temporary, temporary.open("wb") as file:
            file.write(info_record(self._about, datetime.now(UTC)))
            for _, (offset, length) in sorted(self._index.items()):
                self._spool.seek(offset)
                file.write(self._spool.read(length))


def content_hash(path: Path) -> str:
    """The sha256 of a file of this writer's without its dates: it changes when a page does."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for head, length in _records(file):
            for line in head:
                if not line.startswith(b"WARC-Date: "):
                    digest.update(line)
            digest.update(file.read(length + len(_RECORD_END)))
    return digest.hexdigest()


def _records(file: BinaryIO) -> Iterator[tuple[list[bytes], int]]:
    """The lines of each record's head, and the bytes of its block, where the file then stands."""
    head: list[bytes] = []
    length = 0
    while line := file.readline():
        head.append(line)
        if line.startswith(b"Content-Length: "):
            length = int(line.partition(b" ")[2])
        if line == b"\r\n":
            following = file.tell() + length + len(_RECORD_END)
            yield head, length
            file.seek(following)
            head = []


@dataclass(frozen=True)
class StoredPage:
    """A page as a WARC file has it; a header that came several times has a line for each."""

    headers: dict[str, str]  # those of STORED_HEADERS, "" where one did not come
    body: bytes
    fetched: datetime

    def header_lines(self) -> list[tuple[str, str]]:
        """The name and the value of each line."""
        return _header_lines(self.headers)

    def is_same(self, other: StoredPage) -> bool:
        """Whether both give the same record but for its date."""
        mine, its = (_http_message(200, page.headers, page.body) for page in (self, other))
        return mine == its


class StoredPages:
    """The pages of a file of this writer's, by URL; memory holds URLs alone."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._index: dict[str, tuple[int, int, datetime, str]] = {}
        with path.open("rb") as file:
            for head, length in _records(file):
                fields = _fields(head[1:])
                if url := fields.get("WARC-Target-URI"):
                    fetched = datetime.strptime(fields["WARC-Date"], _DATE).replace(tzinfo=UTC)
                    digest = fields["WARC-Payload-Digest"]
                    self._index[url] = file.tell(), length, fetched, digest

    def __iter__(self) -> Iterator[str]:
        return iter(self._index)

    def get(self, url: str) -> StoredPage | None:
        """The page of a URL; none where there is none, or another than was written."""
        if url not in self._index:
            return None
        offset, length, fetched, digest = self._index[url]
        with self._path.open("rb") as file:
            file.seek(offset)
            head, _, body = file.read(length).partition(b"\r\n\r\n")
        if _digest(body) != digest:
            return None
        fields = _fields(head.splitlines()[1:])
        return StoredPage({name: fields.get(name, "") for name in STORED_HEADERS}, body, fetched)


def _fields(lines: Iterable[bytes]) -> dict[str, str]:
    """Header fields by name; one that is there several times has a line for each."""
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.decode().rstrip("\r\n").partition(": ")
        fields[name] = f"{fields[name]}\n{value}" if name in fields else value
    return fields


def response_record(
    url: str, status: int, headers: Mapping[str, str], body: bytes, fetched: datetime
) -> bytes:
    """A "response" record. Its id is a function of the URL and the content.

    A header that came several times has a line for each in ``headers``: what is said of robots in
    one of them may be for one robot alone, so they are not joined.
    """
    block = _http_message(status, headers, body)
    digest = _digest(body)
    return _record(
        {
            "WARC-Type": "response",
            "WARC-Record-ID": _record_id(url, _digest(block)),
            "WARC-Target-URI": url,
            "WARC-Date": _timestamp(fetched),
            "WARC-Payload-Digest": digest,
            "WARC-Block-Digest": _digest(block),
            "Content-Type": "application/http; msgtype=response",
        },
        block,
    )


def rewritten_record(record: bytes, before: bytes, after: bytes, url: str) -> bytes:
    """A "response" record of this writer's, its block ``after`` in place of ``before``, as long."""
    head, _, _ = record.partition(b"\r\n\r\n")
    bodies = [block.partition(b"\r\n\r\n")[2] for block in (before, after)]
    for old, new in zip(
        [_record_id(url, _digest(before)), _digest(before), _digest(bodies[0])],
        [_record_id(url, _digest(after)), _digest(after), _digest(bodies[1])],
        strict=True,
    ):
        head = head.replace(old.encode(), new.encode())
    return head + b"\r\n\r\n" + after + _RECORD_END


def info_record(about: Mapping[str, str], written: datetime) -> bytes:
    """The "warcinfo" record, the first of a file: who made it and how."""
    block = "".join(f"{name}: {value}\r\n" for name, value in about.items()).encode()
    return _record(
        {
            "WARC-Type": "warcinfo",
            "WARC-Record-ID": _record_id("warcinfo", _digest(block)),
            "WARC-Date": _timestamp(written),
            "Content-Type": "application/warc-fields",
        },
        block,
    )


def _http_message(status: int, headers: Mapping[str, str], body: bytes) -> bytes:
    stored = [*_header_lines(headers), ("Content-Length", str(len(body)))]
    return _head(f"HTTP/1.1 {status} {_phrase(status)}", stored) + body


def _header_lines(headers: Mapping[str, str]) -> list[tuple[str, str]]:
    lines = ((name, line) for name in STORED_HEADERS for line in headers.get(name, "").split("\n"))
    return [*filter(itemgetter(1), lines)]


def _record(headers: Mapping[str, str], block: bytes) -> bytes:
    head = _head("WARC/1.1", [*headers.items(), ("Content-Length", str(len(block)))])
    return head + block + _RECORD_END


def _head(first_line: str, headers: Iterable[tuple[str, str]]) -> bytes:
    # A line end inside a value would begin a header of its own.
    lines = [f"{name}: {' '.join(value.split())}" for name, value in headers]
    return ("\r\n".join([first_line, *lines]) + "\r\n\r\n").encode()


def _phrase(status: int) -> str:
    return HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else ""


def _record_id(url: str, digest: str) -> str:
    return f"<urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'{url} {digest}')}>"


def _digest(content: bytes) -> str:
    return "sha1:" + base64.b32encode(hashlib.sha1(content).digest()).decode()


def _timestamp(moment: datetime) -> str:
    return moment.strftime(_DATE)
