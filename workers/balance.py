"""Balancing: at most t pairs for each query, chosen by hash.

Every pair has one draw in [0, 1), a hash of the seed and its pair_id. A query keeps the t
pairs with the smallest draws among those that match it. A pair stays if any of its queries
keeps it, and then lists only the queries that keep it, so no query is ever listed by more
than t pairs. Nothing depends on order, on sharding or on which machine does it.

Because the draw of a pair is the same for all its queries, "the t smallest" is a threshold:
the (t+1)-th smallest draw of the query. Pairs below it are kept. So balancing needs one
number a query, which is small enough to send to every worker, and no join. If two pairs of a
query have equal draws on both sides of the threshold (once in 2^53), both go: the cap holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

#: Partial results that an accumulator gathers before it merges them.
_MERGE_EVERY = 16


@dataclass(frozen=True)
class QueryDraws:
    """Of some queries: how many pairs match each, and the smallest draws among them."""

    queries: Ints  # distinct, sorted
    counts: Ints  # pairs that match queries[i]
    draw_queries: Ints  # the query of draws[i]; sorted by query, then by draw
    draws: Floats

    @classmethod
    def of_matches(cls, queries: Ints, draws: Floats, limit: int) -> QueryDraws:
        """From one row for each (query, pair) that match, in any order."""
        distinct, counts = np.unique(queries, return_counts=True)
        return cls(distinct, counts, *_smallest(queries, draws, limit))

    @classmethod
    def merge(cls, parts: Sequence[QueryDraws], limit: int) -> QueryDraws:
        """The same of all parts together: associative, and indifferent to order."""
        queries, position = np.unique(_join(part.queries for part in parts), return_inverse=True)
        counts = np.zeros(len(queries), np.int64)
        np.add.at(counts, position, _join(part.counts for part in parts))
        draw_queries = _join(part.draw_queries for part in parts)
        draws = np.concatenate([np.empty(0), *(part.draws for part in parts)])
        return cls(queries, counts, *_smallest(draw_queries, draws, limit))

    def capped(self, pairs: int) -> Cap:
        """The cap of ``pairs`` a query; needs the ``pairs + 1`` smallest draws of each."""
        thresholds = np.full(len(self.queries), np.inf)
        first = np.searchsorted(self.draw_queries, self.queries)
        over = self.counts > pairs
        thresholds[over] = self.draws[first[over] + pairs]
        return Cap(self.queries, self.counts, thresholds)


def _join(arrays: Iterable[Ints]) -> Ints:
    return np.concatenate([np.empty(0, np.int64), *arrays])


def _smallest(queries: Ints, draws: Floats, limit: int) -> tuple[Ints, Floats]:
    """The ``limit`` smallest draws of each query, sorted by query and draw."""
    order = np.lexsort((draws, queries))
    queries, draws = queries[order], draws[order]
    rank = np.arange(len(queries)) - np.searchsorted(queries, queries)
    return queries[rank < limit], draws[rank < limit]


class SmallestDraws(beam.CombineFn):  # type: ignore[misc]
    """Merges QueryDraws. An accumulator holds at most ``limit`` draws a query, merged."""

    def __init__(self, limit: int) -> None:
        self._limit = limit

    def create_accumulator(self) -> list[QueryDraws]:
        return []

    def add_input(self, parts: list[QueryDraws], part: QueryDraws) -> list[QueryDraws]:
        return self._bounded([*parts, part])

    def merge_accumulators(self, accumulators: Iterable[list[QueryDraws]]) -> list[QueryDraws]:
        merged: list[QueryDraws] = []
        for parts in accumulators:
            merged = self._bounded([*merged, *parts])
        return merged

    def extract_output(self, parts: list[QueryDraws]) -> QueryDraws:
        return QueryDraws.merge(parts, self._limit)

    def compact(self, parts: list[QueryDraws]) -> list[QueryDraws]:
        return [QueryDraws.merge(parts, self._limit)]

    def _bounded(self, parts: list[QueryDraws]) -> list[QueryDraws]:
        return self.compact(parts) if len(parts) >= _MERGE_EVERY else parts


@dataclass(frozen=True)
class Cap:
    """The rule "at most so many pairs a query", for some queries."""

    queries: Ints  # distinct, sorted
    counts: Ints  # pairs that match queries[i], before balancing
    thresholds: Floats  # the draw that a pair must stay below; infinite within the cap

    @classmethod
    def join(cls, parts: Sequence[Cap]) -> Cap:
        """The caps of queries that no two parts share."""
        queries = _join(part.queries for part in parts)
        order = np.argsort(queries)
        counts = _join(part.counts for part in parts)
        thresholds = np.concatenate([np.empty(0), *(part.thresholds for part in parts)])
        return cls(queries[order], counts[order], thresholds[order])

    def keeps(self, queries: Ints, draws: Floats) -> npt.NDArray[np.bool_]:
        """For each (query, draw of a matching pair): whether the query keeps the pair."""
        below: npt.NDArray[np.bool_] = (
            draws < self.thresholds[np.searchsorted(self.queries, queries)]
        )
        return below


def bucket_matches(queries: Ints, draws: Floats, buckets: int, limit: int) -> list[tuple[int, Any]]:
    """Matches as (bucket, QueryDraws), the queries spread over ``buckets`` by their id."""
    bucket = queries % buckets
    return [
        (int(number), QueryDraws.of_matches(queries[mine], draws[mine], limit))
        for number in np.unique(bucket)
        for mine in (bucket == number,)
    ]
