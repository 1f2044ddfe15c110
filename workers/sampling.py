"""Sampling without a random generator: every draw is a hash of the seed and the row's id.

The same row gets the same draw on one machine or a hundred, in any order, after any crash.
"""

from __future__ import annotations

import hashlib


def draw(seed: int, *key: object) -> float:
    """A uniform number in [0, 1) that is a function of ``seed`` and ``key`` alone."""
    text = "\x1f".join(map(str, (seed, *key)))
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / (1 << 53)
