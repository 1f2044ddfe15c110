"""What balancing must know of each query: how many pairs match it, and their smallest draws.

Every pair has one draw in [0, 1), a hash of the seed and its pair_id, whatever its queries are.
A policy says of which queries it needs the smallest draws, given the counts, and how many: most
queries have few pairs, and no draw of theirs is made, sorted or sent.
Partial results are merged in any order, by bucket of queries, in memory that they bound.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import apache_beam as beam
import numpy as np

from workers.base.arrays import Bools, Float64s, Int64s

#: Partial results that an accumulator gathers before it merges them.
_MERGE_EVERY = 16

#: Ids up to here are looked up and counted in arrays that they index.
_DENSE = 1 << 20


@dataclass(frozen=True)
class QueryDraws:
    """Of some queries: how many pairs match each, and the smallest draws among them."""

    queries: Int64s  # distinct, sorted
    counts: Int64s  # pairs that match queries[i]
    draw_queries: Int64s  # the query of draws[i]; sorted by query, then by draw
    draws: Float64s

    @classmethod
    def of_matches(cls, queries: Int64s, draws: Float64s, limit: int) -> QueryDraws:
        """From one row for each (query, pair) that match, in any order."""
        distinct, counts = np.unique(queries, return_counts=True)
        return cls(distinct, counts, *_smallest(queries, draws, limit))

    def only(self, which: Bools) -> QueryDraws:
        """Some of the queries, without draws."""
        return QueryDraws(
            self.queries[which], self.counts[which], self.draw_queries[:0], self.draws[:0]
        )

    @classmethod
    def merge(cls, parts: Sequence[QueryDraws], limit: int) -> QueryDraws:
        """The same of all parts together: associative, and indifferent to order."""
        queries, position = np.unique(join(part.queries for part in parts), return_inverse=True)
        counts = np.zeros(len(queries), np.int64)
        np.add.at(counts, position, join(part.counts for part in parts))
        draw_queries = join(part.draw_queries for part in parts)
        draws = np.concatenate([np.empty(0), *(part.draws for part in parts)])
        return cls(queries, counts, *_smallest(draw_queries, draws, limit))


def join(arrays: Iterable[Int64s]) -> Int64s:
    return np.concatenate([np.empty(0, np.int64), *arrays])


def _smallest(queries: Int64s, draws: Float64s, limit: int) -> tuple[Int64s, Float64s]:
    """The ``limit`` smallest draws of each query, sorted by query and draw."""
    if not limit:
        return queries[:0], draws[:0]
    order = np.lexsort((draws, queries))
    queries, draws = queries[order], draws[order]
    rank = np.arange(len(queries)) - np.searchsorted(queries, queries)
    return queries[rank < limit], draws[rank < limit]


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


def bucket_counts(queries: Int64s, buckets: int) -> list[tuple[int, QueryDraws]]:
    """Matches as (bucket, QueryDraws without draws), the queries spread by their id."""
    distinct, counts = count(queries)
    bucket = distinct % buckets
    none = np.empty(0)
    return [
        (number, QueryDraws(distinct[mine], counts[mine], distinct[:0], none))
        for number in range(buckets)
        if (mine := bucket == number).any()
    ]


def bucket_matches(
    queries: Int64s, draws: Float64s, buckets: int, limit: int
) -> list[tuple[int, QueryDraws]]:
    """Matches as (bucket, QueryDraws), the queries spread over ``buckets`` by their id."""
    bucket = queries % buckets
    order = np.argsort(bucket, kind="stable")
    numbers, starts = np.unique(bucket[order], return_index=True)
    return [
        (int(number), QueryDraws.of_matches(queries[mine], draws[mine], limit))
        for number, mine in zip(numbers, np.split(order, starts[1:]), strict=False)
    ]


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
