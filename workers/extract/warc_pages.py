"""The HTML pages of WARC files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from workers.base.credentials import shown
from workers.base.file_systems import is_away, open_file
from workers.base.preferences import OPT_OUT_HEADERS
from workers.base.tally import Tally
from workers.extract.http_messages import CodingError, HttpError, decoded, parse_response
from workers.extract.inputs import Input
from workers.extract.page import is_html
from workers.extract.pages import NotAPageError, Page, only_this_page, refuse_long
from workers.extract.warc_records import MAX_RECORD_BYTES, Damage, RawRecord, read_records

#: The types of the records that may hold a page: with its HTTP headers, or for itself.
PAGE_KINDS = ("response", "resource", "conversion")

#: All other types of the standard.
_OTHER_KINDS = ("warcinfo", "request", "metadata", "revisit", "continuation")


def read_warc(source: Input, pages: Tally) -> Iterator[Page]:
    """The HTML pages of a WARC file; a record that is none is counted into ``pages``."""
    for record in whole_records(source, PAGE_KINDS, pages):
        place = f"{source.name}@{record.offset}"
        try:
            with only_this_page():
                page = _page(record, place)
        except NotAPageError as verdict:
            verdict.count(pages, record.url, place)
        else:
            yield page


def whole_records(source: Input, kinds: tuple[str, ...], pages: Tally) -> Iterator[RawRecord]:
    """The whole records of some types; damaged parts and others are counted into ``pages``.

    Raises OSError if the file cannot be opened, or if its store is away.
    """
    with open_file(source.url) as file:
        for record in _all_records(file, source, pages):
            place = f"{source.name}@{record.offset}"
            if isinstance(record, Damage):
                row = {"url": record.url, "source": place, "error": record.error}
                pages.fail("damaged_record", place, row)
            elif record.kind not in kinds:
                of_another_kind(record.kind).count(pages, record.url, place)
            elif record.length > MAX_RECORD_BYTES:
                NotAPageError("too_large", failed=True).count(pages, record.url, place)
            else:
                yield record


def _all_records(file: BinaryIO, source: Input, pages: Tally) -> Iterator[RawRecord | Damage]:
    """``read_records``; a disk that does not give the rest of a file has damaged it."""
    try:
        yield from read_records(file)
    except OSError as error:
        if is_away(source.url, error):
            raise
        row = {"source": shown(source.url), "error": shown(str(error))}
        pages.fail("damaged_file", source.name, row)


def of_another_kind(kind: str) -> NotAPageError:
    """The verdict on a record whose type says that it is no page."""
    known = kind in PAGE_KINDS or kind in _OTHER_KINDS
    return NotAPageError(f"{kind if known else 'unknown'}_record", failed=False)


def _page(record: RawRecord, place: str) -> Page:
    """The page of a record. Raises NotAPageError."""
    refuse_long(record.url)
    if record.is_http:
        return _page_of_response(record, place)
    if not is_html(record.content_type):
        raise NotAPageError("not_html", failed=False)
    return _placed(record, record.block, record.content_type, (), place)


def _page_of_response(record: RawRecord, place: str) -> Page:
    try:
        headers, body = parse_response(record.block)
    except HttpError as error:
        raise NotAPageError("not_http", failed=True) from error
    content_type = headers.get("Content-Type") or ""
    if headers.status_code != 200:
        raise NotAPageError(f"http_{headers.status_code}", failed=True)
    if not is_html(content_type):
        raise NotAPageError("not_html", failed=False)
    try:
        body = decoded(headers, body)
    except CodingError as error:
        raise NotAPageError("bad_encoding", failed=True) from error
    said = [(name, line) for name in OPT_OUT_HEADERS for line in headers.get_multiple(name)]
    return _placed(record, body, content_type, tuple(said), place)


def _placed(
    record: RawRecord,
    body: bytes,
    content_type: str,
    headers: tuple[tuple[str, str], ...],
    place: str,
) -> Page:
    """A page that is where its record says or, without an address of the web, as a file is."""
    on_the_web = record.url.lower().startswith(("http://", "https://"))
    url = record.url if on_the_web else ""
    return Page(url, body, content_type, headers, place, local=not on_the_web)
