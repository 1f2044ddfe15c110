"""What balancing must know of all pairs together, in passes over ranges of them.

Every range counts how many of its pairs match each query (``count_queries``), the counts are added
up (``add_counts``), every range then gives the draws that may decide the limit of a query that has
too many (``write_draws``), and for some queries at a time the draws of all ranges are merged to
their limits (``write_limits``). Each of these reads files and writes one: where and when it is done
does not matter.

A range gives few draws: of N pairs of a query, those that decide are the n smallest draws of N
uniform ones, all but surely below a little more than n / N.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from workers.base.arrays import Float64s, Int64s
from workers.base.copies import readable
from workers.base.ranges import Range
from workers.base.storage import write_table
from workers.pairs.balance import Policy, QueryLimits
from workers.pairs.candidates import Candidates
from workers.pairs.query_draws import QueryCounts, QueryDraws, places
from workers.pairs.tables import draws_of, matches_of

_COUNTS = pa.schema([("query_id", pa.int64()), ("pairs", pa.int64())])
_DRAWS = pa.schema([("query_id", pa.int64()), ("draw", pa.float64())])
_LIMITS = pa.schema([("query_id", pa.int64()), ("pairs", pa.int64()), ("limit", pa.float64())])

#: Draws that are merged at a time, about: they are in memory.
_DRAWS_TOGETHER = 8_000_000
_GROUP_ROWS = 1 << 16
#: How much more than n of N draws are given lest the n-th be missed: the number of those below a
#: bound has this mean and about its root as deviation: eight of these and some are beyond chance.
_DEVIATIONS, _SOME = 8.0, 40.0


class Queries(NamedTuple):
    """Those with ids from one to another, both inside."""

    first: int
    last: int


def count_queries(candidates: Candidates, between: Range, path: Path) -> None:
    """Write how many different pairs of a range match each query."""
    table = candidates.distinct(between, ["pair_id", "query_ids"])
    _write_counts(QueryCounts.of(matches_of(table)[1]), path)


def add_counts(files: Iterable[Path], path: Path) -> None:
    """Write the sums of some files of counts."""
    _write_counts(QueryCounts.total(map(read_counts, files)), path)


def read_counts(path: Path) -> QueryCounts:
    table = pq.read_table(readable(path))
    return QueryCounts(table["query_id"].to_numpy(), table["pairs"].to_numpy())


def _write_counts(known: QueryCounts, path: Path) -> None:
    _write([known.queries, known.counts], _COUNTS, path)


def write_draws(
    candidates: Candidates, counts: Path, policy: Policy, seed: int, between: Range, path: Path
) -> None:
    """Write the draws of a range's pairs that may decide a limit, sorted by query.

    Args:
        counts: the file of those of all pairs.
    """
    known = read_counts(counts)
    over = policy.needs_draws(known)
    bounds = np.zeros(len(known.queries))
    bounds[over] = np.minimum(1.0, _more(policy.draws_needed) / known.counts[over])
    table = candidates.distinct(between, ["pair_id", "query_ids"])
    rows, queries = matches_of(table)
    bound = bounds[places(known.queries, queries)] if len(queries) else np.empty(0)
    needed = np.zeros(len(table), bool)
    needed[rows[bound > 0]] = True
    draws = draws_of(table, needed, seed)[rows]
    given = draws < bound
    smallest = QueryDraws.smallest(queries[given], draws[given], policy.draws_needed)
    _write([smallest.queries, smallest.draws], _DRAWS, path)


def _more(draws: int) -> float:
    return draws + _DEVIATIONS * draws**0.5 + _SOME


def merged_together(known: QueryCounts, policy: Policy) -> Iterator[Queries]:
    """The queries that have too many pairs, cut so that the draws of each part are in memory."""
    over = policy.needs_draws(known)
    queries = known.queries[over]
    expected = np.cumsum(np.minimum(known.counts[over], _more(policy.draws_needed)))
    parts = (expected // _DRAWS_TOGETHER).astype(np.int64)
    for part in np.unique(parts):
        mine = queries[parts == part]
        yield Queries(int(mine[0]), int(mine[-1]))


def write_limits(
    files: Sequence[Path], counts: Path, policy: Policy, some: Queries, path: Path
) -> None:
    """Write the limits of some queries, from the draws that all ranges give.

    Raises LostRowsError where these are too few.
    """
    known = read_counts(counts)
    parts = [_read_draws(file, some) for file in files]
    smallest = QueryDraws.merge(parts, policy.draws_needed)
    mine = (known.queries >= some.first) & (known.queries <= some.last)
    limits = policy.limits_by_draw(QueryCounts(known.queries[mine], known.counts[mine]), smallest)
    _write([limits.queries, limits.counts, limits.limits], _LIMITS, path)


def _read_draws(file: Path, some: Queries) -> QueryDraws:
    between = [("query_id", ">=", some.first), ("query_id", "<=", some.last)]
    table = pq.read_table(readable(file), filters=between)
    return QueryDraws(table["query_id"].to_numpy(), table["draw"].to_numpy())


def all_limits(known: QueryCounts, files: Iterable[Path], policy: Policy) -> QueryLimits:
    """The limits of all queries.

    Args:
        known: the counts of all pairs.
        files: of ``write_limits``, for all queries that have too many.
    """
    by_draw = [_read_limits(file) for file in files]
    return QueryLimits.join([policy.limits_by_count(known), *by_draw])


def _read_limits(path: Path) -> QueryLimits:
    table = pq.read_table(readable(path))
    return QueryLimits(*(table[name].to_numpy() for name in _LIMITS.names))


def _write(columns: Sequence[Int64s | Float64s], schema: pa.Schema, path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(column) for column in columns], schema=schema)
    write_table(table, path, _GROUP_ROWS)
