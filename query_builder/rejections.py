"""Entering whole tables of rejected rows in a ``Tally``."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from workers.base.arrays import Int64s
from workers.base.tally import SAMPLES_PER_REASON, Tally

#: Greater than any count.
_DESCENDING = 10**15

_SHOWN = ("query", "count", "pmi", "npmi", "views", "kept_as")


def most_frequent(counts: Int64s, candidates: Int64s) -> Int64s:
    """The candidates that may be in a sample: the most frequent ones and their ties."""
    if len(candidates) <= SAMPLES_PER_REASON:
        return candidates
    candidate_counts = counts[candidates]
    threshold = np.partition(candidate_counts, -SAMPLES_PER_REASON)[-SAMPLES_PER_REASON]
    chosen: Int64s = candidates[candidate_counts >= threshold]
    return chosen


def reject(
    tally: Tally,
    reason: str,
    rows: pa.Table,
    *,
    by: str = "count",
    total: int | None = None,
    note: Mapping[str, str] | None = None,
) -> None:
    """Reject ``rows``, or ``total`` of which ``rows`` are the greatest, in one go.

    The sample is the rows with the greatest ``by``, the ones that came nearest; it shows their
    values and ``note``.
    """
    rejected = len(rows) if total is None else total
    if not rejected:
        return
    order = [(by, "descending")] if by in rows.column_names else []
    nearest = rows.sort_by([*order, ("query", "ascending")]).slice(0, SAMPLES_PER_REASON)
    shown = nearest.select([name for name in _SHOWN if name in rows.column_names])
    sample = [
        # Ascending keys are descending values, so that samples can be merged.
        (f"{_DESCENDING - (row.get(by) or 0):016d} {row['query']}", {**(note or {}), **row})
        for row in shown.to_pylist()
    ]
    tally.reject_many(reason, rejected, sample)
