"""Where the rows of CSV and TSV end, in text that may be damaged.

One quote that is not closed costs its own row, and not all that follow. Rows are read as Python's
``csv`` and Arrow read them, with two exceptions. A field of several lines must be flawless, or the
row ends with its first line. Between tabs, where many write text as it is, a quote quotes only in a
row whose every field that begins with one also ends with one.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import numpy as np

from workers.base.compiled import compiled, inlined
from workers.base.text_stream import LONG_LINE, MAX_LINE_BYTES

#: A row of more lines is damage. Captions have a few; what else a list says of an image, more.
MAX_ROW_LINES = 1_000

_QUOTE, _TAB, _LINE_FEED, _RETURN, _H, _T, _P = b'"\t\n\rhtp'

#: What a row is: whole, or with fields too few or too many, with a quote that is not closed, to be
#: read without regard to its quotes, or cut off by the end of the text.
_GOOD, _UNEVEN, _UNCLOSED, _LITERAL, _CUT = range(5)

_FIRST_LINE = re.compile(rb"[^\r\n]*")


class BadRow(NamedTuple):
    """A line that is no row, or begins one that is damaged."""

    line: int  # of the text given, from 0
    reason: str
    error: str


class Rows(NamedTuple):
    """What is known of a text after looking at its rows."""

    good: bytes  # the rows that Arrow can read, with its quotes
    bad: list[BadRow]
    rest: bytes  # a row that goes on after the text
    lines: int  # of all but the rest


def split_rows(text: bytes, delimiter: str, fields: int, *, is_end: bool) -> Rows:
    """Part the rows of ``fields`` fields from what is none.

    ``text`` begins with a row and ends with a whole line; with ``is_end`` nothing follows it.
    """
    array = np.frombuffer(text, np.uint8)
    bad: list[BadRow] = []
    pieces: list[bytes] = []
    begin = lines = 0
    while begin < len(text):
        kind, start, passed = _odd_row(array, begin, ord(delimiter), fields, is_end)
        pieces.append(text[begin:start])
        lines += passed
        if kind == _GOOD:
            break
        if kind == _CUT:
            return Rows(b"".join(pieces), bad, text[start:], lines)
        line = _FIRST_LINE.match(text, start)[0]  # type: ignore[index]
        begin = start + len(line)
        if kind == _LITERAL:
            pieces.append(_quoted(line))
        else:
            bad.append(_bad_row(lines, kind, line.decode(), delimiter, fields))
        # The line's end, which stays in the text, is counted with what follows.
    return Rows(pieces[0] if len(pieces) == 1 else b"".join(pieces), bad, b"", lines)


def _bad_row(line: int, kind: int, text: str, delimiter: str, fields: int) -> BadRow:
    if text.startswith(LONG_LINE):
        return BadRow(line, "row_too_long", text)
    if kind == _UNCLOSED:
        return BadRow(line, "bad_row", f"a quote is not closed: {text}")
    return BadRow(line, "bad_row", f"not {fields} fields between {delimiter!r}: {text}")


def _quoted(line: bytes) -> bytes:
    """A row of TSV whose quotes are text, as one whose fields are quoted."""
    return b"\t".join(b'"%s"' % field.replace(b'"', b'""') for field in line.split(b"\t"))


@compiled
def _odd_row(text: Any, begin: int, delimiter: int, fields: int, is_end: bool) -> Any:
    """The first row from ``begin`` on that is not good: what it is, its place, the lines before.

    _GOOD and the end of the text where there is none.
    """
    at, lines = begin, 0
    while at < len(text):
        kind, end, count, inside = _row(text, at, delimiter)
        if kind == _CUT:
            kind = _UNCLOSED if is_end else _CUT
        elif kind == _GOOD and count != fields and not _ends_line(text[at]):
            kind = _UNCLOSED if inside else _UNEVEN
        elif kind == _GOOD and inside and _is_several(text, at, end, delimiter, fields):
            kind = _UNCLOSED
        if kind != _GOOD:
            may_be_literal = delimiter == _TAB and kind != _CUT
            if may_be_literal and _fields_of_line(text, at, delimiter) == fields:
                kind = _LITERAL
            return kind, at, lines
        at = end
        lines += inside + 1
    return _GOOD, at, lines


@inlined
def _row(text: Any, start: int, delimiter: int) -> Any:
    """What a row is (_GOOD, _UNCLOSED or _CUT), its end, its fields, the line ends in quotes."""
    at, fields, lines = start, 1, 0
    while at < len(text):
        if text[at] == _QUOTE:
            kind, at, inside = _quotation(text, at, start + MAX_LINE_BYTES, delimiter)
            lines += inside
            if kind != _GOOD or lines >= MAX_ROW_LINES:
                return (kind if kind != _GOOD else _UNCLOSED), at, fields, lines
        while at < len(text) and text[at] != delimiter and not _ends_line(text[at]):
            at += 1
        if at == len(text) or text[at] != delimiter:
            break
        fields += 1
        at += 1
    return _GOOD, _next_line(text, at), fields, lines


@inlined
def _quotation(text: Any, start: int, limit: int, delimiter: int) -> Any:
    """What a field that begins with a quote is, where its quote ends, and the line ends inside."""
    at, lines = start + 1, 0
    while at < len(text) and at < limit and lines < MAX_ROW_LINES:
        if text[at] != _QUOTE:
            lines += _ends_line(text[at]) and _next_line(text, at) == at + 1
            at += 1
        elif at + 1 < len(text) and text[at + 1] == _QUOTE:
            at += 2
        else:
            at += 1
            is_closed = at == len(text) or text[at] == delimiter or _ends_line(text[at])
            is_read = is_closed or (lines == 0 and delimiter != _TAB)
            return (_GOOD if is_read else _UNCLOSED), at, lines
    return (_CUT if at == len(text) else _UNCLOSED), at, lines


@inlined
def _is_several(text: Any, start: int, end: int, delimiter: int, fields: int) -> bool:
    """Whether each line of a row looks like a row: then a stray quote has joined them.

    It does with enough fields, one of which begins with an address.
    """
    at, found, has_address, is_begin = start, 1, False, True
    while at < end:
        if is_begin:
            at += text[at] == _QUOTE
            has_address |= _is_http(text, at)
        is_begin = False
        if at >= end or _ends_line(text[at]):
            if found < fields or not has_address:
                return False
            at = _next_line(text, at)
            found, has_address, is_begin = 1, False, True
            continue
        if text[at] == delimiter:
            found += 1
            is_begin = True
        at += 1
    return True


@inlined
def _is_http(text: Any, at: int) -> bool:
    return (
        at + 3 < len(text)
        and text[at] | 32 == _H
        and text[at + 1] | 32 == _T
        and text[at + 2] | 32 == _T
        and text[at + 3] | 32 == _P
    )


@inlined
def _fields_of_line(text: Any, at: int, delimiter: int) -> int:
    fields = 1
    while at < len(text) and not _ends_line(text[at]):
        fields += text[at] == delimiter
        at += 1
    return fields


@inlined
def _ends_line(sign: int) -> bool:
    return sign in (_LINE_FEED, _RETURN)


@inlined
def _next_line(text: Any, at: int) -> int:
    """The place after the line end at a place, or the end of the text."""
    if at == len(text):
        return at
    is_pair = text[at] == _RETURN and at + 1 < len(text) and text[at + 1] == _LINE_FEED
    return at + 2 if is_pair else at + 1
