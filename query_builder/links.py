"""Links in wikitext: what a reader sees of them, by the names that the wiki has for things.

A file is shown with its caption alone. Of the parts of such a link that is the last which is no
option, as MediaWiki has it: ``[[Datei:a.jpg|mini|Eine Katze|rechts]]`` shows "Eine Katze". The
words of options are known for some thirty languages; in another language a part that is an
option in any of these is taken for one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from query_builder.image_words import ENGLISH, IMAGE_WORDS, PIXELS, ImageWords
from query_builder.wikis import CATEGORY, FILE, Wiki

#: Stands where something was taken out of a sentence (U+FFFC, Unicode's character for that):
#: the words on its two sides are not neighbours.
GAP = "\ufffc"

#: MediaWiki expands templates to this depth and no deeper.
MAX_DEPTH = 40

#: What may stand before a name and is no part of it.
_BEFORE = r"[\s_\u200e\u200f]*+"

#: Inside of a link: single brackets, also before its end, "[sic]]]", but no other link.
_INSIDE = r"[^\[\]]*+(?:(?:\[(?!\[)|\](?!\])|\](?=\]\](?!\])))[^\[\]]*+)*+"
_LINK = re.compile(r"\[\[(?:[^\[\]]*\|)?([^\[\]|]*+)\]\]")
_EXTERNAL_LINK = re.compile(r"\[(?:[a-z]+:)?//[^\s\[\]]*+[^\S\n]*+([^\[\]\n]*+)\]", re.IGNORECASE)


@dataclass(frozen=True)
class _Patterns:
    """What depends on the wiki."""

    category: re.Pattern[str]  # and links to other languages
    file: re.Pattern[str]  # its group: all behind the name
    option: re.Pattern[str]  # one part of that


def unlink(text: str, wiki: Wiki) -> str:
    """Replace links by what a reader sees of them. Captions of images hold further links."""
    patterns = _patterns(wiki)
    text = patterns.category.sub("", text)
    for _ in range(MAX_DEPTH):
        if "[[" not in text:
            break
        before = len(text)
        text = _show_captions(text, patterns)
        # Joining what split gives puts the group in the place of each match, without the call
        # into Python for each match that sub with a template is.
        text = "".join(_LINK.split(text))
        if len(text) == before:
            break
    return "".join(_EXTERNAL_LINK.split(text))


def _show_captions(text: str, patterns: _Patterns) -> str:
    parts = patterns.file.split(text)
    parts[1::2] = [_caption(inside, patterns.option) for inside in parts[1::2]]
    return "\n".join(parts)


def _caption(inside: str, option: re.Pattern[str]) -> str:
    """The last part that is no option."""
    for part in reversed(inside.split("|")[1:]):
        if not option.fullmatch(part):
            return part
    return ""


@cache
def _patterns(wiki: Wiki) -> _Patterns:
    known = IMAGE_WORDS.get(wiki.language)
    own = [known] if known else [] if wiki.language == "en" else list(IMAGE_WORDS.values())
    words = [ENGLISH, *own]
    # Only a language's own words: what is a file elsewhere may be the name of a book here.
    named = [ENGLISH, *([known] if known else [])]
    files = _any_of([*_split(w.files for w in named), *wiki.names(FILE)])
    categories = _any_of([*_split(w.categories for w in named), *wiki.names(CATEGORY)])
    return _Patterns(
        re.compile(
            rf"\[\[{_BEFORE}(?:{categories}{_BEFORE}:[^\[\]]*+"
            r"|[^\[\]|:\s]++:[^\s\[\]|][^\[\]|]*+)\]\]",
            re.IGNORECASE,
        ),
        re.compile(
            rf"\[\[{_BEFORE}{files}{_BEFORE}:[^\[\]|]*+((?:\|{_INSIDE})?)\]\]", re.IGNORECASE
        ),
        _option(words),
    )


def _option(words: list[ImageWords]) -> re.Pattern[str]:
    """A part of a file's link that is an option, or nothing but what templates have left."""
    alone = _any_of(_split(w.options for w in words))
    keys = _any_of(_split(w.keys for w in words))
    pixels = _any_of(PIXELS.split())
    return re.compile(
        rf"\s*+(?:{alone}(?:\s*=.*|[ _]?[0-9].*)?|{keys}(?:\s*=.*|[ _][0-9].*)"
        rf"|[0-9{GAP}]*x?[0-9{GAP}]*\s*{pixels}|[\s{GAP}]*)\s*",
        re.IGNORECASE | re.DOTALL,
    )


def _split(words: Iterable[str]) -> list[str]:
    return [word for some in words for word in some.split()]


def _any_of(names: Iterable[str]) -> str:
    """A pattern for any of some names; spaces and low lines are the same."""
    patterns = {re.sub(r"(?:\\?[ _])+", "[ _]+", re.escape(name)) for name in names if name}
    return f"(?:{'|'.join(sorted(patterns, key=lambda p: (-len(p), p)))})"
