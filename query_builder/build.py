"""The Beam pipeline from dumps to the query list.

::

    dump ─▶ shards of pages ─▶ counts of a shard ─▶ 16 partitions by word ─▶ summed, pruned ─┐
       └──▶ titles ─┬────────────────────────────────────────────────────────────────────────┤
    page views ─────┴──▶ summed by title ────────────────────────────────────────────────────┤
    WordNet ──▶ names of synsets ────────────────────────────────────────────────────────────┤
       └──▶ tally of pages ───────────────────────────────────────────────────────▶ select, write

An element is a shard of pages or the counts of one, never a word: Beam's cost for an element
is then small against the work on it. Pages are counted where they are read and are never
shuffled. A worker holds the sums of what it has counted, 16 bytes for each distinct bigram; the
whole English Wikipedia has some hundred million of them. The partitions are independent from
the shuffle on and only their frequent terms come together, so what remains for bounded memory
on one machine is to spill the sums by partition before the shuffle.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam

from query_builder.counts import Counts, count, merge, partition
from query_builder.dump import read_pages
from query_builder.inputs import Inputs
from query_builder.markup import plain_text
from query_builder.settings import QuerySettings
from query_builder.synsets import read_synsets
from query_builder.terms import Frequent, prune, select
from query_builder.titles import Titles, add_titles
from workers.beam_pipeline import open_pipeline
from workers.storage import TEMPORARY_PREFIX, write_json, write_table
from workers.tally import Tally

#: Characters of wikitext in a shard: enough to make NumPy's calls cheap, few enough for its
#: arrays (some 30 bytes a character) to stay in the caches.
SHARD_CHARACTERS = 1 << 21

PARTITIONS = 16

#: A partition's partial counts wait to be summed until together they are this long, in words
#: and bigrams, or as long as the sum so far: summing for every shard would be quadratic.
PENDING_ENTRIES = 1 << 16


def build_queries(
    dumps: Sequence[Path],
    out_dir: Path,
    settings: QuerySettings,
    beam_options: Sequence[str],
    *,
    views: Sequence[Path] = (),
    synsets: Sequence[Path] = (),
) -> dict[str, Tally]:
    """Write ``out_dir/00000.parquet`` (schema ``QUERIES``); return the account of the work.

    The tallies are ``pages`` (kept: articles; failed: damage to a dump, once a file), ``views``
    (lines of the page view files, if there are any; kept: those of a title), ``synsets`` (of
    WordNet's files, if there are any) and ``terms`` (every distinct word and bigram, every title,
    every distinct name of a synset; kept: queries). The file depends on the input and the
    settings alone, not on the order of files nor on how Beam divides the work.

    Args:
        views: page view files; without them ``settings.titles`` alone decides on titles.
        synsets: WordNet's data files.

    ``out_dir`` must be reachable by Beam's workers. ``beam_options`` are Beam's own command
    line options; without a ``--runner`` the pipeline runs in this process. Raises OSError for
    files that cannot be opened, and LostRowsError if a tally does not balance.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    report = out_dir / f"{TEMPORARY_PREFIX}tallies.json"
    inputs = Inputs(dumps, views, synsets)
    with open_pipeline(beam_options) as pipeline:
        _add_stages(pipeline, inputs, out_dir / "00000.parquet", report, settings)
    tallies = _read_tallies(report)
    report.unlink()
    for tally in tallies.values():
        tally.check()
    return tallies


