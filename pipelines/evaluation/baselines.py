"""Zero-shot beside probes on supervised networks: the question of the paper's figure 5."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from pipelines.evaluation.intervals import Estimate, bootstrap, estimate
from pipelines.evaluation.measures import Answers, Truth, difference, measure
from pipelines.evaluation.settings import ProtocolSettings
from pipelines.evaluation.supervised import PROBE
from workers.base.arrays import Int64s

#: Metrics of the answers themselves; of the others only the values are on file.
OF_ANSWERS = ("top1", "mean_per_class")

Result = Mapping[str, Any]


def beside_baselines(
    folder: Path, results: Sequence[Result], protocols: ProtocolSettings
) -> list[dict[str, Any]]:
    """Of each set and each model's zero-shot, what it is better by than each network's probe.

    Args:
        folder: of ``Results``.
    """
    judged = [one for one in results if one["task"] == "classification" and one.get("probe")]
    found = []
    for one in (one for one in judged if one["zero_shot"]):
        for other in judged:
            if other["set"] == one["set"] and not other["zero_shot"]:
                names = {"task": "baseline", "model": one["model"], "set": one["set"]}
                beside = _beside(folder, one, other, protocols)
                found.append({**names, "baseline": other["model"], **beside})
    return found


def _beside(
    folder: Path, one: Result, other: Result, protocols: ProtocolSettings
) -> dict[str, Any]:
    metric = one["metric"]
    if metric not in OF_ANSWERS:
        plain, probe = (
            Estimate(value=some["value"], interval=some["interval"])
            for some in (one["probe"]["zero_shot"], other["probe"])
        )
        sides = {"zero_shot": plain, "probe": probe, "difference": _unpaired(plain, probe)}
        return {"metric": metric, "pictures": other["probe"]["pictures"], **sides}
    answers, labels = _answers(folder, one, other)
    truth = Truth.of(labels, one["classes"])
    measures = {
        name: measure(metric, Answers(some[:, None], None), truth)
        for name, some in zip(("zero_shot", "probe"), answers, strict=True)
    }
    statistics = {name: some.statistic for name, some in measures.items()}
    draws = bootstrap(len(labels), statistics, protocols.bootstrap, protocols.seed)
    return {
        "metric": metric,
        "pictures": len(labels),
        **{name: some.estimate(draws[name]) for name, some in measures.items()},
        "difference": difference(
            measures["zero_shot"], draws["zero_shot"], measures["probe"], draws["probe"]
        ),
    }


def _answers(
    folder: Path, one: Result, other: Result
) -> tuple[tuple[Int64s, Int64s], list[tuple[int, ...]]]:
    """Of the pictures that both have judged, in the order of their ids: [N] each; and labels."""
    tables = [
        pq.read_table(
            folder / f"{some['model']}.{some['set']}.parquet", columns=["id", "labels", column]
        )
        for some, column in ((one, one["best_prompts"]), (other, PROBE))
    ]
    plain, probe = (
        dict(zip(some["id"].to_pylist(), some.columns[2].to_pylist(), strict=True))
        for some in tables
    )
    labels = dict(zip(tables[0]["id"].to_pylist(), tables[0]["labels"].to_pylist(), strict=True))
    both = sorted(name for name, label in probe.items() if label >= 0 and name in plain)
    answers = tuple(np.array([of[name] for name in both], dtype=np.int64) for of in (plain, probe))
    return (answers[0], answers[1]), [tuple(labels[name]) for name in both]


def _unpaired(one: Estimate, other: Estimate) -> Estimate:
    """The difference as if other pictures had been judged, by MOVER: wider than it could be."""
    values = one["value"], other["value"], *one["interval"], *other["interval"]
    if any(value is None for value in values):
        return estimate(math.nan, (math.nan, math.nan))
    value, of_other, low, high, other_low, other_high = (float(some or 0) for some in values)
    below = math.hypot(value - low, other_high - of_other)
    above = math.hypot(high - value, of_other - other_low)
    return estimate(value - of_other, (value - of_other - below, value - of_other + above))
