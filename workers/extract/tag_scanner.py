"""Where the tags of an HTML document stand, found in one pass: machine code by numba.

This is the tokenizer of the HTML standard with scripting off (``tag_syntax``), and of its tree
construction only what a tokenizer has to know: which elements are SVG or MathML (13.2.6.5), and
what is inside a <template>. XHTML is read as XML. Time and memory are linear in the document's
length: parsers that build a tree take half a minute and more for some pages below a megabyte (deep
nesting, a tag with 100,000 attributes) or leave out what is nested deeply.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from workers.base.compiled import compiled
from workers.extract.tag_syntax import (
    GT,
    SLASH,
    attribute,
    code_at,
    code_of,
    code_table,
    find,
    is_letter,
    is_self_closing,
    name_at,
    next_tag,
    other_end,
    skip_slashes,
    tag_end,
    text_end,
    value_code,
)

#: The elements whose tags are reported. HTML reads <image> as <img>.
_REPORTED = (
    "a", "area", "base", "figcaption", "figure", "image", "img", "link", "meta", "noscript",
    "picture", "source",
)  # fmt: skip

#: Elements whose content is text.
_TEXT = (
    "script", "style", "textarea", "title", "xmp", "iframe", "noembed", "noframes", "plaintext",
)  # fmt: skip

#: Elements without content.
_VOID = (
    "area", "base", "basefont", "bgsound", "br", "col", "embed", "frame", "hr", "image", "img",
    "input", "keygen", "link", "meta", "param", "source", "track", "wbr",
)  # fmt: skip

#: Elements that end SVG and MathML wherever they begin.
_BREAKOUT = (
    "b", "big", "blockquote", "body", "br", "center", "code", "dd", "div", "dl", "dt", "em",
    "embed", "h1", "h2", "h3", "h4", "h5", "h6", "head", "hr", "i", "img", "li", "listing", "menu",
    "meta", "nobr", "ol", "p", "pre", "ruby", "s", "small", "span", "strong", "strike", "sub",
    "sup", "table", "tt", "u", "ul", "var",
)  # fmt: skip

#: Elements of SVG and MathML whose content is HTML.
_SVG_POINT = ("desc", "foreignobject", "title")
_MATH_POINT = ("mi", "mn", "mo", "ms", "mtext")

_SETS = (_REPORTED, _TEXT, _VOID, _BREAKOUT, _SVG_POINT, _MATH_POINT)
_IS_REPORTED, _IS_TEXT, _IS_VOID, _IS_BREAKOUT, _IS_SVG_POINT, _IS_MATH_POINT = (
    1 << bit for bit in range(len(_SETS))
)

_OTHER = ("annotation-xml", "font", "malignmark", "math", "mglyph", "svg", "template")
NAMES = tuple(sorted({*_OTHER}.union(*_SETS)))
_FLAGS = np.array(
    [sum(1 << bit for bit, names in enumerate(_SETS) if name in names) for name in NAMES] + [0]
)  # the last is that of -1, any other name
_ANNOTATION, _FONT, _MALIGNMARK, _MATH, _MGLYPH, _SVG, _TEMPLATE = map(NAMES.index, _OTHER)
_BR, _IMAGE, _IMG, _P, _PLAINTEXT, _SCRIPT = map(
    NAMES.index, ("br", "image", "img", "p", "plaintext", "script")
)

#: Open elements of SVG and MathML, and templates, that are told apart; deeper ones are not.
_MAX_OPEN = 128

#: Counters of open HTML elements; names share them by their codes.
_COUNTERS = 1024

# A row of the stack of open elements: the code of its name, its namespace, what may be in it, how
# many HTML elements are open in it, and how many templates are open with it.
_CODE, _SPACE, _POINT, _OPEN, _TEMPLATES = range(5)


def _numbers(*numbers: int) -> Any:
    """Constants for arguments: Numba makes a version of a function for each number of Python's."""
    return np.array(numbers)


_ZERO, _HTML_SPACE, _SVG_SPACE, _MATH_SPACE = _numbers(0, 0, 1, 2)
_NO_POINT, _HTML_POINT, _MATH_TEXT_POINT, _ANNOTATION_POINT = _numbers(0, 1, 2, 3)
_COLOR, _ENCODING, _FACE, _SHADOW, _SIZE = _numbers(
    *map(code_of, ("color", "encoding", "face", "shadowrootmode", "size"))
)
_TEXT_HTML, _XHTML, _CLOSED_ROOT, _OPEN_ROOT = map(
    code_of, ("text/html", "application/xhtml+xml", "closed", "open")
)
_CODES = code_table(NAMES)


