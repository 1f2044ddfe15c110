"""The HTML pages of WARC files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastwarc.warc import WarcRecord, WarcRecordType

from workers.extract.inputs import Input
from workers.extract.page import is_html
from workers.extract.pages import MAX_PAGE_BYTES, NotAPageError, Page, refuse_long
from workers.extract.warc_records import MAX_RECORD_BYTES, Damage, RawRecord, read_records
from workers.file_systems import open_file
from workers.tally import Tally


def read_warc(source: Input, pages: Tally) -> Iterator[Page]:
    """The HTML pages of a WARC file; a response that is none is counted into ``pages``."""
    for record in whole_records(source, WarcRecordType.response, pages):
        place = f"{source.name}@{record.offset}"
        try:
            yield _page(record, place)
        except NotAPageError as verdict:
            verdict.count(pages, record.url, place)


def whole_records(source: Input, kind: WarcRecordType, pages: Tally) -> Iterator[RawRecord]:
    """The whole records of a kind; damaged parts of the file are counted into ``pages``.

    Raises OSError if the file cannot be opened.
    """
    with open_file(source.url) as file:
        for record in read_records(file):
            place = f"{source.name}@{record.offset}"
            if isinstance(record, Damage):
                row = {"url": record.url, "source": place, "error": record.error}
                pages.fail("damaged_record", place, row)
            elif record.kind == kind and record.length > MAX_RECORD_BYTES:
                NotAPageError("too_large", failed=True).count(pages, record.url, place)
            elif record.kind == kind:
                yield record


def _page(record: RawRecord, place: str) -> Page:
    """The page of a response record. Raises NotAPageError."""
    if not record.is_http:
        raise NotAPageError("not_http", failed=True)
    headers, body = _read_http(record.block)
    content_type = headers.get("Content-Type") or ""
    if headers.status_code != 200:
        raise NotAPageError(f"http_{headers.status_code}", failed=True)
    if not is_html(content_type):
        raise NotAPageError("not_html", failed=False)
    refuse_long(record.url)
    robots = tuple(headers.get_multiple("X-Robots-Tag"))
    return Page(record.url, body, content_type, robots, place)


def _read_http(block: bytes) -> tuple[Any, bytes]:
    """The headers and the decoded body of an HTTP response."""
    # A record of its own: an error while decoding would end the reading of the file otherwise.
    record = WarcRecord()
    record.set_bytes_content(block)
    record.is_http = True
    try:
        record.parse_http(auto_decode="all")
        # A small body may unpack to a huge one.
        return record.http_headers, record.reader.read(MAX_PAGE_BYTES + 1)
    except OSError as error:
        raise NotAPageError("bad_encoding", failed=True) from error
