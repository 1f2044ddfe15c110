"""Inputs to balanced pairs: extract, clean, match, deduplicate, cap, write, on Beam.

Elements are few and large: an input file, then a table of the pairs that one file has for one
output shard. A pair's shard is a range of its pair_id, so duplicates meet in one shard, shards
have even sizes, and the shards in the order of their names are sorted by pair_id throughout.

Matching comes before deduplication because most captions of the open web match nothing:
those are counted and dropped where they are read, and are never sent to another machine. The
pairs are the same either way; a row that is both is counted as ``no_query``.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from apache_beam.utils.shared import Shared
from pydantic import TypeAdapter

from workers.balance import Cap, Floats, Ints, QueryDraws, SmallestDraws, bucket_matches
from workers.beam_pipeline import open_pipeline
from workers.candidates import Candidate
from workers.captions import caption_rules, clean_caption, first_reason
from workers.contracts import PAIRS, make_pair_id
from workers.extract import extract_pairs
from workers.inputs import Input, InputKind
from workers.match import Matcher
from workers.sampling import draw
from workers.settings import PairSettings
from workers.storage import write_table, write_text
from workers.tally import LostRowsError, Tally

#: The counts of every query before and after balancing; readers of data skip its name.
QUERY_COUNTS_FILE = "_query_counts.parquet"
QUERY_COUNTS = pa.schema(
    [
        pa.field("query_id", pa.int32(), nullable=False),
        pa.field("before", pa.int64(), nullable=False),  # different pairs that match
        pa.field("after", pa.int64(), nullable=False),  # pairs that list it after balancing
    ]
)

#: Candidates that are cleaned and matched at a time.
_BATCH_ROWS = 1_000

#: Pairs of one input for one shard that are held before they are sent on.
_TABLE_ROWS = 20_000

#: Groups of queries whose draws are merged side by side.
_QUERY_BUCKETS = 64

_TALLIES_FILE = "_tallies.json"
_TALLIES = TypeAdapter(dict[str, Tally])

#: Names of the tallies, in the order of the work.
TALLY_NAMES = ("pages", "images", "pairs")


class ShardTable(NamedTuple):
    """Pairs of one output shard, in the PAIRS schema."""

    shard: int
    table: pa.Table


def build_pairs(
    warcs: Sequence[Path],
    queries: Sequence[Path],
    out_dir: Path,
    settings: PairSettings,
    seed: int,
    beam_options: Sequence[str],
) -> dict[str, Tally]:
    """Make the ``pairs/`` shards of WARC files and query shards in ``out_dir``.

    Writes ``settings.shards`` Parquet files, some perhaps without rows, and
    ``_query_counts.parquet``. The bytes depend on the inputs, the settings and the seed alone.
    Returns the tallies "pages", "images" and "pairs". Raises LostRowsError if a row got lost
    and, from Beam, RuntimeError naming an input that cannot be opened.
    """
    out_dir = out_dir.absolute()  # Beam's workers may run elsewhere
    out_dir.mkdir(parents=True, exist_ok=True)
    inputs = [path.absolute() for path in sorted(warcs, key=lambda path: (path.name, path))]
    query_files = sorted(path.absolute() for path in queries)
    with open_pipeline(beam_options) as pipeline:
        _assemble(pipeline, inputs, query_files, out_dir, settings, seed)
    tallies = _collect_tallies(out_dir / _TALLIES_FILE)
    _check_tallies(tallies)
    return tallies


def _assemble(
    pipeline: beam.Pipeline,
    inputs: list[Path],
    queries: list[Path],
    out_dir: Path,
    settings: PairSettings,
    seed: int,
) -> None:
    found = (
        pipeline
        | "Inputs" >> beam.Create(inputs)
        | "Spread" >> beam.Reshuffle()
        | "Read" >> beam.ParDo(ReadPairs(queries, settings)).with_outputs("tallies", main="main")
    )
    # Every shard is written, also one that no pair falls into.
    shards = pipeline | "Shards" >> beam.Create(range(settings.shards))
    empty = shards | "Empty" >> beam.Map(lambda shard: ShardTable(shard, PAIRS.empty_table()))
    distinct = (
        (found["main"], empty)
        | "Both" >> beam.Flatten()
        | "ByShard" >> beam.GroupByKey()
        | "Distinct" >> beam.ParDo(Deduplicate()).with_outputs("tallies", main="main")
    )
    limit = settings.max_pairs_per_query + 1
    caps = (
        distinct["main"]
        | "Draw" >> beam.FlatMap(matches_of_shard, seed, limit)
        | "Smallest" >> beam.CombinePerKey(SmallestDraws(limit))
        | "Cap" >> beam.MapTuple(lambda _, draws: draws.capped(settings.max_pairs_per_query))
    )
    written = distinct["main"] | "Write" >> beam.ParDo(
        BalanceAndWrite(out_dir, seed), beam.pvalue.AsList(caps)
    ).with_outputs("tallies", main="main")
    _write_counts(pipeline, queries, caps, written["main"], out_dir)
    _write_tallies((found["tallies"], distinct["tallies"], written["tallies"]), out_dir)


class ReadPairs(beam.DoFn):  # type: ignore[misc]
    """An input file to tables of its pairs that match a query, one or more a shard."""

    def __init__(self, queries: list[Path], settings: PairSettings) -> None:
        self._queries = queries
        self._settings = settings
        self._shared = Shared()

    def setup(self) -> None:
        # One matcher a process, however many threads read.
        self._matcher = self._shared.acquire(
            lambda: Matcher(read_queries(self._queries), lowercase=self._settings.lowercase)
        )
        self._rules = caption_rules(self._settings)

    def process(self, warc: Path) -> Iterator[Any]:
        tallies = {name: Tally() for name in TALLY_NAMES}
        found = Input(str(warc), InputKind.WARC)
        candidates = (
            Candidate(**row)
            for table in extract_pairs(found, tallies["pages"], tallies["images"])
            for row in table.to_pylist()
        )
        rows = self._matched(candidates, tallies["pairs"])
        yield from sharded_tables(rows, self._settings.shards)
        for name, tally in tallies.items():
            yield beam.pvalue.TaggedOutput("tallies", (name, tally))

    def _matched(self, candidates: Iterable[Candidate], pairs: Tally) -> Iterator[tuple[Any, ...]]:
        """The rows of PAIRS; candidates that do not become one are counted."""
        while batch := list(itertools.islice(candidates, _BATCH_ROWS)):
            captions = [clean_caption(candidate.caption) for candidate in batch]
            matches = self._matcher.match(captions).to_lists()
            for candidate, caption, query_ids in zip(batch, captions, matches, strict=True):
                reason = first_reason(caption, self._rules) or (None if query_ids else "no_query")
                pair_id = make_pair_id(candidate.url, caption)
                if reason:
                    pairs.reject(reason, f"{pair_id} {candidate.source}", candidate._asdict())
                else:
                    yield (pair_id, candidate.url, caption, *candidate[2:], query_ids)


def read_queries(paths: Iterable[Path]) -> Iterator[tuple[int, str]]:
    """(query_id, query) of every row of some query shards."""
    for path in paths:
        table = pq.read_table(path, columns=["query_id", "query"])
        yield from zip(*(column.to_pylist() for column in table.columns), strict=True)


def shard_of(pair_id: str, shards: int) -> int:
    """The shard of a pair: the hash space cut into ranges of equal length."""
    return int(pair_id[:8], 16) * shards >> 32


def sharded_tables(rows: Iterable[tuple[Any, ...]], shards: int) -> Iterator[ShardTable]:
    """Rows of PAIRS as tables, each of one shard; what is held in memory is bounded."""
    held: list[list[tuple[Any, ...]]] = [[] for _ in range(shards)]
    for row in rows:
        shard = shard_of(row[0], shards)
        held[shard].append(row)
        if len(held[shard]) >= max(_TABLE_ROWS // shards, 1):
            yield ShardTable(shard, _table(held[shard]))
            held[shard] = []
    for shard, left in enumerate(held):
        if left:
            yield ShardTable(shard, _table(left))


def _table(rows: list[tuple[Any, ...]]) -> pa.Table:
    columns = zip(*rows, strict=True)
    arrays = [pa.array(c, field.type) for c, field in zip(columns, PAIRS, strict=True)]
    return pa.Table.from_arrays(arrays, schema=PAIRS)


class Deduplicate(beam.DoFn):  # type: ignore[misc]
    """The tables of a shard to one sorted table, each pair once."""

    def process(self, group: tuple[int, Iterable[pa.Table]]) -> Iterator[Any]:
        shard, tables = group
        table, pairs = deduplicate(pa.concat_tables(tables))
        yield ShardTable(shard, table)
        yield beam.pvalue.TaggedOutput("tallies", ("pairs", pairs))


def deduplicate(table: pa.Table) -> tuple[pa.Table, Tally]:
    """One row for each pair_id, sorted: the one with the smallest (page_url, source)."""
    keys = [(name, "ascending") for name in ("pair_id", "page_url", "source")]
    table = table.sort_by(keys).combine_chunks()
    ids = table["pair_id"].to_numpy()
    first = np.ones(len(ids), bool)
    first[1:] = ids[1:] != ids[:-1]
    tally = Tally()
    for row in table.filter(pa.array(~first)).to_pylist():
        tally.reject("duplicate", f"{row['pair_id']} {row['source']}", _sample(row))
    return table.filter(pa.array(first)), tally


def _sample(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in Candidate._fields}


def matches_of_shard(shard: ShardTable, seed: int, limit: int) -> list[tuple[int, QueryDraws]]:
    """What balancing must know of a shard, by bucket of queries."""
    _, queries, draws = _matches(shard.table, seed)
    return bucket_matches(queries, draws, _QUERY_BUCKETS, limit)


def _matches(table: pa.Table, seed: int) -> tuple[Ints, Ints, Floats]:
    """One entry for each (pair, query that it matches): row, query_id, the pair's draw."""
    lists = table["query_ids"].combine_chunks()
    rows = pc.list_parent_indices(lists).to_numpy().astype(np.int64)
    queries = pc.list_flatten(lists).to_numpy().astype(np.int64)
    draws = np.array([draw(seed, pair_id) for pair_id in table["pair_id"].to_pylist()], float)
    return rows, queries, draws[rows]


