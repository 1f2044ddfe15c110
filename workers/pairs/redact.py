"""E-mail addresses and telephone numbers, blotted out of captions.

An address is one whose domain can be in the public DNS: its last label is a top-level domain, so
``85mm@f1.4`` and ``logo@2x.png`` stay. A telephone number is what libphonenumber holds for a valid
one, so that years, dates, sizes, ISBNs and prices stay. Both are searched in the text as an eye
sees it (``seen_text``), and only in captions in which a regular expression sees an @ or groups of
digits like those of a number.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial

import pyarrow as pa
import pyarrow.compute as pc
import regex
from tldextract import TLDExtract

from workers.pairs.phones import LIKE_A_NUMBER, phone_spans
from workers.pairs.seen_text import places, seen
from workers.pairs.settings import RedactSettings

EMAIL, PHONE = "[email]", "[phone]"

#: Local part and domain. A local part begins where its characters do, so that a search is linear.
_LETTER = r"\p{L}\p{M}\p{N}"
_LOCAL = rf"[{_LETTER}_.+%-]"
_LABEL = rf"[{_LETTER}][{_LETTER}-]*+"
_ADDRESS = regex.compile(rf"(?<!{_LOCAL}){_LOCAL}++@({_LABEL}(?:\.{_LABEL})++)")

#: A domain's last label where another script follows without a space.
_LATIN_LABEL = re.compile(r"[A-Za-z]+(?![\x00-\x7f])")

#: What a caption that is not ASCII must hold to have anything to redact.
_DIGIT_OR_AT = r"[\p{Nd}@\x{fe6b}\x{ff20}]"

#: Where something stands in a text.
Spans = Iterable[tuple[int, int]]


class Redactor:
    """Blots out what its settings name. Redacting twice is redacting once."""

    def __init__(self, settings: RedactSettings) -> None:
        # Numbers with a + are found in every region; one is needed to look for those at all.
        regions = settings.phone_regions or ("ZZ",) if settings.phones else ()
        self._searches: list[tuple[str, Callable[[str], Spans]]] = []
        self._searches += [(EMAIL, email_spans)] * settings.emails
        self._searches += [(PHONE, partial(phone_spans, region=one)) for one in regions]
        self._suspects = "|".join(["@"] * settings.emails + [LIKE_A_NUMBER] * bool(regions))

    def suspects(self, captions: pa.StringArray) -> pa.BooleanArray:
        """Which captions may hold something to redact; the others surely hold nothing."""
        if not self._suspects:
            return pa.repeat(pa.scalar(False), len(captions))
        others = pc.invert(pc.string_is_ascii(captions))
        if pc.any(others).as_py():
            others = pc.and_(others, pc.match_substring_regex(captions, _DIGIT_OR_AT))
            as_seen = map(seen, captions.filter(others).to_pylist())
            captions = pc.replace_with_mask(captions, others, pa.array(as_seen, pa.string()))
        return pc.match_substring_regex(captions, self._suspects)

    def redact(self, caption: str) -> str:
        """The caption with what was found replaced by ``[email]`` and ``[phone]``."""
        before = None
        while caption != before:  # what is left of two numbers side by side may be a third
            before = caption
            for name, search in self._searches:
                caption = _without(caption, search, name)
        return caption


def _without(caption: str, search: Callable[[str], Spans], name: str) -> str:
    """The caption with the name in place of what the search finds."""
    spans = list(search(seen(caption)))
    if not spans:
        return caption
    parts, end = [], 0
    for start, stop in places(caption, spans):
        parts += [caption[end:start], name]
        end = stop
    return "".join([*parts, caption[end:]])


def email_spans(text: str) -> Iterator[tuple[int, int]]:
    """Where e-mail addresses stand; ``text`` is as ``seen`` gives it."""
    for match in _ADDRESS.finditer(text):
        if length := _domain_length(match[1]):
            yield match.start(), match.start(1) + length


def _domain_length(text: str) -> int:
    """Characters of the longest domain that the text begins with, 0 of none.

    What follows one may stand close to it: "example.org.Call", "example.org是".
    """
    labels = text.split(".")
    while len(labels) > 1:
        last = labels.pop()
        latin = _LATIN_LABEL.match(last)
        for label in (last, latin[0] if latin else ""):
            if label.lower() in _top_level_domains():
                return len(".".join([*labels, label]))
    return 0


@cache
def _top_level_domains() -> frozenset[str]:
    """Those of the Public Suffix List that tldextract brings along, as letters and as xn--."""
    suffixes = TLDExtract(suffix_list_urls=(), cache_dir=None).tlds
    names = {suffix.rpartition(".")[2] for suffix in suffixes}
    return frozenset(names | {name.encode("idna").decode() for name in names})
