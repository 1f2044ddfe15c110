"""Gates: what a stage must reach. An empty data set is no success, so each stage has one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from pipelines.run.config import Config, Gate
from pipelines.run.receipts import Receipt
from pipelines.run.totals import StageTotals
from workers.base.copies import bring_all
from workers.base.credentials import shown

#: Places of dropped rows, and shards, that a message names.
_PLACES = 3

#: Dropped rows by kind of row, reason and key, as ``attempts.perform`` writes them.
_SAMPLES = TypeAdapter(dict[str, dict[str, dict[str, dict[str, Any]]]])


def gate_of(config: Config, stage: str) -> Gate:
    """The gate of a stage; one that the configuration does not name is ``Gate()``."""
    return config.gates.get(stage, Gate())


def is_met(gate: Gate, totals: StageTotals) -> bool:
    """Whether a stage's last kind of row reaches its gate. Without shards there is none."""
    if not totals.rows:
        return True
    *_, counts = totals.rows.values()
    failed = sum(counts["failed"].values()) / max(1, counts["in"])
    return bool(counts["kept"] >= gate.min_kept and failed <= gate.max_failed)


def shortfall(stage: str, gate: Gate, totals: StageTotals, samples: Path) -> str:
    """One line: what is missing, why rows of each kind were dropped, and where some of them are."""
    *_, (kind, counts) = totals.rows.items()
    failed = sum(counts["failed"].values()) / max(1, counts["in"])
    line = (
        f"{stage}: the gate is not met: {counts['kept']:,} of {counts['in']:,} {kind} kept (at "
        f"least {gate.min_kept:,}), {failed:.1%} failed (at most {gate.max_failed:.1%})"
    )
    for kind, counts in totals.rows.items():
        dropped = {**counts["rejected"], **counts["failed"]}
        if dropped:
            reasons = ", ".join(f"{reason} {number:,}" for reason, number in dropped.items())
            line += f"; dropped {kind}: {reasons}"
    return f"{line}; samples of them are in {samples}" if samples.is_dir() else line


def barren(stage: str, receipts: Sequence[Receipt], samples: Path) -> str:
    """One line on the shards of which nothing was kept and rows failed; empty if there is none.

    A gate of the sum does not show such a shard: a machine that computes wrong, or a file that
    holds something else, is not made good by the other shards.
    """
    failed: dict[str, Counter[str]] = {}
    for receipt in receipts:
        *_, counts = receipt.rows.values()
        if counts["failed"] and not counts["kept"]:
            failed[receipt.made_of or receipt.shard] = Counter(counts["failed"])
    if not failed:
        return ""
    total = sum(failed.values(), Counter[str]())
    reasons = ", ".join(f"{reason} {n:,}" for reason, n in sorted(total.items()))
    names = ", ".join([*map(shown, sorted(failed)[:_PLACES]), *["..."] * (len(failed) > _PLACES)])
    return (
        f"{stage}: of {len(failed)} of {len(receipts)} shards not a row was kept ({names}): "
        f"{reasons}; samples of them are in {samples}"
    )


def places_of(reason: str, samples: Path) -> str:
    """Where some of the rows stood that were dropped for a reason, and where more of them are."""
    places: list[str] = []
    bring_all(samples)
    for file in sorted(samples.glob("*.json")):
        with suppress(ValidationError):  # somebody has changed it; it is for people
            for kind in _SAMPLES.validate_json(file.read_bytes()).values():
                rows = kind.get(reason, {}).items()
                places += [str(row.get("source") or key) for key, row in rows]
    more = [f"and others ({samples})"] if len(places) > _PLACES else []
    return ", ".join([*places[:_PLACES], *more]) or str(samples)
