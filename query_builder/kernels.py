"""The loops over bytes and hash tables that counting is made of, compiled by Numba.

Hash tables are open: a slot that is taken is passed over for the next one. They have a power of
two of slots, and their owner keeps them at most three quarters full. All arrays are the
caller's; a kernel that finds one too small stops at the start of a word and says how far it came.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from workers.base.arrays import Int32s, Int64s, UInt8s, UInt64s
from workers.base.compiled import compiled

#: Classes of characters, as ``words.classes`` gives them.
OTHER, WORD, SPACE, JOINER, INVISIBLE = range(5)

#: An empty slot of either table.
EMPTY = -1

#: Places in the ``state`` of a scan: numbers of words and pairs, the id of the word before if
#: the next one may be its neighbour, the number of pairs listed but not yet in the table.
WORDS, PAIRS, PREVIOUS, LISTED = range(4)

_FNV_OFFSET = np.uint64(0xCBF29CE484222325)
_FNV_PRIME = np.uint64(0x100000001B3)
_MIX = np.uint64(0x9E3779B97F4A7C15)
_HALF = np.uint64(32)


@compiled
def _hash(letters: UInt8s, start: int, end: int) -> np.uint64:
    """FNV-1a, its bits mixed once more so that any of them can be a place or a partition."""
    value = _FNV_OFFSET
    for i in range(start, end):
        value = (value ^ np.uint64(letters[i])) * _FNV_PRIME
    value = (value ^ (value >> _HALF)) * _MIX
    return value ^ (value >> _HALF)


@compiled
def _word_id(
    start: int,
    end: int,
    letters: UInt8s,
    ends: Int64s,
    hashes: UInt64s,
    slots: Int32s,
    state: Int64s,
) -> int:
    """The id of the word that stands in ``letters`` behind all others; new if it is not known."""
    value = _hash(letters, start, end)
    mask = len(slots) - 1
    slot = np.int64(value) & mask
    while slots[slot] != EMPTY:
        known = slots[slot]
        first = ends[known]
        if hashes[known] == value and ends[known + 1] - first == end - start:
            i = 0
            while i < end - start and letters[first + i] == letters[start + i]:
                i += 1
            if i == end - start:
                return known
        slot = (slot + 1) & mask
    new = state[WORDS]
    slots[slot] = new
    hashes[new] = value
    ends[new + 1] = end
    state[WORDS] += 1
    return new


@compiled
def _add_pairs(new: Int64s, new_counts: Int64s, pairs: Int64s, state: Int64s) -> None:
    """Add pairs to their table, in which a slot is a key and a count side by side."""
    mask = len(pairs) // 2 - 1
    # One tight loop: the processor then waits for several slots at once.
    for i in range(len(new)):
        key = new[i]
        slot = _pair_place(key) & mask
        while pairs[2 * slot] != key:
            if pairs[2 * slot] == EMPTY:
                pairs[2 * slot] = key
                state[PAIRS] += 1
                break
            slot = (slot + 1) & mask
        pairs[2 * slot + 1] += new_counts[i] if len(new_counts) else 1


@compiled
def _pair_place(key: int) -> np.int64:
    value = np.uint64(key) * _MIX
    return np.int64(value ^ (value >> _HALF))


@compiled
def _decode(text: UInt8s, i: int) -> tuple[Any, int]:
    """The code point at ``i`` of valid UTF-8, and where the next one starts."""
    first = np.int64(text[i])
    if first < 0x80:
        return first, i + 1
    if first < 0xE0:
        return (first & 0x1F) << 6 | text[i + 1] & 0x3F, i + 2
    if first < 0xF0:
        return (first & 0x0F) << 12 | (text[i + 1] & 0x3F) << 6 | text[i + 2] & 0x3F, i + 3
    high = (first & 0x07) << 18 | (text[i + 1] & 0x3F) << 12
    return high | (text[i + 2] & 0x3F) << 6 | text[i + 3] & 0x3F, i + 4


@compiled
def _decode_visible(text: UInt8s, i: int, classes: UInt8s) -> tuple[Any, int]:
    """The same of the next visible code point; there is one before the end."""
    code, after = _decode(text, i)
    while classes[code] == INVISIBLE:
        code, after = _decode(text, after)
    return code, after


@compiled
def _encode(code: int, letters: UInt8s, end: int) -> int:
    """Write a code point behind the letters; the new end."""
    if code < 0x80:
        letters[end] = code
        return end + 1
    if code < 0x800:
        letters[end] = 0xC0 | code >> 6
        letters[end + 1] = 0x80 | code & 0x3F
        return end + 2
    if code < 0x10000:
        letters[end] = 0xE0 | code >> 12
        letters[end + 1] = 0x80 | code >> 6 & 0x3F
        letters[end + 2] = 0x80 | code & 0x3F
        return end + 3
    letters[end] = 0xF0 | code >> 18
    letters[end + 1] = 0x80 | code >> 12 & 0x3F
    letters[end + 2] = 0x80 | code >> 6 & 0x3F
    letters[end + 3] = 0x80 | code & 0x3F
    return end + 4


@compiled
def _write_word(
    text: UInt8s, i: int, classes: UInt8s, folded: Int32s, letters: UInt8s, end: int
) -> tuple[int, int]:
    """Write the word at ``i`` behind the letters: their new end, EMPTY if they have no room, and
    the place behind the word in the text."""
    code, after = _decode(text, i)
    kind = classes[code]
    while kind == WORD:
        # A joiner and a letter are written at a time, each four bytes at most.
        if end + 8 > len(letters):
            return EMPTY, i
        end = _encode(folded[code], letters, end)
        i = after
        code, after = _decode(text, i)
        kind = classes[code]
        if kind >= JOINER:  # or invisible: the word may go on behind it
            code, after = _decode_visible(text, i, classes)
            kind = classes[code]
            if kind == JOINER:
                following, beyond = _decode_visible(text, after, classes)
                if classes[following] == WORD:
                    end = _encode(folded[code], letters, end)
                    code, after, kind = following, beyond, WORD
    return end, i


@compiled
def count_text(
    text: UInt8s,
    start: int,
    classes: UInt8s,
    folded: Int32s,
    letters: UInt8s,
    ends: Int64s,
    hashes: UInt64s,
    word_counts: Int64s,
    word_slots: Int32s,
    pairs: Int64s,
    state: Int64s,
) -> int:
    """Count the words of a text in UTF-8 and list the pairs of neighbours from ``start`` on.

    Returns how far it came: short of the end of the text if an array is full.

    Args:
        text: must end with a visible character that is in no word.
        classes: of each code point.
        folded: the code point that is written for each code point of a word.
        letters: the distinct words, one behind the other.
        ends: where each begins, and one more for the last one's end.
        pairs: gets the pairs; they are ``state[LISTED]``.
    """
    i = start
    while i < len(text):
        code, after = _decode(text, i)
        kind = classes[code]
        if kind != WORD:
            if kind != SPACE and kind != INVISIBLE:
                state[PREVIOUS] = EMPTY
            i = after
            continue
        words = state[WORDS]
        room = min(len(hashes), len(ends) - 1, 3 * len(word_slots) // 4)
        if words >= room or state[LISTED] == len(pairs):
            return i
        begin = ends[words]
        end, after = _write_word(text, i, classes, folded, letters, begin)
        if end == EMPTY:
            return i
        word = _word_id(begin, end, letters, ends, hashes, word_slots, state)
        word_counts[word] += 1
        if state[PREVIOUS] != EMPTY:
            pairs[state[LISTED]] = state[PREVIOUS] << 32 | word
            state[LISTED] += 1
        state[PREVIOUS] = word
        i = after
    return i


@compiled
def count_listed(listed: Int64s, pairs: Int64s, state: Int64s) -> None:
    """Add the listed pairs to their table, which has room for them, and empty the list."""
    _add_pairs(listed[: state[LISTED]], listed[:0], pairs, state)
    state[LISTED] = 0


@compiled
def add_words(
    new_letters: UInt8s,
    new_ends: Int32s,
    new_counts: Int64s,
    ids: Int32s,
    letters: UInt8s,
    ends: Int64s,
    hashes: UInt64s,
    word_counts: Int64s,
    word_slots: Int32s,
    state: Int64s,
) -> None:
    """Add counted words to the tables, which have room for them; ``ids`` gets their ids here."""
    for i in range(len(new_counts)):
        begin = ends[state[WORDS]]
        end = begin
        for j in range(new_ends[i], new_ends[i + 1]):
            letters[end] = new_letters[j]
            end += 1
        ids[i] = _word_id(begin, end, letters, ends, hashes, word_slots, state)
        word_counts[ids[i]] += new_counts[i]


@compiled
def add_pairs(
    left: Int32s,
    right: Int32s,
    counts: Int64s,
    ids: Int32s,
    listed: Int64s,
    pairs: Int64s,
    state: Int64s,
) -> None:
    """Add counted pairs of words, whose ids here are ``ids``, to a table with room for them."""
    for i in range(len(counts)):
        listed[i] = np.int64(ids[left[i]]) << 32 | np.int64(ids[right[i]])
    _add_pairs(listed, counts, pairs, state)


@compiled
def rehash_words(hashes: UInt64s, words: int, slots: Int32s) -> None:
    """Enter all words in an empty table."""
    mask = len(slots) - 1
    for word in range(words):
        slot = np.int64(hashes[word]) & mask
        while slots[slot] != EMPTY:
            slot = (slot + 1) & mask
        slots[slot] = word


@compiled
def rehash_pairs(old: Int64s, pairs: Int64s) -> None:
    """Move all pairs into an empty table."""
    mask = len(pairs) // 2 - 1
    for i in range(0, len(old), 2):
        if old[i] != EMPTY:
            slot = _pair_place(old[i]) & mask
            while pairs[2 * slot] != EMPTY:
                slot = (slot + 1) & mask
            pairs[2 * slot] = old[i]
            pairs[2 * slot + 1] = old[i + 1]


@compiled
def partitions_of(letters: UInt8s, ends: Int32s, partitions: int, result: Int32s) -> None:
    """The partition of each word: a hash of its bytes."""
    for word in range(len(result)):
        value = _hash(letters, ends[word], ends[word + 1])
        result[word] = np.int64((value >> _HALF) % np.uint64(partitions))


@compiled
def order_by_partition(parts: Int32s, borders: Int64s, order: Int32s) -> None:
    """Places in ascending order of partition, else as they are.

    ``borders`` has room for one more than the partitions and ends as where each begins.
    """
    borders[:] = 0
    for part in parts:
        borders[part + 1] += 1
    for part in range(1, len(borders)):
        borders[part] += borders[part - 1]
    following = borders.copy()
    for i in range(len(parts)):
        order[following[parts[i]]] = i
        following[parts[i]] += 1


@compiled
def renumber(
    words: Int32s, left: Int32s, right: Int32s, chosen: Int32s, new_id: Int32s, used: Int32s
) -> tuple[int, Int32s, Int32s]:
    """Give the words of a partition, and those that its pairs need too, ids from 0 on.

    Args:
        words: the partition's words.
        chosen: the places of its pairs in ``left`` and ``right``.
        new_id: as long as there are words, all EMPTY, as it is again in the end.
        used: has room for all words; gets the old ids of the new words.

    Returns:
        How many words there are, and the pairs' new ids.
    """
    n = 0
    for word in words:
        new_id[word] = n
        used[n] = word
        n += 1
    new_left = np.empty(len(chosen), np.int32)
    new_right = np.empty(len(chosen), np.int32)
    for i in range(len(chosen)):
        word = right[chosen[i]]
        if new_id[word] == EMPTY:
            new_id[word] = n
            used[n] = word
            n += 1
        new_left[i] = new_id[left[chosen[i]]]
        new_right[i] = new_id[word]
    for i in range(n):
        new_id[used[i]] = EMPTY
    return n, new_left, new_right
