"""Which queries occur in a caption, as whole words.

The rule, in words: put a space around each of ``, . ; : ? ! ` `` and turn every white-space
character into a space, in the caption and in the query; add a space at both ends of each; the
query occurs if it is a substring of the caption. Spaces are never merged: "st. louis" is in
"St. Louis" (in lower case), not in "st.louis". ``naive_match`` is that rule; ``Matcher`` gives
the same answer without looking at every query. Both take texts as they are: captions are cleaned
before, and queries alike (``reader.as_captions``).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from workers.base.arrays import Int32s, Int64s, UInt8s
from workers.pairs.query_trie import (
    LEAD,
    MARK,
    SPACE,
    Alphabet,
    Trie,
    filter_pairs,
    find_queries,
    link_words,
    node_entries,
    number_words,
)

WHITE_SPACE = "".join(filter(str.isspace, map(chr, range(sys.maxunicode + 1))))
SPACED_PUNCTUATION = ",.;:?!`"

_SPACING = str.maketrans(
    {**dict.fromkeys(WHITE_SPACE, " "), **{mark: f" {mark} " for mark in SPACED_PUNCTUATION}}
)


def space_out(text: str) -> str:
    """The text with marks set apart and white space made spaces; not padded at the ends."""
    return text.translate(_SPACING)


def naive_match(caption: str, queries: Iterable[tuple[int, str]]) -> list[int]:
    """The ids of the queries in ``caption`` by the rule itself, sorted: slow, the reference."""
    padded = f" {space_out(caption)} "
    return sorted({query_id for query_id, query in queries if f" {space_out(query)} " in padded})


@dataclass(frozen=True)
class Matches:
    """The queries of each caption, in columns: query_ids[offsets[i] : offsets[i + 1]]."""

    offsets: Int64s  # [captions + 1]
    query_ids: Int32s  # of each caption sorted, each once

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, caption: int) -> Int32s:
        return self.query_ids[self.offsets[caption] : self.offsets[caption + 1]]

    def to_lists(self) -> list[list[int]]:
        return [self[caption].tolist() for caption in range(len(self))]

    def to_arrow(self) -> pa.ListArray:
        """The column ``query_ids`` of PAIRS; raises ArrowInvalid from 2^31 ids on."""
        return pa.ListArray.from_arrays(
            pa.array(self.offsets).cast(pa.int32()), pa.array(self.query_ids)
        )


class Matcher:
    """A set of queries, ready to be looked up in many captions.

    Between spaces a padded text is a list of words, some of them empty, and a query occurs
    exactly where its own words are a run of the caption's. So the queries are a trie of words
    that is walked from every word of a caption. Immutable; may be pickled, and shared between
    threads, which then work side by side: the loops hold no GIL.
    """

    def __init__(self, queries: Iterable[tuple[int, str]], *, lowercase: bool = False) -> None:
        """``lowercase``: captions are matched in lower case; the queries are taken as they are.

        Raises OverflowError for an id outside int32.
        """
        numbered = list(queries)
        ids = np.array([query_id for query_id, _ in numbered], np.int32)
        text, offsets = _utf8([query for _, query in numbered])
        self._trie = _build(ids, text, offsets)
        self._alphabet = _alphabet(lowercase=lowercase)
        self._lowercase = lowercase

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays that it is made of."""
        words, edges, pairs, nodes, query_ids = self._trie
        arrays: list[npt.NDArray[Any]] = [*words, edges, pairs, nodes, query_ids, *self._alphabet]
        return sum(array.nbytes for array in arrays)

    def match(self, captions: Sequence[str] | pa.StringArray) -> Matches:
        """The ids of the queries that occur in each caption.

        Raises ValueError if a caption is null, and UnicodeEncodeError if one is not Unicode.
        """
        array = _strings(captions)
        text, offsets = _utf8(_lower_case(array) if self._lowercase else array)
        ends, ids, _ = find_queries(text, offsets, self._alphabet, self._trie)
        return Matches(ends, ids)


def _build(ids: Int32s, text: UInt8s, offsets: Int64s) -> Trie:
    """The trie of queries that are UTF-8 rows."""
    alphabet = _alphabet(lowercase=False)
    room = 2 * np.count_nonzero(alphabet.codes[text] >= SPACE) + len(ids)
    words, numbers, rows, distinct = number_words(text, offsets, alphabet, room)
    edges, ends, last = link_words(numbers, rows, distinct)
    nodes, by_node = node_entries(ends, ids, edges, last)
    return Trie(words, edges, filter_pairs(edges, distinct), nodes, by_node)


def _alphabet(*, lowercase: bool) -> Alphabet:
    letters = np.arange(256, dtype=np.uint8)
    if lowercase:
        letters[65:91] += 32  # A to Z; all other letters are lower case before
    codes = letters.astype(np.uint16)
    spaces = [space.encode() for space in WHITE_SPACE]
    codes[[space[0] for space in spaces]] = LEAD
    codes[[space[0] for space in spaces if len(space) == 1]] = SPACE
    codes[list(SPACED_PUNCTUATION.encode())] = MARK
    longer = [int.from_bytes(space, "big") for space in spaces if len(space) > 1]
    return Alphabet(codes, letters, np.array(longer, np.int64))


def _strings(texts: Sequence[str] | pa.StringArray) -> pa.LargeStringArray:
    if isinstance(texts, pa.ChunkedArray):
        texts = texts.combine_chunks()
    if isinstance(texts, pa.Array):
        return texts.cast(pa.large_string())
    return pa.array(texts, pa.large_string())


def _lower_case(texts: pa.LargeStringArray) -> pa.LargeStringArray:
    """As ``str.lower`` does it, but for the texts that are ASCII: those are left as they are."""
    others = pc.invert(pc.string_is_ascii(texts))
    lowered = [text.lower() for text in texts.filter(others).to_pylist()]
    return pc.replace_with_mask(texts, others, pa.array(lowered, pa.large_string()))


def _utf8(texts: Sequence[str] | pa.StringArray) -> tuple[UInt8s, Int64s]:
    """The UTF-8 bytes of all texts, and the offsets of each: views of Arrow's own buffers."""
    array = _strings(texts)
    if array.null_count:
        raise ValueError(f"{array.null_count} captions of {len(array)} are null; leave them out")
    _, offsets, letters = array.buffers()
    text = np.frombuffer(letters or b"", np.uint8)
    bounds = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
    for view in (text, bounds):
        view.setflags(write=False)  # one type for Numba, however Arrow came by its buffer
    return text, bounds
