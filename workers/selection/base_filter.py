"""What a filter of the selection is: its settings, the reason it rejects for, and which rows stay.

A new one is a class in one of the files beside this, and its name in ``settings.AnyFilter``.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, ClassVar, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from workers.base.arrays import Bools, Float32s
from workers.base.file_systems import find_files
from workers.base.settings import Settings
from workers.base.storage import schema_with
from workers.embedding.settings import EmbedSettings

Keep = Bools
Cosine = Annotated[float, Field(ge=-1.0, le=1.0)]

#: Gives the pairs that are left, with pair_id and the columns that are named, in tables, as often
#: as it is called. How they are cut into tables, and the order of these, must never matter.
Survivors = Callable[[Sequence[str]], Iterator[pa.Table]]

#: Says of a table of pairs which stay.
Keeps = Callable[[pa.Table], Keep]

#: Names that a message lists, at most.
_LISTED = 20


@dataclass(frozen=True)
class Available:
    """What a configuration gives filters to refer to."""

    embeddings: EmbedSettings
    # Of the embeddings and their model, whose file may have to be read for it.
    dim: Callable[[], int]
    model: Callable[[], str]  # as files of embeddings name it
    temperature: Callable[[], float]  # that it was trained with
    has_queries: bool


class Filter(Settings):
    """Decides which pairs stay, by the settings that a step of the configuration writes.

    A filter looks at all pairs that the steps before it have left, if it must (``fit``), then
    decides on each. Its verdicts follow from the set of these pairs, the settings and the seed.
    """

    #: Counts the pairs that do not stay, unless the step has a ``name``.
    reason: ClassVar[str]
    #: What it reads of a pair beside pair_id: columns of `embeddings/`, `images/` or `pairs/`.
    columns: ClassVar[tuple[str, ...]] = ()
    #: Its settings that name files: their content is part of the key, not where they lie.
    file_settings: ClassVar[tuple[str, ...]] = ()

    name: str | None = Field(
        default=None, description="the reason that its rejected rows are counted under"
    )

    def reads(self) -> tuple[str, ...]:
        """``columns``, where settings do not say otherwise."""
        return self.columns

    def check(self, available: Available) -> None:
        """Raise ValueError, ``SETTING: what is wrong``, for what can be known before a run."""

    def doubts(self, available: Available) -> Iterator[str]:  # noqa: ARG002 - most have none
        """What is no mistake, and yet may not be what was meant: for people to read."""
        yield from ()

    def known_for(self, available: Available) -> Self:  # noqa: ARG002 - most are as written
        """With what the settings leave to the model of the embeddings."""
        return self

    def fit(self, survivors: Survivors, seed: int) -> Keeps:  # noqa: ARG002 - most need neither
        """What says which rows stay, after a look at all pairs that are left.

        Most filters judge a pair by itself and have ``keeps`` alone.

        Args:
            seed: of the draws that decide between equals.
        """
        return self.keeps

    def keeps(self, rows: pa.Table) -> Keep:
        """Which rows stay."""
        raise NotImplementedError


def check_names(names: Sequence[str], known: Collection[str], setting: str, where: str) -> None:
    """Raise ValueError for a name in ``setting`` that is not among the known ones, of ``where``."""
    for name in names:
        if name not in known:
            shown = get_close_matches(name, known, _LISTED) or list(known)[:_LISTED]
            more = f" and {len(known) - len(shown)} more" if len(known) > len(shown) else ""
            there = f"there are {', '.join(shown)}{more}" if known else "there is none"
            raise ValueError(f"{setting}: {name!r} is not in {where}; {there}")


def check_embeddings(
    files: Sequence[str], columns: Sequence[str], setting: str, available: Available
) -> None:
    """Raise ValueError for files that have no embeddings in ``columns`` by the run's model."""
    dim, model = available.dim(), available.model()
    for file in find_files(files):
        try:
            schema = schema_with(file, columns)
            for column in columns:
                _check_dim(schema.field(column).type, dim, f"{file}: {column}")
            _check_model(schema, model, file)
        except ValueError as error:
            raise ValueError(f"{setting}: {error}") from error


def _check_dim(kind: pa.DataType, dim: int, what: str) -> None:
    if not pa.types.is_fixed_size_list(kind):
        raise ValueError(f"{what} holds {kind}, not embeddings as pipelines.embed writes them")
    if kind.list_size != dim:
        raise ValueError(
            f"{what} has {kind.list_size} dimensions, the embeddings of embeddings.model {dim}: "
            "embed them with the same model"
        )


def _check_model(schema: pa.Schema, model: str, file: Path) -> None:
    """Files of other programs may not say by which model they are."""
    made_by = (schema.metadata or {}).get(b"model", model.encode()).decode()
    if made_by != model:
        raise ValueError(
            f"{file} was made by the model {made_by}, and embeddings.model is {model}: embed it "
            "with the same model"
        )


def floats(rows: pa.Table, column: str) -> Float32s:
    """A column of float32."""
    values: Float32s = rows[column].to_numpy()
    return values


def among(pair_ids: pa.ChunkedArray, names: pa.LargeStringArray) -> Keep:
    """Which pairs are among the names, which are sorted.

    Only the names between the smallest and the largest pair_id are looked at: a shard is a range.
    """
    if not len(pair_ids):
        return np.zeros(0, bool)
    ends = pc.min_max(pair_ids).as_py()
    places = range(len(names))
    first = bisect_left(places, ends["min"], key=lambda place: names[place].as_py())
    end = bisect_right(places, ends["max"], key=lambda place: names[place].as_py())
    found: Keep = pc.is_in(
        pair_ids.cast(pa.large_string()), value_set=names.slice(first, end - first)
    ).to_numpy()
    return found
