"""BLAKE2b (RFC 7693) of many rows, with digests of 8 bytes: in machine code, as ``hashlib`` has it.

``workers.base.hashes`` says when.
"""

from __future__ import annotations

import numpy as np

from workers.base.arrays import Int64s, UInt8s, UInt64s
from workers.base.compiled import compiled, inlined
from workers.base.hashes import HASH_BYTES

_BLOCK = 128

_IV = np.array(
    [
        0x6A09E667F3BCC908,
        0xBB67AE8584CAA73B,
        0x3C6EF372FE94F82B,
        0xA54FF53A5F1D36F1,
        0x510E527FADE682D1,
        0x9B05688C2B3E6C1F,
        0x1F83D9ABFB41BD6B,
        0x5BE0CD19137E2179,
    ],
    np.uint64,
)
#: The first word of the state: one lane, without a key.
_FIRST = np.uint64(0x01010000 ^ HASH_BYTES) ^ _IV[0]

_SIGMA = np.array(
    [
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
        [14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3],
        [11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4],
        [7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8],
        [9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13],
        [2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9],
        [12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11],
        [13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10],
        [6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5],
        [10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0],
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
        [14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3],
    ],
    np.int64,
)


def digests_of(text: UInt8s, bounds: Int64s, prefix: bytes) -> UInt64s:
    """The digest of each row, text[bounds[i] : bounds[i + 1]], with ``prefix`` before it, as the
    number that it is in big endian.
    """
    digests = np.empty(len(bounds) - 1, np.uint64)
    _hash(text, bounds, np.frombuffer(prefix, np.uint8), digests)
    return digests.byteswap()


@compiled
def _hash(text: UInt8s, bounds: Int64s, prefix: UInt8s, digests: UInt64s) -> None:
    state = np.empty(8, np.uint64)
    block = np.empty(_BLOCK, np.uint8)
    words = block.view(np.uint64)
    before = len(prefix)
    for row in range(len(digests)):
        begin = bounds[row] - before
        length = bounds[row + 1] - begin
        state[:] = _IV
        state[0] = _FIRST
        done = 0
        while True:
            count = min(_BLOCK, length - done)
            of_prefix = min(count, max(0, before - done))
            for n in range(of_prefix):
                block[n] = prefix[done + n]
            for n in range(of_prefix, count):
                block[n] = text[begin + done + n]
            for n in range(count, _BLOCK):
                block[n] = 0
            done += count
            _compress(state, words, np.uint64(done), done == length)
            if done == length:
                break
        digests[row] = state[0]


@inlined
def _compress(state: UInt64s, words: UInt64s, done: np.uint64, is_last: bool) -> None:
    # Sixteen numbers and no array: these stay in the processor's registers.
    v0, v1, v2, v3 = state[0], state[1], state[2], state[3]
    v4, v5, v6, v7 = state[4], state[5], state[6], state[7]
    v8, v9, v10, v11 = _IV[0], _IV[1], _IV[2], _IV[3]
    v12, v13, v14, v15 = _IV[4] ^ done, _IV[5], _IV[6], _IV[7]
    if is_last:
        v14 = ~v14
    for turn in range(12):
        s = _SIGMA[turn]
        v0, v4, v8, v12 = _mix(v0, v4, v8, v12, words[s[0]], words[s[1]])
        v1, v5, v9, v13 = _mix(v1, v5, v9, v13, words[s[2]], words[s[3]])
        v2, v6, v10, v14 = _mix(v2, v6, v10, v14, words[s[4]], words[s[5]])
        v3, v7, v11, v15 = _mix(v3, v7, v11, v15, words[s[6]], words[s[7]])
        v0, v5, v10, v15 = _mix(v0, v5, v10, v15, words[s[8]], words[s[9]])
        v1, v6, v11, v12 = _mix(v1, v6, v11, v12, words[s[10]], words[s[11]])
        v2, v7, v8, v13 = _mix(v2, v7, v8, v13, words[s[12]], words[s[13]])
        v3, v4, v9, v14 = _mix(v3, v4, v9, v14, words[s[14]], words[s[15]])
    state[0] ^= v0 ^ v8
    state[1] ^= v1 ^ v9
    state[2] ^= v2 ^ v10
    state[3] ^= v3 ^ v11
    state[4] ^= v4 ^ v12
    state[5] ^= v5 ^ v13
    state[6] ^= v6 ^ v14
    state[7] ^= v7 ^ v15


@inlined
def _mix(
    a: np.uint64, b: np.uint64, c: np.uint64, d: np.uint64, x: np.uint64, y: np.uint64
) -> tuple[np.uint64, np.uint64, np.uint64, np.uint64]:
    a = a + b + x
    d = _rotated(d ^ a, np.uint64(32))
    c = c + d
    b = _rotated(b ^ c, np.uint64(24))
    a = a + b + y
    d = _rotated(d ^ a, np.uint64(16))
    c = c + d
    b = _rotated(b ^ c, np.uint64(63))
    return a, b, c, d


@inlined
def _rotated(word: np.uint64, by: np.uint64) -> np.uint64:
    return (word >> by) | (word << (np.uint64(64) - by))
