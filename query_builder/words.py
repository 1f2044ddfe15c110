"""What a word is, and the words of a text as columns.

A word is a maximal run of letters, marks and numbers (Unicode's categories L, M and N). It may
hold single joiners, each between two such characters: an apostrophe (' or ’), a hyphen (-, ‐
or ‑) or a zero-width joiner or non-joiner, which many scripts write inside words. So
``don't``, ``well-known``, ``naïve``, ``हिन्दी`` and ``1990`` are one word each, ``snake_case``
is two, and ``C++`` is ``C``. The curled apostrophe is written as ', as ftfy writes it when it
cleans captions. Scripts without spaces between words (Chinese, Thai) give a word a phrase.

Two words are neighbours, and so a bigram, if nothing but spaces is between them: no line end,
no punctuation. A caption is matched with a query as it is written, and "York, London" does not
hold "york london".
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa

_OTHER, _WORD, _JOINER, _SPACE = range(4)

_JOINERS = "'’-‐‑\u200c\u200d"
CodePoints = npt.NDArray[np.uint16] | npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class Words:
    """The words of a text in order; neighbours have the same run."""

    words: pa.Array  # of strings
    runs: npt.NDArray[np.int32]


@cache
def _classes() -> npt.NDArray[np.uint8]:
    """The class of every code point of Unicode."""
    kinds = (unicodedata.category(chr(code))[0] for code in range(0x110000))
    classes = np.fromiter((_WORD if kind in "LMN" else _OTHER for kind in kinds), np.uint8)
    spaces = [code for code in range(0x10000) if unicodedata.category(chr(code)) == "Zs"]
    classes[[ord("\t"), *spaces]] = _SPACE
    classes[[ord(joiner) for joiner in _JOINERS]] = _JOINER
    return classes


@cache
def _latin_classes() -> bytes:
    return _classes()[:256].tobytes()


def split_words(text: str) -> Words:
    """The words of a text, as they are written (but for the curled apostrophe)."""
    text = text.replace("’", "'")
    codes = _code_points(text)
    classes = _classify(text, codes)
    in_word = classes == _WORD
    joined = in_word[:-2] & (classes[1:-1] == _JOINER) & in_word[2:]
    in_word[1:-1] |= joined

    edges = np.flatnonzero(np.diff(in_word, prepend=False, append=False))
    starts, ends = edges[0::2], edges[1::2]
    separators = ~in_word & (classes != _SPACE)
    runs = separators.astype(np.int32).cumsum(dtype=np.int32)[starts]
    return Words(_strings(codes[in_word], ends - starts), runs)


def _code_points(text: str) -> CodePoints:
    """The code points, in 16 bits if they fit."""
    utf16 = text.encode("utf-16-le", errors="replace")
    if len(utf16) == 2 * len(text):
        return np.frombuffer(utf16, np.uint16)
    return np.frombuffer(text.encode("utf-32-le", errors="replace"), np.uint32)


def _classify(text: str, codes: CodePoints) -> npt.NDArray[np.uint8]:
    """The class of each character."""
    # bytes.translate is several times faster than indexing, and most characters are Latin.
    latin = text.encode("latin-1", errors="replace").translate(_latin_classes())
    classes = np.frombuffer(bytearray(latin), np.uint8)
    others = np.flatnonzero(codes > 0xFF)
    classes[others] = _classes()[codes[others]]
    return classes


def _strings(codes: CodePoints, lengths: npt.NDArray[np.int64]) -> pa.Array:
    """An array of strings from their code points, one string after the other."""
    encoding = "utf-16-le" if codes.dtype == np.uint16 else "utf-32-le"
    utf8 = codes.tobytes().decode(encoding).encode()
    ends = np.concatenate(([0], np.cumsum(lengths)))
    if len(utf8) != len(codes):
        wide = np.flatnonzero(codes > 0x7F)
        more = 1 + (codes[wide] > 0x7FF) + (codes[wide] > 0xFFFF).astype(np.int64)
        ends += np.concatenate(([0], np.cumsum(more)))[np.searchsorted(wide, ends)]
    offsets = pa.py_buffer(ends.astype(np.int32))
    return pa.StringArray.from_buffers(len(lengths), offsets, pa.py_buffer(utf8))
