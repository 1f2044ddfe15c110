"""What tags are made of: names, attributes, comments, by the HTML standard's tokenizer (13.2.5).

Machine code by numba. ``html`` is the document's bytes (uint8), and places are indexes in it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from workers.base.compiled import compiled


def _bytes(text: bytes) -> Any:
    """Constants for arguments: Numba makes a version of a function for each number of Python's."""
    return np.frombuffer(text, np.uint8)


TAB, CR, BLANK = _bytes(b"\t\r ")
BANG, DASH, SLASH, LT, EQUALS, GT, QUESTION, OPENING, CLOSING = _bytes(b"!-/<=>?[]")
DOUBLE, SINGLE = _bytes(b"\"'")
ANY_CASE, THIS_CASE = _bytes(b"\0\1") > 0


#: What a code is cut to before it grows by a letter: integers of 64 bits must not overflow.
_MASK = (1 << 56) - 1


def code_of(name: str) -> int:
    """The code by which the scanner knows a name: no other name is likely to have it."""
    code = 0
    for byte in name.encode():
        code = (code & _MASK) * 31 + byte
    return code


def code_table(names: Iterable[str]) -> Any:
    """A table of (code, index of the name), to be looked up from a code's remainder on."""
    names = list(names)
    table = np.full((1 << (4 * len(names)).bit_length(), 2), -1)
    for index, name in enumerate(names):
        slot = code_of(name) % len(table)
        while table[slot, 1] >= 0:
            slot = (slot + 1) % len(table)
        table[slot] = code_of(name), index
    return table


_CDATA = code_of("[CDATA[")


@compiled
def value_code(html: Any, at: int, name: int) -> int:
    """The code of the value of a tag's attribute, in lower case; -1 if it has none."""
    at = skip_slashes(html, at)
    while html[at] != GT:
        start, end, value, value_end, after = attribute(html, at)
        if code_at(html, start, end, ANY_CASE) == name:
            return code_at(html, value, value_end, ANY_CASE)
        at = skip_slashes(html, after)
    return -1


@compiled
def is_self_closing(html: Any, at: int) -> bool:
    after = at
    at = skip_slashes(html, at)
    while html[at] != GT:
        after = attribute(html, at)[4]
        at = skip_slashes(html, after)
    return at > after and html[at - 1] == SLASH


@compiled
def tag_end(html: Any, at: int) -> int:
    """Where a tag ends whose attributes begin at ``at``; -1 if the document ends before."""
    at = skip_slashes(html, at)
    while at < len(html):
        if html[at] == GT:
            return at + 1
        at = skip_slashes(html, attribute(html, at)[4])
    return -1


@compiled
def attribute(html: Any, at: int) -> tuple[int, int, int, int, int]:
    """The start and end of the attribute's name at ``at`` and of its value, and what follows."""
    size, start = len(html), at
    at += 1  # a name may begin with "="
    while at < size and not _ends_name(html[at]) and html[at] != EQUALS:
        at += 1
    end = at
    at = _skip_spaces(html, at)
    if at >= size or html[at] != EQUALS:
        return start, end, end, end, at
    at = _skip_spaces(html, at + 1)
    value = at
    if at < size and (html[at] == DOUBLE or html[at] == SINGLE):
        value += 1
        at = _index(html, at + 1, html[at])
        return start, end, value, at, at + 1
    while at < size and html[at] != GT and not _is_space(html[at]):
        at += 1
    return start, end, value, at, at


@compiled
def _skip_spaces(html: Any, at: int) -> int:
    while at < len(html) and _is_space(html[at]):
        at += 1
    return at


@compiled
def skip_slashes(html: Any, at: int) -> int:
    """Past what stands between attributes."""
    while at < len(html) and (_is_space(html[at]) or html[at] == SLASH):
        at += 1
    return at


@compiled
def is_letter(byte: int) -> bool:
    return 97 <= byte | 32 <= 122


@compiled
def _is_space(byte: int) -> bool:
    return byte == BLANK or (TAB <= byte <= CR and byte != 11)


@compiled
def _ends_name(byte: int) -> bool:
    return _is_space(byte) or byte in (SLASH, GT)


@compiled
def name_at(html: Any, at: int, xml: bool) -> tuple[int, int]:
    """The code of the tag's name at ``at``, and its end."""
    start = at
    while at < len(html) and not _ends_name(html[at]):
        at += 1
    return code_at(html, start, at, xml), at


