"""HTML pages: decoding, their tags, and what a page says about links and robots."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urljoin

from w3lib.encoding import html_to_unicode

from workers.extract.tags import Document

HTML_TYPES = ("text/html", "application/xhtml+xml")

#: Declared in an X-Robots-Tag or a robots meta tag: the page is not for a use like ours.
OPT_OUTS = frozenset({"noai", "noimageai", "noml", "noindex", "noimageindex", "none"})


class PageError(ValueError):
    """A body that holds no HTML document."""


def is_html(content_type: str) -> bool:
    """Whether a Content-Type header means HTML."""
    return content_type.partition(";")[0].strip().lower() in HTML_TYPES


def parse_page(body: bytes, content_type: str) -> Document:
    """The tags of a page, decoded as a browser would; raises PageError if it is empty.

    The encoding is the byte order mark's, the header's, the page's own, or else UTF-8 if the
    body is valid UTF-8, or else Windows-1252.
    """
    _, text = html_to_unicode(content_type or None, body, auto_detect_fun=_guess_encoding)
    if not text or text.isspace():
        raise PageError("empty document")
    return Document(text.encode("utf-8", "replace"))


def _guess_encoding(body: bytes) -> str:
    try:
        body.decode("utf-8")
    except UnicodeDecodeError:
        return "cp1252"
    return "utf-8"


def base_of(document: Document, page_url: str) -> str:
    """The URL that the references of a page are relative to."""
    for tag in document.start_tags("base"):
        href = document.attributes(tag).get("href")
        if href:
            return _join(page_url, href)
    return page_url


def address_of(document: Document) -> str:
    """The URL that a page gives itself, as a canonical link or to social networks; or ""."""
    for tag in document.start_tags("link"):
        link = document.attributes(tag)
        if "canonical" in link.get("rel", "").lower().split() and link.get("href"):
            return link["href"].strip()
    for tag in document.start_tags("meta"):
        meta = document.attributes(tag)
        if meta.get("property", "").strip().lower() == "og:url" and meta.get("content"):
            return meta["content"].strip()
    return ""


def _join(base: str, reference: str) -> str:
    try:
        return urljoin(base, reference.strip())
    except ValueError:  # a malformed <base> is ignored, as browsers do
        return base


def links_of(document: Document) -> Iterator[str]:
    """The references that a crawler may follow from a page, as they are written there."""
    if "nofollow" in robots_of(document):
        return
    for tag in document.start_tags("a", "area"):
        link = document.attributes(tag)
        if link.get("href") and "nofollow" not in link.get("rel", "").lower().split():
            yield link["href"]


def robots_of(document: Document) -> set[str]:
    """What the robots meta tags of a page say, in lower case."""
    said: set[str] = set()
    for tag in document.start_tags("meta"):
        meta = document.attributes(tag)
        if meta.get("name", "").strip().lower() == "robots":
            said |= robots_directives(meta.get("content", ""))
    return said


def robots_directives(value: str) -> set[str]:
    """The directives of an X-Robots-Tag header or a robots meta tag, in lower case."""
    return {word.strip() for word in value.lower().replace(":", ",").split(",")}
