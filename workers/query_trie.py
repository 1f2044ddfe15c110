"""A trie of queries over numbered words, in arrays, and the loops that build and walk it.

Text is UTF-8 in one buffer with the offsets of its rows, as Arrow holds it. A row is cut into
words by the rule of ``workers.match`` without making the spaced text. Words and edges stand in
hash tables: open addressing, linear probing, a power of two of slots. A slot holds what is looked
up itself: the key of an edge, and the letters of a word of up to 15 bytes as two integers; the
letters of longer words are compared one by one. So answers are exact, and most need one line of
cache.

The tables are larger than a processor's near caches. So captions are worked on in blocks, and
before a loop that branches on what it reads, another one that does not reads the same places: the
processor then waits for many of them at a time, not for one after the other. Most neighbours in a
caption begin no query together; a filter of one bit a pair, small enough for a near cache, says so
of most of those.

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

#: The number of a word of no query, and the node of a run that begins none.
NONE = 0

#: Not an id
_NO_ID = 1 << 40

#: Rows and bytes of text that are worked on at a time, unless one row is longer.
_BLOCK_ROWS = 128
_BLOCK_BYTES = 1 << 16

#: Bytes of the longest word whose key is its letters, after a one that says where they begin.
_SHORT = 15
#: The second half of the key of any longer word, whose first half is a hash; not of a short one.
_LONG = np.uint64(0xFFFFFFFFFFFFFFFF)

# FNV-1a for long words; the finaliser of MurmurHash3, in part, for keys.
_BASIS = np.uint64(0xCBF29CE484222325)
_PRIME = np.uint64(0x100000001B3)
_MIX = np.uint64(0xFF51AFD7ED558CCD)
_LOWER = np.uint64(0x00000000FFFFFFFF)
_BYTE = np.uint64(8)
_HALF = np.uint64(32)
_TOP_BYTE = np.uint64(56)
_FREE = np.uint64(0)
_ONE = np.uint64(1)
_BITS = np.uint64(63)  # of the place in a word of the filter
_WORD = np.uint64(38)  # the bits of a hash that say which word that is begin here


class Alphabet(NamedTuple):
    """How the bytes of UTF-8 text are read."""

    codes: npt.NDArray[np.uint16]  # [256] the letter as it is compared, or SPACE, MARK or LEAD
    letters: Bytes  # [256] the letter as it is compared, whatever else it means
    spaces: Int64s  # white space of more than one byte: its bytes as one big-endian number


class Words(NamedTuple):
    """The distinct words of the queries; a word is known by its number, from 1 on."""

    slots: UInt64s  # [slots, 4] key, its second half, number or 0, long word's begin << 32 | end
    letters: Bytes  # of the long words


class Trie(NamedTuple):
    """Nodes are runs of words that begin a query; those of one word have its number."""

    words: Words
    edges: Int64s  # [slots, 2] node << 32 | word, the node that they lead to or 0
    pairs: UInt64s  # a bit set for every edge from a node of one word
    nodes: Int64s  # [nodes + 1] see ``node_entries``
    query_ids: Int32s  # of the nodes that end more than one query


class Block(NamedTuple):
    """Scratch space for the words of some rows; a word that is none stands after each row."""

    bounds: Int64s  # [room, 2] first byte, and the one after the last; 0, -1 of none
    keys: UInt64s  # [room, 2] 0, 0 of none
    numbers: Int64s  # [room] of the word
    entries: Int64s  # [room] of the word's node
    seconds: Int64s  # [room] the node of the word and the next one
    chosen: Int64s  # [room] scratch


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


@inlined
def _add_word(
    bounds: Int64s,
    keys: UInt64s,
    words: Int,
    text: Bytes,
    start: Int,
    end: Int,
    folded: Bytes,
    low: np.uint64,
    high: np.uint64,
) -> Int:
    """Add a word, whose last letters are ``low`` and ``high``, to the first ``words``."""
    if end - start > _SHORT:
        low, high = _BASIS, _LONG
        for at in range(start, end):
            low = (low ^ np.uint64(folded[text[at]])) * _PRIME
    bounds[words, 0], bounds[words, 1] = start, end
    keys[words, 0], keys[words, 1] = low, high
    return words + 1


@compiled
def _cut(
    text: Bytes,
    start: Int,
    end: Int,
    codes: npt.NDArray[np.uint16],
    folded: Bytes,
    spaces: Int64s,
    bounds: Int64s,
    keys: UInt64s,
    words: Int,
) -> Int:
    """Add the words of a row to the first ``words`` of a block; answer how many those are then.

    Marks are words of their own, and so is the nothing between two separators.
    """
    begin, at, low, high = start, start, _ONE, _FREE
    while at < end:
        code, length = np.int64(codes[text[at]]), 1
        if code == LEAD:
            length = _space_length(text, at, end, spaces)
            code = np.int64(SPACE if length else text[at])
            length = max(length, 1)
        if code < SPACE:
            high = high << _BYTE | low >> _TOP_BYTE
            low = low << _BYTE | np.uint64(code)
            at += 1
            continue
        words = _add_word(bounds, keys, words, text, begin, at, folded, low, high)
        if code == MARK:
            bounds[words, 0], bounds[words, 1] = at, at + 1
            keys[words, 0], keys[words, 1] = _ONE << _BYTE | np.uint64(text[at]), _FREE
            words += 1
        at += length
        begin, low, high = at, _ONE, _FREE
    words = _add_word(bounds, keys, words, text, begin, end, folded, low, high)
    bounds[words, 0], bounds[words, 1], keys[words, 0], keys[words, 1] = 0, -1, _FREE, _FREE
    return words + 1


@compiled
def _cut_rows(
    text: Bytes, offsets: Int64s, first: Int, last: Int, alphabet: Alphabet, block: Block
) -> Int:
    """The words of some rows into a block; answer how many."""
    codes, folded, spaces = alphabet
    bounds, keys, _, _, _, _ = block
    words = 0
    for row in range(first, last):
        start, end = offsets[row], offsets[row + 1]
        words = _cut(text, start, end, codes, folded, spaces, bounds, keys, words)
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
            room = max(room, words + 1)
    integers = np.empty((4, room + 1), np.int64)
    bounds, keys = np.empty((room, 2), np.int64), np.empty((room, 2), np.uint64)
    return Block(bounds, keys, integers[0], integers[1], integers[2], integers[3])


@inlined
def _same(text: Bytes, start: Int, end: Int, folded: Bytes, letters: Bytes, where: Int) -> bool:
    begin = where >> 32
    if (where & 0xFFFFFFFF) - begin != end - start:
        return False
    for n in range(end - start):  # noqa: SIM110
        if folded[text[start + n]] != letters[begin + n]:
            return False
    return True


@inlined
def _first_slot(slots: UInt64s, low: np.uint64, high: np.uint64) -> np.uint64:
    return _mixed(low ^ high * _PRIME) & np.uint64(len(slots) - 1)


@inlined
def _word_slot(
    text: Bytes,
    start: Int,
    end: Int,
    low: np.uint64,
    high: np.uint64,
    folded: Bytes,
    slots: UInt64s,
    letters: Bytes,
) -> np.uint64:
    """The slot that holds a word, or the free one where it would stand."""
    slot = _first_slot(slots, low, high)
    while slots[slot, 2] != _FREE:
        if (slots[slot, 0] == low and slots[slot, 1] == high) and (
            high != _LONG or _same(text, start, end, folded, letters, np.int64(slots[slot, 3]))
        ):
            break
        slot = (slot + _ONE) & np.uint64(len(slots) - 1)
    return slot


@inlined
def _edge_slot(slots: Int64s, key: Int) -> np.uint64:
    """The slot that holds an edge, or the free one where it would stand."""
    slot = _mixed(np.uint64(key)) & np.uint64(len(slots) - 1)
    while slots[slot, 1] != NONE and slots[slot, 0] != key:
        slot = (slot + _ONE) & np.uint64(len(slots) - 1)
    return slot


@inlined
def _room_for_one(slots: int, entries: Int) -> bool:
    return 3 * (entries + 1) <= 2 * slots


@compiled
def _more_words(slots: UInt64s) -> UInt64s:
    """The table with twice the slots."""
    more = np.zeros((2 * len(slots), 4), np.uint64)
    for old in range(len(slots)):
        if slots[old, 2] != _FREE:
            slot = _first_slot(more, slots[old, 0], slots[old, 1])
            while more[slot, 2] != _FREE:
                slot = (slot + _ONE) & np.uint64(len(more) - 1)
            for n in range(4):
                more[slot, n] = slots[old, n]
    return more


@compiled
def _more_edges(slots: Int64s) -> Int64s:
    """The table with twice the slots."""
    more = np.zeros((2 * len(slots), 2), np.int64)
    for old in range(len(slots)):
        if slots[old, 1] != NONE:
            slot = _edge_slot(more, slots[old, 0])
            more[slot, 0], more[slot, 1] = slots[old, 0], slots[old, 1]
    return more


@compiled
def number_words(
    text: Bytes, offsets: Int64s, alphabet: Alphabet, room: Int
) -> tuple[Words, Int32s, Int64s, Int]:
    """Number the distinct words of rows that hold at most ``room``.

    Also answers the rows as numbers, where each row ends among these, [rows + 1], and how many
    words are distinct.
    """
    block = _new_block(text, offsets, alphabet)
    slots, letters = np.zeros((4, 4), np.uint64), np.empty(len(text), np.uint8)
    numbers, ends = np.empty(room, np.int32), np.zeros(len(offsets), np.int64)
    known, size, used, folded = 0, 0, 0, alphabet.letters
    for row in range(len(offsets) - 1):
        for n in range(_cut_rows(text, offsets, row, row + 1, alphabet, block) - 1):
            start, end = block.bounds[n, 0], block.bounds[n, 1]
            low, high = block.keys[n, 0], block.keys[n, 1]
            if not _room_for_one(len(slots), known):
                slots = _more_words(slots)
            slot = _word_slot(text, start, end, low, high, folded, slots, letters)
            if slots[slot, 2] == _FREE:
                known += 1
                slots[slot, 0], slots[slot, 1] = low, high
                slots[slot, 2] = np.uint64(known)
                if high == _LONG:
                    slots[slot, 3] = np.uint64(used << 32 | (used + end - start))
                    for at in range(start, end):
                        letters[used] = text[at]
                        used += 1
            numbers[size] = np.int64(slots[slot, 2])
            size += 1
        ends[row + 1] = size
    return Words(slots, letters[:used].copy()), numbers, ends, known


@compiled
def link_words(numbers: Int32s, offsets: Int64s, words: Int) -> tuple[Int64s, Int64s, Int]:
    """The edges of the trie of rows of words, the node where each row ends, and the last node."""
    slots, ends, last = np.zeros((4, 2), np.int64), np.empty(len(offsets) - 1, np.int64), words
    for row in range(len(ends)):
        node = np.int64(numbers[offsets[row]])
        for at in range(offsets[row] + 1, offsets[row + 1]):
            if not _room_for_one(len(slots), last - words):
                slots = _more_edges(slots)
            key = node << 32 | np.int64(numbers[at])
            slot = _edge_slot(slots, key)
            if slots[slot, 1] == NONE:
                last += 1
                slots[slot, 0], slots[slot, 1] = key, last
            node = slots[slot, 1]
        ends[row] = node
    return slots, ends, last


@inlined
def _pair_word(pairs: UInt64s, value: np.uint64) -> np.uint64:
    return value >> _WORD & np.uint64(len(pairs) - 1)


@inlined
def _pair_bit(value: np.uint64) -> np.uint64:
    return value >> _HALF & _BITS


@compiled
def filter_pairs(edges: Int64s, words: Int) -> UInt64s:
    """The filter of the edges from nodes of one word: eight bits an edge or more."""
    size, count = 1, 0
    for slot in range(len(edges)):
        count += edges[slot, 1] != NONE and edges[slot, 0] >> 32 <= words
    while size * 8 < count:
        size *= 2
    pairs = np.zeros(size, np.uint64)
    for slot in range(len(edges)):
        if edges[slot, 1] != NONE and edges[slot, 0] >> 32 <= words:
            value = _mixed(np.uint64(edges[slot, 0]))
            pairs[_pair_word(pairs, value)] |= _ONE << _pair_bit(value)
    return pairs


def node_entries(ends: Int64s, ids: Int32s, edges: Int64s, last: int) -> tuple[Int64s, Int32s]:
    """What a node says of its queries and edges, and the ids of queries by node.

    The upper half is the id of the node's query, or where its ids begin if it has more than one;
    then come how many, and in the lowest bit whether edges leave it.
    """
    counts = np.bincount(ends, minlength=last + 1)
    begins, by_node = np.cumsum(counts) - counts, ids[np.argsort(ends, kind="stable")]
    upper = begins.copy()
    upper[counts == 1] = by_node[begins[counts == 1]]
    nodes = upper << 32 | counts << 1
    nodes[edges[edges[:, 1] != NONE, 0] >> 32] |= 1
    return nodes, by_node


@compiled
def _look_up_words(text: Bytes, block: Block, count: Int, folded: Bytes, words: Words) -> Int:
    """Write the words' numbers. The answer says nothing; it keeps the fetching."""
    bounds, keys, numbers, _, _, _ = block
    slots, letters = words
    fetched = _FREE
    for n in range(count):
        fetched ^= slots[_first_slot(slots, keys[n, 0], keys[n, 1]), 0]
    for n in range(count):
        start, end, low, high = bounds[n, 0], bounds[n, 1], keys[n, 0], keys[n, 1]
        slot = _word_slot(text, start, end, low, high, folded, slots, letters)
        numbers[n] = np.int64(slots[slot, 2])
    return np.int64(fetched)