class BalanceAndWrite(beam.DoFn):  # type: ignore[misc]
    """A shard to its Parquet file, balanced; gives the ids of the queries kept, with counts."""

    def __init__(self, out_dir: Path, seed: int) -> None:
        self._out_dir = out_dir
        self._seed = seed

    def process(self, shard: ShardTable, caps: list[Cap]) -> Iterator[Any]:
        table, pairs = balance(shard.table, Cap.join(caps), self._seed)
        write_table(table, self._out_dir / f"{shard.shard:05d}.parquet")
        yield np.unique(pc.list_flatten(table["query_ids"]).to_numpy(), return_counts=True)
        yield beam.pvalue.TaggedOutput("tallies", ("pairs", pairs))


def balance(table: pa.Table, cap: Cap, seed: int) -> tuple[pa.Table, Tally]:
    """The pairs of a shard that some query keeps, each with the queries that keep it."""
    rows, queries, draws = _matches(table, seed)
    kept = cap.keeps(queries, draws)
    sizes = np.bincount(rows[kept], minlength=len(table))
    ends = np.concatenate([[0], np.cumsum(sizes[sizes > 0])]).astype(np.int32)
    query_ids = pa.ListArray.from_arrays(pa.array(ends), pa.array(queries[kept], pa.int32()))
    tally = Tally()
    for row in table.filter(pa.array(sizes == 0)).to_pylist():
        tally.reject("over_cap", f"{row['pair_id']} {row['source']}", _sample(row))
    balanced = table.filter(pa.array(sizes > 0)).combine_chunks()
    tally.keep(len(balanced))
    columns = [*balanced.columns[:-1], query_ids]
    return pa.Table.from_arrays(columns, schema=PAIRS), tally


