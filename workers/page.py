"""HTML pages: decoding, parsing, and what a page says about links and robots."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import urljoin

from lxml import etree
from w3lib.encoding import html_to_unicode

HTML_TYPES = ("text/html", "application/xhtml+xml")

#: Declared in an X-Robots-Tag or a robots meta tag: the page is not for a use like ours.
OPT_OUTS = frozenset({"noai", "noimageai", "noml", "noindex", "noimageindex", "none"})


class PageError(ValueError):
    """A body that holds no HTML document."""


def is_html(content_type: str) -> bool:
    """Whether a Content-Type header means HTML."""
    return content_type.partition(";")[0].strip().lower() in HTML_TYPES


def parse_page(body: bytes, content_type: str) -> Any:
    """The root element of a page, decoded as a browser would; raises PageError if empty.

    The encoding is the byte order mark's, the header's, the page's own, or else UTF-8 if the
    body is valid UTF-8, or else Windows-1252.
    """
    _, text = html_to_unicode(content_type or None, body, auto_detect_fun=_guess_encoding)
    # libxml2 ends a document at a NUL, which a browser replaces.
    clean = text.replace("\0", "\ufffd").encode("utf-8", "replace")
    # One parser a page: a shared one would serialise the threads that use it.
    parser = etree.HTMLParser(encoding="utf-8", huge_tree=True, remove_pis=True)
    try:
        root = etree.fromstring(clean, parser)
    except etree.ParserError as error:
        raise PageError(str(error)) from error
    except etree.XMLSyntaxError as error:
        raise PageError(str(error)) from error
    if root is None:
        raise PageError("empty document")
    return root


def _guess_encoding(body: bytes) -> str:
    try:
        body.decode("utf-8")
    except UnicodeDecodeError:
        return "cp1252"
    return "utf-8"


def base_of(root: Any, page_url: str) -> str:
    """The URL that the references of a page are relative to."""
    for element in root.iter("base"):
        href = element.get("href")
        if href:
            return _join(page_url, href)
    return page_url


def _join(base: str, reference: str) -> str:
    try:
        return urljoin(base, reference.strip())
    except ValueError:  # a malformed <base> is ignored, as browsers do
        return base


def links_of(root: Any) -> Iterator[str]:
    """The references that a crawler may follow from a page, as they are written there."""
    if "nofollow" in robots_of(root):
        return
    for element in root.iter("a", "area"):
        href = element.get("href")
        if href and "nofollow" not in (element.get("rel") or "").lower().split():
            yield href


def robots_of(root: Any) -> set[str]:
    """What the robots meta tags of a page say, in lower case."""
    said: set[str] = set()
    for element in root.iter("meta"):
        if (element.get("name") or "").strip().lower() == "robots":
            said |= robots_directives(element.get("content") or "")
    return said


def robots_directives(value: str) -> set[str]:
    """The directives of an X-Robots-Tag header or a robots meta tag, in lower case."""
    return {word.strip() for word in value.lower().replace(":", ",").split(",")}
