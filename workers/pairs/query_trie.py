"""A trie of queries over numbered words, in arrays, and the loops that build and walk it.

Text is UTF-8 in one buffer with the offsets of its rows, as Arrow holds it. A row is cut into words
by the rule of ``workers.pairs.match`` without making the spaced text. Words and edges stand in hash
tables: open addressing, linear probing, a power of two of slots. A slot holds what is looked up
itself: the key of an edge, and the letters of a word of up to 15 bytes as two integers; the letters
of longer words are compared one by one. So answers are exact, and most need one line of cache.

The tables are larger than a processor's near caches. So captions are worked on in blocks, and
before a loop that branches on what it reads, another one that does not reads the same places: the
processor then waits for many of them at a time, not for one after the other. Most neighbours in a
caption begin no query together; a filter of one bit a pair, small enough for a near cache, says so
of most of those.

Inside loops, functions get arrays and not tuples of them: Numba counts a reference, atomically,
each time it takes an array out of a tuple, which would be most of the work. Counts that functions
get begin as ``_ZERO``: for a literal 0 Numba would compile the functions once more.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from workers.base.arrays import Int32s, Int64s, UInt8s, UInt64s
from workers.base.compiled import compiled, inlined

Halves = tuple[np.uint64, np.uint64]
#: int to Python, int64 once compiled; NumPy's types make of the two what no annotation fits.
Int = Any

#: What a byte means to the rule where it is no letter of a word: ``Alphabet.codes``.
SPACE, MARK, LEAD = 256, 257, 258

#: The number of a word of no query, and the node of a run that begins none.
NONE = 0

_ZERO = np.int64(0)

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
_BYTE = np.uint64(8)
_HALF = np.uint64(32)
_TOP_BYTE = np.uint64(56)
_NIL = np.uint64(0)
_ONE = np.uint64(1)
_BITS = np.uint64(63)  # of the place in a word of the filter
_WORD = np.uint64(38)  # the bits of a hash that say which word that is begin here


class Alphabet(NamedTuple):
    """How the bytes of UTF-8 text are read."""

    codes: npt.NDArray[np.uint16]  # [256] the letter as it is compared, or SPACE, MARK or LEAD
    letters: UInt8s  # [256] the letter as it is compared, whatever else it means
    spaces: Int64s  # white space of more than one byte: its bytes as one big-endian number


class Words(NamedTuple):
    """The distinct words of the queries; a word is known by its number, from 1 on."""

    slots: UInt64s  # [slots, 4] number or 0, the key's halves, a long word's begin << 32 | end
    letters: UInt8s  # of the long words


class Trie(NamedTuple):
    """Nodes are runs of words that begin a query; those of one word have its number."""

    words: Words
    edges: UInt64s  # [slots, 2] the node that it leads to or 0, node << 32 | word
    pairs: UInt64s  # the filter: a bit set for every edge from a node of one word
    nodes: Int64s  # [nodes + 1] see ``node_entries``
    query_ids: Int32s  # by node


class Block(NamedTuple):
    """Scratch space for the words of some rows; one that is none, all 0, stands after each row."""

    words: UInt64s  # [room, 4] the key's halves, the first byte, the one after the last
    numbers: Int64s  # [room] of the word
    entries: Int64s  # [room] of the word's node
    seconds: Int64s  # [room] the node of the word and the next one
    chosen: Int64s  # [room] the words that may begin such a node


@inlined
def _space_length(text: UInt8s, at: Int, end: Int, spaces: Int64s) -> Int:
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
    words: UInt64s, size: Int, text: UInt8s, start: Int, end: Int, folded: UInt8s, key: Halves
) -> Int:
    """Add a word, whose last letters are ``key``, to the first ``size``."""
    low, high = key
    if end - start > _SHORT:
        low, high = _BASIS, _LONG
        for at in range(start, end):
            low = (low ^ np.uint64(folded[text[at]])) * _PRIME
    words[size, 0], words[size, 1] = low, high
    words[size, 2], words[size, 3] = np.uint64(start), np.uint64(end)
    return size + 1


@compiled
def _cut(text: UInt8s, start: Int, end: Int, alphabet: Alphabet, words: UInt64s, size: Int) -> Int:
    """Add the words of a row to the first ``size``; answer how many those are then.

    Marks are words of their own, and so is the nothing between two separators.
    """
    codes, folded, spaces = alphabet
    begin, at, low, high = start, start, _ONE, _NIL
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
        size = _add_word(words, size, text, begin, at, folded, (low, high))
        if code == MARK:
            key = _ONE << _BYTE | np.uint64(text[at]), _NIL
            size = _add_word(words, size, text, at, at + 1, folded, key)
        at += length
        begin, low, high = at, _ONE, _NIL
    size = _add_word(words, size, text, begin, end, folded, (low, high))
    words[size, 0], words[size, 1], words[size, 2], words[size, 3] = _NIL, _NIL, _NIL, _NIL
    return size + 1


@compiled
def _block_end(offsets: Int64s, row: Int) -> Int:
    """The row after the last one of the block that begins with ``row``."""
    end = row + 1
    last = min(len(offsets) - 1, row + _BLOCK_ROWS)
    while end < last and offsets[end + 1] - offsets[row] <= _BLOCK_BYTES:
        end += 1
    return end


@compiled
def _new_block(text: UInt8s, offsets: Int64s, alphabet: Alphabet) -> Block:
    """A block with room for the words of every block of rows."""
    room = 2 * (_BLOCK_BYTES + _BLOCK_ROWS)
    for row in range(len(offsets) - 1):
        if offsets[row + 1] - offsets[row] > _BLOCK_BYTES:
            needed = 2
            for at in range(offsets[row], offsets[row + 1]):
                needed += 2 * (alphabet.codes[text[at]] >= SPACE)
            room = max(room, needed + 1)
    integers = np.empty((4, room), np.int64)
    words = np.empty((room, 4), np.uint64)
    return Block(words, integers[0], integers[1], integers[2], integers[3])


@inlined
def _first_slot(slots: UInt64s, low: np.uint64, high: np.uint64) -> np.uint64:
    return _mixed(low ^ high * _PRIME) & np.uint64(len(slots) - 1)


@inlined
def _same(text: UInt8s, start: Int, end: Int, folded: UInt8s, letters: UInt8s, where: Int) -> bool:
    begin = where >> 32
    if (where & 0xFFFFFFFF) - begin != end - start:
        return False
    for n in range(end - start):  # noqa: SIM110
        if folded[text[start + n]] != letters[begin + n]:
            return False
    return True


@inlined
def _word_slot(
    text: UInt8s, words: UInt64s, n: Int, folded: UInt8s, slots: UInt64s, letters: UInt8s
) -> np.uint64:
    """The slot that holds the n-th of some words, or the free one where it would stand."""
    low, high, start, end = words[n, 0], words[n, 1], np.int64(words[n, 2]), np.int64(words[n, 3])
    slot = _first_slot(slots, low, high)
    while slots[slot, 0] != _NIL:
        if (slots[slot, 1] == low and slots[slot, 2] == high) and (
            high != _LONG or _same(text, start, end, folded, letters, np.int64(slots[slot, 3]))
        ):
            break
        slot = (slot + _ONE) & np.uint64(len(slots) - 1)
    return slot


@inlined
def _edge_key(node: Int, word: Int) -> np.uint64:
    return np.uint64(node << 32 | word)


@inlined
def _edge_slot(slots: UInt64s, key: np.uint64) -> np.uint64:
    """The slot that holds an edge, or the free one where it would stand."""
    slot = _first_slot(slots, key, _NIL)
    while slots[slot, 0] != _NIL and slots[slot, 1] != key:
        slot = (slot + _ONE) & np.uint64(len(slots) - 1)
    return slot


@compiled
def _with_room(slots: UInt64s, entries: Int) -> UInt64s:
    """The table of so many words or edges, or one twice as long if one more would be too many."""
    if 3 * (entries + 1) <= 2 * len(slots):
        return slots
    longer = np.zeros((2 * len(slots), slots.shape[1]), np.uint64)
    for old in range(len(slots)):
        if slots[old, 0] != _NIL:
            high = slots[old, 2] if slots.shape[1] > 2 else _NIL
            slot = _first_slot(longer, slots[old, 1], high)
            while longer[slot, 0] != _NIL:
                slot = (slot + _ONE) & np.uint64(len(longer) - 1)
            for n in range(slots.shape[1]):
                longer[slot, n] = slots[old, n]
    return longer


@compiled
def number_words(
    text: UInt8s, offsets: Int64s, alphabet: Alphabet, room: Int
) -> tuple[Words, Int32s, Int64s, Int]:
    """Number the distinct words of rows that hold at most ``room``.

    Also answers the rows as numbers, where each row ends among these, [rows + 1], and how many
    words are distinct.
    """
    cut, folded = _new_block(text, offsets, alphabet).words, alphabet.letters
    slots, letters = np.zeros((4, 4), np.uint64), np.empty(len(text), np.uint8)
    numbers, ends = np.empty(room, np.int32), np.zeros(len(offsets), np.int64)
    known, size, used = _ZERO, 0, 0
    for row in range(len(offsets) - 1):
        for n in range(_cut(text, offsets[row], offsets[row + 1], alphabet, cut, _ZERO) - 1):
            slots = _with_room(slots, known)
            slot = _word_slot(text, cut, n, folded, slots, letters)
            if slots[slot, 0] == _NIL:
                known += 1
                slots[slot, 0] = np.uint64(known)
                slots[slot, 1], slots[slot, 2] = cut[n, 0], cut[n, 1]
                if cut[n, 1] == _LONG:
                    start, end = np.int64(cut[n, 2]), np.int64(cut[n, 3])
                    slots[slot, 3] = np.uint64(used << 32 | (used + end - start))
                    for at in range(start, end):
                        letters[used] = text[at]
                        used += 1
            numbers[size] = np.int64(slots[slot, 0])
            size += 1
        ends[row + 1] = size
    return Words(slots, letters[:used].copy()), numbers, ends, known


@compiled
def link_words(numbers: Int32s, offsets: Int64s, words: Int) -> tuple[UInt64s, Int64s, Int]:
    """The edges of the trie of rows of words, the node where each row ends, and the last node."""
    slots, ends, last = np.zeros((4, 2), np.uint64), np.empty(len(offsets) - 1, np.int64), words
    for row in range(len(ends)):
        node = np.int64(numbers[offsets[row]])
        for at in range(offsets[row] + 1, offsets[row + 1]):
            slots, key = _with_room(slots, last - words), _edge_key(node, np.int64(numbers[at]))
            slot = _edge_slot(slots, key)
            if slots[slot, 0] == _NIL:
                last += 1
                slots[slot, 0], slots[slot, 1] = np.uint64(last), key
            node = np.int64(slots[slot, 0])
        ends[row] = node
    return slots, ends, last


@inlined
def _pair_word(pairs: UInt64s, value: np.uint64) -> np.uint64:
    return value >> _WORD & np.uint64(len(pairs) - 1)


@inlined
def _pair_bit(value: np.uint64) -> np.uint64:
    return value >> _HALF & _BITS


@compiled
def filter_pairs(edges: UInt64s, words: Int) -> UInt64s:
    """The filter of the edges from nodes of one word: two bits a slot or more."""
    pairs = np.zeros(max(1, len(edges) // 32), np.uint64)
    for slot in range(len(edges)):
        if edges[slot, 0] != _NIL and np.int64(edges[slot, 1] >> _HALF) <= words:
            value = _mixed(edges[slot, 1])
            pairs[_pair_word(pairs, value)] |= _ONE << _pair_bit(value)
    return pairs


def node_entries(ends: Int64s, ids: Int32s, edges: UInt64s, last: int) -> tuple[Int64s, Int32s]:
    """What each node says of its queries and edges, and the ids of the queries by node.

    The upper half is the id of the node's query, or where its ids begin if it has more than one;
    then come how many, and in the lowest bit whether edges leave it.
    """
    counts = np.bincount(ends, minlength=last + 1)
    begins, by_node = np.cumsum(counts) - counts, ids[np.argsort(ends, kind="stable")]
    upper = begins.copy()
    upper[counts == 1] = by_node[begins[counts == 1]]
    nodes = upper << 32 | counts << 1
    nodes[edges[edges[:, 0] != 0, 1] >> _HALF] |= 1
    return nodes, by_node


@compiled
def _look_up_words(
    text: UInt8s, block: Block, count: Int, folded: UInt8s, table: Words
) -> np.uint64:
    """Write the words' numbers. The answer says nothing; it keeps the fetching."""
    words, numbers, _, _, _ = block
    slots, letters = table
    fetched = _NIL
    for n in range(count):
        fetched ^= slots[_first_slot(slots, words[n, 0], words[n, 1]), 0]
    for n in range(count):
        numbers[n] = np.int64(slots[_word_slot(text, words, n, folded, slots, letters), 0])
    return fetched