def _write_counts(
    pipeline: beam.Pipeline,
    queries: list[Path],
    caps: beam.PCollection,
    kept: beam.PCollection,
    out_dir: Path,
) -> None:
    _ = (
        pipeline
        | "Once" >> beam.Create([out_dir / QUERY_COUNTS_FILE])
        | "WriteCounts"
        >> beam.Map(write_query_counts, queries, beam.pvalue.AsList(caps), beam.pvalue.AsIter(kept))
    )


def write_query_counts(
    path: Path,
    queries: list[Path],
    caps: list[Cap],
    kept: Iterable[tuple[Ints, Ints]],
) -> None:
    """Write how many pairs each query has before and after balancing, none included."""
    ids = np.unique(np.array([query_id for query_id, _ in read_queries(queries)], np.int64))
    before, after = np.zeros(len(ids), np.int64), np.zeros(len(ids), np.int64)
    for part in caps:
        before[np.searchsorted(ids, part.queries)] += part.counts
    for some, counts in kept:
        after[np.searchsorted(ids, some)] += counts
    columns = [pa.array(ids, pa.int32()), pa.array(before), pa.array(after)]
    write_table(pa.Table.from_arrays(columns, schema=QUERY_COUNTS), path)


def _write_tallies(tallies: Sequence[beam.PCollection], out_dir: Path) -> None:
    _ = (
        tallies
        | "AllTallies" >> beam.Flatten()
        | "AddUp" >> beam.CombinePerKey(Tally.total)
        | "ToDict" >> beam.combiners.ToDict()
        | "WriteTallies"
        >> beam.Map(
            lambda totals: write_text(_TALLIES.dump_json(totals).decode(), out_dir / _TALLIES_FILE)
        )
    )


def _collect_tallies(path: Path) -> dict[str, Tally]:
    tallies = _TALLIES.validate_json(path.read_bytes())
    path.unlink()
    return {name: tallies.get(name, Tally()) for name in TALLY_NAMES}


def _check_tallies(tallies: dict[str, Tally]) -> None:
    for tally in tallies.values():
        tally.check()
    candidates, pairs = tallies["images"].kept, tallies["pairs"].rows_in
    if candidates != pairs:
        raise LostRowsError(f"{candidates} candidates were extracted, but {pairs} accounted for")
