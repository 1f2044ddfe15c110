"""The order in which rows are trained on: a pure function of the index, the settings and the seed.

Every row has a place in an epoch, which is computed and not walked to: to begin at the millionth
step costs what beginning at the first does. Nothing in here draws from a generator; each draw is a
hash of what it is for, so the order is the same on every machine and with every version of numpy.

An epoch's sequence is its shards in random order, in each of them the chunks in random order, and
in each chunk its rows as they stand. It is cut into `lanes`, which are read in sequence and side by
side: each gives its share of every batch, after the rows of some steps (a window) were shuffled.
Workers take whole lanes, so a batch is the same whatever their number.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pipelines.training.unique import exchange
from workers.base.arrays import Float64s, Int64s, UInt64s
from workers.base.failures import NeedsMendingError
from workers.embedding.tar_reader import Chunk

_GAMMA = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class DataSettings:
    """What the batches depend on beside the shards."""

    batch_size: int  # rows of all workers together
    lanes: int = 8  # each reads a shard at a time; no more workers than these
    shuffle_rows: int = 16_384  # whose images are in memory, of all workers together
    unique: bool = False  # no image and no caption twice in a batch
    held_out: float = 0.0  # share of images that are kept out
    seed: int = 0


@dataclass(frozen=True)
class Hashes:
    """Of the images and captions of some rows."""

    images: UInt64s  # [n]
    captions: UInt64s  # [m], of all captions
    first: Int64s  # [n + 1], where each row's captions begin

    def of_row(self, row: int) -> tuple[int, list[int]]:
        """Of its image, and of each of its captions."""
        captions = self.captions[self.first[row] : self.first[row + 1]]
        return int(self.images[row]), captions.tolist()

    @classmethod
    def joined(cls, parts: Sequence[Hashes]) -> Hashes:
        counts = [np.diff(part.first) for part in parts]
        first = np.concatenate([np.zeros(1, np.int64), *counts]).cumsum()
        images = [part.images for part in parts]
        return cls(np.concatenate(images), np.concatenate([p.captions for p in parts]), first)


class ShardRows(Protocol):
    """What of a shard's index the order depends on."""

    @property
    def chunks(self) -> Sequence[Chunk]: ...
    @property
    def starts(self) -> Int64s: ...
    def hashes(self, begin: int, end: int) -> Hashes: ...


class Rows(Protocol):
    """What of the index it does."""

    @property
    def rows(self) -> Int64s: ...
    def shard(self, number: int) -> ShardRows: ...


@dataclass(frozen=True)
class Segment:
    """Rows that follow one another in a chunk, as the index of their shard numbers them."""

    shard: int
    chunk: int
    begin: int
    end: int


@dataclass(frozen=True)
class LaneWindow:
    """What is drawn for a lane's rows in a window; rows have their number in it."""

    rows: Int64s  # [steps, rows of the lane in a batch]
    squares: Float64s  # [n], where along the longer side the image is cut, from 0 to 1
    captions: Int64s  # [n], which of the row's captions it is
    image_hashes: UInt64s  # [n]
    caption_hashes: UInt64s  # [n], of the caption that was drawn


@dataclass(frozen=True)
class Window:
    """Some steps of an epoch whose rows are shuffled among them."""

    steps: int
    lanes: Mapping[int, LaneWindow]
    replaced: int = 0  # rows that another row of their lane stands for, as `unique` wants it
    clashing: int = 0  # rows for which there was none: they are in a batch with their like
    unique: bool = False

    def substitutes(self, lane: int, step: int, slot: int) -> Iterator[int]:
        """The rows of the lane that may stand for one whose image does not decode, best first.

        Those in the same place of the steps that follow, then in other places, at last of its own
        step: they are then in the batch twice, which ``unique`` does not allow.
        """
        rows = self.lanes[lane].rows
        seen = self._hashes_in(step) if self.unique else None
        others = [
            divmod((slot * self.steps + step + distance) % rows.size, self.steps)
            for distance in range(1, rows.size)
        ]
        for at_slot, at_step in sorted(others, key=lambda place: place[1] == step):
            row = int(rows[at_step, at_slot])
            if seen is None or not self._is_in(lane, row, seen):
                yield row

    def _hashes_in(self, step: int) -> set[int]:
        hashes = set[int]()
        for lane in self.lanes.values():
            hashes.update(lane.image_hashes[lane.rows[step]].tolist())
            hashes.update(lane.caption_hashes[lane.rows[step]].tolist())
        return hashes

    def _is_in(self, lane: int, row: int, hashes: set[int]) -> bool:
        plan = self.lanes[lane]
        return int(plan.image_hashes[row]) in hashes or int(plan.caption_hashes[row]) in hashes


