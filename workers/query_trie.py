"""A trie of queries over numbered words, in arrays, and the loops that build and walk it.

Text is UTF-8 in one buffer with the offsets of its rows, as Arrow holds it. A row is cut into
words by the rule of ``workers.match`` without making the spaced text. Words and edges stand in
hash tables: open addressing, linear probing, a power of two of slots, each slot half a hash and
a number. What has the number is compared in full, so answers are exact.

The tables are larger than a processor's near caches. So captions are worked on in blocks, and
before a loop that branches on what it reads, ``_fetch_...`` reads the same places in a loop that
does not: the processor then waits for many of them at a time, not for one after the other.

Inside loops, functions get arrays and not tuples of them: Numba counts a reference, atomically,
each time it takes an array out of a tuple, which would be most of the work.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from workers.compiled import compiled, inlined

Bytes = npt.NDArray[np.uint8]
Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]
UInt64s = npt.NDArray[np.uint64]
#: int to Python, int64 once compiled; NumPy's types make of the two what no annotation fits.
Int = Any

#: What a byte means to the rule where it is no letter of a word: ``Alphabet.codes``.
SPACE, MARK, LEAD = 256, 257, 258

#: No word of any query; no node.
_NONE = -1

#: Rows and bytes of text that are worked on at a time, unless one row is longer.
_BLOCK_ROWS = 128
_BLOCK_BYTES = 1 << 16

# FNV-1a over the letters, then the finaliser of MurmurHash3, so that all bits are mixed.
_BASIS = np.uint64(0xCBF29CE484222325)
_PRIME = np.uint64(0x100000001B3)
_MIX = np.uint64(0xFF51AFD7ED558CCD)
_UPPER = np.uint64(0xFFFFFFFF00000000)
_LOWER = np.uint64(0x00000000FFFFFFFF)
_HALF = np.uint64(32)
_ONE = np.uint64(1)


class Alphabet(NamedTuple):
    """How the bytes of UTF-8 text are read."""

    codes: npt.NDArray[np.uint16]  # [256] the letter as it is compared, or SPACE, MARK or LEAD
    letters: Bytes  # [256] the letter as it is compared, whatever else it means
    spaces: Int64s  # white space of more than one byte: its bytes as one big-endian number


class Words(NamedTuple):
    """The distinct words of the queries; a word is known by its number."""

    slots: UInt64s  # upper half of the hash, then number + 1; 0 is a free slot
    offsets: Int32s  # [words + 1] into letters
    letters: Bytes


class Edges(NamedTuple):
    """The edges of the trie. Edge e leads to the node words + e; node w < words is word w."""

    slots: UInt64s  # upper half of the hash of the key, then e + 1; 0 is a free slot
    keys: Int64s  # [edges] node << 32 | word


class Trie(NamedTuple):
    """Nodes are runs of words that begin a query."""

    words: Words
    edges: Edges
    nodes: Int32s  # [nodes + 1] where its queries begin in query_ids << 1 | whether it has edges
    query_ids: Int32s


class Block(NamedTuple):
    """Scratch space for the words of some rows; a word that is none stands after each row."""

    bounds: Int64s  # [room, 2] first byte, and the one after the last
    hashes: UInt64s  # [room]
    numbers: Int64s  # [room] of the word, or _NONE
    seconds: Int64s  # [room] the node of the word and the next one, or _NONE


@inlined
def _space_length(text: Bytes, at: Int, end: Int, spaces: Int64s) -> Int:
    """Bytes of the white space of two or three bytes that begins at ``at``; 0 if none does."""
    code = np.int64(text[at])
    for length in range(2, min(4, end - at + 1)):
        code = code << 8 | np.int64(text[at + length - 1])
        for n in range(len(spaces)):
            if code == spaces[n]:
                return length
    return 0


@inlined
def _mixed(value: np.uint64) -> np.uint64:
    value = (value ^ value >> _HALF) * _MIX
    return value ^ value >> _HALF


@compiled
def _cut(
    text: Bytes,
    start: Int,
    end: Int,
    codes: npt.NDArray[np.uint16],
    spaces: Int64s,
    bounds: Int64s,
    hashes: UInt64s,
    words: Int,
) -> Int:
    """Add the words of a row to the first ``words`` of a block; answer how many those are then.

    Marks are words of their own, and so is the nothing between two separators.
    """
    begin, at, value = start, start, _BASIS
    while at < end:
        code, length = np.int64(codes[text[at]]), 1
        if code == LEAD:
            length = _space_length(text, at, end, spaces)
            code = np.int64(SPACE if length else text[at])
            length = max(length, 1)
        if code < SPACE:
            value = (value ^ np.uint64(code)) * _PRIME
            at += 1
            continue
        bounds[words, 0], bounds[words, 1], hashes[words] = begin, at, _mixed(value)
        words += 1
        if code == MARK:
            bounds[words, 0], bounds[words, 1] = at, at + 1
            hashes[words] = _mixed((_BASIS ^ np.uint64(text[at])) * _PRIME)
            words += 1
        at += length
        begin, value = at, _BASIS
    bounds[words, 0], bounds[words, 1], hashes[words] = begin, end, _mixed(value)
    bounds[words + 1, 0], bounds[words + 1, 1], hashes[words + 1] = 0, _NONE, _BASIS
    return words + 2


@compiled
def _cut_rows(
    text: Bytes, offsets: Int64s, first: Int, last: Int, alphabet: Alphabet, block: Block
) -> Int:
    """The words of some rows into a block; answer how many."""
    codes, _, spaces = alphabet
    bounds, hashes, _, _ = block
    words = 0
    for row in range(first, last):
        start, end = offsets[row], offsets[row + 1]
        words = _cut(text, start, end, codes, spaces, bounds, hashes, words)
    return words


@compiled
def _block_end(offsets: Int64s, row: Int) -> Int:
    """The row after the last one of the block that begins with ``row``."""
    end = row + 1
    last = min(len(offsets) - 1, row + _BLOCK_ROWS)
    while end < last and offsets[end + 1] - offsets[row] <= _BLOCK_BYTES:
        end += 1
    return end


@compiled
def _new_block(text: Bytes, offsets: Int64s, alphabet: Alphabet) -> Block:
    """A block with room for the words of every block of rows."""
    room = 2 * (_BLOCK_BYTES + _BLOCK_ROWS)
    for row in range(len(offsets) - 1):
        if offsets[row + 1] - offsets[row] > _BLOCK_BYTES:
            words = 2
            for at in range(offsets[row], offsets[row + 1]):
                words += 2 * (alphabet.codes[text[at]] >= SPACE)
            room = max(room, words)
    integers = np.empty((4, room), np.int64)
    bounds, hashes = np.empty((room, 2), np.int64), np.empty(room, np.uint64)
    return Block(bounds, hashes, integers[0], integers[1])


@compiled
def _slots_for(entries: Int) -> Int:
    slots = 4
    while slots < entries + entries // 2:
        slots *= 2
    return slots


@inlined
def _same(
    text: Bytes, start: Int, end: Int, folded: Bytes, letters: Bytes, begin: Int, length: Int
) -> bool:
    if length != end - start:
        return False
    for n in range(length):  # noqa: SIM110
        if folded[text[start + n]] != letters[begin + n]:
            return False
    return True


@inlined
def _word_slot(
    text: Bytes,
    start: Int,
    end: Int,
    value: np.uint64,
    folded: Bytes,
    slots: UInt64s,
    offsets: Int32s,
    letters: Bytes,
) -> Int:
    """The slot that holds a word with the hash ``value``, or the free one where it would stand."""
    mask = np.uint64(len(slots) - 1)
    slot = value & mask
    while slots[slot] != 0:
        if (slots[slot] ^ value) & _UPPER == 0:
            word = slots[slot] & _LOWER
            begin = np.int64(offsets[word - _ONE])
            if _same(text, start, end, folded, letters, begin, offsets[word] - begin):
                break
        slot = (slot + _ONE) & mask
    return np.int64(slot)


@inlined
def _edge_slot(slots: UInt64s, keys: Int64s, key: Int) -> Int:
    """The slot that holds an edge, or the free one where it would stand."""
    mask, value = np.uint64(len(slots) - 1), _mixed(np.uint64(key))
    slot = value & mask
    while slots[slot] != 0:
        if (slots[slot] ^ value) & _UPPER == 0 and keys[(slots[slot] & _LOWER) - _ONE] == key:
            break
        slot = (slot + _ONE) & mask
    return np.int64(slot)


@compiled
def _fitted(hashes: UInt64s, entries: Int) -> UInt64s:
    """The table of the first ``entries`` hashes, with no more slots than it needs."""
    fitted = np.zeros(_slots_for(entries), np.uint64)
    mask = np.uint64(len(fitted) - 1)
    for number in range(entries):
        slot = hashes[number] & mask
        while fitted[slot] != 0:
            slot = (slot + _ONE) & mask
        fitted[slot] = hashes[number] & _UPPER | np.uint64(number + 1)
    return fitted


@compiled
def count_words(text: Bytes, offsets: Int64s, alphabet: Alphabet) -> Int:
    """The words of all rows together, repeated ones counted."""
    block, total = _new_block(text, offsets, alphabet), 0
    for row in range(len(offsets) - 1):
        total += _cut_rows(text, offsets, row, row + 1, alphabet, block) - 1
    return total


@compiled
def number_words(
    text: Bytes, offsets: Int64s, alphabet: Alphabet, total: Int
) -> tuple[Words, Int32s, Int64s]:
    """Number the distinct words of rows that hold ``total``.

    Also answers the rows as numbers, [total], and where each row ends among these, [rows + 1].
    """
    block = _new_block(text, offsets, alphabet)
    slots, hashes = np.zeros(_slots_for(total), np.uint64), np.empty(total, np.uint64)
    starts, letters = np.zeros(total + 1, np.int32), np.empty(len(text), np.uint8)
    numbers, ends = np.empty(total, np.int32), np.zeros(len(offsets), np.int64)
    known, size, folded = 0, 0, alphabet.letters
    for row in range(len(offsets) - 1):
        for n in range(_cut_rows(text, offsets, row, row + 1, alphabet, block) - 1):
            start, end, value = block.bounds[n, 0], block.bounds[n, 1], block.hashes[n]
            slot = _word_slot(text, start, end, value, folded, slots, starts, letters)
            if slots[slot] == 0:
                hashes[known], to = value, starts[known]
                known += 1
                slots[slot], starts[known] = value & _UPPER | np.uint64(known), to + end - start
                for at in range(start, end):
                    letters[to + at - start] = text[at]
            numbers[size] = np.int64(slots[slot] & _LOWER) - 1
            size += 1
        ends[row + 1] = size
    fitted = _fitted(hashes, known)
    words = Words(fitted, starts[: known + 1].copy(), letters[: starts[known]].copy())
    return words, numbers, ends


@compiled
def link_words(numbers: Int32s, offsets: Int64s, words: Int) -> tuple[Edges, Int64s]:
    """The edges of the trie of rows of words, and the node where each row ends."""
    slots = np.zeros(_slots_for(len(numbers)), np.uint64)
    keys, hashes = np.empty(len(numbers), np.int64), np.empty(len(numbers), np.uint64)
    ends, known = np.empty(len(offsets) - 1, np.int64), 0
    for row in range(len(ends)):
        node = np.int64(numbers[offsets[row]])
        for at in range(offsets[row] + 1, offsets[row + 1]):
            key = node << 32 | np.int64(numbers[at])
            slot = _edge_slot(slots, keys, key)
            if slots[slot] == 0:
                keys[known], hashes[known] = key, _mixed(np.uint64(key))
                slots[slot] = hashes[known] & _UPPER | np.uint64(known + 1)
                known += 1
            node = words - 1 + np.int64(slots[slot] & _LOWER)
        ends[row] = node
    return Edges(_fitted(hashes, known), keys[:known].copy()), ends


@inlined
def _child(slots: UInt64s, keys: Int64s, nodes: Int32s, words: Int, node: Int, word: Int) -> Int:
    """The node of a run one word longer, or _NONE."""
    if word == _NONE or nodes[node] & 1 == 0:
        return _NONE
    edge = slots[_edge_slot(slots, keys, node << 32 | word)] & _LOWER
    return words - 1 + np.int64(edge) if edge else _NONE


@compiled
def _fetch_words(block: Block, count: Int, words: Words) -> Int:
    _, hashes, _, scratch = block
    slots, offsets, letters = words
    mask, fetched = np.uint64(len(slots) - 1), np.int64(0)
    for n in range(count):
        scratch[n] = np.int64(slots[hashes[n] & mask] & _LOWER)
    for n in range(count):
        scratch[n] = offsets[scratch[n]]
    for n in range(count):
        fetched += letters[scratch[n] - 1]
    return fetched


@compiled
def _fetch_edges(block: Block, count: Int, trie: Trie) -> Int:
    _, _, numbers, scratch = block
    _, (slots, _), nodes, query_ids = trie
    mask, fetched = np.uint64(len(slots) - 1), np.int64(0)
    for n in range(count - 1):
        key = np.uint64(numbers[n] << 32 | numbers[n + 1])
        fetched += np.int64(slots[_mixed(key) & mask] & _ONE)
    for n in range(count):
        scratch[n] = nodes[max(numbers[n], 0)] >> 1
    for n in range(count):
        fetched += query_ids[min(scratch[n], len(query_ids) - 1)]
    return fetched


@compiled
def _look_up(text: Bytes, block: Block, count: Int, alphabet: Alphabet, trie: Trie) -> Int:
    """Write the words' numbers and seconds. The answer says nothing; it keeps the fetching."""
    bounds, hashes, numbers, seconds = block
    (slots, offsets, letters), (edge_slots, keys), nodes, _ = trie
    folded, words = alphabet.letters, len(offsets) - 1
    fetched = _fetch_words(block, count, trie.words)
    for n in range(count):
        start, end = bounds[n, 0], bounds[n, 1]
        slot = _word_slot(text, start, end, hashes[n], folded, slots, offsets, letters)
        numbers[n] = np.int64(slots[slot] & _LOWER) - 1
    fetched += _fetch_edges(block, count, trie)
    seconds[count - 1] = _NONE
    for n in range(count - 1):
        node, word = numbers[n], numbers[n + 1]
        seconds[n] = _child(edge_slots, keys, nodes, words, node, word) if node >= 0 else _NONE
    return fetched


