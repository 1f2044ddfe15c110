"""Shards of pairs to files: balanced, cut into files of even size, written, counted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from workers.base.arrays import Int64s
from workers.base.contracts import PAIRS
from workers.base.storage import write_table
from workers.base.tally import Tally
from workers.pairs.balance import Policy, QueryLimits
from workers.pairs.query_draws import count, join
from workers.pairs.tables import ShardTable, draws_of, matches_of, reject_rows

#: The counts of every query before and after balancing: a side table, apart from the shards.
QUERY_COUNTS_FILE = "_tables/query_counts.parquet"
QUERY_COUNTS = pa.schema(
    [
        pa.field("query_id", pa.int32(), nullable=False),
        pa.field("before", pa.int64(), nullable=False),  # different pairs that match
        pa.field("after", pa.int64(), nullable=False),  # pairs that list it after balancing
    ]
)


class BalanceAndWrite(beam.DoFn):  # type: ignore[misc]
    """A shard to its Parquet files, balanced; gives the ids of the queries kept, with counts."""

    def __init__(self, out_dir: Path, policy: Policy | None, seed: int, max_rows: int) -> None:
        self._out_dir = out_dir
        self._policy = policy
        self._seed = seed
        self._max_rows = max_rows

    def process(self, shard: ShardTable, limits: list[QueryLimits]) -> Iterator[Any]:
        table, pairs = shard.table, Tally(rows_in=len(shard.table), kept=len(shard.table))
        if self._policy:  # else captions were matched with nothing
            joined = QueryLimits.join(limits)
            table, pairs = balance(table, self._policy, joined, self._seed)
        for name, part in even_parts(f"{shard.shard:05d}", table, self._max_rows):
            write_table(part, self._out_dir / f"{name}.parquet")
        yield count(pc.list_flatten(table["query_ids"]).to_numpy())
        yield beam.pvalue.TaggedOutput("tallies", ("pairs", pairs))


def balance(
    table: pa.Table, policy: Policy, limits: QueryLimits, seed: int
) -> tuple[pa.Table, Tally]:
    """The pairs of a shard that stay, each with the queries that the policy leaves it."""
    rows, queries = matches_of(table)
    is_limited = np.zeros(len(table), bool)
    is_limited[rows[limits.of(queries) < policy.no_limit]] = True
    kept = policy.keeps(limits, rows, queries, draws_of(table, is_limited, seed)[rows])
    sizes = np.bincount(rows[kept], minlength=len(table))
    ends = np.concatenate([[0], np.cumsum(sizes[sizes > 0])]).astype(np.int32)
    query_ids = pa.ListArray.from_arrays(pa.array(ends), pa.array(queries[kept], pa.int32()))
    tally = Tally()
    reject_rows(tally, policy.reason, table.filter(pa.array(sizes == 0)))
    balanced = table.filter(pa.array(sizes > 0)).combine_chunks()
    tally.keep(len(balanced))
    columns = [*balanced.columns[:-1], query_ids]
    return pa.Table.from_arrays(columns, schema=PAIRS), tally


def even_parts(name: str, table: pa.Table, max_rows: int) -> Iterator[tuple[str, pa.Table]]:
    """A table cut into as few parts as ``max_rows`` allows, whose sizes differ by one at most.

    An only part has the table's name, others NAME-000, NAME-001, ...
    """
    parts = max(1, -(-len(table) // max_rows))
    bounds = [len(table) * number // parts for number in range(parts + 1)]
    for number in range(parts):
        part = table.slice(bounds[number], bounds[number + 1] - bounds[number])
        yield (name if parts == 1 else f"{name}-{number:03d}"), part


def write_query_counts(
    path: Path,
    queries: Sequence[Path],
    limits: list[QueryLimits],
    kept: Iterable[tuple[Int64s, Int64s]],
) -> None:
    """Write how many pairs each query has before and after balancing, none included."""
    stored = [pq.read_table(path, columns=["query_id"])["query_id"] for path in queries]
    ids = np.unique(join(column.to_numpy() for column in stored))
    before, after = np.zeros(len(ids), np.int64), np.zeros(len(ids), np.int64)
    for part in limits:
        before[np.searchsorted(ids, part.queries)] += part.counts
    for some, counts in kept:
        after[np.searchsorted(ids, some)] += counts
    columns = [pa.array(ids, pa.int32()), pa.array(before), pa.array(after)]
    write_table(pa.Table.from_arrays(columns, schema=QUERY_COUNTS), path)
