"""Pages to candidate pairs: the pictures of a page and the texts that describe them.

Every input becomes a stream of ``Page`` (or, for inputs that hold no pages, directly of
``Candidate``), so an input of another kind is a function beside ``read_warc``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType

from workers.candidates import Candidate, candidate_tables
from workers.inputs import LISTS, Input
from workers.page import (
    OPT_OUTS,
    PageError,
    base_of,
    is_html,
    parse_page,
    robots_directives,
    robots_of,
)
from workers.pair_lists import read_pair_list
from workers.tally import Tally
from workers.urls import UrlError, absolute_url

#: Attributes in which lazy-loading scripts keep what belongs into src and srcset, best first.
LAZY_SOURCES = ("data-src", "data-original", "data-lazy-src", "data-lazy")
SOURCE_SETS = ("srcset", "data-srcset", "data-lazy-srcset")

#: Picture types of a <source> that the download can read.
READABLE_TYPES = ("image/jpeg", "image/png", "image/webp", "image/gif")

#: A candidate of a srcset: a URL, which may hold commas but does not end in one, and a descriptor.
_CANDIDATE = re.compile(r"[\s,]*(\S*[^\s,])(?:,|\s+([^,]*)(?:,|$)|\s*$)")


@dataclass(frozen=True)
class Page:
    """An HTML page and where it was read from."""

    url: str
    body: bytes
    content_type: str
    robots: str  # the X-Robots-Tag header
    source: str


def extract_pairs(source: Input, pages: Tally, images: Tally) -> Iterator[pa.Table]:
    """The candidate pairs of an input as tables in CANDIDATES, in the input's order.

    Counts into ``pages`` every page, and into ``images`` every (picture, text), every picture
    without a text and every row of a list; ``images.kept`` is the number of candidates given.
    """
    if source.kind in LISTS:
        return read_pair_list(source, images)
    return candidate_tables(
        pair
        for page in read_warc(Path(source.url), pages)
        for pair in page_pairs(page, pages, images)
    )


def read_warc(warc: Path, pages: Tally) -> Iterator[Page]:
    """The HTML pages of a WARC file; what is no page is counted into ``pages`` with a reason.

    A file that is damaged gives the pages before the damage and one failed row, damaged_file.
    """
    end = 0
    warc.stat()  # a file that is not there is an error, not a damaged file
    try:
        for record in ArchiveIterator(
            str(warc), record_types=WarcRecordType.response, parse_http=False
        ):
            end = record.stream_pos
            source = f"{warc.name}@{end}"
            url = (record.headers.get("WARC-Target-URI") or "").strip("<>")
            try:
                yield _read_record(record, url, source)
            except NotAPageError as verdict:
                count = pages.fail if verdict.failed else pages.reject
                count(verdict.reason, source, {"url": url, "source": source})
    except OSError as error:
        source = f"{warc.name}@{end}"
        pages.fail("damaged_file", source, {"source": source, "error": str(error)})


class NotAPageError(Exception):
    """A response that gives no page; a failed one might have."""

    def __init__(self, reason: str, *, failed: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.failed = failed


def _read_record(record: WarcRecord, url: str, source: str) -> Page:
    """The page of a response record. Raises NotAPageError, and OSError if the file is damaged."""
    block = record.reader.read()
    if len(block) < int(record.headers.get("Content-Length") or 0):
        raise NotAPageError("truncated", failed=True)
    if not record.is_http:
        raise NotAPageError("not_http", failed=True)
    headers, body = _read_http(block)
    content_type = headers.get("Content-Type") or ""
    if headers.status_code != 200:
        raise NotAPageError(f"http_{headers.status_code}", failed=True)
    if not is_html(content_type):
        raise NotAPageError("not_html", failed=False)
    return Page(url, body, content_type, headers.get("X-Robots-Tag") or "", source)


def _read_http(block: bytes) -> tuple[Any, bytes]:
    """The headers and the decoded body of an HTTP response."""
    # A record of its own: an error while decoding would end the reading of the file otherwise.
    record = WarcRecord()
    record.set_bytes_content(block)
    record.is_http = True
    try:
        record.parse_http(auto_decode="all")
        return record.http_headers, record.reader.read()
    except OSError as error:
        raise NotAPageError("bad_encoding", failed=True) from error


def page_pairs(page: Page, pages: Tally, images: Tally) -> Iterator[Candidate]:
    """The candidate pairs of one page."""
    row = {"url": page.url, "source": page.source}
    try:
        root = parse_page(page.body, page.content_type)
    except PageError:
        pages.fail("not_parsable", page.source, row)
        return
    if OPT_OUTS & (robots_directives(page.robots) | robots_of(root)):
        pages.reject("opted_out", page.source, row)
        return
    pages.keep()
    base = base_of(root, page.url)
    for number, image in enumerate(root.iter("img")):
        yield from _image_pairs(image, number, page, base, images)


def _image_pairs(
    image: Any, number: int, page: Page, base: str, images: Tally
) -> Iterator[Candidate]:
    """The candidates of one <img>, the ``number``-th of its page."""
    reference = image_reference(image)
    texts = image_texts(image)
    for rank, text in enumerate(texts or [""]):
        reason, url = "no_alt", ""
        if text:
            reason, url = _picture_url(reference, base)
        if reason:
            row = {"url": reference[:1000], "caption": text[:1000], "page_url": page.url}
            images.reject(reason, f"{page.source}#{number:06d}.{rank}", row)
        else:
            images.keep()
            yield Candidate(url, text, page.url, page.source)


def _picture_url(reference: str, base: str) -> tuple[str, str]:
    """(reason, "") where ``reference`` is no picture's address, or ("", URL)."""
    if not reference:
        return "no_src", ""
    try:
        return "", absolute_url(reference, base)
    except UrlError as error:
        return error.reason, ""


