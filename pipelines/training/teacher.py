"""A teacher's embeddings of the pairs that are trained on, joined to them by pair_id.

The join is made once, while a shard is indexed: its rows' embeddings are gathered from wherever
they stand in the teacher's files into one file beside the index, in the index's order. That is
mapped like the index, so a training takes a row's embeddings from it in any order, on any number of
workers, from any step, and no process's memory holds them.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.training.settings import DistillationSettings
from workers.base.arrays import Float16s, Int32s, Int64s
from workers.base.copies import version_of
from workers.base.file_systems import find_files
from workers.base.ranges import Range, SortedFile
from workers.base.settings import printable
from workers.base.storage import DAMAGED_PARQUET, replacing, schema_with
from workers.embedding.matrix import embedding_matrix
from workers.embedding.samples import ShardError

#: The two columns, in the order in which they are stored.
COLUMNS = ("image_embedding", "text_embedding")

#: Where a row is that the teacher has not seen.
NOWHERE = -1


@dataclass(frozen=True)
class Teacher:
    """The Parquet files of a model's embeddings, whatever model it was.

    A row is sought only in row groups between whose pair_ids its own is: files that are sorted by
    it, as the pipeline writes them, are read once in all. Others do as well, but where ids have
    no order at all, each shard looks through the ids of many files: the one that is called like it
    comes first, and is the last if it has all of its rows.
    """

    files: tuple[Path, ...]
    ranges: tuple[Range, ...]  # of each file's pair_ids
    width: int  # of an embedding

    @classmethod
    def of(cls, settings: DistillationSettings) -> Teacher:
        """Look at all files, without reading one.

        Raises:
            ValueError: there is no such file, or one is not what the teacher's others are.
        """
        try:
            files = find_files(settings.embeddings)
        except FileNotFoundError as error:
            raise ValueError(str(error)) from error
        widths = {file: _width(file) for file in files}
        for file, width in widths.items():
            if width != widths[files[0]]:
                raise ValueError(
                    f"{file} has embeddings of {width} numbers, {files[0].name} of "
                    f"{widths[files[0]]}: they are not of one model"
                )
        filled = [(file, ends) for file in files if (ends := _range(file))]
        return cls(
            tuple(file for file, _ in filled),
            tuple(ends for _, ends in filled),
            widths[files[0]],
        )

    @property
    def identity(self) -> list[list[str | int]]:
        """What changes when a file does."""
        return [[printable(file), *version_of(file)] for file in self.files]

    def find(self, pair_ids: Sequence[str], shard: str) -> Int32s:
        """Where each row's embeddings are: its file, row group, and row there; [n, 3].

        Args:
            shard: the name of what the rows are from, without endings.

        Raises:
            ShardError: a file cannot be read.
        """
        places = np.full((len(pair_ids), 3), NOWHERE, np.int32)
        names = pa.array(pair_ids, pa.large_string())
        order = pc.sort_indices(names)
        names, rows = names.take(order), order.to_numpy()
        for number in sorted(
            range(len(self.files)), key=lambda number: self.files[number].stem != shard
        ):
            if not len(names):
                break
            if _between(names, self.ranges[number]):
                self._find_in(number, names, rows, places)
                left = places[rows, 0] == NOWHERE
                names, rows = names.filter(pa.array(left)), rows[left]
        return places

    def _find_in(self, number: int, names: pa.Array, rows: Int32s, places: Int32s) -> None:
        """Note where a file has some of the names, which are sorted."""
        file = SortedFile.open(self.files[number])
        for group, ends in file.groups:
            if some := _between(names, ends):
                sought = names[some.start : some.stop]
                ids = _read(file, group, ["pair_id"])["pair_id"].cast(pa.large_string())
                at = pc.index_in(sought, value_set=ids.combine_chunks()).fill_null(NOWHERE)
                found = at.to_numpy() != NOWHERE
                here = rows[some.start : some.stop][found]
                places[here, :2], places[here, 2] = (number, group), at.to_numpy()[found]

    def gather(self, places: Int32s, file: Path) -> None:
        """Write the embeddings of some rows, in their order: float16 [n, 2, width].

        Raises:
            ShardError: a file cannot be read, or an embedding is not finite.
        """
        with replacing(file) as temporary:
            shape = len(places), len(COLUMNS), self.width
            if not len(places):
                np.save(temporary, np.zeros(shape, np.float16))
                return
            out = np.lib.format.open_memmap(temporary, "w+", np.float16, shape)
            for (number, group), rows in _by_group(places):
                of_group = self._embeddings(number, group)
                out[rows] = of_group[places[rows, 2]]
            out.flush()

    def _embeddings(self, number: int, group: int) -> Float16s:
        """Of a row group, [rows, 2, width], of unit length: any length fits into float16 then."""
        file = SortedFile.open(self.files[number])
        table = _read(file, group, COLUMNS)
        if any(table[name].null_count for name in COLUMNS):
            raise ShardError(f"{file.path} has rows without an embedding: leave them out")
        vectors = np.stack([embedding_matrix(table[name]) for name in COLUMNS], axis=1)
        if not np.isfinite(vectors).all():
            raise ShardError(f"{file.path} has embeddings that are no numbers: make them again")
        lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
        return (vectors / np.maximum(lengths, 1e-12)).astype(np.float16)


def open_gathered(file: Path) -> Float16s:
    """Map what ``Teacher.gather`` wrote. Raises OSError or ValueError where it is not whole."""
    vectors: Float16s = np.lib.format.open_memmap(file, "r")
    return vectors


def _width(file: Path) -> int:
    """Raises ValueError where a file is none of embeddings of images and texts."""
    schema = schema_with(file, ("pair_id", *COLUMNS))
    kinds = [schema.field(name).type for name in COLUMNS]
    if not all(pa.types.is_fixed_size_list(kind) for kind in kinds) or len(set(kinds)) > 1:
        raise ValueError(
            f"{file}: {' and '.join(COLUMNS)} must be lists of one fixed size, and are "
            f"{kinds[0]} and {kinds[1]}"
        )
    width: int = kinds[0].list_size
    return width


def _range(file: Path) -> Range | None:
    """Between which pair_ids a file's rows are; None where it has none."""
    opened = SortedFile.open(file)
    ends = [ends for _, ends in opened.groups]
    groups = map(opened.metadata.row_group, range(opened.metadata.num_row_groups))
    if len(ends) != sum(group.num_rows > 0 for group in groups):
        raise ValueError(f"{file} does not say between which pair_ids its row groups are")
    if not all(isinstance(name, str) for one in ends for name in one):
        raise ValueError(f"{file}: pair_id is no text")
    return Range(min(e.first for e in ends), max(e.last for e in ends)) if ends else None


def _between(names: pa.Array, ends: Range) -> range:
    """Which of the names, which are sorted, are in a range."""
    places = range(len(names))
    first = bisect_left(places, ends.first, key=lambda place: names[place].as_py())
    return range(first, bisect_right(places, ends.last, key=lambda place: names[place].as_py()))


def _by_group(places: Int32s) -> Iterator[tuple[tuple[int, int], Int64s]]:
    """Each row group, and which of the rows are in it."""
    order: Int64s = np.lexsort((places[:, 1], places[:, 0])).astype(np.int64)
    starts = np.flatnonzero(np.diff(places[order, :2], axis=0, prepend=NOWHERE).any(axis=1))
    for rows in np.split(order, starts[1:]):
        number, group = int(places[rows[0], 0]), int(places[rows[0], 1])
        yield (number, group), rows


def _read(file: SortedFile, group: int, columns: Sequence[str]) -> pa.Table:
    try:
        with pq.ParquetFile(file.path, metadata=file.metadata) as parquet:
            return parquet.read_row_group(group, columns=list(columns))
    except DAMAGED_PARQUET as error:
        raise ShardError(f"{file.path} cannot be read as Parquet: {error}") from error
