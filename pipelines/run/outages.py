"""Rows that could not be reached: which shards are tried again, and when it is an outage.

A shard whose rows failed for passing reasons has a receipt, and is not finished business: a rerun
tries it again. Where too large a share of a shard is missing, the stage is not complete either.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from pipelines.run.receipts import Receipt
from workers.base.failures import is_passing


@dataclass(frozen=True)
class Tolerance:
    """What a stage takes for finished business though some rows could not be reached."""

    max_unreachable: float = 1.0  # share of a shard; above it is an outage
    reruns: int = 0  # further tries of a shard below it


@dataclass(frozen=True)
class Unreached:
    """The rows of some shards that failed for a reason that may pass."""

    shards: int
    reasons: Counter[str]
    rows: int  # that were not rejected, so much of what the stage wanted

    @classmethod
    def of(cls, receipts: Iterable[Receipt]) -> Unreached:
        shards, reasons, rows = 0, Counter[str](), 0
        for receipt in receipts:
            shards += 1
            for counts in receipt.rows.values():
                failed: dict[str, int] = counts["failed"]
                rows += counts["kept"] + sum(failed.values())
                reasons.update({why: n for why, n in failed.items() if is_passing(why)})
        return cls(shards, reasons, rows)

    @property
    def share(self) -> float:
        return self.reasons.total() / max(1, self.rows)


def is_outage(receipt: Receipt, tolerance: Tolerance) -> bool:
    """Whether more of a shard could not be reached than is tolerated."""
    return Unreached.of([receipt]).share > tolerance.max_unreachable


def is_worth_another_try(receipt: Receipt, tolerance: Tolerance, *, missed: bool) -> bool:
    """Whether a rerun asks again for what could not be reached.

    Args:
        missed: the gate of the stage is.
    """
    if not Unreached.of([receipt]).reasons:
        return False
    has_tries_left = receipt.attempt <= tolerance.reruns
    return missed or has_tries_left or receipt.spoiled or is_outage(receipt, tolerance)
