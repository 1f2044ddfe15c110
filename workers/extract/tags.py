"""The tags of an HTML document and their attributes: no tree, which images do not need."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.entities import html5
from typing import Any, NamedTuple

import numpy as np

from workers.base.references import unescape
from workers.extract.tag_scanner import NAMES, scan_attributes, scan_tags
from workers.extract.tag_syntax import code_table

#: Tags that are turned into Python objects at a time.
_TAGS = 4096


class _Wanted(dict[tuple[tuple[str, ...], int], Any]):
    """For names of elements, and which tags of them: what the scanner wants to know of it."""

    def __missing__(self, key: tuple[tuple[str, ...], int]) -> Any:
        elements, tags = key
        self[key] = np.zeros(len(NAMES), np.int64)
        self[key][[NAMES.index(name) for name in elements]] = tags
        return self[key]


class _Tables(dict[tuple[str, ...], Any]):
    """For names of attributes: the table by which the scanner finds them."""

    def __missing__(self, names: tuple[str, ...]) -> Any:
        self[names] = code_table(names)
        return self[names]


_WANTED, _TABLES = _Wanted(), _Tables()
_START_TAGS, _ALL_TAGS = 1, 2


class Tag(NamedTuple):
    """A tag, its place (bytes ``start`` to ``end``), and the attributes that were asked for."""

    name: str
    closing: bool
    start: int
    end: int
    attributes: dict[str, str]


class Document:
    """An HTML document as UTF-8 and the tags of the elements that extraction knows.

    ``encoding`` is what it came in, by the Encoding Standard's name ("windows-1252"): the queries
    of its links are written in it. ``xml`` says that it is XHTML, and to be read as XML is.
    """

    def __init__(self, html: bytes, encoding: str = "utf-8", *, xml: bool = False) -> None:
        self.html = html
        self.encoding = encoding
        self.xml = xml
        self._bytes = np.frombuffer(html, np.uint8)
        self._rows = scan_tags(self._bytes, xml=xml)

    def tags(self, elements: tuple[str, ...], attributes: tuple[str, ...] = ()) -> Iterator[Tag]:
        """The start and end tags of some elements in the document's order."""
        return self._some(elements, attributes, _ALL_TAGS)

    def start_tags(self, elements: tuple[str, ...], attributes: tuple[str, ...]) -> Iterator[Tag]:
        """The start tags of some elements in the document's order, with some attributes."""
        return self._some(elements, attributes, _START_TAGS)

    def _some(self, elements: tuple[str, ...], names: tuple[str, ...], which: int) -> Iterator[Tag]:
        wanted, table = _WANTED[elements, which], _TABLES[names]
        tag, attributes, html = None, dict[str, str](), self.html
        for first in range(0, len(self._rows), _TAGS):
            some = self._rows[first : first + _TAGS]
            found = scan_attributes(self._bytes, some, wanted, table, xml=self.xml).tolist()
            for name, begin, stop, start, end in found:
                if name >= 0:
                    value = html[begin:stop].decode("utf-8", "replace")
                    attributes[names[name]] = _decoded(value) if "&" in value else value
                    continue
                if tag:
                    yield tag
                attributes = {}
                tag = Tag(NAMES[begin], stop == 1, start, end, attributes)
        if tag:
            yield tag

    def text(self, start: int, end: int) -> str:
        """The text between two places of the document: no tags, no content of scripts."""
        html = self.html[start:end].decode("utf-8", "replace")
        return _REFERENCE.sub(_text_reference, _MARKUP.sub("", html))


_MARKUP = re.compile(
    r"<!--.*?(?:-->|\Z)|<(script|style)\b.*?(?:</\1\s*>|\Z)|</?[a-zA-Z!?][^>]*+(?:>|\Z)",
    re.DOTALL | re.IGNORECASE,
)
_REFERENCE = re.compile(r"&(?:#[0-9]+;?|#[xX][0-9a-fA-F]+;?|[A-Za-z][A-Za-z0-9]*;?)")


def _decoded(value: str) -> str:
    """The value of an attribute with its character references replaced."""
    return _REFERENCE.sub(_attribute_reference, value)


def _attribute_reference(match: re.Match[str]) -> str:
    name = match[0][1:]
    if name[0] == "#":
        return _text_reference(match)
    # "&copy=1" in an address is a parameter, not a sign; "&copy;=1" is one.
    parameter = name[-1] != ";" and match.string[match.end() : match.end() + 1] == "="
    return match[0] if parameter else html5.get(name, match[0])


def _text_reference(match: re.Match[str]) -> str:
    return unescape(match[0])
