"""Rows of the figures, in percent, and the sentences that say on how much they stand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.evaluation.report.estimates import Estimate, Result, Results
from pipelines.evaluation.report.markdown import amount


def row_of(
    result: Result, estimate: Estimate | None, factor: float = 100, **more: Any
) -> dict[str, Any]:
    row = {"set": result["set"], "model": result["model"]}
    note = {"note": more.pop("note")} if "note" in more else {}
    return {**row, **more, **numbers(estimate, factor), **note}


def numbers(estimate: Estimate | None, factor: float = 100) -> dict[str, float | None]:
    """Rounded to what a figure can show many times over."""
    if estimate is None:
        return {"value": None, "low": None, "high": None}
    scaled = estimate.scaled(factor)
    low, high = scaled.interval or (math.inf, math.inf)
    all_three = {"value": scaled.value, "low": low, "high": high}
    return {name: round(one, 4) if math.isfinite(one) else None for name, one in all_three.items()}


def estimate_of(row: Mapping[str, Any]) -> Estimate:
    interval = None if row["low"] is None else (row["low"] / 100, row["high"] / 100)
    return Estimate(row["value"] / 100, interval)


def by_value(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Sets by the mean of their values, the highest first; last those without any."""
    values: dict[str, list[float]] = {}
    for row in rows:
        values.setdefault(row["set"], []).extend([] if row["value"] is None else [row["value"]])
    mean = {name: sum(of) / len(of) if of else float("-inf") for name, of in values.items()}
    return sorted(values, key=lambda name: -mean[name])


def models_of(results: Results, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return [model for model in results.models if any(row["model"] == model for row in rows)]


def basis(judged: Sequence[Result]) -> str:
    """On how many sets and pictures zero-shot stands."""
    return _sets_of({result["set"]: int(result["pictures"]) for result in judged})


def probe_basis(judged: Sequence[Result], seeds: bool = False) -> str:
    """On how many sets, seeds and pictures probes stand, and on how many they were trained."""
    probes = [(result["set"], result.get("probe") or {}, result) for result in judged]
    stands = _sets_of(
        {name: int(probe.get("pictures") or one["pictures"]) for name, probe, one in probes}
    )
    if seeds:
        few = [point for _, _, one in probes for point in (one.get("few_shot") or {}).values()]
        draws = [len(point["values"]) for point in few if point.get("values")]
        return f"{amount(draws, 'seed')}, {stands}" if draws else stands
    trained = [int(probe["train"]) for _, probe, _ in probes if probe.get("train")]
    return f"{stands} Probes trained on {amount(trained, 'picture')}." if trained else stands


def _sets_of(pictures: Mapping[str, int]) -> str:
    each = list(pictures.values())
    if len(each) == 1:
        return f"1 set of {amount(each, 'picture')}."
    return f"{len(each)} sets of {amount(each, 'picture')} ({sum(each):,} in all)."
