"""The value that the largest share of many floats begins at, exactly, in flat memory.

Radix selection: a float's bits, as a whole number that has the floats' order, are two digits of
16 bits. One pass counts the upper digits, which names the digit of the value sought; a second
counts the lower digits of the floats with that upper one. 65,536 counts are all that is kept,
and adding them up is indifferent to order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Keys = npt.NDArray[np.uint32]
Counts = npt.NDArray[np.int64]

_DIGITS = 1 << 16
_UPPER, _LOWER = np.uint32(16), np.uint32(_DIGITS - 1)  # a shift, a mask
_SIGN = np.uint32(1 << 31)
#: The key of NaN, which is below that of every number.
_NAN = np.uint32(0)


def least_of_top(batches: Callable[[], Iterable[Floats]], share: float) -> np.float32:
    """The least value that belongs to the ``share`` largest values.

    Args:
        batches: gives all values, each time it is asked: twice.
        share: of all values, from 0 to 1; their number is rounded, half to even.

    Returns:
        The value of the last one. Infinity where none belongs. NaN counts as a value and is
        less than any other; minus infinity where NaN would be the last one.
    """
    upper = _counts(_keys(batch) >> _UPPER for batch in batches())
    wanted = round(share * int(upper.sum()))
    if not wanted:
        return np.float32(np.inf)
    high, above = _digit_at(upper, wanted)
    in_bucket = (keys[keys >> _UPPER == high] for keys in map(_keys, batches()))
    low, _ = _digit_at(_counts(keys & _LOWER for keys in in_bucket), wanted - above)
    return _value(np.uint32(high << 16 | low))


def _keys(values: Floats) -> Keys:
    """Numbers in the order of the floats; -0.0 and 0.0 are equal."""
    bits = (values + np.float32(0)).view(np.uint32)
    keys = np.where(bits & _SIGN, ~bits, bits | _SIGN)
    keys[np.isnan(values)] = _NAN
    return keys


def _value(key: np.uint32) -> np.float32:
    """The float of a key."""
    if key == _NAN:
        return np.float32(-np.inf)
    bits = key ^ _SIGN if key & _SIGN else ~key
    return np.uint32(bits).view(np.float32)


def _counts(digits: Iterable[Keys]) -> Counts:
    counts = np.zeros(_DIGITS, np.int64)
    for some in digits:
        counts += np.bincount(some, minlength=_DIGITS)
    return counts


def _digit_at(counts: Counts, rank: int) -> tuple[int, int]:
    """The digit of the ``rank``-th largest, from 1, and how many have a larger digit."""
    from_top = np.cumsum(counts[::-1])
    place = int(np.searchsorted(from_top, rank))
    return _DIGITS - 1 - place, int(from_top[place] - counts[::-1][place])
