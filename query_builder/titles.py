"""The titles of a dump with their page views, on Beam: one element a view file.

Every worker that reads view files holds the dump's distinct titles and a count for each.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from query_builder.names import TITLES, index_titles, normal_titles
from query_builder.settings import QuerySettings
from query_builder.views import read_views
from workers.base.arrays import Int64s
from workers.base.beam_pipeline import file_names
from workers.base.tally import Tally

Viewed = tuple[Int64s, Tally]


@dataclass(frozen=True, slots=True)
class Titles:
    """The titles that may become queries."""

    table: pa.Table  # of the schema TITLES
    lines: Tally | None = None  # of the view files, if there are any


def add_titles(pipeline: Any, titles: Any, views: Sequence[Path], settings: QuerySettings) -> Any:
    """Add the steps from ``titles`` (lists of them) to a collection of one ``Titles``."""
    once = pipeline | "titles" >> beam.Create([settings.titles == "all"])
    shards = beam.pvalue.AsList(titles)
    if not views:
        return once | "without views" >> beam.Map(without_views, shards)
    index = once | "index titles" >> beam.Map(lambda _, lists: index_titles(_flat(lists)), shards)
    summed = (
        pipeline
        | "view files" >> file_names(views)
        | "read views"
        >> beam.Map(read_view_file, beam.pvalue.AsSingleton(index), settings.view_projects)
        | "sum views" >> beam.CombineGlobally(add_views)
    )
    return once | "with views" >> beam.Map(
        with_views, shards, beam.pvalue.AsSingleton(index), beam.pvalue.AsSingleton(summed)
    )


def read_view_file(path: bytes, index: pa.Array, projects: Sequence[str]) -> Viewed:
    """The views of each title of ``index`` in a file, and the tally of its lines."""
    tally = Tally()
    return read_views(Path(os.fsdecode(path)), index, projects, tally), tally


def add_views(parts: Iterable[Viewed]) -> Viewed:
    """The sum over files, or over sums of them."""
    views: Int64s = np.zeros((), np.int64)  # which can be added to any number of titles
    tallies = []
    for more, tally in parts:
        views = views + more
        tallies.append(tally)
    return views, Tally.total(tallies)


def without_views(wanted: bool, shards: Sequence[list[str]]) -> Titles:
    """All titles, or none, where nothing is known of their views."""
    titles = pa.array(_flat(shards) if wanted else [], pa.string())
    return Titles(pa.table([titles, pa.nulls(len(titles), pa.int64())], schema=TITLES))


def with_views(
    wanted: bool, shards: Sequence[list[str]], index: pa.Array, viewed: Viewed
) -> Titles:
    """The titles with their views; ``index`` has them all, and ``viewed`` is in its order."""
    views, lines = viewed
    titles = pa.array(_flat(shards) if wanted else [], pa.string())
    places = pc.index_in(normal_titles(titles), value_set=index)
    return Titles(pa.table([titles, pa.array(views).take(places)], schema=TITLES), lines)


def _flat(shards: Iterable[list[str]]) -> list[str]:
    return list(chain.from_iterable(shards))
