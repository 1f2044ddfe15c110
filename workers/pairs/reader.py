"""Inputs to tables of pairs that match a query: read, clean, name, match, in columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from workers.base.arrays import Bools
from workers.base.contracts import PAIRS
from workers.base.opt_outs import Kind, OptOuts, read_tombstones
from workers.base.pair_ids import make_pair_ids
from workers.base.storage import file_hash
from workers.base.tally import Tally
from workers.base.urls import UrlError, absolute_url
from workers.extract.dispatch import extract_pairs
from workers.extract.inputs import Input
from workers.pairs.captions import CaptionCleaner
from workers.pairs.clean_text import clean_column
from workers.pairs.match import Matcher
from workers.pairs.settings import CaptionSettings
from workers.pairs.tables import reject_rows

#: Names of the tallies, in the order of the work.
TALLY_NAMES = ("pages", "images", "redacted", "pairs")


class PairReader:
    """Reads inputs to tables of their pairs that match a query; of all their pairs where there are
    no queries to match (None).
    """

    def __init__(
        self,
        queries: Sequence[Path] | None,
        captions: CaptionSettings,
        *,
        lower_case: bool = True,
        agents: tuple[str, ...] = (),
        taken_down: Path | None = None,
    ) -> None:
        """
        Args:
            queries: shards of them.
            lower_case: they are in lower case, so captions are matched in lower case, too.
            agents: the product tokens by which pages may address us in their robots directives.
            taken_down: a file of tombstones. Nothing comes out that it has, not even in samples.
        """
        self._matched = queries is not None
        self._matcher = matcher_of(sorted(queries or ()), lower_case=lower_case)
        self._cleaner = CaptionCleaner(captions)
        self._agents = agents
        self._taken_down = read_tombstones(taken_down) if taken_down else OptOuts.none()

    def pairs(self, source: Input, tallies: Mapping[str, Tally]) -> Iterator[pa.Table]:
        """The pairs of an input, in the PAIRS schema; what becomes none is counted.

        Raises OSError if the input cannot be opened.
        """
        pages, images = tallies["pages"], tallies["images"]
        for candidates in extract_pairs(source, pages, images, self._agents):
            yield self._matching(candidates, tallies)
        for tally in tallies.values():
            self._forget(tally)

    def _forget(self, tally: Tally) -> None:
        """Remove the samples of what was taken down, rejected before that was looked at."""
        for sample in tally.samples.values() if self._taken_down else ():
            for key, row in list(sample.items()):
                if any(map(self._taken_down.has_url, _urls_in(row))):
                    del sample[key]

    def _matching(self, candidates: pa.Table, tallies: Mapping[str, Tally]) -> pa.Table:
        """The rows of PAIRS; candidates that do not become one are counted."""
        gone, page = (self._taken_down.has_urls(candidates[name]) for name in ("url", "page_url"))
        candidates = self._left(candidates, gone | page, tallies["pairs"])
        candidates = candidates.combine_chunks()
        cleaned = self._cleaner.clean(_array(candidates["caption"]))
        tallies["redacted"].keep(cleaned.redacted)
        urls, _, *provenance = candidates.columns
        pair_ids = make_pair_ids(_array(urls), cleaned.captions)
        columns = [pair_ids, urls, cleaned.captions, *provenance]
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
        if not self._matched:
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


def matcher_of(queries: Sequence[Path], *, lower_case: bool) -> Matcher:
    """The matcher of some query shards: made once by a process for all groups of inputs."""
    # Known by content: a path may hold other queries later in the life of a process.
    return _matcher(tuple((path, file_hash(path)) for path in queries), lower_case)


@lru_cache(maxsize=1)
def _matcher(queries: tuple[tuple[Path, str], ...], lower_case: bool) -> Matcher:
    numbered = read_queries(path for path, _ in queries)
    return Matcher(as_captions(numbered, lower_case=lower_case), lowercase=lower_case)


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