@compiled
def _look_up_pairs(
    block: Block, count: Int, edges: UInt64s, pairs: UInt64s, nodes: Int64s
) -> np.uint64:
    """Write the words' entries and seconds. The answer says nothing; it keeps the fetching."""
    _, numbers, entries, seconds, chosen = block
    some, fetched = _ZERO, _NIL
    for n in range(count - 1):
        value = _mixed(_edge_key(numbers[n], numbers[n + 1]))
        seconds[n], chosen[some] = NONE, n
        some += np.int64(pairs[_pair_word(pairs, value)] >> _pair_bit(value) & _ONE)
    for n in range(count):
        entries[n] = nodes[np.uint64(numbers[n])]
    for n in range(some):
        key = _edge_key(numbers[chosen[n]], numbers[chosen[n] + 1])
        fetched ^= edges[_first_slot(edges, key, _NIL), 0]
    for n in range(some):
        key = _edge_key(numbers[chosen[n]], numbers[chosen[n] + 1])
        seconds[chosen[n]] = np.int64(edges[_edge_slot(edges, key), 0])
    return fetched


@compiled
def _sort_distinct(ids: Int32s, begin: Int, end: Int) -> Int:
    """Sort a part of ``ids`` and drop what repeats; answer where it now ends.

    Batcher's merge exchange (Knuth, algorithm 5.2.2 M): what it compares does not depend on the
    ids, so the processor has little to guess.
    """
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