def _add_stages(
    pipeline: Any, inputs: Inputs, queries: Path, report: Path, settings: QuerySettings
) -> None:
    read = (
        pipeline
        | "dumps" >> beam.Create([str(path) for path in inputs.dumps])
        | "read" >> beam.FlatMap(read_shards).with_outputs("titles", "tally", main="texts")
    )
    frequent = (
        read.texts
        | "count" >> beam.FlatMap(count_shard, lower_case=settings.lower_case)
        | "sum" >> beam.CombinePerKey(SumCounts())
        | "prune" >> beam.MapTuple(lambda _, counts: prune(counts, settings))
    )
    titles = add_titles(pipeline, read.titles, inputs.views, settings)
    synsets = (
        pipeline
        | "wordnet" >> beam.Create([str(path) for path in inputs.synsets])
        | "synsets" >> beam.Map(read_synsets)
    )
    _ = (
        pipeline
        | "once" >> beam.Create([str(queries)])
        | "write"
        >> beam.Map(
            write_queries,
            str(report),
            settings,
            beam.pvalue.AsList(frequent),
            beam.pvalue.AsSingleton(titles),
            beam.pvalue.AsList(synsets),
            beam.pvalue.AsList(read.tally),
        )
    )


def read_shards(dump: str) -> Iterator[Any]:
    """The articles of a dump as lists of wikitext; beside them their titles and the tally."""
    tally = Tally()
    texts: list[str] = []
    titles: list[str] = []
    characters = 0
    for page in read_pages(Path(dump), tally):
        texts.append(page.text)
        titles.append(page.title)
        characters += len(page.text)
        if characters >= SHARD_CHARACTERS:
            yield texts
            yield beam.pvalue.TaggedOutput("titles", titles)
            texts, titles, characters = [], [], 0
    yield texts
    yield beam.pvalue.TaggedOutput("titles", titles)
    yield beam.pvalue.TaggedOutput("tally", tally)


def count_shard(texts: Sequence[str], lower_case: bool) -> Iterator[tuple[int, Counts]]:
    """The words and bigrams of a shard of pages, counted, by partition."""
    # A line end between pages keeps the last word of one from meeting the first of the next.
    text = "\n".join(map(plain_text, texts))
    yield from enumerate(partition(count(text, lower_case=lower_case), PARTITIONS))


class SumCounts(beam.CombineFn):  # type: ignore[misc]
    """The sum of partial counts. The accumulator is a list of partial counts still to add."""

    def create_accumulator(self) -> list[Counts]:
        return []

    def add_input(self, pending: list[Counts], counts: Counts) -> list[Counts]:
        pending.append(counts)
        # The first one is the sum so far: wait until the others are as long as it is.
        waiting = sum(len(part) for part in pending[1:])
        if waiting > max(PENDING_ENTRIES, len(pending[0])):
            pending[:] = [merge(pending)]
        return pending

    def merge_accumulators(self, accumulators: Iterable[list[Counts]]) -> list[Counts]:
        return self.compact([part for pending in accumulators for part in pending])

    def compact(self, pending: list[Counts]) -> list[Counts]:
        return [merge(pending)] if pending else pending

    def extract_output(self, pending: list[Counts]) -> Counts:
        return merge(pending) if pending else Counts()


def write_queries(
    queries: str,
    report: str,
    settings: QuerySettings,
    parts: Sequence[Frequent],
    titles: Titles,
    synsets: Sequence[tuple[list[str], Tally]],
    pages: Sequence[Tally],
) -> None:
    """Write the query list, and beside it the tallies for ``build_queries`` to read."""
    lemmas = (lemma for names, _ in synsets for lemma in names)
    table, terms = select(parts, titles.table, lemmas, settings)
    write_table(table, Path(queries))
    tallies = {"pages": Tally.total(pages)}
    if titles.lines is not None:
        tallies["views"] = titles.lines
    if synsets:
        tallies["synsets"] = Tally.total(tally for _, tally in synsets)
    tallies["terms"] = terms
    write_json({name: vars(tally) for name, tally in tallies.items()}, Path(report))


def _read_tallies(report: Path) -> dict[str, Tally]:
    tallies = json.loads(report.read_text(encoding="utf-8"))
    for tally in tallies.values():
        tally.update({name: Counter(tally[name]) for name in ("rejected", "failed")})
    return {name: Tally(**tally) for name, tally in tallies.items()}
