"""Inputs to balanced pairs: extract, clean, match, deduplicate, balance, write, on Beam.

Elements are few and large: an input, then a table of the pairs that one input has for one output
shard. Rows stay in Arrow columns from the reading to the writing.

Matching comes before deduplication because most captions of the open web match nothing:
those are counted and dropped where they are read, and are never sent to another machine. The
pairs are the same either way; a row that is both is counted as ``no_query``.

Duplicates of a pair meet in the pair's shard. Where the captions of a URL are limited, or the URLs
of a caption, the pairs are first brought together by these: a further shuffle for each.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa

from workers.base.beam_pipeline import open_pipeline
from workers.base.contracts import PAIRS
from workers.base.tally import LostRowsError, Tally, take_tallies, write_tallies
from workers.extract.inputs import Input
from workers.pairs.balance import POLICIES, Policy
from workers.pairs.query_draws import (
    QueryDraws,
    SmallestDraws,
    bucket_counts,
    bucket_matches,
    join,
)
from workers.pairs.reader import TALLY_NAMES, ReadPairs
from workers.pairs.settings import PairSettings
from workers.pairs.tables import (
    Limit,
    ShardTable,
    deduplicate,
    draws_of,
    limit_pairs,
    limits_of,
    matches_of,
    split,
)
from workers.pairs.writer import QUERY_COUNTS_FILE, BalanceAndWrite, write_query_counts

#: Groups of queries whose draws are merged side by side.
_QUERY_BUCKETS = 64

_TALLIES_FILE = "_tallies.json"


def build_pairs(
    inputs: Sequence[Input],
    queries: Sequence[Path] | None,
    out_dir: Path,
    settings: PairSettings,
    seed: int,
    beam_options: Sequence[str],
    *,
    lower_case: bool = True,
    agents: tuple[str, ...] = (),
    taken_down: Path | None = None,
) -> dict[str, Tally]:
    """Make the ``pairs/`` shards of inputs and query shards in ``out_dir``.

    Writes at least ``settings.shards`` Parquet files, some perhaps without rows, and
    ``_tables/query_counts.parquet``. The bytes depend on inputs, settings and seed alone.
    ``lower_case``: the queries are in lower case, so captions are matched in lower case, too.
    Where ``queries`` is None, captions are matched with nothing: all pairs stay, without queries.
    Nothing comes out that ``taken_down``, a file of tombstones, has; not even into samples.
    ``agents`` are the product tokens by which pages may address us in their robots directives.

    Returns the tallies "pages", "images", "redacted" (captions in which something was blotted
    out) and "pairs". Raises LostRowsError if a row got lost and, from Beam, RuntimeError naming
    an input that cannot be opened.
    """
    out_dir = out_dir.absolute()  # Beam's workers may run elsewhere
    out_dir.mkdir(parents=True, exist_ok=True)
    query_files = sorted(path.absolute() for path in queries or ())
    read = ReadPairs(
        None if queries is None else query_files,
        settings,
        lower_case=lower_case,
        agents=agents,
        taken_down=taken_down,
    )
    with open_pipeline(beam_options) as pipeline:
        _assemble(pipeline, sorted(inputs, key=_place), read, query_files, out_dir, settings, seed)
    tallies = _collect_tallies(out_dir / _TALLIES_FILE)
    _check_tallies(tallies)
    return tallies


def _place(source: Input) -> tuple[str, tuple[str, ...]]:
    return source.url, source.files


def _assemble(
    pipeline: beam.Pipeline,
    inputs: list[Input],
    read: ReadPairs,
    queries: list[Path],
    out_dir: Path,
    settings: PairSettings,
    seed: int,
) -> None:
    found = (
        pipeline
        | "Inputs" >> beam.Create(inputs)
        | "Spread" >> beam.Reshuffle()
        | "Read" >> beam.ParDo(read).with_outputs("tallies", main="main")
    )
    tallies = [found["tallies"]]
    pairs = found["main"]
    limits = limits_of(settings)
    for limit, following in zip_longest(limits, limits[1:]):
        limited = (
            pairs
            | f"By {limit.reason}" >> beam.GroupByKey()
            | f"Limit {limit.reason}"
            >> beam.ParDo(LimitPairs(limit, following, settings.shards)).with_outputs(
                "tallies", main="main"
            )
        )
        tallies.append(limited["tallies"])
        pairs = limited["main"]
    # Every shard is written, also one that no pair falls into.
    shards = pipeline | "Shards" >> beam.Create(range(settings.shards))
    empty = shards | "Empty" >> beam.Map(lambda shard: ShardTable(shard, PAIRS.empty_table()))
    distinct = (
        (pairs, empty)
        | "Both" >> beam.Flatten()
        | "ByShard" >> beam.GroupByKey()
        | "Distinct" >> beam.ParDo(Deduplicate()).with_outputs("tallies", main="main")
    )
    policy = POLICIES[settings.balance](settings.pairs_per_query)
    query_limits = _limits(distinct["main"], policy, seed)
    written = distinct["main"] | "Write" >> beam.ParDo(
        BalanceAndWrite(
            out_dir, policy if read.matched else None, seed, settings.max_rows_per_file
        ),
        beam.pvalue.AsList(query_limits),
    ).with_outputs("tallies", main="main")
    _write_counts(pipeline, queries, query_limits, written["main"], out_dir)
    _write_tallies(pipeline, [*tallies, distinct["tallies"], written["tallies"]], out_dir)


def _limits(shards: beam.PCollection, policy: Policy, seed: int) -> beam.PCollection:
    """The limits of all queries: by their counts, and where these do not decide, by draws."""
    counted = (
        shards
        | "Count" >> beam.FlatMap(counts_of_shard)
        | "AddCounts" >> beam.CombinePerKey(SmallestDraws(0))
        | "Counts" >> beam.Values()
    )
    by_count = counted | "ByCount" >> beam.Map(policy.limits_by_count)
    by_draw = (
        shards
        | "Draw" >> beam.FlatMap(draws_of_shard, beam.pvalue.AsList(counted), policy, seed)
        | "Smallest" >> beam.CombinePerKey(SmallestDraws(policy.draws_needed))
        | "ByDraw" >> beam.MapTuple(lambda _, known: policy.limits(known))
    )
    return (by_count, by_draw) | "Limits" >> beam.Flatten()


class LimitPairs(beam.DoFn):  # type: ignore[misc]
    """The pairs of some keys to different pairs, few enough a key, cut up for what follows."""

    def __init__(self, limit: Limit, following: Limit | None, shards: int) -> None:
        self._limit = limit
        self._following = following
        self._shards = shards

    def process(self, group: tuple[int, Iterable[pa.Table]]) -> Iterator[Any]:
        _, tables = group
        table, duplicates = deduplicate(pa.concat_tables(tables))
        table, surplus = limit_pairs(table, self._limit)
        yield from split(table, self._following, self._shards)
        for tally in (duplicates, surplus):
            yield beam.pvalue.TaggedOutput("tallies", ("pairs", tally))


class Deduplicate(beam.DoFn):  # type: ignore[misc]
    """The tables of a shard to one sorted table, each pair once."""

    def process(self, group: tuple[int, Iterable[pa.Table]]) -> Iterator[Any]:
        shard, tables = group
        table, pairs = deduplicate(pa.concat_tables(tables))
        yield ShardTable(shard, table)
        yield beam.pvalue.TaggedOutput("tallies", ("pairs", pairs))


def counts_of_shard(shard: ShardTable) -> list[tuple[int, QueryDraws]]:
    """How many pairs of a shard match each query, by bucket of queries."""
    return bucket_counts(matches_of(shard.table)[1], _QUERY_BUCKETS)


def draws_of_shard(
    shard: ShardTable, counted: list[QueryDraws], policy: Policy, seed: int
) -> list[tuple[int, QueryDraws]]:
    """The smallest draws of the queries of a shard that need them, by bucket of queries."""
    over = np.sort(join(known.queries[policy.needs_draws(known)] for known in counted))
    if not len(over):
        return []
    rows, queries = matches_of(shard.table)
    needed = np.isin(queries, over)
    rows, queries = rows[needed], queries[needed]
    is_needed = np.zeros(len(shard.table), bool)
    is_needed[rows] = True
    draws = draws_of(shard.table, is_needed, seed)[rows]
    return bucket_matches(queries, draws, _QUERY_BUCKETS, policy.draws_needed)


def _write_counts(
    pipeline: beam.Pipeline,
    queries: list[Path],
    limits: beam.PCollection,
    kept: beam.PCollection,
    out_dir: Path,
) -> None:
    _ = (
        pipeline
        | "Once" >> beam.Create([out_dir / QUERY_COUNTS_FILE])
        | "WriteCounts"
        >> beam.Map(
            write_query_counts, queries, beam.pvalue.AsList(limits), beam.pvalue.AsIter(kept)
        )
    )


def _write_tallies(
    pipeline: beam.Pipeline, tallies: Sequence[beam.PCollection], out_dir: Path
) -> None:
    totals = tallies | "AllTallies" >> beam.Flatten() | "AddUp" >> beam.CombinePerKey(Tally.total)
    _ = (
        pipeline
        | "OnceMore" >> beam.Create([out_dir / _TALLIES_FILE])
        | "WriteTallies" >> beam.Map(_save_tallies, beam.pvalue.AsList(totals))
    )


def _save_tallies(path: Path, totals: list[tuple[str, Tally]]) -> None:
    write_tallies(dict(totals), path)


def _collect_tallies(path: Path) -> dict[str, Tally]:
    tallies = take_tallies(path)
    return {name: tallies.get(name, Tally()) for name in TALLY_NAMES}


def _check_tallies(tallies: dict[str, Tally]) -> None:
    for tally in tallies.values():
        tally.check()
    candidates, pairs = tallies["images"].kept, tallies["pairs"].rows_in
    if candidates != pairs:
        raise LostRowsError(f"{candidates} candidates were extracted, but {pairs} accounted for")
