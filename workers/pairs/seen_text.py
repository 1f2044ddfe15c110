"""A caption as an eye sees it, for the search of addresses and numbers in it.

What is invisible is gone, decimal digits of all scripts are ASCII's, and so are the marks that
people type for a hyphen, a dot, a space, a bracket, a plus or an at sign. Only the search sees
this text: what it finds is known by its place in the caption itself.
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from functools import cache

#: Unicode's Default_Ignorable_Code_Point, as the inside of a character class: soft hyphens,
#: zero-width spaces and joiners, marks of direction, variation selectors, tags, fillers.
INVISIBLE = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)

#: The dashes that libphonenumber knows, a katakana one among them: it treats some as ends of a
#: number. All others become hyphens.
DASHES = "\u2010-\u2015\u2212\u30fc"

_LIKE = {
    ".": "\u00b7\u2022\u2024\u2027\u2219\u22c5\u3002\u30fb\ufe52\uff0e\uff61",
    "-": "\u2043\u02d7",
    "/": "\u2044\u2215\uff0f",
    "~": "\u2053\u223c\uff5e",
    "(": "\u207d\u208d\ufe59\uff08",
    ")": "\u207e\u208e\ufe5a\uff09",
    "[": "\uff3b",
    "]": "\uff3d",
    "+": "\ufe62\uff0b",
    "@": "\ufe6b\uff20",
}  # fmt: skip


def ranges(inside: str) -> Iterator[int]:
    """The code points of a character class, given what is between its brackets."""
    ends = iter(inside)
    last = ""
    for one in ends:
        if one == "-":
            yield from range(ord(last) + 1, ord(next(ends)) + 1)
        else:
            yield ord(one)
            last = one


@cache
def _table() -> Mapping[int, str | None]:
    table: dict[int, str | None] = {}
    kept = set(ranges(DASHES))
    for code in range(sys.maxunicode + 1):
        char = chr(code)
        kind = unicodedata.category(char)
        if kind == "Nd":
            table[code] = str(unicodedata.decimal(char))
        elif kind == "Pd" and code not in kept:
            table[code] = "-"
        elif kind[0] == "Z":
            table[code] = " "
    table |= {ord(char): plain for plain, chars in _LIKE.items() for char in chars}
    return table | dict.fromkeys(ranges(INVISIBLE))


def seen(text: str) -> str:
    """The text as it is searched: each character is one, or none if it is invisible."""
    return text if text.isascii() else text.translate(_table())


def places(text: str, spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Where spans of ``seen(text)``, none of them empty, stand in the text itself."""
    if text.isascii():
        return list(spans)
    table = _table()
    at = [place for place, char in enumerate(text) if table.get(ord(char), "") is not None]
    return [(at[start], at[end - 1] + 1) for start, end in spans]
