"""Pages into a WARC/1.1 file that comes out the same whenever the pages are the same.

Records are spooled in the order in which pages arrive and copied in the order of their URLs.
Only ``WARC-Date`` differs between two crawls of unchanged pages, and its length is constant,
so the offset of a page changes only when a page changes, and ``content_hash`` does.
"""

from __future__ import annotations

import base64
import hashlib
import tempfile
import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from operator import itemgetter
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from workers.base.storage import replacing

#: The response headers that are stored: what the body is and what may be done with it. Dates,
#: cookies, request numbers and the like differ on every visit and would move the offsets.
STORED_HEADERS = (
    "Content-Type",
    "Content-Language",
    "X-Robots-Tag",
    "TDM-Reservation",
    "TDM-Policy",
)

_RECORD_END = b"\r\n\r\n"


class WarcWriter:
    """Collects pages in a temporary file beside the final one; memory holds URLs alone."""

    def __init__(self, path: Path, about: Mapping[str, str]) -> None:
        self._path = path
        self._about = about
        self._spool: BinaryIO = tempfile.TemporaryFile(dir=path.parent)  # noqa: SIM115
        self._index: list[tuple[str, int, int]] = []  # URL, offset and length in the spool

    def __enter__(self) -> WarcWriter:
        return self

    def __exit__(
        self,
        error: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._spool.close()

    def add(self, url: str, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Add the response of a page: ``body`` without any transfer or content encoding."""
        record = response_record(url, status, headers, body, datetime.now(UTC))
        offset = self._spool.seek(0, 2)
        self._spool.write(record)
        self._index.append((url, offset, len(record)))

    def finish(self) -> None:
        """Write the file, the records sorted by URL."""
        with replacing(self._path) as temporary, temporary.open("wb") as file:
            file.write(info_record(self._about, datetime.now(UTC)))
            for _, offset, length in sorted(self._index):
                self._spool.seek(offset)
                file.write(self._spool.read(length))


def content_hash(path: Path) -> str:
    """The sha256 of a file of this writer's without its dates: it changes when a page does."""
    digest = hashlib.sha256()
    length = 0
    with path.open("rb") as file:
        while line := file.readline():
            if line.startswith(b"Content-Length: "):
                length = int(line.partition(b" ")[2])
            if not line.startswith(b"WARC-Date: "):
                digest.update(line)
            if line == b"\r\n":
                digest.update(file.read(length + len(_RECORD_END)))
    return digest.hexdigest()


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
    lines = [(name, line) for name in STORED_HEADERS for line in headers.get(name, "").split("\n")]
    stored = [*filter(itemgetter(1), lines), ("Content-Length", str(len(body)))]
    return _head(f"HTTP/1.1 {status} {_phrase(status)}", stored) + body


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
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
