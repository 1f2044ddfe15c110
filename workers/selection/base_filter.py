"""What a filter of the selection is. It looks at all pairs that are left, then decides on each.

What it must know of all pairs together (a quantile, duplicates) it learns in ``fit``; most need
nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Keep = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]

#: Give the pairs that are left, shard by shard, with pair_id and the columns that are named.
Survivors = Callable[[Sequence[str]], Iterator[pa.Table]]


class Filter(ABC):
    """Decides which pairs stay. ``reason`` counts those that do not."""

    reason: ClassVar[str]
    #: What it reads of a pair beside pair_id.
    columns: tuple[str, ...]

    def __init__(self, step: Any) -> None:
        self.step = step

    def fit(self, survivors: Survivors) -> None:  # noqa: B027 - most need to know one pair alone
        """Learn from all pairs that are left."""

    @abstractmethod
    def keeps(self, rows: pa.Table) -> Keep:
        """Which rows stay."""


def floats(rows: pa.Table, column: str) -> Floats:
    """A column of float32."""
    values: Floats = rows[column].to_numpy()
    return values
