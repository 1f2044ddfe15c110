"""The number that stands for a model on a data set, and how much two such numbers differ."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from pipelines.evaluation.intervals import (
    Estimate,
    difference_interval,
    estimate,
    percentiles,
)
from workers.base.arrays import Bools, Float64s
from workers.base.copies import bring


@dataclass(frozen=True)
class Answered:
    """Zero-shot with the best prompts, or the mean of both ways' first recall."""

    estimate: Estimate
    ids: list[str]  # of the N pictures
    right: Bools | None  # [N], where the number is the share of right pictures
    draws: Float64s  # [B], the number of each of the bootstrap's draws

    @classmethod
    def of(cls, folder: Path, result: Mapping[str, Any]) -> Answered:
        """Of a result and what lies beside it in the folder of ``Results``."""
        stem = f"{result['model']}.{result['set']}"
        paths = [folder / f"{stem}.parquet", folder / f"{stem}.draws.parquet"]
        bring(paths)
        table, drawn = map(pq.read_table, paths)
        draws, right = drawn["value"].to_numpy(), None
        if result["task"] == "retrieval":
            ways = (result["image_to_text"], result["text_to_image"])
            first = first_recall(result)
            value = (ways[0][first]["value"] + ways[1][first]["value"]) / 2
            return cls(estimate(value, percentiles(draws)), table["id"].to_pylist(), None, draws)
        found = result["zero_shot"][result["best_prompts"]]
        if result["metric"] == "top1":
            labels, said = table["labels"].to_pylist(), table[result["best_prompts"]].to_pylist()
            right = np.array([one in some for one, some in zip(said, labels, strict=True)])
        return cls(
            {"value": found["value"], "interval": found["interval"]},
            table["id"].to_pylist(),
            right,
            draws,
        )

    @property
    def value(self) -> float:
        """NaN where there is none, as of classes of which none has pictures of both kinds."""
        found = self.estimate["value"]
        return math.nan if found is None else found


def first_recall(result: Mapping[str, Any]) -> str:
    """The smallest rank that a retrieval was asked for."""
    return min(result["image_to_text"], key=int)


def difference_of_means(ours: Sequence[Answered], others: Sequence[Answered]) -> Estimate:
    """The mean of some models less that of others, with the interval over pictures.

    Paired: all have answered the same pictures, and were asked about the same draws of them.

    Raises:
        ValueError: they have not.
    """
    if any(one.ids != ours[0].ids for one in (*ours, *others)):
        raise ValueError("two models have not answered the same pictures")
    draws = _mean([one.draws for one in ours]) - _mean([one.draws for one in others])
    rights = [[one.right for one in some if one.right is not None] for some in (ours, others)]
    interval = percentiles(draws)
    if [len(some) for some in rights] == [len(ours), len(others)]:
        interval = difference_interval(_mean(rights[0]), _mean(rights[1]), draws)
    values = [float(np.mean([one.value for one in some])) for some in (ours, others)]
    return estimate(values[0] - values[1], interval)


def _mean(rows: Sequence[Bools] | Sequence[Float64s]) -> Float64s:
    """Of arrays [N], each place by itself: [N]."""
    return np.array(rows, dtype=np.float64).mean(axis=0)