@compiled
def _longer(ids: Int32s, size: Int, room: Int) -> Int32s:
    longer = np.empty(room, np.int32)
    for n in range(size):  # a slice would double the time to compile
        longer[n] = ids[n]
    return longer


@inlined
def _add(ids: Int32s, size: Int, query_ids: Int32s, entry: Int) -> Int:
    """Count the queries of a node to the first ``size`` of ``ids``; add them if they fit."""
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
def _walk_rows(
    block: Block, trie: Trie, first: Int, last: Int, ends: Int64s, ids: Int32s
) -> Int32s:
    """Add the queries of some rows to ``ids``, and to ``ends`` where they end there."""
    words, numbers, entries, seconds, _ = block
    _, edges, _, nodes, query_ids = trie
    row, start = first, 0
    while row < last:
        size, at = ends[row], start
        while words[at, 0] | words[at, 1] != _NIL:
            size = _add(ids, size, query_ids, entries[at])
            node, after = seconds[at], at + 2
            while node != NONE:
                entry, key = nodes[node], _edge_key(node, numbers[after])
                size = _add(ids, size, query_ids, entry)
                node = np.int64(edges[_edge_slot(edges, key), 0]) if entry & 1 else NONE
                after += 1
            at += 1
        if size > len(ids):  # that did not fit: once more
            ids = _longer(ids, ends[row], 2 * size)
            continue
        ends[row + 1] = _sort_distinct(ids, ends[row], size)
        row, start = row + 1, at + 1
    return ids


@compiled
def find_queries(
    text: UInt8s, offsets: Int64s, alphabet: Alphabet, trie: Trie
) -> tuple[Int64s, Int32s, np.uint64]:
    """For each row the ids of the queries that occur in it: offsets [rows + 1] and ids.

    The last answer says nothing; it keeps the fetching.
    """
    block, rows, row, fetched = _new_block(text, offsets, alphabet), len(offsets) - 1, _ZERO, _NIL
    ends, ids = np.zeros(rows + 1, np.int64), np.empty(8 * rows, np.int32)
    words, edges, pairs, nodes, _ = trie
    while row < rows:
        last, count = _block_end(offsets, row), _ZERO
        for one in range(row, last):
            count = _cut(text, offsets[one], offsets[one + 1], alphabet, block.words, count)
        fetched ^= _look_up_words(text, block, count, alphabet.letters, words)
        fetched ^= _look_up_pairs(block, count, edges, pairs, nodes)
        ids = _walk_rows(block, trie, row, last, ends, ids)
        row = last
    return ends, ids[: ends[rows]].copy(), fetched
