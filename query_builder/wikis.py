"""Which wiki a dump is of: what its markup calls things, told by the dump's own head."""

from __future__ import annotations

import re
from dataclasses import dataclass
from xml.sax.saxutils import unescape

FILE, CATEGORY = 6, 14

_LANGUAGE = re.compile(rb"""<mediawiki\b[^>]*\bxml:lang\s*=\s*["']([\w-]+)["']""")
_NAMESPACE = re.compile(
    rb"""<namespace\b[^>]*\bkey\s*=\s*["'](-?[0-9]{1,6})["'][^>]*(?<!/)>([^<]+)<"""
)


@dataclass(frozen=True, slots=True)
class Wiki:
    """The language of a wiki and its namespaces; English where nothing is known."""

    language: str = "en"  # a code of MediaWiki's
    namespaces: tuple[tuple[int, str], ...] = ()  # all but that of articles, which has no name

    def names(self, key: int) -> list[str]:
        """What the wiki itself calls a namespace; nothing if its dump does not tell."""
        return [name for number, name in self.namespaces if number == key]

    def is_elsewhere(self, title: str) -> bool:
        """Whether a title is in a namespace by its name: "Kategorie:Katzen"."""
        prefix, colon, _ = title.partition(":")
        wanted = prefix.replace("_", " ").strip().casefold()
        return bool(colon) and any(wanted == name.casefold() for _, name in self.namespaces)


#: What is taken for granted where a dump does not tell.
UNKNOWN = Wiki()


def read_wiki(head: bytes) -> Wiki:
    """The wiki whose dump begins with ``head``: XML in UTF-8, up to its first page at least."""
    head = head.partition(b"<page>")[0]
    language = _LANGUAGE.search(head)
    return Wiki(
        language[1].decode().lower() if language else "en",
        tuple((int(key), _text(name)) for key, name in _NAMESPACE.findall(head)),
    )


def _text(name: bytes) -> str:
    return unescape(name.decode("utf-8", "replace")).replace("_", " ").strip()
