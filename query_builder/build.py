"""The Beam pipeline from dumps to the query list.

::

    dumps ─▶ parts ─▶ pages ─▶ counts, spilled by partition ─▶ summed, pruned ─┐
                        ├──▶ titles ─┬─────────────────────────────────────────┤
                        │            │  page views ─▶ summed by title ─────────┤
                        │            │      WordNet ─▶ names of synsets ───────┤
                        └──▶ tally of pages ─────────────────────▶ select, write

An element is a part of a dump, a shard of pages or a piece of a file, never a word: Beam's cost
for an element is then small against the work on it. Pages are counted where they are read and
are never shuffled.

Memory does not grow with the dumps. A worker adds up what it counts in one table; when that is
full it goes into a file, cut into partitions by a hash of the word, and the worker starts anew.
What is shuffled is where the pieces are. Then one partition at a time is summed, and only its
frequent terms remain. There are as many partitions as keep each one small, whatever the dumps.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import GoogleCloudOptions
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue

from query_builder import spill
from query_builder.counts import Counter
from query_builder.dump import dump_parts, read_pages
from query_builder.inputs import Inputs
from query_builder.markup import plain_text
from query_builder.settings import QuerySettings
from query_builder.sources import Part
from query_builder.synsets import read_synsets
from query_builder.terms import Frequent, prune, select
from query_builder.titles import Titles, add_titles
from query_builder.wikis import Wiki
from workers.base.beam_pipeline import file_names, open_pipeline, pipeline_options
from workers.base.file_systems import size_of
from workers.base.storage import TEMPORARY_PREFIX, write_table
from workers.base.tally import Tally, take_tallies, write_tallies

#: Characters of wikitext in a shard: enough to make calls cheap, few enough for the caches.
SHARD_CHARACTERS = 1 << 20

#: Distinct words and bigrams that a worker holds; their tables then take some 100 MB.
MAX_ENTRIES = 2_500_000

#: Bytes of dump a partition, so that its sum is no larger than a worker's table. A compressed
#: byte is some five of XML.
PARTITION_BYTES = 64_000_000
COMPRESSION = 5
MIN_PARTITIONS, MAX_PARTITIONS = 4, 2048


def build_queries(
    dumps: Sequence[str | Path],
    out_dir: Path,
    settings: QuerySettings,
    beam_options: Sequence[str],
    *,
    views: Sequence[Path] = (),
    synsets: Sequence[Path] = (),
) -> dict[str, Tally]:
    """Write ``out_dir/00000.parquet`` (schema ``QUERIES``); return the tally of the work.

    The tallies are ``pages`` (kept: articles; failed: damaged places of dumps), ``views``
    (lines of the page view files, if there are any; kept: those of a title), ``synsets`` (of
    WordNet's files, if there are any) and ``terms`` (every distinct word and bigram, every title,
    every distinct name of a synset; kept: queries). The file depends on the input and the
    settings alone, not on the order of files nor on how Beam divides the work.

    Args:
        dumps: paths and URLs.
        views: page view files; without them ``settings.titles`` alone decides on titles.
        synsets: WordNet's data files.

    ``out_dir`` must be reachable by Beam's workers. ``beam_options`` are Beam's own command
    line options; without a ``--runner`` the pipeline runs in this process. Partial counts are
    written below its ``--temp_location``, which may be a URL, else below ``out_dir``, and removed
    in the end. Raises OSError for files that cannot be opened, and LostRowsError if a tally does
    not balance.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    report = out_dir / f"{TEMPORARY_PREFIX}tallies.json"
    inputs = Inputs(list(map(str, dumps)), views, synsets)
    folder = _spill_folder(out_dir, beam_options)
    try:
        with open_pipeline(beam_options) as pipeline:
            counting = Counting(settings.lower_case, _partitions(inputs.dumps), folder)
            _add_stages(pipeline, inputs, counting, out_dir / "00000.parquet", report, settings)
    finally:
        spill.remove(folder)
    tallies = take_tallies(report)
    for tally in tallies.values():
        tally.check()
    return tallies