class Order:
    """The batches of a training.

    Raises:
        NeedsMendingError: there are fewer rows than a batch has, or a setting makes no sense.
    """

    def __init__(self, index: Rows, settings: DataSettings) -> None:
        total = int(index.rows.sum())
        if min(settings.batch_size, settings.lanes, settings.shuffle_rows) < 1:
            raise NeedsMendingError(f"a batch, lanes and shuffled rows begin with 1: {settings}")
        if total < settings.batch_size:
            raise NeedsMendingError(
                f"{total} rows to train on are less than one batch of {settings.batch_size}: "
                "lower batch_size, hold fewer out, or give more shards"
            )
        self.index, self.settings = index, settings
        self.steps_per_epoch = total // settings.batch_size
        window_steps = max(1, settings.shuffle_rows // settings.batch_size)
        self.windows_per_epoch = -(-self.steps_per_epoch // window_steps)
        #: Where each lane's rows begin in a batch, and where the last one's end.
        self.bounds = [
            settings.batch_size * lane // settings.lanes for lane in range(settings.lanes + 1)
        ]
        self._last_shards = -1, np.zeros(0, np.int64), np.zeros(0, np.int64)

    def lanes_of(self, rank: int, workers: int) -> range:
        """The lanes of a worker."""
        lanes = self.settings.lanes
        return range(lanes * rank // workers, lanes * (rank + 1) // workers)

    def lane_size(self, lane: int) -> int:
        """Rows that a lane gives to each batch."""
        return self.bounds[lane + 1] - self.bounds[lane]

    def first_step(self, window: int) -> int:
        """Where a window begins in its epoch: no window is much shorter than the others."""
        return self.steps_per_epoch * window // self.windows_per_epoch

    def window_of(self, step: int) -> int:
        """The window in which a step of an epoch is."""
        return (self.windows_per_epoch * (step + 1) - 1) // self.steps_per_epoch

    def places(self, lane: int, window: int) -> tuple[int, int]:
        """From where to where in an epoch's sequence a window has a lane's rows."""
        size, begin = self.lane_size(lane), self.steps_per_epoch * self.bounds[lane]
        first, last = self.first_step(window), self.first_step(window + 1)
        return begin + first * size, begin + last * size

    def lane_end(self, lane: int) -> int:
        """Where a lane ends in an epoch's sequence."""
        return self.steps_per_epoch * self.bounds[lane + 1]

    def window(self, epoch: int, number: int, lanes: Iterable[int]) -> Window:
        """A window of an epoch: what of it ``lanes`` read, or all of it where rows are exchanged.

        Costs as much memory as a window has rows, whatever the data's size.
        """
        unique = self.settings.unique
        steps = self.first_step(number + 1) - self.first_step(number)
        wanted = range(self.settings.lanes) if unique else lanes
        drawn = {
            lane: self._lane_window(epoch, number, lane) for lane in wanted if self.lane_size(lane)
        }
        if not unique:
            return Window(steps, drawn)
        parts = [(plan.rows, plan.image_hashes, plan.caption_hashes) for plan in drawn.values()]
        replaced, clashing = exchange(parts)
        return Window(steps, drawn, replaced, clashing, unique)

    def _lane_window(self, epoch: int, number: int, lane: int) -> LaneWindow:
        seed = self.settings.seed
        start, end = self.places(lane, number)
        hashes = Hashes.joined(
            [
                self.index.shard(segment.shard).hashes(segment.begin, segment.end)
                for segment in self.segments(epoch, start, end)
            ]
        )
        first = hashes.first[:-1]
        # A row is known by its content, wherever it stands: draws are hashes of it.
        content = mixed(hashes.images, _key(seed, epoch)) ^ hashes.captions[first]
        count = np.diff(hashes.first).astype(np.uint64)
        caption = (mixed(content, _key("caption")) % count).astype(np.int64)
        rows = permutation(end - start, seed, epoch, "rows", lane, number)
        return LaneWindow(
            rows.reshape(-1, self.lane_size(lane)),
            (mixed(content, _key("square")) >> np.uint64(11)).astype(np.float64) / (1 << 53),
            caption,
            hashes.images,
            hashes.captions[first + caption],
        )

    def segments(self, epoch: int, start: int, end: int) -> Iterator[Segment]:
        """The rows from one place to another in an epoch's sequence."""
        shards, starts = self._shards(epoch)
        at = int(np.searchsorted(starts, start, side="right")) - 1
        while at < len(shards) and starts[at] < end:
            begin, stop = start - int(starts[at]), end - int(starts[at])
            yield from self._in_shard(epoch, int(shards[at]), max(begin, 0), stop)
            at += 1

    def _in_shard(self, epoch: int, number: int, start: int, end: int) -> Iterator[Segment]:
        shard = self.index.shard(number)
        first = np.asarray(shard.starts[:-1])
        sizes = np.diff(shard.starts)
        chunks = permutation(len(sizes), self.settings.seed, epoch, "chunks", number)
        ends = sizes[chunks].cumsum()
        at = int(np.searchsorted(ends, start, side="right"))
        while at < len(chunks) and (begins := int(ends[at] - sizes[chunks[at]])) < end:
            chunk = int(chunks[at])
            base = int(first[chunk]) - begins
            begin, stop = base + max(start, begins), base + min(end, int(ends[at]))
            if begin < stop:
                yield Segment(number, chunk, begin, stop)
            at += 1

    def _shards(self, epoch: int) -> tuple[Int64s, Int64s]:
        """Their order in an epoch, and where each begins in its sequence."""
        known, order, starts = self._last_shards
        if known != epoch:
            order = permutation(len(self.index.rows), self.settings.seed, epoch, "shards")
            starts = np.concatenate([np.zeros(1, np.int64), self.index.rows[order].cumsum()[:-1]])
            self._last_shards = epoch, order, starts
        return order, starts


def mixed(numbers: UInt64s, key: np.uint64) -> UInt64s:
    """Each number hashed with a key to 64 bits (splitmix64, Steele et al. 2014)."""
    bits = (numbers + key) * _GAMMA
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixture: UInt64s = bits ^ (bits >> np.uint64(31))
    return mixture


def permutation(count: int, *key: object) -> Int64s:
    """The numbers below ``count`` in an order that is a function of the key."""
    return np.argsort(mixed(np.arange(count, dtype=np.uint64), _key(*key)), kind="stable")


def _key(*parts: object) -> np.uint64:
    text = "\x1f".join(map(str, parts))
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return np.uint64(int.from_bytes(digest, "little"))
