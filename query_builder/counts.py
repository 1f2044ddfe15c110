"""Exact counts of words and bigrams, in columns.

A word is counted under its id, its place among the distinct words; a bigram is two ids packed
into one int64. So counting is additions in two hash tables of numbers, and no Python object is
made for a word.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from query_builder import kernels
from query_builder.kernels import EMPTY, LISTED, PAIRS, PREVIOUS, WORDS
from query_builder.words import classes, folded, prepared
from workers.base.arrays import Int32s, Int64s, UInt8s

_RIGHT_ID = (1 << 32) - 1

#: Pairs that are listed before they are counted: the list stays in the processor's cache.
LISTED_PAIRS = 1 << 14


def _no_ints() -> Int64s:
    return np.empty(0, np.int64)


def _no_ids() -> Int32s:
    return np.empty(0, np.int32)


@dataclass(frozen=True, slots=True)
class Counts:
    """How often each word and each bigram occurs.

    Every string of ``words`` is there once; its place is its id. One that was not counted
    itself but is part of a bigram has a count of 0. A bigram is the ids of its first and its
    second word; each is there once, in no particular order.
    """

    words: pa.Array = field(default_factory=lambda: pa.array([], pa.string()))
    word_counts: Int64s = field(default_factory=_no_ints)
    left: Int32s = field(default_factory=_no_ids)
    right: Int32s = field(default_factory=_no_ids)
    bigram_counts: Int64s = field(default_factory=_no_ints)

    def __len__(self) -> int:
        """Distinct words and bigrams."""
        return len(self.words) + len(self.left)


def count(text: str, *, lower_case: bool) -> Counts:
    """Count the words and bigrams of a text."""
    counter = Counter(lower_case=lower_case)
    counter.add_text(text)
    return counter.counts()


def merge(parts: Iterable[Counts]) -> Counts:
    """The sum of several counts; they are taken one after the other."""
    counter = Counter(lower_case=False)
    for part in parts:
        counter.add(part)
    return counter.counts()


class Counter:
    """Adds up words and bigrams in tables that grow as they fill."""

    def __init__(self, *, lower_case: bool) -> None:
        self._lower_case = lower_case
        self._letters: UInt8s = np.empty(1 << 16, np.uint8)
        self._ends: Int64s = np.zeros((1 << 12) + 1, np.int64)
        self._hashes = np.empty(1 << 12, np.uint64)
        self._word_counts: Int64s = np.zeros(1 << 12, np.int64)
        self._word_slots: Int32s = np.full(1 << 13, EMPTY, np.int32)
        self._pairs = _empty_pairs(1 << 14)
        self._listed: Int64s = np.empty(LISTED_PAIRS, np.int64)
        self._state: Int64s = np.array([0, 0, EMPTY, 0], np.int64)

    @property
    def words(self) -> int:
        """Distinct words so far."""
        return int(self._state[WORDS])

    @property
    def bigrams(self) -> int:
        """Distinct bigrams so far."""
        return int(self._state[PAIRS])

    def add_text(self, text: str) -> None:
        """Count a text. Its last word is no neighbour of the next text's first."""
        text = prepared(text, lower_case=self._lower_case)
        utf8 = np.frombuffer(f"{text}\n".encode(errors="replace"), np.uint8)
        tables = classes(), folded(lower_case=self._lower_case)
        at = 0
        while True:
            at = kernels.count_text(
                utf8,
                at,
                *tables,
                self._letters,
                self._ends,
                self._hashes,
                self._word_counts,
                self._word_slots,
                self._listed,
                self._state,
            )
            self._grow_pairs(self.bigrams + int(self._state[LISTED]))
            kernels.count_listed(self._listed, self._pairs, self._state)
            if at == len(utf8):
                break
            self._grow_words(self.words + 1, self._used_letters + _longest_word(utf8, at))
        self._state[PREVIOUS] = EMPTY

    def add(self, counts: Counts) -> None:
        """Add what was counted elsewhere."""
        if not len(counts.words):
            return
        letters, ends = _buffers(counts.words)
        self._grow_words(
            self.words + len(counts.words), self._used_letters + int(ends[-1] - ends[0])
        )
        self._grow_pairs(self.bigrams + len(counts.left))
        ids = np.empty(len(counts.words), np.int32)
        kernels.add_words(
            letters,
            ends,
            counts.word_counts,
            ids,
            self._letters,
            self._ends,
            self._hashes,
            self._word_counts,
            self._word_slots,
            self._state,
        )
        kernels.add_pairs(
            counts.left,
            counts.right,
            counts.bigram_counts,
            ids,
            np.empty(len(counts.left), np.int64),
            self._pairs,
            self._state,
        )

    def counts(self) -> Counts:
        """All that was added."""
        keys, pair_counts = self._pairs[0::2], self._pairs[1::2]
        taken = np.flatnonzero(keys != EMPTY)
        keys = keys[taken]
        offsets = self._ends[: self.words + 1].astype(np.int32)
        letters = self._letters[: offsets[-1]].tobytes()
        words = pa.StringArray.from_buffers(
            self.words, pa.py_buffer(offsets), pa.py_buffer(letters)
        )
        return Counts(
            words,
            self._word_counts[: self.words].copy(),
            (keys >> 32).astype(np.int32),
            (keys & _RIGHT_ID).astype(np.int32),
            pair_counts[taken],
        )

    def take(self) -> Counts:
        """All that was added; then nothing is, and the tables are as large as they were."""
        counts = self.counts()
        self._state[[WORDS, PAIRS]] = 0
        self._word_counts[:] = 0
        self._word_slots[:] = EMPTY
        _clear(self._pairs)
        return counts

    @property
    def _used_letters(self) -> int:
        return int(self._ends[self.words])

    def _grow_words(self, words: int, letters: int) -> None:
        """Make room for so many words of so many letters in all, in bytes."""
        # Eight bytes are what a scan wants free to write the next letters of a word.
        self._letters = _longer(self._letters, letters + 8)
        self._ends = _longer(self._ends, words + 2)
        self._hashes = _longer(self._hashes, words + 1)
        self._word_counts = _longer(self._word_counts, words + 1)
        slots = _slots(words, len(self._word_slots))
        if slots > len(self._word_slots):
            self._word_slots = np.full(slots, EMPTY, np.int32)
            kernels.rehash_words(self._hashes, self.words, self._word_slots)

    def _grow_pairs(self, pairs: int) -> None:
        slots = _slots(pairs, len(self._pairs) // 2)
        if slots > len(self._pairs) // 2:
            old, self._pairs = self._pairs, _empty_pairs(slots)
            kernels.rehash_pairs(old, self._pairs)


def partition(counts: Counts, partitions: int) -> Iterator[Counts]:
    """Split counts by a hash of the word, and of a bigram's first word.

    The sum of the parts is the whole. A bigram's second word is in its part with a count of 0
    unless it belongs there.
    """
    n = len(counts.words)
    of_word = np.empty(n, np.int32)
    kernels.partitions_of(*_buffers(counts.words), partitions, of_word)
    words, word_borders = _by_partition(of_word, partitions)
    pairs, pair_borders = _by_partition(of_word[counts.left], partitions)
    new_id, used = np.full(n, EMPTY, np.int32), np.empty(n, np.int32)
    for part in range(partitions):
        own = words[word_borders[part] : word_borders[part + 1]]
        chosen = pairs[pair_borders[part] : pair_borders[part + 1]]
        size, left, right = kernels.renumber(own, counts.left, counts.right, chosen, new_id, used)
        word_counts = np.zeros(size, np.int64)
        word_counts[: len(own)] = counts.word_counts[own]
        part_words = counts.words.take(pa.array(used[:size]))
        yield Counts(part_words, word_counts, left, right, counts.bigram_counts[chosen])


def _by_partition(parts: Int32s, partitions: int) -> tuple[Int32s, Int64s]:
    """The places ordered by partition, and where each partition's begin."""
    order, borders = np.empty(len(parts), np.int32), np.empty(partitions + 1, np.int64)
    kernels.order_by_partition(parts, borders, order)
    return order, borders


def _buffers(words: pa.Array) -> tuple[UInt8s, Int32s]:
    """The bytes of an array of strings, and where each string starts and the last one ends."""
    _, offsets, letters = words.buffers()
    if not offsets:
        return np.empty(0, np.uint8), np.zeros(1, np.int32)
    ends = np.frombuffer(offsets, np.int32)[words.offset : words.offset + len(words) + 1]
    return np.frombuffer(letters or b"", np.uint8), ends


def _longer(array: np.ndarray, wanted: int) -> np.ndarray:
    """The same array, or a copy with zeros behind it, at least as long as wanted."""
    if wanted <= len(array):
        return array
    result = np.zeros(max(wanted, 2 * len(array)), array.dtype)
    result[: len(array)] = array
    return result


def _empty_pairs(slots: int) -> Int64s:
    """A table of pairs: a key and a count for each slot."""
    result = np.empty(2 * slots, np.int64)
    _clear(result)
    return result


def _clear(pairs: Int64s) -> None:
    pairs[0::2] = EMPTY
    pairs[1::2] = 0


def _slots(entries: int, slots: int) -> int:
    """The size of a table for so many entries: a power of two that is not yet 3/4 full."""
    while 4 * entries >= 3 * slots:
        slots *= 2
    return slots


def _longest_word(utf8: UInt8s, start: int) -> int:
    """Bytes that the word at ``start`` may be, its letters in lower case being longer."""
    rest = utf8[start : start + (1 << 16)]
    return 2 * (len(rest) if len(rest) < 1 << 16 else len(utf8) - start)