def _spill_folder(out_dir: Path, beam_options: Sequence[str]) -> str:
    options = pipeline_options(beam_options).view_as(GoogleCloudOptions)
    if options.temp_location:
        return f"{options.temp_location.rstrip('/')}/query_builder-{uuid.uuid4().hex}"
    return str(out_dir.absolute() / f"{TEMPORARY_PREFIX}counts")


def _partitions(dumps: Iterable[str]) -> int:
    size = sum(size_of(dump) * (1 if dump.endswith(".xml") else COMPRESSION) for dump in dumps)
    return min(max(MIN_PARTITIONS, size // PARTITION_BYTES), MAX_PARTITIONS)


def _add_stages(
    pipeline: Any,
    inputs: Inputs,
    counting: Counting,
    queries: Path,
    report: Path,
    settings: QuerySettings,
) -> None:
    read = (
        pipeline
        | "dumps" >> file_names(inputs.dumps)
        | "parts" >> beam.FlatMap(lambda name: dump_parts(os.fsdecode(name)))
        | "spread" >> beam.Reshuffle()
        | "read" >> beam.FlatMap(read_shards).with_outputs("titles", "tally", main="texts")
    )
    frequent = (
        read.texts
        | "count" >> beam.ParDo(CountShards(counting))
        | "partition" >> beam.GroupByKey()
        | "sum" >> beam.MapTuple(lambda _, pieces: prune(spill.total(pieces), settings))
    )
    titles = add_titles(pipeline, read.titles, inputs.views, settings)
    synsets = (
        pipeline
        | "wordnet" >> file_names(inputs.synsets)
        | "synsets" >> beam.Map(lambda name: read_synsets(os.fsdecode(name)))
    )
    _ = (
        pipeline
        | "once" >> file_names([queries])
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


def read_shards(part: Part) -> Iterator[Any]:
    """The articles of a part: the wiki and lists of wikitext; their titles and the tally."""
    tally = Tally()
    texts: list[str] = []
    titles: list[str] = []
    characters = 0
    for page in read_pages(part, tally):
        texts.append(page.text)
        titles.append(page.title)
        characters += len(page.text)
        if characters >= SHARD_CHARACTERS:
            yield part.wiki, texts
            yield beam.pvalue.TaggedOutput("titles", titles)
            texts, titles, characters = [], [], 0
    yield part.wiki, texts
    yield beam.pvalue.TaggedOutput("titles", titles)
    yield beam.pvalue.TaggedOutput("tally", tally)


@dataclass(frozen=True)
class Counting:
    """How shards are counted and where the counts go."""

    lower_case: bool
    partitions: int
    folder: str


class CountShards(beam.DoFn):  # type: ignore[misc]
    """Shards of pages to pieces of counts by partition: the sums of a bundle, or of as much of
    it as fits in the table."""

    def __init__(self, counting: Counting) -> None:
        self._counting = counting

    def start_bundle(self) -> None:
        self._counter = Counter(lower_case=self._counting.lower_case)

    def process(self, shard: tuple[Wiki, list[str]]) -> Iterator[tuple[int, spill.Piece]]:
        wiki, texts = shard
        # A line end between pages keeps the last word of one from meeting the first of the next.
        self._counter.add_text("\n".join(plain_text(text, wiki) for text in texts))
        if self._counter.words + self._counter.bigrams >= MAX_ENTRIES:
            yield from self._spill()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        for piece in self._spill():
            yield WindowedValue(piece, GlobalWindow().max_timestamp(), [GlobalWindow()])
        del self._counter

    def _spill(self) -> Iterator[tuple[int, spill.Piece]]:
        counts = self._counter.take()
        if len(counts):
            yield from spill.spill(counts, self._counting.partitions, self._counting.folder)


def write_queries(
    queries: bytes,
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
    write_table(table, Path(os.fsdecode(queries)))
    tallies = {"pages": Tally.total(pages)}
    if titles.lines is not None:
        tallies["views"] = titles.lines
    if synsets:
        tallies["synsets"] = Tally.total(tally for _, tally in synsets)
    tallies["terms"] = terms
    write_tallies(tallies, Path(report))