@compiled
def _room_for(ids: Int32s, size: Int, more: Int) -> Int32s:
    """``ids``, or a longer copy of its first ``size`` where ``more`` would not fit."""
    if size + more <= len(ids):
        return ids
    longer = np.empty(2 * (size + more), np.int32)
    for n in range(size):  # a slice would double the time to compile
        longer[n] = ids[n]
    return longer


@compiled
def _sort_distinct(ids: Int32s, begin: Int, end: Int) -> Int:
    """Sort a part of ``ids`` and drop what repeats; answer where it now ends."""
    gap = 1
    while gap < (end - begin) // 9:
        gap = 3 * gap + 1
    while gap:  # Shell's sort
        for n in range(begin + gap, end):
            value, at = ids[n], n
            while at >= begin + gap and ids[at - gap] > value:
                ids[at] = ids[at - gap]
                at -= gap
            ids[at] = value
        gap //= 3
    kept = begin
    for n in range(begin, end):
        if n == begin or ids[n] != ids[n - 1]:
            ids[kept] = ids[n]
            kept += 1
    return kept


@inlined
def _add(ids: Int32s, size: Int, nodes: Int32s, query_ids: Int32s, node: Int) -> tuple[Int32s, Int]:
    """Add the queries of a node to the first ``size`` of ``ids``."""
    first, last = nodes[node] >> 1, nodes[node + 1] >> 1
    if first != last:
        ids = _room_for(ids, size, last - first)
        for at in range(first, last):
            ids[size] = query_ids[at]
            size += 1
    return ids, size