@compiled
def code_at(html: Any, start: int, end: int, xml: bool) -> int:
    """``code_of`` what stands there, in lower case but in XML."""
    code: Any = np.int64(0)
    for at in range(start, end):
        byte = np.int64(html[at])
        if 65 <= byte <= 90 and not xml:
            byte += 32
        code = (code & _MASK) * 31 + byte
    return code


@compiled
def find(table: Any, code: int) -> int:
    """The index of a name in a table, -1 if it is not in there."""
    slot = code & (len(table) - 1)
    while table[slot, 1] >= 0 and table[slot, 0] != code:
        slot = (slot + 1) & (len(table) - 1)
    return table[slot, 1]


@compiled
def _index(html: Any, at: int, byte: int) -> int:
    """Where a byte stands next from ``at`` on, the document's length if nowhere."""
    size = len(html)
    while at + 16 <= size:
        found = False
        for one in html[at : at + 16]:
            found |= one == byte
        if found:
            break
        at += 16
    while at < size and html[at] != byte:
        at += 1
    return at


@compiled
def next_tag(html: Any, at: int) -> int:
    return _index(html, at, LT)


@compiled
def text_end(html: Any, at: int, code: int, length: int, is_script: bool) -> int:
    """Where the end tag of a text element stands; the end of the document if it has none.

    In a script, "<!--" and a "<script" behind it hide the next end tag, unless "-->" comes first.
    """
    size = len(html)
    commented, hidden, at = False, False, next_tag(html, at)
    while at < size - 2 - length:
        byte = html[at]
        if byte == LT and html[at + 1] == SLASH and _is_name(html, at + 2, code, length):
            if not hidden:
                return at
            hidden = False
        elif is_script and byte == LT:
            commented |= html[at + 1] == BANG and html[at + 2] == html[at + 3] == DASH
            hidden |= commented and _is_name(html, at + 1, code, length)
        elif commented and byte == GT and html[at - 1] == html[at - 2] == DASH:
            commented = hidden = False
        at = at + 1 if commented else next_tag(html, at + 1)
    return size


@compiled
def _is_name(html: Any, at: int, code: int, length: int) -> bool:
    return code_at(html, at, at + length, ANY_CASE) == code and _ends_name(html[at + length])


@compiled
def other_end(html: Any, at: int, xml: bool, cdata: bool) -> int:
    """Where what begins with the "<" at ``at`` and is no tag ends: a comment, a declaration."""
    size, mark = len(html), html[at + 1]
    if mark == BANG and at + 3 < size and html[at + 2] == html[at + 3] == DASH:
        return _end_after(html, at + 4, DASH) if xml else _comment_end(html, at + 4)
    if (
        mark == BANG
        and cdata
        and at + 9 < size
        and code_at(html, at + 2, at + 9, THIS_CASE) == _CDATA
    ):
        return _end_after(html, at + 9, CLOSING)
    if xml and mark == BANG:
        subset = _index(html, at, OPENING)
        if subset < _index(html, at, GT):
            return _index(html, _index(html, subset, CLOSING), GT) + 1
    if xml and mark == QUESTION:
        return _end_after(html, at + 2, QUESTION)
    if mark in (BANG, QUESTION, SLASH):
        return _index(html, at, GT) + 1
    return at + 1


@compiled
def _end_after(html: Any, start: int, byte: int) -> int:
    """Behind the first ">" that ends an XML comment ("--"), CDATA ("]]") or instruction ("?")."""
    before = 1 if byte == QUESTION else 2
    at = _index(html, start + before, GT)
    while at < len(html):
        if html[at - 1] == byte and html[at - before] == byte:
            return at + 1
        at = _index(html, at + 1, GT)
    return at


@compiled
def _comment_end(html: Any, start: int) -> int:
    """Where an HTML comment ends whose text begins at ``start``: also with "--!>", or "<!-->"."""
    at = _index(html, start, GT)
    while at < len(html):
        dashes = at - 1 if html[at - 1] != BANG else at - 2
        if at == start or (at == start + 1 and html[start] == DASH):
            return at + 1
        if dashes - 1 >= start and html[dashes] == html[dashes - 1] == DASH:
            return at + 1
        at = _index(html, at + 1, GT)
    return at
