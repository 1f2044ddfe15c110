"""What a crawl leaves to the next one of its host: its pages, and what came of each URL.

The pages are in the WARC file. The rest is in a table beside it: an ETag or a date may differ at
every visit, and would move the records in the file, whose offsets change only when a page does.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import scrapy

from workers.base.contracts import VISITS
from workers.base.failures import is_passing
from workers.base.preferences import OPT_OUT_HEADERS
from workers.base.storage import write_table
from workers.crawl.fetch import header_lines
from workers.crawl.host import HostFiles
from workers.crawl.warc_writer import STORED_HEADERS, StoredPage, StoredPages

#: A validator that is longer is not sent back: servers refuse requests whose headers are long.
_MAX_VALIDATOR = 500

#: The headers by which a 304 may change what is stored: what may be done with a page. The others
#: are of the body, and servers leave them out or put in what is not meant.
_FRESHENED = OPT_OUT_HEADERS


@dataclass(frozen=True)
class Visit:
    """What came of a URL when it was last to be asked for."""

    url: str
    reason: str | None = None  # why it was not kept; None: it was
    target: str | None = None  # where it redirects to
    etag: str | None = None
    last_modified: str | None = None
    failures: int = 0  # crawls in a row at which it could not be had

    @property
    def is_open(self) -> bool:
        """Whether it may be otherwise at another time."""
        return self.reason is not None and is_passing(self.reason)

    @property
    def has_failed(self) -> bool:
        """Whether it was asked for, and could not be reached."""
        return self.is_open and self.reason != "host_away"

    def conditions(self) -> dict[str, str]:
        """The headers of a request for the page if it has changed."""
        found = {"If-None-Match": self.etag, "If-Modified-Since": self.last_modified}
        return {name: value for name, value in found.items() if value}


class Before:
    """What is known of a host from the crawl before; of one that is new, nothing."""

    def __init__(self, files: HostFiles | None) -> None:
        self._pages = StoredPages(files.warc) if files and files.warc.is_file() else None
        self._visits = _read_visits(files.table) if files and files.table.is_file() else {}
        #: The URLs of its pages.
        self.urls = frozenset(self._pages or ())

    def visit(self, url: str) -> Visit:
        """What came of a URL; of one that was never met, and of a page alone, nothing more."""
        return self._visits.get(url) or Visit(url)

    def page(self, url: str) -> StoredPage | None:
        return self._pages.get(url) if self._pages else None

    def is_settled(self, url: str) -> bool:
        """Whether an answer is known, so that the URL need not be asked for once more."""
        if url in self._visits:
            return not self._visits[url].is_open
        return url in self.urls


def _read_visits(path: Path) -> dict[str, Visit]:
    table = pq.read_table(path, schema=VISITS)
    return {row["url"]: Visit(**row) for row in table.to_pylist()}


def write_visits(visits: Iterable[Visit], path: Path) -> None:
    rows = sorted(map(asdict, visits), key=lambda row: row["url"])
    write_table(pa.Table.from_pylist(rows, VISITS), path)


def page_of(response: scrapy.http.Response) -> StoredPage:
    """The page that a response has brought."""
    headers = {name: "\n".join(header_lines(response, name)) for name in STORED_HEADERS}
    return StoredPage(headers, response.body, datetime.now(UTC))


def freshened(page: StoredPage, response: scrapy.http.Response) -> StoredPage:
    """A page of which a 304 says that it is as it was (RFC 9111, section 3.2)."""
    said = {name: "\n".join(header_lines(response, name)) for name in _FRESHENED}
    headers = page.headers | {name: value for name, value in said.items() if value}
    fresh = StoredPage(headers, page.body, datetime.now(UTC))
    return page if page.is_same(fresh) else fresh


def answered(url: str, response: scrapy.http.Response, before: Visit | None = None) -> Visit:
    """What came of a page that is kept; what a 304 does not repeat is as it was ``before``."""
    etag, last_modified = (_validator(response, name) for name in ("ETag", "Last-Modified"))
    if before:
        etag, last_modified = etag or before.etag, last_modified or before.last_modified
    return Visit(url, etag=etag, last_modified=last_modified)


def _validator(response: scrapy.http.Response, name: str) -> str | None:
    """A header that may be sent back as it came."""
    lines = header_lines(response, name)
    if len(lines) != 1 or len(lines[0]) > _MAX_VALIDATOR:
        return None
    return lines[0] if lines[0].isascii() and lines[0].isprintable() else None
