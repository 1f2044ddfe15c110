"""Scores that a filter computes of pairs: which are the best.

A score is computed once a pair and held, since computing it costs much more than the 16 bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from workers.base.arrays import Bools, Float64s, UInt64s
from workers.base.sampling import hashes

#: Gives the scores of a table's pairs: [N], or [N, S] of several. A pair's must follow from the
#: pair alone, to the last bit, whatever other rows the table has.
Scorer = Callable[[pa.Table], Float64s]


@dataclass(frozen=True)
class Scores:
    """Scores by hash of the pair_id.

    Two pairs of one hash would share a verdict: of 100 million pairs there are such in one run of
    3,700.
    """

    hashes: UInt64s  # [N], ascending
    values: Float64s  # [N] or [N, S]

    @classmethod
    def of(cls, tables: Iterable[pa.Table], scorer: Scorer, seed: int) -> Scores:
        """The scores of all pairs of the tables."""
        names, values = [np.empty(0, np.uint64)], []
        for rows in tables:
            if len(rows):
                names.append(pair_hashes(rows, seed))
                values.append(scorer(rows))
        known = np.concatenate(names)
        order = np.argsort(known, kind="stable")
        scores = np.concatenate(values) if values else np.empty(0)
        return cls(known[order], scores[order])

    def best(self, wanted: int, least: float | None = None) -> UInt64s:
        """The hashes, ascending, of so many pairs with the largest scores, [N]; of equals, those of
        smaller hashes. What is not a number, or below ``least``, is never among them."""
        enough = ~np.isnan(self.values) if least is None else self.values >= least
        order = np.argsort(-self.values, kind="stable")[:wanted]
        return np.sort(self.hashes[order[enough[order]]])


def pair_hashes(rows: pa.Table, seed: int) -> UInt64s:
    """A hash of each row's pair_id: [N]."""
    return hashes(seed, rows["pair_id"])


def is_among(rows: UInt64s, known: UInt64s) -> Bools:
    """Which hashes are among the known ones, which are ascending."""
    if not len(known):
        return np.zeros(len(rows), bool)
    places = np.minimum(np.searchsorted(known, rows), len(known) - 1)
    found: Bools = known[places] == rows
    return found
