"""The candidate pairs of HTML pages, whatever kind of input the pages come from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from workers.base.preferences import page_opts_out
from workers.base.tally import Tally
from workers.base.urls import MAX_URL_CHARS, Base, UrlError, absolute_url
from workers.extract.candidates import Candidate
from workers.extract.encodings import UnusableEncodingError
from workers.extract.page import PageError, address_of, base_of, metas_of, parse_page
from workers.extract.page_images import images_of
from workers.fetch.local_images import refusal

#: A longer page is refused. Time and memory are linear up to here; crawls cut pages far earlier.
MAX_PAGE_BYTES = 64 << 20

#: What functions raise over a text that nobody has thought of. A store that is away or a full disk
#: (OSError) is no page's fault.
_ODD_TEXT = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)

_SCHEME = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.\-]*:")


@dataclass(frozen=True, slots=True)
class Page:
    """An HTML page and where it was read from."""

    url: str  # "" where nothing says it
    body: bytes
    content_type: str
    headers: tuple[tuple[str, str], ...]  # those of OPT_OUT_HEADERS
    source: str
    local: bool = False  # a file, whose real address the page itself may give
    base: Base | None = None  # of its relative references, where they are files beside it


class FoundImage(NamedTuple):
    """An image of a page: a reference as the page writes it, and texts."""

    reference: str
    texts: list[str]
    again: bool = False  # said to repeat another: a <noscript> of a lazily loaded image


class NotAPageError(Exception):
    """A response that gives no page; a failed one might have."""

    def __init__(self, reason: str, *, failed: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.failed = failed

    def count(self, pages: Tally, url: str, source: str) -> None:
        """Count it into the tally of pages."""
        drop = pages.fail if self.failed else pages.reject
        row = {"url": url, "source": source}
        if self.__cause__ is not None:
            row["error"] = _told(self.__cause__)
        drop(self.reason, source, row)


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


@contextmanager
def only_this_page() -> Iterator[None]:
    """Whatever a page makes our functions raise costs this page and no other: NotAPageError."""
    try:
        yield
    except _ODD_TEXT as error:
        raise NotAPageError("page_error", failed=True) from error


def refuse_long(url: str) -> None:
    """Raise NotAPageError for a page's address that is too long to be one."""
    if len(url) > MAX_URL_CHARS:
        raise NotAPageError("url_too_long", failed=False)


def page_pairs(
    page: Page, pages: Tally, images: Tally, agents: tuple[str, ...] = ()
) -> Iterator[Candidate]:
    """The candidate pairs of one page that does not ask ``agents`` to leave it alone."""
    try:
        with only_this_page():
            url, base, found = _read(page, agents)
    except NotAPageError as verdict:
        verdict.count(pages, page.url, page.source)
        return
    pages.keep()
    yield from image_pairs(found, url, base, page.source, images)


def _read(page: Page, agents: tuple[str, ...]) -> tuple[str, Base, Iterator[FoundImage]]:
    """The URL, the base and the images of a page. Raises NotAPageError."""
    if len(page.body) > MAX_PAGE_BYTES:
        raise NotAPageError("too_large", failed=True)
    try:
        document = parse_page(page.body, page.content_type)
    except PageError as error:
        refused = isinstance(error.__cause__, UnusableEncodingError)
        raise NotAPageError("bad_encoding" if refused else "not_parsable", failed=True) from error
    if page_opts_out(page.headers, metas_of(document), agents):
        raise NotAPageError("opted_out", failed=False)
    base = base_of(document, page.url)
    url = (_own_url(address_of(document)) or page.url or base) if page.local else page.url
    found = (
        FoundImage(image.reference(), image.texts(), image.in_noscript)
        for image in images_of(document)
    )
    beside = page.base if base == page.url else None
    return url, beside or Base(base or url, document.encoding), found


def _own_url(address: str) -> str:
    """What a page gives as its own address, if it is absolute."""
    try:
        return absolute_url(address) if address else ""
    except UrlError:
        return ""


def image_pairs(
    found: Iterable[FoundImage], page_url: str, base: Base, source: str, images: Tally
) -> Iterator[Candidate]:
    """The candidates of the images of one page; all (image, text) are counted.

    Where an image cannot be worked on, it is counted as failed for the rest of the page.
    """
    try:
        yield from _image_pairs(found, page_url, base, source, images)
    except _ODD_TEXT as error:
        row = {"page_url": page_url, "source": source, "error": _told(error)}
        images.fail("page_error", source, row)


def _image_pairs(
    found: Iterable[FoundImage], page_url: str, base: Base, source: str, images: Tally
) -> Iterator[Candidate]:
    seen = set[tuple[str, str]]()
    for number, image in enumerate(found):
        for rank, text in enumerate(image.texts or [""]):
            reason, url = "no_alt", ""
            if text:
                reason, url = _image_url(image.reference, base)
            if image.again and (url, text) in seen:
                reason = "noscript_copy"
            if reason:
                row = {"url": image.reference, "caption": text, "page_url": page_url}
                images.reject(reason, f"{source}#{number:06d}.{rank}", row)
            else:
                images.keep()
                seen.add((url, text))
                yield Candidate(url, text, page_url or None, source)


def _image_url(reference: str, base: Base) -> tuple[str, str]:
    """(reason, "") where ``reference`` is no image's address, or ("", URL)."""
    if not reference:
        return "no_src", ""
    try:
        return "", base.absolute_url(reference)
    except UrlError as error:
        relative = error.reason == "not_http" and not _SCHEME.match(reference)
        return "no_page_url" if relative else refusal(reference, error.reason), ""
