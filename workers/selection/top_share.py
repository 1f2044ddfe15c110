"""Where the largest of many numbers end, exactly, in flat memory.

Radix selection: a key is digits of 16 bits. One pass over all keys counts their first digits, which
names the first digit of the key sought; each further pass counts the next digit of the keys that
begin as it does. 65,536 counts are all that is kept, and adding them up is indifferent to order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from workers.base.arrays import Float32s, Float64s, Int64s, UInt64s

Keys = UInt64s

_DIGIT_BITS = 16
_DIGITS = 1 << _DIGIT_BITS
_LOWER = np.uint64(_DIGITS - 1)  # a mask

#: Bits of a float's key, and of a draw's, whose 53 take four digits.
FLOAT_BITS, DRAW_BITS = 32, 64
_SIGN = np.uint32(1 << 31)
_DRAWS = 1 << 53


class Border(NamedTuple):
    """The least of the largest keys."""

    key: np.uint64
    inside: int  # of the keys that are equal to it, how many belong to the largest
    equal: int  # keys that are equal to it


def border_of_largest(
    batches: Callable[[], Iterable[Keys]], bits: int, wanted: Callable[[int], int]
) -> Border | None:
    """Where the largest keys end; None if none is wanted.

    Args:
        batches: gives all keys, each time it is asked: once for 16 bits.
        bits: of a key.
        wanted: how many are, of so many.
    """
    border, rank = 0, -1
    above, equal = 0, 0
    for shift in range(bits - _DIGIT_BITS, -1, -_DIGIT_BITS):
        counts = np.zeros(_DIGITS, np.int64)
        for keys in batches():
            if rank >= 0:  # all digits before this one are known
                keys = keys[keys >> np.uint64(shift + _DIGIT_BITS) == border]
            digits = (keys >> np.uint64(shift) & _LOWER).astype(np.int64)
            counts += np.bincount(digits, minlength=_DIGITS)
        if rank < 0 and not (rank := wanted(int(counts.sum()))):
            return None
        digit, above = _digit_at(counts, rank)
        border, rank, equal = border << _DIGIT_BITS | digit, rank - above, int(counts[digit])
    return Border(np.uint64(border), rank, equal)


def _digit_at(counts: Int64s, rank: int) -> tuple[int, int]:
    """The digit of the ``rank``-th largest, from 1, and how many have a larger digit."""
    from_top = np.cumsum(counts[::-1])
    place = int(np.searchsorted(from_top, rank))
    return _DIGITS - 1 - place, int(from_top[place] - counts[::-1][place])


def float_keys(values: Float32s) -> Keys:
    """Numbers in the order of the floats. NaN has 0, less than any; -0.0 and 0.0 are equal."""
    bits = (values + np.float32(0)).view(np.uint32)
    keys = np.where(bits & _SIGN, ~bits, bits | _SIGN)
    keys[np.isnan(values)] = 0
    return keys.astype(np.uint64)


def draw_keys(draws: Float64s) -> Keys:
    """Numbers in the opposite order of draws in [0, 1): the smallest draw has the largest."""
    return np.uint64(_DRAWS - 1) - (draws * _DRAWS).astype(np.uint64)