@compiled
def _look_up_pairs(
    block: Block, count: Int, edges: Int64s, pairs: UInt64s, nodes: Int64s
) -> Int:
    """Write the words' entries and seconds. The answer says nothing; it keeps the fetching."""
    _, _, numbers, entries, seconds, chosen = block
    some, fetched = 0, 0
    numbers[count] = NONE
    for n in range(count):
        value = _mixed(np.uint64(numbers[n] << 32 | numbers[n + 1]))
        seconds[n], chosen[some] = NONE, n
        some += np.int64(pairs[_pair_word(pairs, value)] >> _pair_bit(value) & _ONE)
    for n in range(count):
        entries[n] = nodes[np.uint64(numbers[n])]
    for n in range(some):
        value = _mixed(np.uint64(numbers[chosen[n]] << 32 | numbers[chosen[n] + 1]))
        fetched ^= edges[value & np.uint64(len(edges) - 1), 0]
    for n in range(some):
        key = numbers[chosen[n]] << 32 | numbers[chosen[n] + 1]
        seconds[chosen[n]] = edges[_edge_slot(edges, key), 1]
    return fetched


@compiled
def _sort_distinct(ids: Int32s, begin: Int, end: Int) -> Int:
    """Sort a part of ``ids`` and drop what repeats; answer where it now ends."""
    top = 1
    while 2 * top < end - begin:
        top *= 2
    run = top
    while run:
        step, until, odd = run, top, 0
        while True:
            for at in range(begin, end - step):
                if (at - begin) & run == odd:
                    one, other = ids[at], ids[at + step]
                    ids[at], ids[at + step] = min(one, other), max(one, other)
            if until == run:
                break
            step, until, odd = until - run, until // 2, run
        run //= 2
    kept = begin
    for n in range(begin, end):
        ids[kept] = ids[n]
        kept += n + 1 == end or ids[n] != ids[n + 1]
    return kept


