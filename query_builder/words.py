r"""What a word is.

A word is a maximal run of letters, marks and numbers (Unicode's categories L, M and N). It may
hold single joiners, each between two such characters: an apostrophe (' or ’), a hyphen (-, ‐
or ‑) or a zero-width joiner or non-joiner, which many scripts write inside words. So
``don't``, ``well-known``, ``naïve``, ``हिन्दी`` and ``1990`` are one word each, ``snake_case``
is two, and ``C++`` is ``C``. The curled apostrophe is written as ', as ftfy writes it when it
cleans captions. Scripts without spaces between words (Chinese, Thai) give a word a phrase.

Characters that nobody sees are passed over, inside of words and between them: soft hyphens,
zero-width spaces, marks of direction and other controls of format, and the selectors that tell
emoji from text. So ``auto\u00admobil`` is ``automobil``.

Two words are neighbours, and so a bigram, if nothing but spaces is between them: no line end,
no punctuation. A caption is matched with a query as it is written, and "York, London" does not
hold "york london".

The rule is carried out by ``kernels.count_text``; here are the tables that it goes by.
"""

from __future__ import annotations

import unicodedata
from functools import cache

import numpy as np
import regex

from query_builder.kernels import INVISIBLE, JOINER, OTHER, SPACE, WORD
from workers.base.arrays import Int32s, UInt8s

_JOINERS = "'’-‐‑\u200c\u200d"
_CODES = 0x110000
#: No letter from here on has an upper and a lower case.
_CASED = 0x20000

_LETTER = r"[[\p{L}\p{M}\p{N}]--[\ufe00-\ufe0f]]"
#: What Unicode lets programs ignore, but for the joiners and what is a mark or a letter.
_INVISIBLE = r"[[\p{Default_Ignorable_Code_Point}&&\p{Cf}\ufe00-\ufe0f]--[\u200c\u200d]]"

#: A word, as a regular expression; what is invisible in it is no part of it.
_WORD = regex.compile(
    rf"{_LETTER}+(?:{_INVISIBLE}*[{regex.escape(_JOINERS)}]?{_INVISIBLE}*{_LETTER}+)*",
    regex.VERSION1,
)
_UNSEEN = regex.compile(_INVISIBLE, regex.VERSION1)

#: The one letter whose lower case depends on its neighbours: where it may be the last one.
_LAST_SIGMA = regex.compile(r"Σ(?!\p{L})")
#: The one letter whose lower case is two characters.
_DOTTED_I = "İ"


@cache
def classes() -> UInt8s:
    """The class of every code point of Unicode."""
    kinds = (unicodedata.category(chr(code))[0] for code in range(_CODES))
    result = np.fromiter((WORD if kind in "LMN" else OTHER for kind in kinds), np.uint8, _CODES)
    spaces = [code for code in range(0x10000) if unicodedata.category(chr(code)) == "Zs"]
    result[[ord("\t"), *spaces]] = SPACE
    result[[ord(joiner) for joiner in _JOINERS]] = JOINER
    unseen = _UNSEEN.finditer("".join(map(chr, range(_CODES))))
    result[[found.start() for found in unseen]] = INVISIBLE
    return result


@cache
def folded(*, lower_case: bool) -> Int32s:
    """What each code point is written as in a word."""
    result = np.arange(_CODES, dtype=np.int32)
    if lower_case:
        lower = [chr(code).lower() for code in range(_CASED)]
        result[:_CASED] = [ord(c) if len(c) == 1 else code for code, c in enumerate(lower)]
    result[ord("’")] = ord("'")
    return result


def prepared(text: str, *, lower_case: bool) -> str:
    """The text with what ``folded`` cannot do done: Python's rule for each word, exactly."""
    if not lower_case:
        return text
    if _DOTTED_I in text:
        text = text.replace(_DOTTED_I, _DOTTED_I.lower())
    if "Σ" not in text:
        return text
    # The expression is slow, and no word goes beyond a line.
    return "\n".join(
        _WORD.sub(_lower, line) if "Σ" in line and _LAST_SIGMA.search(line) else line
        for line in text.split("\n")
    )


def _lower(word: regex.Match[str]) -> str:
    return word.group().lower()


def visible(text: str) -> str:
    """A text without what nobody sees of it."""
    return _UNSEEN.sub("", text)
