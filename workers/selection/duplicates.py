"""Rows that an earlier row duplicates, found in memory that does not grow with their number.

Rows that might be duplicates of one another share a group. They are spilled to files, a group
whole in one of them, and a file at a time is read, sorted and compared. A way of finding
duplicates (exact, perceptual, semantic) is what its groups are, and how one is compared.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from workers.base.arrays import Bools, Int64s

#: Gives pair_id, similarity and what is compared of all pairs, each time it is asked.
Tables = Callable[[], Iterator[pa.Table]]

#: Marks the rows that an earlier row of their group duplicates. It gets the rows, a group after
#: the other, and where each begins: [G + 1].
Compare = Callable[[pa.Table, Int64s], Bools]

#: Bytes that are gathered before they are added to the files.
_BUFFER = 128 << 20


def find_duplicates(
    grouped: Iterable[tuple[pa.Table, Int64s]], group: str, compare: Compare
) -> pa.LargeStringArray:
    """The pair_ids of rows that an earlier one of their group duplicates.

    Earlier is more similar to its caption; of equals, the one with the smaller pair_id.

    Args:
        grouped: tables with pair_id, similarity, the column ``group`` and what is compared, each
            with the file of every row, a number; a row may come in several groups.
        group: a column without nulls. A group's rows are all in one file.

    Returns:
        Sorted, each once. What a row is a duplicate of may be named, too.
    """
    with tempfile.TemporaryDirectory(prefix="duplicates-") as folder:
        files = _spill(grouped, Path(folder))
        found = [_named(_read(file), group, compare) for file in files]
    names = pc.unique(pa.chunked_array(found, pa.large_string()))
    return names.take(pc.sort_indices(names))


def file_count(rows: int, rows_per_file: int) -> int:
    """How many files keep about so many rows each; one at least."""
    return max(1, -(-rows // rows_per_file))


def _named(rows: pa.Table, group: str, compare: Compare) -> pa.LargeStringArray:
    order = [(group, "ascending"), ("similarity", "descending"), ("pair_id", "ascending")]
    rows = rows.sort_by(order).combine_chunks()
    groups = rows[group].combine_chunks()
    changes = pc.not_equal(groups[1:], groups[:-1]).to_numpy(zero_copy_only=False)
    starts = np.flatnonzero(np.concatenate([[True], changes, [True]]))
    duplicate = pa.array(compare(rows, starts))
    return rows["pair_id"].filter(duplicate).cast(pa.large_string()).combine_chunks()


def _spill(grouped: Iterable[tuple[pa.Table, Int64s]], folder: Path) -> list[Path]:
    """The files, each of Arrow streams one after the other."""
    gathered: list[tuple[pa.Table, Int64s]] = []
    size = 0
    for rows, numbers in grouped:
        gathered.append((rows, numbers))
        size += rows.nbytes
        if size >= _BUFFER:
            _append(gathered, folder)
            gathered, size = [], 0
    if gathered:
        _append(gathered, folder)
    return sorted(folder.iterdir())


def _append(gathered: list[tuple[pa.Table, Int64s]], folder: Path) -> None:
    """Add each file's rows to it: one stream, one file open at a time."""
    rows = pa.concat_tables(table for table, _ in gathered)
    numbers = np.concatenate([some for _, some in gathered])
    order = np.argsort(numbers, kind="stable")
    rows = rows.take(pa.array(order))
    present, starts = np.unique(numbers[order], return_index=True)
    for number, (start, end) in zip(present, pairwise([*starts, len(order)]), strict=False):
        file = folder / f"{number:08d}"
        with file.open("ab") as sink, pa.ipc.new_stream(sink, rows.schema) as stream:
            stream.write_table(rows.slice(start, end - start))


def _read(file: Path) -> pa.Table:
    with pa.OSFile(str(file)) as source:
        streams = []
        while source.tell() < source.size():
            streams.append(pa.ipc.open_stream(source).read_all())
    return pa.concat_tables(streams)
