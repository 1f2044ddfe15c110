"""What a part of a dump holds, in a file of its own: counts by partition, titles, the tally.

Whoever has a part's file need not read the part again: it is there whole or not at all, under a
name of what it was made of. So a command that was killed goes on where it was, and of a dump that
has grown only what is new is counted. The sums are over as many files as there are parts, one
partition at a time; which bytes of which file belong to a partition travels through the pipeline
instead of the counts.

A file is a chain of Arrow streams, each a partition's counts or some titles; then JSON that says
where each lies, and its length.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
from fsspec.core import url_to_fs
from pydantic import BaseModel

from query_builder import progress
from query_builder.counts import Counter, Counts, merge, partition
from query_builder.dump import read_pages
from query_builder.markup import plain_text
from query_builder.sources import Part
from workers.base.credentials import shown
from workers.base.file_systems import exists, is_remote, open_file, stored
from workers.base.storage import replacing
from workers.base.tally import Tally

#: Characters of wikitext that are counted at a time: enough to make calls cheap, few enough for
#: the caches.
SHARD_CHARACTERS = 1 << 20

#: Distinct words and bigrams that a worker holds; their tables then take some 100 MB.
MAX_ENTRIES = 2_500_000

#: Raise it when the code counts otherwise.
VERSION = 1

SUFFIX = progress.SUFFIX

_COUNTS = pa.schema(
    [
        ("words", pa.list_(pa.string())),
        ("word_counts", pa.list_(pa.int64())),
        ("left", pa.list_(pa.int32())),
        ("right", pa.list_(pa.int32())),
        ("bigram_counts", pa.list_(pa.int64())),
    ]
)
_TITLES = pa.schema([("titles", pa.string())])
_OPTIONS = pa.ipc.IpcWriteOptions(compression="zstd")

#: Bytes behind the JSON that are its length.
_LENGTH_BYTES = 8


@dataclass(frozen=True, slots=True)
class Piece:
    """Where some counts or titles are stored."""

    file: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Counting:
    """How parts are counted."""

    lower_case: bool
    partitions: int  # a power of two: fewer of them are each some of these


class _Index(BaseModel):
    """What stands at the end of a file."""

    partitions: int
    counts: list[tuple[int, int, int]]  # partition, offset, size
    titles: list[tuple[int, int]]  # offset, size
    tally: Tally


@dataclass(frozen=True, slots=True)
class PartCounts:
    """A file of a part's counts."""

    file: str
    index: _Index

    @classmethod
    def open(cls, file: str) -> PartCounts:
        """Raises OSError, and ValueError for what is no such file."""
        with open_file(file) as source:
            size = source.seek(0, 2)
            source.seek(max(0, size - _LENGTH_BYTES))
            length = int.from_bytes(source.read(_LENGTH_BYTES), "little")
            if length > size - _LENGTH_BYTES:
                raise ValueError(f"{shown(file)} is no whole file of counts")
            source.seek(size - _LENGTH_BYTES - length)
            index = _Index.model_validate_json(source.read(length))
        return cls(file, index)

    def pieces(self, partitions: int) -> Iterator[tuple[int, Piece]]:
        """Where the counts of each of so many partitions are, a power of two."""
        for part, offset, size in self.index.counts:
            yield part % partitions, Piece(self.file, offset, size)

    def titles(self) -> Iterator[list[str]]:
        with open_file(self.file) as source:
            for offset, size in self.index.titles:
                yield _read(source, offset, size).column(0).to_pylist()


def part_name(part: Part, counting: Counting) -> str:
    """The name of a part's file: of what it depends on, and the part's bytes."""
    size, version = stored(part.file)
    what = [shown(part.file), version, part.start, part.end, counting.lower_case, VERSION]
    digest = hashlib.sha256(json.dumps(what).encode(errors="surrogateescape")).hexdigest()
    return f"{digest[:24]}-{(part.end or size) - part.start}{SUFFIX}"


def count_part(part: Part, counting: Counting, folder: str) -> str:
    """The file of a part's counts in a folder (a path or URL), which is made if it is not there."""
    file = f"{folder}/{part_name(part, counting)}"
    if not _is_counted(file, counting):
        write_counts(part, counting, file)
    elif not is_remote(file):
        Path(file).touch()  # done by this command, too: it counts for the progress
    return file


