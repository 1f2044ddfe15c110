"""Receipts added up: what a stage has done, with every row counted once."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from pipelines.run.receipts import Counts, Receipt
from workers.base.tally import Tally


def settled(receipts: Sequence[Receipt]) -> list[Receipt]:
    """The receipts with every row in the last alone that has tried it: no row counts twice."""
    gone: dict[str, Counter[str | None]] = defaultdict(Counter)
    for receipt in receipts:
        for shard, reasons in receipt.again.items():
            gone[shard].update(reasons)
    return [
        replace(receipt, rows=without_rows(receipt.rows, gone[receipt.shard]))
        if receipt.shard in gone
        else receipt
        for receipt in receipts
    ]


def without_rows(rows: Mapping[str, Counts], gone: Counter[str | None]) -> dict[str, Counts]:
    """The tally of a shard without some rows of its last kind.

    Args:
        gone: the rows by the reason for which they were dropped, None for those that were kept.
    """
    *others, (kind, counts) = rows.items()
    kept = counts["kept"] - gone[None]
    dropped = {
        how: {why: left for why, n in counts[how].items() if (left := n - gone[why]) > 0}
        for how in ("rejected", "failed")
    }
    total = kept + sum(sum(reasons.values()) for reasons in dropped.values())
    return dict([*others, (kind, {"in": total, "kept": kept, **dropped})])


@dataclass
class StageTotals:
    """The sum of a stage's receipts."""

    shards: int = 0
    seconds: float = 0.0
    bytes: int = 0
    rows: dict[str, Counts] = field(default_factory=dict)

    @classmethod
    def of(cls, receipts: Sequence[Receipt]) -> StageTotals:
        totals = cls(
            shards=len(receipts),
            seconds=round(sum(receipt.seconds for receipt in receipts), 3),
            bytes=sum(output.bytes for receipt in receipts for output in receipt.outputs),
        )
        # Not every shard has every kind; the last kind of one that has them all is the last here.
        for receipt in sorted(settled(receipts), key=lambda receipt: -len(receipt.rows)):
            for kind, counts in receipt.rows.items():
                _add_counts(totals.rows.setdefault(kind, Tally().counts()), counts)
        return totals


def _add_counts(total: Counts, counts: Counts) -> None:
    total["in"] += counts["in"]
    total["kept"] += counts["kept"]
    for how in ("rejected", "failed"):
        for reason, number in counts[how].items():
            total[how][reason] = total[how].get(reason, 0) + number
        total[how] = dict(sorted(total[how].items()))
