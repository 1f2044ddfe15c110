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
from workers.crawl.host import KNOWN


@dataclass(frozen=True)
class Tolerance:
    """What a stage takes for finished business though some rows could not be reached."""

    max_unreachable: float = 1.0  # share of a shard; above it is an outage
    reruns: int = 0  # further tries of a shard below it, whole
    at_least: int = 1  # rows that an outage takes: two of three say nothing of the network


@dataclass(frozen=True)
class Unreached:
    """The rows of some shards that failed for a reason that may pass."""

    shards: int
    reasons: Counter[str]
    rows: int  # that were not rejected, so much of what the stage wanted
    stale: Counter[str]  # the reasons of rows that are there as an earlier crawl found them

    @classmethod
    def of(cls, receipts: Iterable[Receipt]) -> Unreached:
        shards, reasons, rows, stale = 0, Counter[str](), 0, Counter[str]()
        for receipt in receipts:
            shards += 1
            for kind, counts in receipt.rows.items():
                failed: dict[str, int] = counts["failed"]
                passing = {why: n for why, n in failed.items() if is_passing(why)}
                if kind == KNOWN:  # these are kept pages, too
                    stale.update(passing)
                    continue
                rows += counts["kept"] + sum(failed.values())
                reasons.update(passing)
        return cls(shards, reasons, rows, stale)

    @property
    def share(self) -> float:
        return self.reasons.total() / max(1, self.rows)


def is_outage(receipt: Receipt, tolerance: Tolerance) -> bool:
    """Whether more of a shard could not be reached than is tolerated.

    Never of rows that are tried once more because they failed: what is away for good is among
    them. Nor of a host whose pages are there as an earlier crawl found them: the stages after it go
    on with these, and the command says at its end what is stale (``is_stale``).
    """
    unreached = Unreached.of([receipt])
    is_retry = receipt.again and receipt.attempt > 1
    if unreached.stale:
        return False
    is_enough = unreached.reasons.total() >= tolerance.at_least
    return not is_retry and is_enough and unreached.share > tolerance.max_unreachable


def is_stale(receipt: Receipt, tolerance: Tolerance) -> bool:
    """Whether more of a shard could not be reached than is tolerated, what is stale included."""
    unreached = Unreached.of([receipt])
    all_of_it = unreached.reasons.total() + unreached.stale.total()
    return bool(unreached.stale) and all_of_it > tolerance.max_unreachable * unreached.rows


def lacks(receipt: Receipt) -> bool:
    """Whether anything of a shard could not be reached that may be reached at another time."""
    unreached = Unreached.of([receipt])
    return bool(unreached.reasons or unreached.stale)


def is_worth_another_try(receipt: Receipt, tolerance: Tolerance, *, missed: bool) -> bool:
    """Whether a rerun does a shard again, whole, for what could not be reached.

    Args:
        missed: the gate of the stage is.
    """
    if not lacks(receipt):
        return False
    is_away = is_outage(receipt, tolerance) or is_stale(receipt, tolerance)
    return missed or receipt.attempt <= tolerance.reruns or receipt.spoiled or is_away