def _is_counted(file: str, counting: Counting) -> bool:
    if not exists(file):
        return False
    try:
        return PartCounts.open(file).index.partitions >= counting.partitions
    except ValueError:  # damaged
        return False


def write_counts(part: Part, counting: Counting, file: str) -> None:
    """Count a part of a dump into a file (a path or URL)."""
    tally = Tally()
    counter = Counter(lower_case=counting.lower_case)
    with _writing(file) as sink:
        chain = _Chain(sink, counting.partitions)
        for texts, titles in _shards(part, tally):
            # A line end between pages keeps the last word of one from meeting the first of the
            # next.
            counter.add_text("\n".join(plain_text(text, part.wiki) for text in texts))
            chain.add_titles(titles)
            if counter.words + counter.bigrams >= MAX_ENTRIES:
                chain.add_counts(counter.take())
        chain.add_counts(counter.take())
        chain.end(tally)


def _shards(part: Part, tally: Tally) -> Iterator[tuple[list[str], list[str]]]:
    """The wikitext and the titles of a part's articles, some of them at a time."""
    texts: list[str] = []
    titles: list[str] = []
    characters = 0
    for page in read_pages(part, tally):
        texts.append(page.text)
        titles.append(page.title)
        characters += len(page.text)
        if characters >= SHARD_CHARACTERS:
            yield texts, titles
            texts, titles, characters = [], [], 0
    yield texts, titles


class _Chain:
    """Writes what a file holds, one stream after the other."""

    def __init__(self, sink: BinaryIO, partitions: int) -> None:
        self._sink, self._partitions, self._offset = sink, partitions, 0
        self._counts: list[tuple[int, int, int]] = []
        self._titles: list[tuple[int, int]] = []

    def add_counts(self, counts: Counts) -> None:
        for part, own in enumerate(partition(counts, self._partitions)):
            if len(own):
                columns = [getattr(own, name) for name in _COUNTS.names]
                row = [
                    pa.ListArray.from_arrays(
                        pa.array([0, len(column)], pa.int32()), pa.array(column)
                    )
                    for column in columns
                ]
                self._counts.append((part, *self._add(pa.record_batch(row, schema=_COUNTS))))

    def add_titles(self, titles: list[str]) -> None:
        if titles:
            self._titles.append(self._add(pa.record_batch([titles], schema=_TITLES)))

    def _add(self, batch: pa.RecordBatch) -> tuple[int, int]:
        stream = pa.BufferOutputStream()
        with pa.ipc.new_stream(stream, batch.schema, options=_OPTIONS) as writer:
            writer.write_batch(batch)
        content = memoryview(stream.getvalue())
        self._sink.write(content)
        start, self._offset = self._offset, self._offset + len(content)
        return start, len(content)

    def end(self, tally: Tally) -> None:
        index = _Index(
            partitions=self._partitions, counts=self._counts, titles=self._titles, tally=tally
        )
        content = index.model_dump_json().encode()
        self._sink.write(content + len(content).to_bytes(_LENGTH_BYTES, "little"))


def total(pieces: Iterable[Piece]) -> Counts:
    """The sum of all pieces of a partition, read one after the other."""
    return merge(map(_read_counts, pieces))


def _read_counts(piece: Piece) -> Counts:
    with open_file(piece.file) as source:
        batch = _read(source, piece.offset, piece.size)
    words, *numbers = (column.values for column in batch.columns)
    return Counts(words, *(np.asarray(column) for column in numbers))


def _read(source: BinaryIO, offset: int, size: int) -> pa.RecordBatch:
    source.seek(offset)
    return pa.ipc.open_stream(source.read(size)).read_next_batch()


@contextmanager
def _writing(file: str) -> Iterator[BinaryIO]:
    """A new file that is there once it is whole."""
    if not is_remote(file):
        with replacing(Path(file)) as temporary, temporary.open("wb") as sink:
            yield sink
        return
    files, path = url_to_fs(file)
    files.makedirs(files._parent(path), exist_ok=True)
    with files.open(path, "wb") as sink:  # an object is there when it is closed
        yield sink


def remove(folder: str) -> None:
    """Remove the folder with all that was counted."""
    files, path = url_to_fs(folder)
    if files.exists(path):
        files.rm(path, recursive=True)