@compiled
def _walk_rows(
    block: Block, trie: Trie, first: Int, last: Int, ends: Int64s, ids: Int32s
) -> Int32s:
    """Add the queries of some rows to ``ids``, and to ``ends`` where they end there."""
    bounds, _, numbers, seconds = block
    words, (slots, keys), nodes, query_ids = trie
    base, size, start = len(words.offsets) - 1, ends[first], 0
    for row in range(first, last):
        while bounds[start, 1] != _NONE:
            node = numbers[start]
            if node != _NONE:
                ids, size = _add(ids, size, nodes, query_ids, node)
                node, after = seconds[start], start + 2
                while node != _NONE:
                    ids, size = _add(ids, size, nodes, query_ids, node)
                    node = _child(slots, keys, nodes, base, node, numbers[after])
                    after += 1
            start += 1
        size = _sort_distinct(ids, ends[row], size)
        ends[row + 1], start = size, start + 1
    return ids


@compiled
def find_queries(
    text: Bytes, offsets: Int64s, alphabet: Alphabet, trie: Trie
) -> tuple[Int64s, Int32s, Int]:
    """For each row the ids of the queries that occur in it: offsets [rows + 1] and ids.

    The last answer says nothing; it keeps the fetching.
    """
    block, rows, row, fetched = _new_block(text, offsets, alphabet), len(offsets) - 1, 0, 0
    ends, ids = np.zeros(rows + 1, np.int64), np.empty(8 * rows, np.int32)
    while row < rows:
        last = _block_end(offsets, row)
        count = _cut_rows(text, offsets, row, last, alphabet, block)
        fetched += _look_up(text, block, count, alphabet, trie)
        ids = _walk_rows(block, trie, row, last, ends, ids)
        row = last
    return ends, ids[: ends[rows]].copy(), fetched