def scan_tags(html: Any, *, xml: bool) -> Any:
    """The tags of a document of UTF-8 bytes (uint8, any length) that images depend on.

    Rows of int64: index in NAMES, closing (0 or 1), start, end of the name, end of the tag.
    A tag that the end of the document cuts off is none.
    """
    return _scan(html, xml, _CODES, _FLAGS)


def scan_attributes(html: Any, tags: Any, wanted: Any, table: Any, *, xml: bool) -> Any:
    """Of rows of ``scan_tags`` those that are ``wanted``, with attributes in a ``code_table``.

    ``wanted`` says of each index in NAMES: 1 for start tags, 2 for end tags as well. Rows of int64:
    of a tag -1, index in NAMES, closing, start, end; and then of each of its attributes the index
    in the table, start and end of the value, 0, 0. Of two with one name the first counts.
    """
    return _scan_attributes(html, tags, wanted, table, xml)


@compiled
def _scan(html: Any, xml: bool, codes: Any, flags: Any) -> Any:
    rows = np.empty((64, 5), np.int64)
    stack, counters = np.zeros((_MAX_OPEN, 5), np.int64), np.zeros(_COUNTERS, np.int64)
    depth, count, at = _ZERO, 0, next_tag(html, _ZERO)
    while at < len(html) - 2:
        closing = html[at + 1] == SLASH
        name = at + 2 if closing else at + 1
        if not is_letter(html[name]):
            at = next_tag(html, other_end(html, at, xml, xml or _in_foreign(stack, depth)))
            continue
        code, attributes = name_at(html, name, xml)
        end = tag_end(html, attributes)
        if end < 0:
            break
        index = find(codes, code)
        flag = flags[index]
        if xml:
            depth, is_html = _of_xml(html, attributes, stack, depth, closing, index)
        elif closing:
            depth, is_html = _close(stack, counters, depth, code, index)
        else:
            depth, is_html = _open(html, attributes, stack, counters, depth, code, index, flag)
        if is_html and flag & _IS_REPORTED and not _in_template(stack, depth):
            rows = _with_space(rows, count)
            row = rows[count]
            kind = _IMG if index == _IMAGE else index
            row[0], row[1], row[2], row[3], row[4] = kind, closing, at, attributes, end
            count += 1
        if is_html and flag & _IS_TEXT and not closing and not xml:
            if index == _PLAINTEXT:
                break
            end = text_end(html, end, code, attributes - name, index == _SCRIPT)
        at = next_tag(html, end)
    return rows[:count]


@compiled
def _of_xml(
    html: Any, attributes: int, stack: Any, depth: int, closing: bool, index: int
) -> tuple[int, bool]:
    """How many templates are open after a tag of XHTML, and whether it may be reported."""
    if index == _TEMPLATE and closing:
        depth = max(depth - 1, 0)
    elif index == _TEMPLATE and not is_self_closing(html, attributes):
        depth = _push(stack, depth, _ZERO, _HTML_SPACE, _NO_POINT)
    return depth, index != _IMAGE


@compiled
def _open(
    html: Any, attributes: int, stack: Any, counters: Any, depth: int, code: int, index: int,
    flag: int,
) -> tuple[int, bool]:  # fmt: skip
    """How many elements are open after a start tag, and whether the tag is one of HTML."""
    if not _takes_html(stack, depth, index):
        if not _breaks_out(html, attributes, index, flag):
            if not is_self_closing(html, attributes):
                space = stack[depth - 1, _SPACE]
                point = _point(html, attributes, space, index, flag)
                depth = _push(stack, depth, code, space, point)
            return depth, False
        depth = _leave(stack, depth)
    if index in (_SVG, _MATH):
        if not is_self_closing(html, attributes):
            space = _SVG_SPACE if index == _SVG else _MATH_SPACE
            depth = _push(stack, depth, code, space, _NO_POINT)
    elif index == _TEMPLATE and not _is_shadow_root(html, attributes):
        depth = _push(stack, depth, code, _HTML_SPACE, _NO_POINT)
    elif flag & _IS_VOID:
        pass
    elif depth:
        stack[depth - 1, _OPEN] += 1
    else:
        counters[code % _COUNTERS] += 1
    return depth, True


