"""HTML pages: decoding, their tags, and what a page says about itself and its links."""

from __future__ import annotations

from codecs import BOM_UTF8
from collections.abc import Iterator

from workers.base.urls import base_url
from workers.extract.encodings import (
    UnusableEncodingError,
    as_utf8,
    declared_encoding,
    guessed_encoding,
    sent_encoding,
)
from workers.extract.tags import Document

XHTML = "application/xhtml+xml"
HTML_TYPES = ("text/html", XHTML)


class PageError(ValueError):
    """A body that holds no HTML document, or none that can be decoded."""


def is_html(content_type: str) -> bool:
    """Whether a Content-Type header means HTML."""
    return media_type(content_type) in HTML_TYPES


def media_type(content_type: str) -> str:
    """The type that a Content-Type header names, in lower case and without parameters."""
    return content_type.partition(";")[0].strip().lower()


def parse_page(body: bytes, content_type: str) -> Document:
    """The tags of a page, decoded as a browser would.

    The encoding is the byte order mark's, the header's, the page's own, or else UTF-8 if the
    body is valid UTF-8, or else Windows-1252. Raises PageError for a page that is empty, or in an
    encoding that browsers refuse; nothing else, whatever the page is.
    """
    encoding = sent_encoding(body, content_type)
    document = Document(body.removeprefix(BOM_UTF8), xml=media_type(content_type) == XHTML)
    encoding = encoding or declared_encoding(document) or guessed_encoding(body)
    if encoding != "utf-8":
        try:
            html = as_utf8(body, encoding)
        except UnusableEncodingError as error:
            raise PageError(str(error)) from error
        document = Document(html, encoding, xml=document.xml)
    if not document.html or document.html.isspace():
        raise PageError("empty document")
    return document


def base_of(document: Document, page_url: str) -> str:
    """The URL that the references of a page are relative to: the first <base> with one says it."""
    for tag in document.start_tags(("base",), ("href",)):
        href = tag.attributes.get("href")
        if href is not None:
            return base_url(href, page_url)
    return page_url


def address_of(document: Document) -> str:
    """The URL that a page gives itself, as a canonical link or to social networks; or ""."""
    for tag in document.start_tags(("link",), ("rel", "href")):
        link = tag.attributes
        if "canonical" in link.get("rel", "").lower().split() and link.get("href"):
            return link["href"].strip()
    for tag in document.start_tags(("meta",), ("property", "content")):
        meta = tag.attributes
        if meta.get("property", "").strip().lower() == "og:url" and meta.get("content"):
            return meta["content"].strip()
    return ""


def links_of(document: Document) -> Iterator[str]:
    """The references that a page does not ask to leave alone one by one, as they are written."""
    for tag in document.start_tags(("a", "area"), ("rel", "href")):
        link = tag.attributes
        if link.get("href") and "nofollow" not in link.get("rel", "").lower().split():
            yield link["href"]


def metas_of(document: Document) -> list[tuple[str, str]]:
    """The names and contents of a page's meta elements, as they are written."""
    return [
        (tag.attributes["name"], tag.attributes.get("content", ""))
        for tag in document.start_tags(("meta",), ("name", "content"))
        if tag.attributes.get("name")
    ]