def image_texts(image: Any) -> list[str]:
    """The different texts that a page gives an <img>: alt, figure caption, title."""
    texts = (image.get("alt"), _figure_caption(image), image.get("title"))
    different: dict[str, str] = {}
    for text in texts:
        words = " ".join((text or "").split())
        if words:
            different.setdefault(words.lower(), text or "")
    return list(different.values())


def _figure_caption(image: Any) -> str | None:
    """The caption of the figure around a picture, if the figure has no other picture."""
    figure = next(image.iterancestors("figure"), None)
    if figure is None or sum(1 for _ in figure.iter("img")) > 1:
        return None
    caption = next(figure.iter("figcaption"), None)
    return None if caption is None else "".join(caption.itertext())


def image_reference(image: Any) -> str:
    """The reference to the best version of an <img>, "" if it has none.

    The largest of its srcset, or of the <picture> around it; else where a lazy-loading script
    would look; else its src.
    """
    sets = [image.get(name) or "" for name in SOURCE_SETS]
    sets += [value for source in _picture_sources(image) for value in source]
    for source_set in sets:
        best = largest_candidate(source_set)
        if best:
            return best
    for name in (*LAZY_SOURCES, "src"):
        value = (image.get(name) or "").strip()
        if value:
            return str(value)
    return ""


def _picture_sources(image: Any) -> Iterator[list[str]]:
    """The source sets of the readable <source>s of the <picture> around an <img>."""
    picture = next(image.iterancestors("picture"), None)
    if picture is None:
        return
    for source in picture.iter("source"):
        if (source.get("type") or READABLE_TYPES[0]).strip().lower() in READABLE_TYPES:
            yield [source.get(name) or "" for name in SOURCE_SETS]


def largest_candidate(source_set: str) -> str:
    """The URL of the largest candidate of a srcset by width or density; the first of equals."""
    best, best_size = "", 0.0
    for url, descriptor in _CANDIDATE.findall(source_set):
        size = _size(descriptor)
        if size > best_size and url[:5].lower() != "data:":
            best, best_size = url, size
    return best


def _size(descriptor: str) -> float:
    """A srcset descriptor ("640w", "2x") as a number; 1 where there is none."""
    try:
        return max(float(descriptor.split()[0][:-1]), 0.001) if descriptor.strip() else 1.0
    except ValueError:
        return 1.0
