"""Text of the web as people would write it: wrong decoding and entities undone, single spaces.

Captions are cleaned so, and queries before they are looked for in captions. A column goes through
Python only for the texts that need it: most have nothing to clean, and two regular expressions say
so at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import ftfy
import pyarrow as pa
import pyarrow.compute as pc
from ftfy.badness import BADNESS_RE

from workers.base.references import unescape as unescape_references

_SPACES = (
    r"\t-\r\x1c-\x1f\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}"
    r"\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}"
)
_NEEDS_SPACING = rf"^ | $|  |[{_SPACES}]|&[#A-Za-z]"


def _re2(verbose: str) -> str:
    """A verbose regular expression of Python's in RE2's syntax: what matches there matches here."""
    lines = "".join(line for line in verbose.splitlines() if not line.lstrip().startswith("#"))
    short = re.sub(r"(\[[^]]*\])|\s", lambda match: match[1] or "", lines)
    return short.replace(r"\w", r"[\pL\pN_]").replace(r"\s", f"[ {_SPACES}]")


# What ftfy leaves alone: characters that none of its fixes is about and that do not combine with
# others (curly quotes only get straight), where nothing looks like text that was decoded wrongly.
_PLAIN = (
    " -~\u00a1-\u00ac\u00ae-\u0131\u0134-\u0148\u014a-\u01c3\u01cd-\u01f0\u01f4-\u024f"
    "\u0388-\u0482\u048a-\u052f\u05d0-\u05ea\u0621-\u064a\u0660-\u0669\u06f0-\u06f9"
    "\u0e01-\u0e30\u0e32\u0e33\u0e40-\u0e46\u1e00-\u1eff\u200c\u200d"
    "\u2010-\u2015\u2018\u2019\u201c\u201d\u2020-\u2022\u2026\u2030-\u203a"
    "\u20a0-\u20bf\u2116\u2122\u2190-\u2328\u2460-\u27ff\u3001-\u3029\u3041-\u3096\u30a1-\u30ff"
    "\u4e00-\u9fff\uac00-\ud7a3\ufe0f\U0001f300-\U0001faff"
)
NEEDS_FTFY = f"[^{_PLAIN}]|&#?[0-9A-Za-z]{{1,24}};|{_re2(BADNESS_RE.pattern)}"

#: Signs without a shape that tell nothing of the caption: soft hyphens, zero-width spaces, marks of
#: direction. Joiners, variation selectors and tags stay: scripts and emoji are made with them.
_SHAPELESS = str.maketrans(
    dict.fromkeys(
        "\u00ad\u034f\u061c\u200b\u200e\u200f\u202a\u202b\u202c\u202d\u202e"
        "\u2060\u2061\u2062\u2063\u2064\u2066\u2067\u2068\u2069"
    )
)

#: ftfy's fixes and ours undo each other's work at most this often.
_MAX_PASSES = 8


def clean_caption(text: str) -> str:
    """A caption as people would write it: mojibake and entities undone, single spaces.

    Idempotent.
    """
    text = unescape(text)
    for _ in range(_MAX_PASSES):
        fixed = ftfy.fix_text(text)
        # Only now: as bytes of mojibake, such signs are parts of letters.
        text = unescape(fixed.translate(_SHAPELESS))
        if text == fixed:
            break
    return text


def unescape(text: str) -> str:
    """A caption with single spaces and without entities, however often they were escaped."""
    while True:
        plain = " ".join(unescape_references(text).split())
        if plain == text:
            return text
        text = plain


def clean_column(captions: pa.StringArray) -> pa.StringArray:
    """``clean_caption`` of each caption; ftfy, at 0.1 ms a caption, only sees those it may fix."""
    may_change = pc.match_substring_regex(captions, _NEEDS_SPACING)
    captions = replaced(captions, may_change, unescape)
    captions = replaced(captions, pc.match_substring_regex(captions, NEEDS_FTFY), clean_caption)
    straight = pc.replace_substring_regex(captions, "[\u2018\u2019]", "'")
    return pc.replace_substring_regex(straight, "[\u201c\u201d]", '"')


def replaced(
    captions: pa.StringArray, which: pa.BooleanArray, change: Callable[[str], str]
) -> pa.StringArray:
    """The captions, some of them changed."""
    if not pc.any(which).as_py():
        return captions
    changed = map(change, captions.filter(which).to_pylist())
    return pc.replace_with_mask(captions, which, pa.array(changed, pa.string()))
