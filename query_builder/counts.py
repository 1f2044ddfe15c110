"""Exact counts of words and bigrams, in columns.

A word is counted under its id, its place in a dictionary; a bigram is two ids packed into one
int64, so that counting is a sort of numbers (``np.unique``) and not a hash table of Python
objects. A bigram costs 16 bytes, a distinct word its letters and about 20 bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from query_builder.words import split_words

Ints = npt.NDArray[np.int64]

_ID_BITS = 32
_RIGHT_ID = (1 << _ID_BITS) - 1


def _no_ints() -> Ints:
    return np.empty(0, np.int64)


@dataclass(frozen=True, slots=True)
class Counts:
    """How often each word and each bigram occurs.

    Every string of ``words`` is there once; its place is its id. One that was not counted
    itself but is part of a bigram has a count of 0. ``bigrams`` holds the distinct pairs
    (left id, right id) packed, in ascending order.
    """

    words: pa.Array = field(default_factory=lambda: pa.array([], pa.string()))
    word_counts: Ints = field(default_factory=_no_ints)
    bigrams: Ints = field(default_factory=_no_ints)
    bigram_counts: Ints = field(default_factory=_no_ints)

    def __len__(self) -> int:
        """Distinct words and bigrams."""
        return len(self.words) + len(self.bigrams)

    @property
    def left(self) -> Ints:
        """The id of each bigram's first word."""
        return self.bigrams >> _ID_BITS

    @property
    def right(self) -> Ints:
        """The id of each bigram's second word."""
        return self.bigrams & _RIGHT_ID


def count(text: str, *, lower_case: bool) -> Counts:
    """Count the words and bigrams of a text."""
    found = split_words(text)
    encoded = found.words.dictionary_encode()
    words, ids = encoded.dictionary, encoded.indices.to_numpy()
    if lower_case:
        lowered = _lower(words).dictionary_encode()
        words, ids = lowered.dictionary, lowered.indices.to_numpy()[ids]
    neighbours = found.runs[:-1] == found.runs[1:]
    pairs = _pack(ids[:-1][neighbours], ids[1:][neighbours])
    bigrams, bigram_counts = np.unique(pairs, return_counts=True)
    return Counts(words, np.bincount(ids, minlength=len(words)), bigrams, bigram_counts)


def _lower(words: pa.Array) -> pa.Array:
    """Each distinct word in lower case, by Python's rules: Arrow's lack the final sigma."""
    if not len(words):
        return words
    # One call for all: a line end is no letter, so that the words do not touch one another.
    return pa.array("\n".join(words.to_pylist()).lower().split("\n"), pa.string())


def merge(parts: Sequence[Counts]) -> Counts:
    """The sum of several counts."""
    if len(parts) == 1:
        return parts[0]
    encoded = pa.concat_arrays([part.words for part in parts]).dictionary_encode()
    ids = np.split(encoded.indices.to_numpy(), np.cumsum([len(part.words) for part in parts])[:-1])
    word_counts = np.zeros(len(encoded.dictionary), np.int64)
    for part, new in zip(parts, ids, strict=True):
        word_counts[new] += part.word_counts  # new ids are distinct within a part
    bigrams = [_pack(new[part.left], new[part.right]) for part, new in zip(parts, ids, strict=True)]
    return Counts(
        encoded.dictionary,
        word_counts,
        *_sum_by_key(
            np.concatenate(bigrams), np.concatenate([part.bigram_counts for part in parts])
        ),
    )


def partition(counts: Counts, partitions: int) -> list[Counts]:
    """Split counts by a function of the word, and of a bigram's first word.

    The sum of the parts is the whole. A bigram's second word is in its part with a count of 0
    unless it belongs there.
    """
    word_part = _byte_sums(counts.words) % partitions
    bigram_part = word_part[counts.left]
    order = np.argsort(bigram_part, kind="stable")  # within a part the bigrams stay ascending
    chosen = np.split(order, np.cumsum(np.bincount(bigram_part, minlength=partitions))[:-1])
    return [_subset(counts, word_part == part, chosen[part]) for part in range(partitions)]


def _byte_sums(words: pa.Array) -> Ints:
    """The sum of each word's bytes in UTF-8: a hash that NumPy computes for all at once."""
    if not len(words):
        return _no_ints()
    _, offsets, utf8 = words.buffers()
    starts = np.frombuffer(offsets, np.int32)[words.offset : words.offset + len(words)]
    end = np.frombuffer(offsets, np.int32)[words.offset + len(words)]
    return np.add.reduceat(np.frombuffer(utf8, np.uint8)[:end], starts, dtype=np.int64)


def _subset(counts: Counts, counted: npt.NDArray[np.bool_], chosen: Ints) -> Counts:
    """The chosen bigrams and counted words, under new ids."""
    left, right = counts.left[chosen], counts.right[chosen]
    used = counted.copy()
    used[right] = True
    ids = np.cumsum(used) - 1  # ascending, so the bigrams stay in order
    return Counts(
        counts.words.filter(pa.array(used)),
        np.where(counted, counts.word_counts, 0)[used],
        _pack(ids[left], ids[right]),
        counts.bigram_counts[chosen],
    )


def _pack(left: npt.NDArray[np.integer], right: npt.NDArray[np.integer]) -> Ints:
    return left.astype(np.int64) << _ID_BITS | right.astype(np.int64)


def _sum_by_key(keys: Ints, values: Ints) -> tuple[Ints, Ints]:
    """The distinct keys in ascending order and the sum of each one's values."""
    if not len(keys):
        return keys, values
    order = np.argsort(keys)
    keys, values = keys[order], values[order]
    firsts = np.flatnonzero(np.diff(keys, prepend=keys[0] - 1))
    return keys[firsts], np.add.reduceat(values, firsts)
