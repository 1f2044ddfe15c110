"""Where the tags of an HTML document stand, found in one pass: machine code by numba.

This is the tokenizer of the HTML standard (13.2.5) with scripting off, and nothing of its tree
construction; time and memory are linear in the document's length. Parsers that build a tree take
half a minute and more for some pages below a megabyte (deep nesting, a tag with 100,000
attributes) or leave out what is nested deeply.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from workers.compiled import compiled

#: The elements whose tags are reported; those whose content is text come last.
_TEXT_ELEMENTS = (
    "script", "style", "textarea", "title", "xmp", "iframe", "noembed", "noframes", "plaintext",
)  # fmt: skip
NAMES = (
    "a", "area", "base", "figcaption", "figure", "img", "link", "meta", "noscript", "picture",
    "source", *_TEXT_ELEMENTS,
)  # fmt: skip


def _code(name: str) -> int:
    """A name of at most twelve letters as a number, five bits a letter."""
    code = 0
    for letter in name:
        code = code << 5 | ord(letter) - 96
    return code


#: A number of slots in which each name has its own.
_SLOTS = 65


def _slots() -> Any:
    """A table of (code, index) in which a code stands at the row of its remainder."""
    slots = np.full((_SLOTS, 2), -1)
    for index, name in enumerate(NAMES):
        slot = _code(name) % _SLOTS
        assert slots[slot, 0] < 0, f"two names stand at {slot}: choose another number of slots"
        slots[slot] = _code(name), index
    return slots


_CODES = _slots()
_FIRST_TEXT_ELEMENT = len(NAMES) - len(_TEXT_ELEMENTS)

_TAB, _LF, _FF, _CR, _SPACE = b"\t\n\f\r "
_BANG, _DASH, _SLASH, _LT, _EQUALS, _GT, _QUESTION = b"!-/<=>?"
_DOUBLE, _SINGLE = b"\"'"


def scan_tags(html: Any) -> Any:
    """The tags of the elements in NAMES in a document of UTF-8 bytes (uint8, any length).

    Rows of int64: index in NAMES, closing (0 or 1), start, end of the name, end of the tag.
    A tag that the end of the document cuts off is none.
    """
    return _scan(html, _CODES, _FIRST_TEXT_ELEMENT)


@compiled
def _scan(html: Any, codes: Any, first_text_element: int) -> Any:
    rows = np.empty((64, 5), np.int64)
    count, at, size = 0, 0, len(html)
    while at < size - 1:
        if html[at] != _LT:
            at += 1
            continue
        closing = html[at + 1] == _SLASH
        name = at + 2 if closing else at + 1
        if name < size and _is_letter(html[name]):
            code, attributes = _name(html, name)
            end = _tag_end(html, attributes)
            index = _find(codes, code)
            if index >= 0 and end >= 0:
                if count == len(rows):
                    rows = np.concatenate((rows, np.empty_like(rows)))
                row = rows[count]
                row[0], row[1], row[2], row[3], row[4] = index, closing, at, attributes, end
                count += 1
                if index >= first_text_element and not closing:
                    end = _text_end(html, end, code)
            at = size if end < 0 else end
        elif closing or html[at + 1] == _BANG or html[at + 1] == _QUESTION:
            at = _comment_end(html, at)
        else:
            at += 1
    return rows[:count]


@compiled
def _is_letter(byte: int) -> bool:
    return 97 <= byte | 32 <= 122


@compiled
def _is_space(byte: int) -> bool:
    return byte == _SPACE or (_TAB <= byte <= _CR and byte != 11)


@compiled
def _ends_name(byte: int) -> bool:
    return _is_space(byte) or byte in (_SLASH, _GT)


@compiled
def _name(html: Any, at: int) -> tuple[Any, int]:
    """The code of the tag name at ``at``, -1 for one that is not all letters; and its end."""
    code, letters = np.int64(0), 0
    while at < len(html) and not _ends_name(html[at]):
        if _is_letter(html[at]) and letters < 12 and code >= 0:
            code = code << 5 | np.int64((html[at] | 32) - 96)
            letters += 1
        else:
            code = np.int64(-1)
        at += 1
    return code, at


@compiled
def _find(codes: Any, code: int) -> int:
    slot = code % _SLOTS
    return codes[slot, 1] if codes[slot, 0] == code else -1


@compiled
def _tag_end(html: Any, at: int) -> int:
    """Where a tag ends whose attributes begin at ``at``; -1 if the document ends before."""
    size = len(html)
    while at < size:
        byte = html[at]
        if byte == _GT:
            return at + 1
        if _is_space(byte) or byte == _SLASH:
            at += 1
            continue
        at += 1  # an attribute's name, which may begin with "="
        while at < size and not _ends_name(html[at]) and html[at] != _EQUALS:
            at += 1
        at = _skip_spaces(html, at)
        if at < size and html[at] == _EQUALS:
            at = _value_end(html, _skip_spaces(html, at + 1))
    return -1


@compiled
def _skip_spaces(html: Any, at: int) -> int:
    while at < len(html) and _is_space(html[at]):
        at += 1
    return at


@compiled
def _value_end(html: Any, at: int) -> int:
    size = len(html)
    if at < size and (html[at] == _DOUBLE or html[at] == _SINGLE):
        quote = html[at]
        at += 1
        while at < size and html[at] != quote:
            at += 1
        return at + 1
    while at < size and html[at] != _GT and not _is_space(html[at]):
        at += 1
    return at


@compiled
def _text_end(html: Any, at: int, code: int) -> int:
    """Where the end tag of a text element stands; the end of the document if it has none."""
    size = len(html)
    while at < size - 2:
        if html[at] == _LT and html[at + 1] == _SLASH and _is_letter(html[at + 2]):
            found, end = _name(html, at + 2)
            if found == code and end < size:
                return at
            at += 2  # an end tag may begin inside what is none
        else:
            at += 1
    return size


@compiled
def _comment_end(html: Any, at: int) -> int:
    """Where a comment, a declaration or another thing that is no tag ends; ``at`` is its "<"."""
    size = len(html)
    if at + 3 < size and html[at + 1] == _BANG and html[at + 2] == _DASH and html[at + 3] == _DASH:
        at += 4
        if at < size and html[at] == _GT:
            return at + 1
        if at + 1 < size and html[at] == _DASH and html[at + 1] == _GT:
            return at + 2
        while at + 2 < size:
            if html[at] == _DASH and html[at + 1] == _DASH:
                if html[at + 2] == _GT:
                    return at + 3
                if html[at + 2] == _BANG and at + 3 < size and html[at + 3] == _GT:
                    return at + 4
            at += 1
        return size
    while at < size and html[at] != _GT:
        at += 1
    return at + 1
