"""How far a figure may be trusted: 95% intervals, by the bootstrap and in closed form.

The bootstrap draws as many pictures as there are, with replacement, and asks every statistic the
same draws, so that a difference of two of them is paired. A draw is a row of counts, how often
each picture came, and a statistic is computed from many such rows at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TypedDict

import numpy as np
from numpy.typing import ArrayLike

from workers.base.arrays import Bools, Float64s

#: Counts [B, N] -> values [B, Q]. Where a draw has no value (a class that it holds no picture of)
#: it is NaN.
Statistic = Callable[[Float64s], Float64s]

LEVEL = 0.95
#: Counts in memory at a time, of as many draws as that allows: 8 MiB.
CHUNK_ELEMENTS = 2**20
#: A share of fewer right or wrong ones than this has Wilson's interval. The bootstrap's is too
#: narrow there, and of no width at all where all are right.
FEW = 10
_Z = 1.959963984540054  # of the normal distribution, 95% are within


class Estimate(TypedDict):
    """A figure as it stands in a result: an end that is not a finite number is None."""

    value: float | None
    interval: list[float | None]


def bootstrap(
    pictures: int, statistics: Mapping[str, Statistic], draws: int, seed: int
) -> dict[str, Float64s]:
    """Every statistic's values over the same draws: [draws, Q] each.

    The draws are a function of the number of pictures and the seed.
    """
    generator = np.random.default_rng([seed, pictures])
    at_once = max(1, CHUNK_ELEMENTS // pictures)
    values: dict[str, list[Float64s]] = {name: [] for name in statistics}
    for start in range(0, draws, at_once):
        counts = draw_counts(generator, min(at_once, draws - start), pictures)
        for name, statistic in statistics.items():
            values[name].append(statistic(counts))
    return {name: np.concatenate(chunks) for name, chunks in values.items()}


def draw_counts(generator: np.random.Generator, draws: int, things: int) -> Float64s:
    """How often each thing comes when as many as there are are drawn: [draws, things]."""
    drawn = generator.integers(0, things, size=(draws, things))
    drawn += np.arange(draws)[:, None] * things
    counts = np.bincount(drawn.ravel(), minlength=draws * things)
    return counts.reshape(draws, things).astype(np.float64)


def once(statistic: Statistic, pictures: int) -> Float64s:
    """The statistic of the pictures as they are: [Q]."""
    return statistic(np.ones((1, pictures)))[0]


def share_of(right: Bools) -> Statistic:
    """The share of pictures that are right: [N] -> a statistic of one column.

    Sums of counts are whole numbers, so they are exact in whatever order they are added.
    """
    column = right.astype(np.float64)
    return lambda counts: (counts @ column / len(column))[:, None]


def mean_of_known(values: Float64s) -> Float64s:
    """The mean of a row's values that are not NaN: [..., Q] -> [...]; NaN where none is."""
    known = ~np.isnan(values)
    count = known.sum(axis=-1)
    total = np.where(known, values, 0.0).sum(axis=-1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def percentiles(values: ArrayLike) -> tuple[float, float]:
    """The interval that holds the middle 95% of the draws' values; draws without one are left out.

    Interpolates as `scipy.stats.bootstrap(method="percentile")`; infinite values may be among
    them, and then an end may be infinite.
    """
    known = np.asarray(values, dtype=np.float64)
    known = known[~np.isnan(known)]
    if not len(known):
        return math.nan, math.nan
    ends = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    if np.isfinite(known).all():
        low, high = np.quantile(known, ends)
    else:  # between two values that are not finite there is nothing to interpolate
        low, high = np.quantile(known, ends, method="inverted_cdf")
    return float(low), float(high)


def wilson(right: float, pictures: int) -> tuple[float, float]:
    """Wilson's score interval of a share (Wilson 1927)."""
    share, square = right / pictures, _Z * _Z / pictures
    middle = share + square / 2
    half = _Z * math.sqrt(share * (1 - share) / pictures + square / (4 * pictures))
    low, high = (middle - half) / (1 + square), (middle + half) / (1 + square)
    # Exactly 0 and 1 at the ends, where rounding may leave 1e-17.
    return (low if right else 0.0), (high if right < pictures else 1.0)


def paired_difference(better: float, worse: float, pictures: int) -> tuple[float, float]:
    """The interval of a difference of two shares of the same pictures (Bonett and Price 2012).

    Args:
        better, worse: how many pictures only the first, and only the second, got right.
    """
    up, down = (better + 1) / (pictures + 2), (worse + 1) / (pictures + 2)
    half = _Z * math.sqrt((up + down - (up - down) ** 2) / (pictures + 2))
    return max(-1.0, up - down - half), min(1.0, up - down + half)


def independent_difference(one: Bools, other: Bools) -> tuple[float, float]:
    """The interval of a difference of two shares of different pictures (Newcombe 1998, method 10).

    Args:
        one, other: which pictures are right, [N] and [M].
    """
    shares = float(one.mean()), float(other.mean())
    (low, high), (other_low, other_high) = (
        wilson(int(some.sum()), len(some)) for some in (one, other)
    )
    below = math.hypot(shares[0] - low, other_high - shares[1])
    above = math.hypot(high - shares[0], shares[1] - other_low)
    return shares[0] - shares[1] - below, shares[0] - shares[1] + above


def share_interval(right: Bools, values: ArrayLike) -> tuple[float, float]:
    """The bootstrap's interval of a share, or Wilson's where few are right or wrong."""
    return wilson(int(right.sum()), len(right)) if is_scarce(right) else percentiles(values)


def is_scarce(right: Bools) -> bool:
    """Whether fewer than FEW are right, or wrong."""
    hits = int(right.sum())
    return min(hits, len(right) - hits) < FEW


def difference_interval(
    one: Bools | Float64s, other: Bools | Float64s, values: ArrayLike
) -> tuple[float, float]:
    """The same of a paired difference of shares, one less other.

    In closed form where the two differ in few pictures. Of means over several models that is wider
    than need be: a third of a picture's difference varies less than a third of the pictures do.

    Args:
        one, other: which pictures are right, or the share of models that are right on each: [N].
        values: of the difference, by the bootstrap.
    """
    gains = one.astype(np.float64) - other
    if np.count_nonzero(gains) < FEW:
        better, worse = float(gains[gains > 0].sum()), float(-gains[gains < 0].sum())
        return paired_difference(better, worse, len(one))
    return percentiles(values)


def estimate(value: float, interval: tuple[float, float]) -> Estimate:
    """For JSON, which knows no NaN and no infinity."""
    low, high = (_finite(end) for end in interval)
    return {"value": _finite(value), "interval": [low, high]}


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
