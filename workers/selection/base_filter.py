"""What a filter of the selection is. It looks at all pairs that are left, then decides on each.

What it must know of all pairs together (a quantile, duplicates) it learns in ``fit``; most need
nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Keep = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]

#: Give the pairs that are left, shard by shard, with pair_id and the columns that are named.
Survivors = Callable[[Sequence[str]], Iterator[pa.Table]]


class Filter(ABC):
    """Decides which pairs stay. ``reason`` counts those that do not."""

    reason: ClassVar[str]
    #: What it reads of a pair beside pair_id.
    columns: tuple[str, ...]

    def __init__(self, step: Any, seed: int) -> None:
        self.step = step
        self.seed = seed  # of the draws that decide between equals

    def fit(self, survivors: Survivors) -> None:  # noqa: B027 - most need to know one pair alone
        """Learn from all pairs that are left."""

    @abstractmethod
    def keeps(self, rows: pa.Table) -> Keep:
        """Which rows stay."""


def floats(rows: pa.Table, column: str) -> Floats:
    """A column of float32."""
    values: Floats = rows[column].to_numpy()
    return values


def among(pair_ids: pa.ChunkedArray, names: pa.LargeStringArray) -> Keep:
    """Which pairs are among the names, which are sorted.

    Only the names between the smallest and the largest pair_id are looked at: a shard is a range.
    """
    if not len(pair_ids):
        return np.zeros(0, bool)
    ends = pc.min_max(pair_ids).as_py()
    places = range(len(names))
    first = bisect_left(places, ends["min"], key=lambda place: names[place].as_py())
    end = bisect_right(places, ends["max"], key=lambda place: names[place].as_py())
    found: Keep = pc.is_in(
        pair_ids.cast(pa.large_string()), value_set=names.slice(first, end - first)
    ).to_numpy()
    return found
