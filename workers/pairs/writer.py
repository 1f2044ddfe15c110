"""Ranges of pairs to files: balanced, cut into files of even size, written, counted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from workers.base.contracts import PAIRS
from workers.base.copies import readable
from workers.base.ranges import Range
from workers.base.storage import write_table
from workers.base.tally import Tally
from workers.pairs.balance import Policy, QueryLimits
from workers.pairs.candidates import Candidates
from workers.pairs.query_draws import QueryCounts, join
from workers.pairs.tables import draws_of, even_parts, matches_of, reject_rows

#: The counts of every query before and after balancing: a side table, apart from the shards.
QUERY_COUNTS = pa.schema(
    [
        pa.field("query_id", pa.int32(), nullable=False),
        pa.field("before", pa.int64(), nullable=False),  # different pairs that match
        pa.field("after", pa.int64(), nullable=False),  # pairs that list it after balancing
    ]
)


def write_pairs(
    candidates: Candidates,
    between: Range,
    balancing: tuple[Policy, QueryLimits] | None,
    seed: int,
    max_rows: int,
    out: Path,
    name: str,
) -> Tally:
    """Write the pairs of a range, sorted by pair_id, as NAME.parquet or, where they are more than
    ``max_rows``, as files of even size, NAME-000.parquet, ...

    Args:
        balancing: how, with the limits of all queries; None: captions were matched with nothing.
    """
    table, tally = candidates.counted(between)
    if balancing:
        table, dropped = balance(table, *balancing, seed)
        reject_rows(tally, balancing[0].reason, dropped)
    tally.keep(len(table))
    for part_name, part in even_parts(name, table, max_rows):
        write_table(part, out / f"{part_name}.parquet")
    return tally


def balance(
    table: pa.Table, policy: Policy, limits: QueryLimits, seed: int
) -> tuple[pa.Table, pa.Table]:
    """The pairs that stay, each with the queries that the policy leaves it; and the others."""
    rows, queries = matches_of(table)
    is_limited = np.zeros(len(table), bool)
    is_limited[rows[limits.of(queries) < policy.no_limit]] = True
    kept = policy.keeps(limits, rows, queries, draws_of(table, is_limited, seed)[rows])
    sizes = np.bincount(rows[kept], minlength=len(table))
    ends = np.concatenate([[0], np.cumsum(sizes[sizes > 0])]).astype(np.int32)
    query_ids = pa.ListArray.from_arrays(pa.array(ends), pa.array(queries[kept], pa.int32()))
    dropped = table.filter(pa.array(sizes == 0))
    balanced = table.filter(pa.array(sizes > 0)).combine_chunks()
    columns = [*balanced.columns[:-1], query_ids]
    return pa.Table.from_arrays(columns, schema=PAIRS), dropped


def write_query_counts(
    queries: Sequence[Path], before: QueryCounts, pairs: Iterable[Path], path: Path
) -> None:
    """Write how many pairs each query has before and after balancing, none included."""
    stored = [pq.read_table(shard, columns=["query_id"])["query_id"] for shard in queries]
    ids = np.unique(join(column.to_numpy() for column in stored))
    after = QueryCounts.total(map(_listed, pairs))
    columns = [pa.array(ids, pa.int32())]
    for known in (before, after):
        counts = np.zeros(len(ids), np.int64)
        counts[np.searchsorted(ids, known.queries)] = known.counts
        columns.append(pa.array(counts))
    write_table(pa.Table.from_arrays(columns, schema=QUERY_COUNTS), path)


def _listed(path: Path) -> QueryCounts:
    lists = pq.read_table(readable(path), columns=["query_ids"])["query_ids"]
    return QueryCounts.of(pc.list_flatten(lists.combine_chunks()).to_numpy().astype(np.int64))
