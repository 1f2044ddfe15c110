"""A filter that looks at nothing: so many pairs, drawn at random."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, Self

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from workers.base.sampling import draws
from workers.base.settings import Share
from workers.selection.base_filter import Filter, Keeps, Survivors
from workers.selection.top_share import DRAW_BITS, Keys, border_of_largest, draw_keys


class Sample(Filter):
    """So many of the pairs, drawn at random: what another filter is held against."""

    reason = "not_in_sample"

    filter: Literal["sample"]
    pairs: int | None = Field(default=None, ge=1, description="how many stay; all, if fewer come")
    share: Share | None = Field(default=None, description="of the pairs that come to this step")

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.pairs is None) == (self.share is None):
            raise ValueError("say pairs or share, one of the two")
        return self

    def fit(self, survivors: Survivors, seed: int) -> Keeps:
        """Find the last draw that stays; a pair's is a function of the seed and its pair_id."""

        def keys(rows: pa.Table) -> Keys:
            return draw_keys(draws(seed, rows["pair_id"]))

        def batches() -> Iterator[Keys]:
            return map(keys, survivors(self.columns))

        last = border_of_largest(batches, DRAW_BITS, self._wanted)
        if not last:
            return lambda rows: np.zeros(len(rows), bool)
        return lambda rows: keys(rows) >= last.key

    def _wanted(self, pairs: int) -> int:
        if self.share is not None:
            return round(self.share * pairs)
        return min(self.pairs or 0, pairs)