@inlined
def _add(ids: Int32s, size: Int, query_ids: Int32s, entry: Int) -> Int:
    """Add the queries of a node to the first ``size`` of ``ids``, those alone that fit."""
    count, first = (entry & 0xFFFFFFFF) >> 1, entry >> 32
    if count <= 1:
        if size < len(ids):
            ids[size] = first
        return size + count
    if size + count <= len(ids):
        for at in range(count):
            ids[size + at] = query_ids[first + at]
    return size + count


@compiled
def _sort_many(ids: Int32s, begin: Int, end: Int) -> Int:
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
def _walk_row(
    start: Int,
    end: Int,
    numbers: Int64s,
    entries: Int64s,
    seconds: Int64s,
    edges: Int64s,
    nodes: Int64s,
    query_ids: Int32s,
    ids: Int32s,
    size: Int,
) -> Int:
    """Add the queries of a row to the first ``size`` of ``ids``; answer how many those are then.

    Those that do not fit are counted alone.
    """
    for n in range(start, end):
        size = _add(ids, size, query_ids, entries[n])
        node, after = seconds[n], n + 2
        while node != NONE:
            entry, key = nodes[node], node << 32 | numbers[after]
            size = _add(ids, size, query_ids, entry)
            node = edges[_edge_slot(edges, key), 1] if entry & 1 else NONE
            after += 1
    return size


