"""The Beam pipeline from dumps to the query list.

::

    dumps ─▶ parts ─▶ counts of each, in files ─▶ summed by partition, pruned ─┐
                        ├──▶ titles ─┬─────────────────────────────────────────┤
                        │            │  page views ─▶ summed by title ─────────┤
                        │            │      WordNet ─▶ names of synsets ───────┤
                        └──▶ tally of pages ─────────────────────▶ select, write

An element is a part of a dump or a piece of a file, never a word: Beam's cost for an element is
then small against the work on it. Pages are counted where they are read and are never shuffled.

Memory does not grow with the dumps. A worker adds up what it counts in one table; when that is
full it goes into the part's file (``part_counts``), cut into partitions by a hash of the word, and
the worker starts anew. What is shuffled is where the pieces are. Then one partition at a time is
summed, and only its frequent terms remain. There are as many partitions as keep each one small,
whatever the dumps.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import GoogleCloudOptions

from query_builder import part_counts, progress
from query_builder.dump import dump_parts
from query_builder.inputs import Inputs
from query_builder.part_counts import Counting, PartCounts, count_part
from query_builder.settings import QuerySettings
from query_builder.synsets import read_synsets
from query_builder.terms import Frequent, prune, select
from query_builder.titles import Titles, add_titles
from workers.base.beam_pipeline import file_names, on_all_cores, open_pipeline, pipeline_options
from workers.base.file_systems import size_of
from workers.base.storage import TEMPORARY_PREFIX, write_table
from workers.base.tally import Tally, take_tallies, write_tallies

#: Bytes of dump a partition, so that its sum is no larger than a worker's table. A compressed
#: byte is some five of XML.
PARTITION_BYTES = 64_000_000
COMPRESSION = 5
MIN_PARTITIONS, MAX_PARTITIONS = 4, 2048

#: Partitions that a part's file has at least: the files of dumps that grow serve as they are.
FILE_PARTITIONS = 256

#: Bytes of dump for which processes of their own are worth the seconds that they take to start.
BYTES_FOR_PROCESSES = 64_000_000


def build_queries(
    dumps: Sequence[str | Path],
    out_dir: Path,
    settings: QuerySettings,
    beam_options: Sequence[str],
    *,
    views: Sequence[Path] = (),
    synsets: Sequence[Path] = (),
    counts: str | None = None,
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
        counts: folder (a path or URL) for the counts of each part of a dump. What it has of these
            dumps is not counted again, and what is counted stays. None: they are below Beam's
            ``--temp_location``, which may be a URL, else below ``out_dir``, and removed when the
            list is there; those of a command that was killed are in ``out_dir`` for the next.

    ``out_dir`` must be reachable by Beam's workers. ``beam_options`` are Beam's own command
    line options; without any, the pipeline runs on this machine, on all its cores if the dumps are
    large. Raises OSError for files that cannot be opened, and LostRowsError if a tally does not
    balance.
    """
    inputs = Inputs(list(map(str, dumps)), views, synsets)
    folder = counts or _counts_folder(out_dir, beam_options)
    size = sum(map(size_of, inputs.dumps))
    counting, partitions = how_to_count(inputs.dumps, settings)
    options = on_all_cores(beam_options) if size >= BYTES_FOR_PROCESSES else beam_options

    def counted(pipeline: Any) -> Any:
        return (
            pipeline
            | "dumps" >> file_names(inputs.dumps)
            | "parts" >> beam.FlatMap(lambda name: dump_parts(os.fsdecode(name)))
            | "spread" >> beam.Reshuffle()
            | "count" >> beam.Map(lambda part: os.fsencode(count_part(part, counting, folder)))
        )

    with progress.of_parts(folder):
        tallies = _run(counted, partitions, inputs, out_dir, settings, options)
    if counts is None:
        part_counts.remove(folder)
    return tallies


def build_from_counts(
    counts: Sequence[Path],
    partitions: int,
    out_dir: Path,
    settings: QuerySettings,
    beam_options: Sequence[str],
    *,
    views: Sequence[Path] = (),
    synsets: Sequence[Path] = (),
) -> dict[str, Tally]:
    """``build_queries`` where the parts of all dumps have been counted (``how_to_count``)."""
    size = sum(path.stat().st_size for path in counts)
    options = on_all_cores(beam_options) if size >= BYTES_FOR_PROCESSES else beam_options

    def counted(pipeline: Any) -> Any:
        return pipeline | "counts" >> file_names(counts) | "spread" >> beam.Reshuffle()

    inputs = Inputs([], views, synsets)
    return _run(counted, partitions, inputs, out_dir, settings, options)


def _counts_folder(out_dir: Path, beam_options: Sequence[str]) -> str:
    options = pipeline_options(beam_options).view_as(GoogleCloudOptions)
    if options.temp_location:
        return f"{options.temp_location.rstrip('/')}/query_builder-{uuid.uuid4().hex}"
    return str(out_dir.absolute() / f"{TEMPORARY_PREFIX}counts")


def how_to_count(dumps: Iterable[str], settings: QuerySettings) -> tuple[Counting, int]:
    """How the parts of some dumps are counted, and in how many partitions the counts are summed."""
    size = sum(size_of(dump) * (1 if dump.endswith(".xml") else COMPRESSION) for dump in dumps)
    wanted = min(max(MIN_PARTITIONS, size // PARTITION_BYTES), MAX_PARTITIONS)
    partitions = 1 << (wanted - 1).bit_length()
    return Counting(settings.lower_case, max(partitions, FILE_PARTITIONS)), partitions


def _run(
    counted: Callable[[Any], Any],
    partitions: int,
    inputs: Inputs,
    out_dir: Path,
    settings: QuerySettings,
    beam_options: Sequence[str],
) -> dict[str, Tally]:
    """Add up what is in files of counts.

    Args:
        counted: gives a pipeline's collection of the files' names.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    report = out_dir / f"{TEMPORARY_PREFIX}tallies.json"
    with open_pipeline(beam_options) as pipeline:
        _add_stages(
            pipeline,
            counted(pipeline),
            partitions,
            inputs,
            out_dir / "00000.parquet",
            report,
            settings,
        )
    tallies = take_tallies(report)
    for tally in tallies.values():
        tally.check()
    return tallies


def _add_stages(
    pipeline: Any,
    counted: Any,
    partitions: int,
    inputs: Inputs,
    queries: Path,
    report: Path,
    settings: QuerySettings,
) -> None:
    found = counted | "look" >> beam.FlatMap(look_into, partitions).with_outputs(
        "titles", "tally", main="pieces"
    )
    frequent = (
        found.pieces
        | "partition" >> beam.GroupByKey()
        | "sum" >> beam.MapTuple(lambda _, pieces: prune(part_counts.total(pieces), settings))
    )
    titles = add_titles(pipeline, found.titles, inputs.views, settings)
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
            beam.pvalue.AsList(found.tally),
        )
    )


def look_into(file: bytes, partitions: int) -> Iterator[Any]:
    """What is in a file of counts: where each partition's are; the titles and the tally."""
    counts = PartCounts.open(os.fsdecode(file))
    yield from counts.pieces(partitions)
    for titles in counts.titles():
        yield beam.pvalue.TaggedOutput("titles", titles)
    yield beam.pvalue.TaggedOutput("tally", counts.index.tally)


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
