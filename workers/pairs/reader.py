"""Inputs to tables of pairs that match a query: read, clean, name, match, in columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from apache_beam.utils.shared import Shared

from workers.base.arrays import Bools
from workers.base.contracts import PAIRS
from workers.base.opt_outs import Kind, OptOuts, read_tombstones
from workers.base.pair_ids import make_pair_ids
from workers.base.tally import Tally
from workers.base.urls import UrlError, absolute_url
from workers.extract.dispatch import extract_pairs
from workers.extract.inputs import Input
from workers.pairs.captions import CaptionCleaner
from workers.pairs.clean_text import clean_column
from workers.pairs.match import Matcher
from workers.pairs.settings import PairSettings
from workers.pairs.tables import limits_of, reject_rows, split

#: Names of the tallies, in the order of the work.
TALLY_NAMES = ("pages", "images", "redacted", "pairs")

#: Pairs of one input that are held before they are cut into shards and sent on.
_HELD_ROWS = 100_000


class ReadPairs(beam.DoFn):  # type: ignore[misc]
    """An input to tables of its pairs that match a query, one or more a shard; of all its pairs
    where there are no queries to match (None).

    The shard is that of the pair_id, or of what the first limit counts by, where there is one.
    """

    def __init__(
        self,
        queries: Sequence[Path] | None,
        settings: PairSettings,
        *,
        lower_case: bool,
        agents: tuple[str, ...] = (),
        taken_down: Path | None = None,
    ) -> None:
        self._queries = queries
        self._settings = settings
        self._lower_case = lower_case
        self._agents = agents
        self._tombstones = taken_down
        self._first_limit = next(iter(limits_of(settings)), None)
        self._shared = Shared()

    @property
    def matched(self) -> bool:
        """Whether captions are matched with queries."""
        return self._queries is not None

    def setup(self) -> None:
        # One matcher a process, however many threads read.
        self._matcher = self._shared.acquire(
            lambda: Matcher(
                as_captions(read_queries(self._queries or ()), lower_case=self._lower_case),
                lowercase=self._lower_case,
            )
        )
        self._cleaner = CaptionCleaner(self._settings.captions)
        path = self._tombstones
        self._taken_down = read_tombstones(path) if path else OptOuts.none()

    def process(self, source: Input) -> Iterator[Any]:
        tallies = {name: Tally() for name in TALLY_NAMES}
        for table in self._pairs(source, tallies):
            yield from split(table, self._first_limit, self._settings.shards)
        for name, tally in tallies.items():
            self._forget(tally)
            yield beam.pvalue.TaggedOutput("tallies", (name, tally))

    def _forget(self, tally: Tally) -> None:
        """Remove the samples of what was taken down, rejected before that was looked at."""
        for sample in tally.samples.values() if self._taken_down else ():
            for key, row in list(sample.items()):
                if any(map(self._taken_down.has_url, _urls_in(row))):
                    del sample[key]

    def _pairs(self, source: Input, tallies: dict[str, Tally]) -> Iterator[pa.Table]:
        """The pairs of an input in large tables; what is held in memory is bounded."""
        held: list[pa.Table] = []
        pages, images = tallies["pages"], tallies["images"]
        for candidates in extract_pairs(source, pages, images, self._agents):
            held.append(self._matched(candidates, tallies))
            if sum(map(len, held)) >= _HELD_ROWS:
                yield pa.concat_tables(held)
                held = []
        if sum(map(len, held)):
            yield pa.concat_tables(held)

    def _matched(self, candidates: pa.Table, tallies: dict[str, Tally]) -> pa.Table:
        """The rows of PAIRS; candidates that do not become one are counted."""
        gone, page = (self._taken_down.has_urls(candidates[name]) for name in ("url", "page_url"))
        candidates = self._left(candidates, gone | page, tallies["pairs"])
        candidates = candidates.combine_chunks()
        cleaned = self._cleaner.clean(_array(candidates["caption"]))
        tallies["redacted"].keep(cleaned.redacted)
        urls, _, *provenance = candidates.columns
        pair_ids = make_pair_ids(_array(urls), cleaned.captions)
        columns = [pa.array(pair_ids, pa.string()), urls, cleaned.captions, *provenance]
        table = pa.table([*columns, cleaned.reasons], [*PAIRS.names[:-1], "reason"])
        listed = self._taken_down.has_values(Kind.PAIR_ID, table["pair_id"])
        table = self._left(table, listed, tallies["pairs"])
        reasons, table = table["reason"], table.drop_columns(["reason"])
        for reason in pc.unique(reasons.drop_null()).to_pylist():
            rejected = pc.fill_null(pc.equal(reasons, reason), False)
            reject_rows(tallies["pairs"], reason, table.filter(rejected), self._cleaner.shown)
        return self._with_queries(table.filter(pc.is_null(reasons)), tallies["pairs"])

    def _left(self, table: pa.Table, taken_down: Bools, pairs: Tally) -> pa.Table:
        """The rows that were not taken down; no sample shows the others."""
        if not taken_down.any():
            return table
        pairs.reject_many("taken_down", int(taken_down.sum()), ())
        return table.filter(pa.array(~taken_down))

    def _with_queries(self, table: pa.Table, pairs: Tally) -> pa.Table:
        query_ids = self._matcher.match(_array(table["caption"])).to_arrow()
        if not self.matched:
            return pa.Table.from_arrays([*table.columns, query_ids], schema=PAIRS)
        matches = pc.greater(pc.list_value_length(query_ids), 0)
        reject_rows(pairs, "no_query", table.filter(pc.invert(matches)))
        columns = [*table.columns, query_ids]
        return pa.Table.from_arrays(columns, schema=PAIRS).filter(matches)


def _urls_in(row: Mapping[str, Any]) -> Iterator[str]:
    """The URLs of a sample's row in normal form; an image's may be relative to its page's."""
    page = row.get("page_url") or ""
    for url, base in ((page, ""), (row.get("url"), page)):
        if url:
            with suppress(UrlError):
                yield absolute_url(url, base)


def _array(column: pa.ChunkedArray) -> pa.Array:
    """A column in one piece."""
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def read_queries(paths: Iterable[Path]) -> Iterator[tuple[int, str]]:
    """(query_id, query) of every row of some query shards."""
    for path in paths:
        table = pq.read_table(path, columns=["query_id", "query"])
        yield from zip(*(column.to_pylist() for column in table.columns), strict=True)


def as_captions(
    queries: Iterable[tuple[int, str]], *, lower_case: bool
) -> Iterator[tuple[int, str]]:
    """Queries written as captions are when they are matched; those that come to nothing are left
    out, and those that come to the same are all found where one is.
    """
    numbered = list(queries)
    clean = clean_column(pa.array([text for _, text in numbered], pa.string()))
    for (query_id, _), text in zip(numbered, clean.to_pylist(), strict=True):
        if text:
            yield query_id, text.lower() if lower_case else text