@compiled
def _close(stack: Any, counters: Any, depth: int, code: int, index: int) -> tuple[int, bool]:
    """How many elements are open after an end tag, and whether the tag is one of HTML."""
    if index in (_P, _BR):
        depth = _leave(stack, depth)
    if index == _TEMPLATE:
        for at in range(depth - 1, -1, -1):
            if stack[at, _SPACE] == _HTML_SPACE:
                return at, True
    for at in range(depth - 1, -1, -1):
        if stack[at, _OPEN]:  # it is of an HTML element in there, or of none
            stack[at, _OPEN] -= 1
            return at + 1, True
        if stack[at, _SPACE] == _HTML_SPACE:
            return depth, True
        if stack[at, _CODE] == code:
            return at, False
    counter = code % _COUNTERS
    if counters[counter]:
        counters[counter] -= 1
        return _ZERO, True
    return depth, depth == 0


@compiled
def _push(stack: Any, depth: int, code: int, space: int, point: int) -> int:
    if depth == len(stack):
        return depth
    row = stack[depth]
    row[_CODE], row[_SPACE], row[_POINT], row[_OPEN] = code, space, point, 0
    row[_TEMPLATES] = space == _HTML_SPACE
    if depth:
        row[_TEMPLATES] += stack[depth - 1, _TEMPLATES]
    return depth + 1


@compiled
def _in_foreign(stack: Any, depth: int) -> bool:
    """Whether the innermost open element is one of SVG or MathML."""
    return depth > 0 and stack[depth - 1, _SPACE] != _HTML_SPACE and stack[depth - 1, _OPEN] == 0


@compiled
def _in_template(stack: Any, depth: int) -> bool:
    return depth > 0 and stack[depth - 1, _TEMPLATES] > 0


@compiled
def _takes_html(stack: Any, depth: int, index: int) -> bool:
    """Whether a start tag is read as HTML inside the elements that are open."""
    if not _in_foreign(stack, depth):
        return True
    point = stack[depth - 1, _POINT]
    if point == _MATH_TEXT_POINT:
        return index != _MGLYPH and index != _MALIGNMARK
    return point == _HTML_POINT or (point == _ANNOTATION_POINT and index == _SVG)


@compiled
def _breaks_out(html: Any, attributes: int, index: int, flag: int) -> bool:
    """Whether a start tag ends SVG and MathML."""
    if index == _FONT:
        for name in (_COLOR, _FACE, _SIZE):
            if value_code(html, attributes, name) >= 0:
                return True
    return flag & _IS_BREAKOUT != 0


@compiled
def _leave(stack: Any, depth: int) -> int:
    """How many elements stay open when HTML breaks out of SVG and MathML."""
    while _in_foreign(stack, depth):
        point = stack[depth - 1, _POINT]
        if point in (_HTML_POINT, _MATH_TEXT_POINT):
            break
        depth -= 1
    return depth


@compiled
def _point(html: Any, attributes: int, space: int, index: int, flag: int) -> int:
    """What of HTML may stand in an element of SVG or MathML."""
    if space == _SVG_SPACE:
        return _HTML_POINT if flag & _IS_SVG_POINT else _NO_POINT
    if index == _ANNOTATION:
        encoding = value_code(html, attributes, _ENCODING)
        return _HTML_POINT if encoding in (_TEXT_HTML, _XHTML) else _ANNOTATION_POINT
    return _MATH_TEXT_POINT if flag & _IS_MATH_POINT else _NO_POINT


@compiled
def _is_shadow_root(html: Any, attributes: int) -> bool:
    """Whether a <template> is shown as a part of the page."""
    return value_code(html, attributes, _SHADOW) in (_OPEN_ROOT, _CLOSED_ROOT)


@compiled
def _scan_attributes(html: Any, tags: Any, wanted: Any, table: Any, xml: bool) -> Any:
    rows, count = np.empty((64, 5), np.int64), 0
    last_tag = np.full(len(table), -1)  # in which each attribute was found last
    for tag in range(len(tags)):
        index, closing, start, at, end = tags[tag]
        if wanted[index] <= closing:
            continue
        rows = _with_space(rows, count)
        row = rows[count]
        row[0], row[1], row[2], row[3], row[4] = -1, index, closing, start, end
        count += 1
        at = skip_slashes(html, at)
        while html[at] != GT and not closing:
            start, end, value, value_end, after = attribute(html, at)
            at = skip_slashes(html, after)
            index = find(table, code_at(html, start, end, xml))
            if index >= 0 and last_tag[index] != tag:
                last_tag[index] = tag
                rows = _with_space(rows, count)
                row = rows[count]
                row[0], row[1], row[2], row[3], row[4] = index, value, value_end, 0, 0
                count += 1
    return rows[:count]


@compiled
def _with_space(rows: Any, count: int) -> Any:
    """The rows, twice as many when all are used."""
    return rows if count < len(rows) else np.concatenate((rows, np.empty_like(rows)))
