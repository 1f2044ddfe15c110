"""The table of what a training has made of a model: held-out pairs first, then other pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipelines.evaluation.report.estimates import Estimate, percent, points
from pipelines.evaluation.report.markdown import escape, table
from pipelines.evaluation.report.tables import METRICS, chance_cell, heading

HELD_OUT = "held-out pairs"
HEADER = ("set", "score", "pictures", "chance", "start", "trained", "difference")


def trained_table(scores: Mapping[str, Any], sets: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The lines of a report.

    Args:
        scores: of the held-out pairs, as ``scores.json`` has them.
        sets: of the suite's data sets, as ``suite.json`` has them.
    """
    rows = [_held_out(scores), *sets]
    yield from heading("The trained model on other pictures")
    yield (
        "Zero-shot with the best prompts, or of a retrieval set recall both ways; in brackets the "
        "interval in which each number lies with 95% confidence, that of the difference over "
        "pairs of answers to the same pictures. [All protocols](evaluation/report.md)."
    )
    yield ""
    yield from table(HEADER, map(_row, rows), texts=2)
    worse = [line for row in rows if (line := _worse(row))]
    yield from worse
    if worse:
        yield ""


def _held_out(scores: Mapping[str, Any]) -> dict[str, Any]:
    *start, trained = (one for name, one in scores["zero_shot"].items() if name != "difference")
    return {
        "set": HELD_OUT,
        "measure": "top1",
        "pictures": scores["images"],
        "chance": scores["chance"],
        "start": start[0] if start else None,
        "trained": trained,
        "difference": scores["zero_shot"].get("difference"),
    }


def _row(row: Mapping[str, Any]) -> list[str]:
    return [
        escape(row["set"]),
        METRICS.get(row["measure"], row["measure"]),
        f"{row['pictures']:,}",
        chance_cell(row),
        percent(Estimate.of(row["start"])),
        percent(Estimate.of(row["trained"])),
        points(Estimate.of(row["difference"])),
    ]


def _worse(row: Mapping[str, Any]) -> str | None:
    """The warning of a set on which training has cost more than its interval."""
    lost = Estimate.of(row["difference"])
    if lost is None or lost.interval is None or lost.interval[1] >= 0:
        return None
    return f"- **{escape(row['set'])}** got worse: {points(lost)} points"
