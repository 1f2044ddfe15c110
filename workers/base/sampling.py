"""Sampling without a random generator: every draw is a hash of the seed and the row's id.

The same row gets the same draw on one machine or a hundred, in any order, after any crash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from workers.base.arrays import Float64s, UInt64s

if TYPE_CHECKING:
    import pyarrow as pa

#: A draw has the 53 bits of a float's significand.
_SPARE_BITS = 11
_RANGE = 1 << 53

Keys: TypeAlias = "Sequence[str] | pa.StringArray | pa.ChunkedArray"


def draw(seed: int, *key: object) -> float:
    """A uniform number in [0, 1) that is a function of ``seed`` and ``key`` alone."""
    text = "\x1f".join(map(str, (seed, *key)))
    return float(_uniform(_numbers(_digest(text)))[0])


def draws(seed: int, keys: Keys) -> Float64s:
    """``draw(seed, key)`` of every key, many times as fast."""
    return _uniform(hashes(seed, keys))


def hashes(seed: int, keys: Keys) -> UInt64s:
    """All 64 bits of every key's hash, of which ``draws`` are the first 53."""
    import pyarrow as pa

    from workers.base.hashes import hash_rows

    column = pa.array(keys, pa.string()) if isinstance(keys, Sequence) else keys
    return hash_rows(column, f"{seed}\x1f".encode())


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


def _numbers(digests: bytes) -> UInt64s:
    return np.frombuffer(digests, ">u8").astype(np.uint64)


def _uniform(numbers: UInt64s) -> Float64s:
    """Hashes as numbers in [0, 1)."""
    return (numbers >> np.uint64(_SPARE_BITS)).astype(np.float64) / _RANGE
