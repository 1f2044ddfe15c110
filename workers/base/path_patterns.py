"""Patterns of paths as robots.txt has them (RFC 9309, section 2.2), and tdmrep.json after it."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import quote_from_bytes

_ESCAPE = re.compile(rb"%[0-9A-Fa-f]{2}")

#: Characters that are themselves in a normal path: those of URLs but for the signs of patterns.
_PLAIN = "/?:[]@!&'()+,;=%"


class PathPattern(NamedTuple):
    """What a path with its query begins with; "*" is any text, a "$" at the end the path's end."""

    parts: tuple[str, ...]  # between its asterisks
    is_whole: bool  # nothing may follow
    octets: int  # the longer of two patterns is the more specific one

    @classmethod
    def of(cls, text: str) -> PathPattern:
        """A pattern as it is written, a character a byte; "" fits every path."""
        is_whole = text.endswith("$")
        normal = _normal(text.removesuffix("$"), _PLAIN + "*")
        return cls(tuple(normal.split("*")), is_whole, len(normal) + is_whole)

    def matches(self, path: str) -> bool:
        """Whether it fits a path, as ``path_of`` gives it."""
        first, *others = self.parts
        if not path.startswith(first):
            return False
        if not others:
            return path == first or not self.is_whole
        at = len(first)
        for part in others[:-1]:  # a part's first place leaves most to those that follow
            at = path.find(part, at)
            if at < 0:
                return False
            at += len(part)
        if self.is_whole:
            return path.endswith(others[-1], at)
        return others[-1] in path[at:]


def path_of(url: str) -> str:
    """The path and the query of a URL in normal form, as they are compared with patterns."""
    return _normal("/" + url.split("/", 3)[3], _PLAIN)


def _normal(text: str, plain: str) -> str:
    """A path with its query, or a pattern of some, as they are compared (section 2.2.2).

    A character and its percent-encoding are the same, but for separators in the path ("/", "?"),
    the signs of patterns, and "%". ``text`` has a character a byte, ``plain`` are not encoded.
    """
    path, mark, query = text.partition("?")
    return _recoded(path, b"/?%*$", plain) + mark + _recoded(query, b"%*$", plain)


def _recoded(text: str, kept: bytes, plain: str) -> str:
    def decoded(escape: re.Match[bytes]) -> bytes:
        byte = bytes.fromhex(escape[0][1:].decode())
        return escape[0].upper() if byte in kept else byte

    return quote_from_bytes(_ESCAPE.sub(decoded, text.encode("latin-1")), safe=plain)
