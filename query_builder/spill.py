"""Partial counts in files, cut by partition, until all are there to be summed.

A file is a chain of Arrow streams, one a partition. Which bytes of which file belong to a
partition travels through the pipeline instead of the counts.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from fsspec.core import url_to_fs

from query_builder.counts import Counts, merge, partition

_SCHEMA = pa.schema(
    [
        ("words", pa.list_(pa.string())),
        ("word_counts", pa.list_(pa.int64())),
        ("left", pa.list_(pa.int32())),
        ("right", pa.list_(pa.int32())),
        ("bigram_counts", pa.list_(pa.int64())),
    ]
)
_OPTIONS = pa.ipc.IpcWriteOptions(compression="zstd")


@dataclass(frozen=True, slots=True)
class Piece:
    """Where a partition's part of some counts is stored."""

    file: str
    offset: int
    size: int


def spill(counts: Counts, partitions: int, folder: str) -> Iterator[tuple[int, Piece]]:
    """Write counts to a new file in ``folder`` (a path or URL); yield the piece of each
    partition that has any."""
    # A name of its own for every attempt: a runner may start the same work twice.
    file = f"{folder}/{uuid.uuid4().hex}.arrows"
    files, path = url_to_fs(file)
    files.makedirs(files._parent(path), exist_ok=True)
    with files.open(path, "wb") as sink:
        offset = 0
        for part, own in enumerate(partition(counts, partitions)):
            if len(own):
                stored = _stored(own)
                sink.write(stored)
                yield part, Piece(file, offset, len(stored))
                offset += len(stored)


def total(pieces: Iterable[Piece]) -> Counts:
    """The sum of all pieces of a partition, read one after the other."""
    return merge(map(_read, pieces))


def remove(folder: str) -> None:
    """Remove the folder with all that was spilled."""
    files, path = url_to_fs(folder)
    if files.exists(path):
        files.rm(path, recursive=True)


def _stored(counts: Counts) -> memoryview:
    columns = [getattr(counts, name) for name in _SCHEMA.names]
    row = [
        pa.ListArray.from_arrays(pa.array([0, len(column)], pa.int32()), pa.array(column))
        for column in columns
    ]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, _SCHEMA, options=_OPTIONS) as writer:
        writer.write_batch(pa.record_batch(row, schema=_SCHEMA))
    return memoryview(sink.getvalue())


def _read(piece: Piece) -> Counts:
    files, path = url_to_fs(piece.file)
    with files.open(path, "rb") as source:
        source.seek(piece.offset)
        stored = source.read(piece.size)
    batch = pa.ipc.open_stream(stored).read_next_batch()
    words, *numbers = (column.values for column in batch.columns)
    return Counts(words, *(np.asarray(column) for column in numbers))
