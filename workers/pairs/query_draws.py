"""Counts and draws of queries, in columns: how many pairs match each, and the smallest draws."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from workers.base.arrays import Float64s, Int64s

#: Ids up to here are looked up and counted in arrays that they index.
_DENSE = 1 << 20


@dataclass(frozen=True)
class QueryCounts:
    """Of some queries: how many pairs match each."""

    queries: Int64s  # distinct, sorted
    counts: Int64s  # pairs that match queries[i]

    @classmethod
    def of(cls, queries: Int64s) -> QueryCounts:
        """From one id for each (query, pair) that match, in any order."""
        return cls(*count(queries))

    @classmethod
    def total(cls, parts: Iterable[QueryCounts]) -> QueryCounts:
        """The sum of several, in any order; memory is that of the sum and one of them."""
        total = cls(np.empty(0, np.int64), np.empty(0, np.int64))
        for part in parts:
            queries = np.union1d(total.queries, part.queries)
            counts = np.zeros(len(queries), np.int64)
            for one in (total, part):
                counts[places(queries, one.queries)] += one.counts
            total = cls(queries, counts)
        return total


@dataclass(frozen=True)
class QueryDraws:
    """The smallest draws of some queries."""

    queries: Int64s  # the query of draws[i]; sorted by query, then by draw
    draws: Float64s

    @classmethod
    def smallest(cls, queries: Int64s, draws: Float64s, limit: int) -> QueryDraws:
        """The ``limit`` smallest of each query, from one row for each (query, pair) that match."""
        order = np.lexsort((draws, queries))
        queries, draws = queries[order], draws[order]
        rank = np.arange(len(queries)) - np.searchsorted(queries, queries)
        return cls(queries[rank < limit], draws[rank < limit])

    @classmethod
    def merge(cls, parts: Sequence[QueryDraws], limit: int) -> QueryDraws:
        """The same of all parts together: associative, and indifferent to order."""
        draws = np.concatenate([np.empty(0), *(part.draws for part in parts)])
        return cls.smallest(join(part.queries for part in parts), draws, limit)

    def of(self, queries: Int64s) -> QueryDraws:
        """Those of some queries."""
        mine = np.isin(self.queries, queries)
        return QueryDraws(self.queries[mine], self.draws[mine])


def join(arrays: Iterable[Int64s]) -> Int64s:
    return np.concatenate([np.empty(0, np.int64), *arrays])


def count(queries: Int64s) -> tuple[Int64s, Int64s]:
    """The distinct ids of some matches, sorted, and how often each is there."""
    last = int(queries.max(initial=0))
    if not len(queries) or queries.min() < 0 or last > max(_DENSE, 4 * len(queries)):
        return np.unique(queries, return_counts=True)
    counts = np.bincount(queries)
    distinct = np.flatnonzero(counts)
    return distinct, counts[distinct]


def places(known: Int64s, queries: Int64s) -> Int64s:
    """Where each of some ids stands among sorted distinct ones that hold it."""
    if not len(known) or known[0] < 0 or known[-1] > max(_DENSE, 4 * len(queries)):
        return np.searchsorted(known, queries)
    place = np.empty(known[-1] + 1, np.int64)
    place[known] = np.arange(len(known))
    return place[queries]
