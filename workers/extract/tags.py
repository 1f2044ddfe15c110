"""The tags of an HTML document and their attributes: no tree, which pictures do not need."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape
from html.entities import html5
from typing import Any, NamedTuple

import numpy as np

from workers.extract.tag_scanner import NAMES, scan_tags

#: Rows of tags that are turned into Python objects at a time.
_ROWS = 4096


class _Wanted(dict[tuple[str, ...], Any]):
    """For a tuple of names: of each index in NAMES, whether it is one of theirs."""

    def __missing__(self, names: tuple[str, ...]) -> Any:
        self[names] = np.isin(np.arange(len(NAMES)), [NAMES.index(name) for name in names])
        return self[names]


_WANTED = _Wanted()


class Tag(NamedTuple):
    """A tag and where it stands: bytes ``start`` to ``end``, its attributes from ``attributes``."""

    name: str
    closing: bool
    start: int
    attributes: int
    end: int


class Document:
    """An HTML document as UTF-8 and the tags of the elements that extraction knows.

    ``encoding`` is what it came in, by the Encoding Standard's name ("windows-1252"): the queries
    of its links are written in it. ``xml`` says that it is XHTML, and to be read as XML is.
    """

    def __init__(self, html: bytes, encoding: str = "utf-8", *, xml: bool = False) -> None:
        self.html = html
        self.encoding = encoding
        self.xml = xml
        self._rows = scan_tags(np.frombuffer(html, np.uint8))

    def tags(self, *names: str) -> Iterator[Tag]:
        """The start and end tags of some elements, in the document's order."""
        return self._tags(self._rows[_WANTED[names][self._rows[:, 0]]])

    def start_tags(self, *names: str) -> Iterator[Tag]:
        """The start tags of some elements, in the document's order."""
        wanted = _WANTED[names][self._rows[:, 0]] & (self._rows[:, 1] == 0)
        return self._tags(self._rows[wanted])

    def _tags(self, rows: Any) -> Iterator[Tag]:
        for first in range(0, len(rows), _ROWS):
            for name, closing, *where in rows[first : first + _ROWS].tolist():
                yield Tag(NAMES[name], bool(closing), *where)

    def attributes(self, tag: Tag) -> dict[str, str]:
        """The attributes of a tag: names in lower case; of two with one name, the first."""
        text = self.html[tag.attributes : tag.end - 1].decode("utf-8", "replace")
        found: dict[str, str] = {}
        for name, double, single, bare in _ATTRIBUTE.findall(text):
            value = double or single or bare
            found.setdefault(name.lower(), _decode(value) if "&" in value else value)
        return found

    def text(self, start: int, end: int) -> str:
        """The text between two places of the document: no tags, no content of scripts."""
        html = self.html[start:end].decode("utf-8", "replace")
        return _REFERENCE.sub(_text_reference, _MARKUP.sub("", html))


_WS = r"\t\n\f\r "
_ATTRIBUTE = re.compile(
    rf"[{_WS}/]*+(=?[^{_WS}/>=]++|=)"
    rf"(?:[{_WS}]*+=[{_WS}]*+(?:\"([^\"]*+)(?:\"|\Z)|'([^']*+)(?:'|\Z)|([^{_WS}>\"'][^{_WS}>]*+)?+))?+"
)
_MARKUP = re.compile(
    r"<!--.*?(?:-->|\Z)|<(script|style)\b.*?(?:</\1\s*>|\Z)|</?[a-zA-Z!?][^>]*+(?:>|\Z)",
    re.DOTALL | re.IGNORECASE,
)
_REFERENCE = re.compile(r"&(?:#[0-9]+;?|#[xX][0-9a-fA-F]+;?|[A-Za-z][A-Za-z0-9]*;?)")


def _decode(value: str) -> str:
    """The value of an attribute with its character references replaced."""
    return _REFERENCE.sub(_attribute_reference, value)


def _attribute_reference(match: re.Match[str]) -> str:
    name = match[0][1:]
    if name[0] == "#":
        return _text_reference(match)
    # "&copy=1" in an address is a parameter, not a sign.
    parameter = match.string[match.end() : match.end() + 1] == "="
    return match[0] if parameter else html5.get(name, match[0])


def _text_reference(match: re.Match[str]) -> str:
    try:
        return unescape(match[0])
    except ValueError:  # a number of more digits than Python converts
        return "\ufffd"
