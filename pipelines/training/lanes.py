"""The rows of lanes, read out of shards in sequence."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from pipelines.training.index import Index, hashes_of
from pipelines.training.order import Order, Segment
from workers.base.copies import bring, drop
from workers.embedding.samples import ShardError
from workers.embedding.shard_reader import read_chunk


@dataclass(frozen=True)
class Row:
    """An example as it is stored."""

    id: str
    image: bytes
    captions: tuple[str, ...]
    place: tuple[int, int]  # its shard, and its number in that shard's index


class Lane:
    """The rows of a lane, read in sequence: of a chunk that a window ends in, the rest is next."""

    def __init__(self, number: int, order: Order, files: Files) -> None:
        self.number, self._order, self._files = number, order, files
        self._rows: Generator[Row] | None = None
        self._next = (-1, -1)  # epoch and window that follow on what was read

    def load(self, epoch: int, window: int) -> list[Row]:
        """The rows of a window, as they stand in the epoch's sequence."""
        begin, end = self._order.places(self.number, window)
        if self._rows is None or self._next != (epoch, window):
            self.close()
            self._rows = self._read(epoch, begin)
        self._next = epoch, window + 1
        return list(islice(self._rows, end - begin))

    def close(self) -> None:
        if self._rows is not None:
            self._rows.close()
        self._rows = None

    def _read(self, epoch: int, begin: int) -> Generator[Row]:
        for segment in self._order.segments(epoch, begin, self._order.lane_end(self.number)):
            yield from self._files.rows(segment)


class Files:
    """The shards of an index; what lies in a bucket is here as long as a lane reads it."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._readers = Counter[Path]()
        self._lock = threading.Lock()

    def rows(self, segment: Segment) -> Generator[Row]:
        """The rows of a segment. Raises ShardError where they are not those that were indexed."""
        shard, path = self._index.shard(segment.shard), self._index.shards[segment.shard]
        numbers = shard.rows[segment.begin : segment.end].tolist()
        hashes = shard.hashes(segment.begin, segment.end)
        chunk = shard.chunks[segment.chunk]
        found = 0
        with self._here(path), closing(read_chunk(path, chunk, self._index.source)) as samples:
            for number, sample in enumerate(samples):
                if number != numbers[found]:
                    continue
                image = sample.image or b""
                if hashes_of(image, sample.captions) != hashes.of_row(found):
                    break
                place = (segment.shard, segment.begin + found)
                yield Row(sample.id, image, sample.captions, place)
                found += 1
                if found == len(numbers):
                    return
        raise ShardError(f"{path} has changed since it was indexed: start the training anew")

    @contextmanager
    def _here(self, path: Path) -> Iterator[None]:
        with self._lock:
            self._readers[path] += 1
        try:
            bring([path])
            yield
        finally:
            with self._lock:
                self._readers[path] -= 1
                if not self._readers[path]:
                    del self._readers[path]
                    drop(path)
