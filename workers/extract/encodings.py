"""The encoding of a page, found as the HTML standard says (13.2.3, "encoding sniffing").

Only the labels of the Encoding Standard count, which webencodings has. A page never names one of
Python's codecs: some of them always fail (undefined), or undo what a page escaped (unicode_escape).
"""

from __future__ import annotations

import codecs
import re

import webencodings

from workers.extract.tags import Document

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_BE, "utf-16be"),
    (codecs.BOM_UTF16_LE, "utf-16le"),
)

_WS = r"\t\n\f\r "
_CHARSET = re.compile(
    rf"charset[{_WS}]*+=[{_WS}]*+(?:\"([^\"]*)\"|'([^']*)'|([^{_WS};,\"']+))", re.IGNORECASE
)
_XML_DECLARATION = re.compile(rb"<\?xml[\t\n\r ][^>]*?encoding[\t\n\r ]*=[\t\n\r ]*[\"']([^\"'>]*)")
_WIDE_DECLARATIONS = (
    ("<?x".encode("utf-16-le"), "utf-16le"),
    ("<?x".encode("utf-16-be"), "utf-16be"),
)

#: How far an XML declaration is looked for.
_DECLARATION_BYTES = 1024


class UnusableEncodingError(ValueError):
    """A page declares an encoding that browsers refuse to decode (ISO-2022-KR, HZ and others)."""


def sent_encoding(body: bytes, content_type: str) -> str | None:
    """The encoding that a byte order mark or a Content-Type header gives."""
    for mark, name in _MARKS:
        if body.startswith(mark):
            return name
    return _labelled(_charset(content_type))


def declared_encoding(document: Document) -> str | None:
    """The encoding that a document declares; its bytes have been scanned as they came.

    An XML declaration counts before <meta> elements in XHTML, and after them in HTML.
    """
    for start, name in _WIDE_DECLARATIONS:
        if document.html.startswith(start):
            return name
    declared = _XML_DECLARATION.match(document.html[:_DECLARATION_BYTES])
    of_xml = _readable(_labelled(declared[1].decode("latin-1"))) if declared else None
    if of_xml and document.xml:
        return of_xml
    return _meta_encoding(document) or of_xml


def _meta_encoding(document: Document) -> str | None:
    for tag in document.start_tags(("meta",), ("charset", "http-equiv", "content")):
        meta = tag.attributes
        label = meta.get("charset")
        if label is None and meta.get("http-equiv", "").strip().lower() == "content-type":
            label = _charset(meta.get("content", ""))
        if found := _readable(_labelled(label)):
            return found
    return None


def _readable(encoding: str | None) -> str | None:
    """What a declaration means that could be read byte by byte, as ASCII can."""
    if encoding in ("utf-16le", "utf-16be"):
        return "utf-8"
    return "windows-1252" if encoding == "x-user-defined" else encoding


def _charset(content_type: str) -> str | None:
    found = _CHARSET.search(content_type)
    return found[1] or found[2] or found[3] if found else None


def _labelled(label: str | None) -> str | None:
    encoding = webencodings.lookup(label) if label and label.isascii() else None
    return encoding.name if encoding else None


def guessed_encoding(body: bytes) -> str:
    """The encoding of a page that declares none: UTF-8 if it can be, or else Windows-1252."""
    try:
        body.decode("utf-8")
    except UnicodeDecodeError:
        return "windows-1252"
    return "utf-8"


def as_utf8(body: bytes, encoding: str) -> bytes:
    """A body in one of the standard's encodings as UTF-8, with U+FFFD for what is none.

    Raises UnusableEncodingError.
    """
    if encoding == "replacement":
        raise UnusableEncodingError("in an encoding that browsers refuse to decode")
    # The standard decodes GBK as GB 18030, which has all of it.
    known = webencodings.lookup("gb18030" if encoding == "gbk" else encoding)
    text, _ = known.codec_info.decode(body, "replace")
    return text.removeprefix("\ufeff").encode("utf-8", "replace")