@compiled
def _walk_rows(
    block: Block, trie: Trie, first: Int, last: Int, ends: Int64s, ids: Int32s
) -> Int32s:
    """Add the queries of some rows to ``ids``, and to ``ends`` where they end there."""
    bounds, _, numbers, entries, seconds, scratch = block
    _, edges, _, nodes, query_ids = trie
    end = 0
    for row in range(first, last):
        start, size = end, ends[row]
        while bounds[end, 1] != -1:
            end += 1
        full = _walk_row(
            start, end, numbers, entries, seconds, edges, nodes, query_ids, ids, size
        )
        if full > len(ids):
            longer = np.empty(2 * full, np.int32)
            for n in range(size):  # a slice would double the time to compile
                longer[n] = ids[n]
            ids = longer
            full = _walk_row(
                start, end, numbers, entries, seconds, edges, nodes, query_ids, ids, size
            )
        ends[row + 1] = _sort_distinct(ids, size, full)
        end += 1
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
    words, edges, pairs, nodes, _ = trie
    while row < rows:
        last = _block_end(offsets, row)
        count = _cut_rows(text, offsets, row, last, alphabet, block)
        fetched ^= _look_up_words(text, block, count, alphabet.letters, words)
        fetched ^= _look_up_pairs(block, count, edges, pairs, nodes)
        ids = _walk_rows(block, trie, row, last, ends, ids)
        row = last
    return ends, ids[: ends[rows]].copy(), fetched
