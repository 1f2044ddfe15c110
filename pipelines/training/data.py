"""The stream of a worker's part of each batch, read and decoded ahead in threads.

    shards ─▶ lanes' rows of a window ─▶ drawn ─▶ decoded, cut and tokenized ─▶ batches

Memory holds the compressed images of a worker's part of a window, in its second half the next one's
too, and a few batches of pixels: it does not grow with the data.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain

import torch
from torch import Tensor

from clip_model.image_files import ImageError
from clip_model.preprocess import Preprocessing, random_crop_bytes_transform
from clip_model.tokenizer import tokenize
from pipelines.training.index import Failure, Index
from pipelines.training.lanes import Files, Lane, Row
from pipelines.training.order import DataSettings, Order, Window
from workers.base.cores import usable_cores
from workers.base.failures import NeedsMendingError
from workers.base.gpu_copies import Sender
from workers.embedding.encoders import one_threaded
from workers.embedding.overlap import overlap

log = logging.getLogger(__name__)

#: Rows that a thread decodes at a time: enough to make handing them over cost nothing.
DECODED_AT_ONCE = 8

#: Batches that are decoded ahead of the one that is taken.
BATCHES_AHEAD = 2


@dataclass(frozen=True)
class Batch:
    """A worker's part of a global batch."""

    ids: list[str]  # [n]
    images: Tensor  # uint8 [n, 3, R, R]
    tokens: Tensor  # int32 [n, context], not trimmed
    first: int  # place of the first row in the global batch
    sizes: tuple[int, ...]  # rows of every worker; their sum is the batch size
    teacher: tuple[Tensor, Tensor] | None = None  # float16 [n, D], its images and captions


class Stream:
    """A worker's part of all batches of a training.

    ::

        with closing(stream.batches(step)) as batches:
            for batch in batches: ...

    Raises:
        NeedsMendingError: there is no whole batch, or a worker would have no rows of it.
    """

    def __init__(
        self,
        index: Index,
        settings: DataSettings,
        *,
        preprocessing: Preprocessing | int,
        context_length: int,
        rank: int = 0,
        world_size: int = 1,
        threads: int | None = None,
        pinned: bool = False,
    ) -> None:
        """
        Args:
            preprocessing: the model's; of a resolution, OpenAI's.
            pinned: the images are in memory from which a GPU copies while it computes.
        """
        self.order = Order(index, settings)
        self._index = index
        self.steps_per_epoch = self.order.steps_per_epoch
        #: Seconds in which the taker waited for data.
        self.waited = 0.0
        #: The rows whose image has turned out to be none, by shard and number in its index: of all
        #: workers together, ``Index.account`` makes a tally of them.
        self.failures: dict[tuple[int, int], Failure] = {}
        #: Of the windows so far: rows that another one stood for, and rows with their like in
        #: their batch, since there was none (``unique``).
        self.replaced = self.clashing = 0
        bounds = self.order.bounds
        parts = [self.order.lanes_of(worker, world_size) for worker in range(world_size)]
        self._sizes = tuple(bounds[part.stop] - bounds[part.start] for part in parts)
        if not all(self._sizes):
            raise NeedsMendingError(
                f"{world_size} workers share {settings.lanes} lanes of batches of "
                f"{settings.batch_size} rows, so one would have none: raise lanes or batch_size"
            )
        self._first = bounds[parts[rank].start]
        files = Files(index)
        self._lanes = [
            Lane(lane, self.order, files) for lane in parts[rank] if self.order.lane_size(lane)
        ]
        self._threads = threads or usable_cores()
        how = Preprocessing(preprocessing) if isinstance(preprocessing, int) else preprocessing
        self._resolution, self._context_length = how.resolution, context_length
        self._pinned = pinned
        #: From a file's bytes and the place of the square to pixels.
        self.crop = random_crop_bytes_transform(how)

    def batches(self, start_step: int = 0) -> Generator[Batch]:
        """The batches from a step of the training on, over all epochs, for ever.

        Close it: its threads end then, and they end when it raises an error.

        Raises:
            ShardError: a shard cannot be read, or is not what was indexed.
            NeedsMendingError: no image of a part of a window decodes.
        """
        with ThreadPoolExecutor(self._threads, "data", initializer=one_threaded) as pool:
            try:
                batches = overlap(self._started(pool, start_step), BATCHES_AHEAD)
                while True:
                    began = time.monotonic()
                    draft, parts = next(batches)
                    batch = self._finished(draft, parts)
                    self.waited += time.monotonic() - began
                    yield batch
            finally:
                pool.shutdown(cancel_futures=True)
                for lane in self._lanes:
                    lane.close()

    def _started(
        self, pool: ThreadPoolExecutor, start_step: int
    ) -> Iterator[tuple[_Draft, _Parts]]:
        """Batches whose rows the pool is at work on; it reads the next window meanwhile."""
        tokenize("", self._context_length)  # reads the vocabulary once, and not in every thread
        epoch, step = divmod(start_step, self.steps_per_epoch)
        number = self.order.window_of(step)
        step -= self.order.first_step(number)
        loading = _Loading(pool, self.order, self._lanes, epoch, number)
        while True:
            loaded = loading.result()
            self._count(loaded.window)
            epoch, number = self._after(epoch, number)
            loading = _Loading(pool, self.order, self._lanes, epoch, number)
            for at in range(step, loaded.window.steps):
                draft = _Draft(loaded, at, self._new_batch())
                parts = _Parts([pool.submit(self._fill, draft, *p) for p in draft.parts()])
                loading.go_on(2 * (at + 1) / loaded.window.steps)
                yield draft, parts
            step = 0

    def _after(self, epoch: int, window: int) -> tuple[int, int]:
        last = window + 1 == self.order.windows_per_epoch
        return (epoch + 1, 0) if last else (epoch, window + 1)

    def _new_batch(self) -> tuple[Tensor, Tensor, Tensor]:
        rows = sum(self.order.lane_size(lane.number) for lane in self._lanes)
        size, teacher = self._resolution, self._index.teacher
        return (
            torch.empty(rows, 3, size, size, dtype=torch.uint8, pin_memory=self._pinned),
            torch.empty(rows, self._context_length, dtype=torch.int32),
            torch.empty(2, rows, teacher.width if teacher else 0, dtype=torch.float16),
        )

    def _fill(self, draft: _Draft, begin: int, places: Sequence[tuple[int, int]]) -> _Part:
        """Decode and tokenize some rows of a batch, from its row ``begin``."""
        ids, captions, failures = [], [], list[tuple[Row, ImageError]]()
        for number, (lane, slot) in enumerate(places, start=begin):
            row, caption, levels = self._decoded(draft.loaded, draft.step, lane, slot, failures)
            draft.images[number] = levels
            if self._index.teacher:
                draft.teacher.numpy()[:, number] = self._index.teacher_of(row.place)
            ids.append(row.id)
            captions.append(caption)
        tokens = tokenize(captions, self._context_length, truncate=True)
        draft.tokens[begin : begin + len(places)] = tokens
        return _Part(ids, failures)

    def _decoded(
        self,
        loaded: _Loaded,
        step: int,
        lane: int,
        slot: int,
        failures: list[tuple[Row, ImageError]],
    ) -> tuple[Row, str, Tensor]:
        """The row of a place and its pixels, or those of the next that may stand for it."""
        drawn, rows = loaded.window.lanes[lane], loaded.rows[lane]
        substitutes = loaded.window.substitutes(lane, step, slot)
        for number in chain([int(drawn.rows[step, slot])], substitutes):
            row = rows[number]
            try:
                levels = self.crop(row.image, float(drawn.squares[number]))
            except ImageError as error:
                failures.append((row, error))
            else:
                return row, row.captions[drawn.captions[number]], levels
        raise NeedsMendingError(
            f"{row.id}: no image decodes, nor does one that could stand for it: {failures[-1][1]}; "
            "leave such rows out, or raise shuffle_rows"
        )

    def _finished(self, draft: _Draft, parts: Sequence[_Part]) -> Batch:
        for row, error in chain.from_iterable(part.failures for part in parts):
            if row.place not in self.failures:
                reason = error.reason.replace(" ", "_")
                self.failures[row.place] = Failure(row.id, reason, str(error))
                log.warning(
                    "%s: the image does not decode, another takes its place: %s", row.id, error
                )
        ids = list(chain.from_iterable(part.ids for part in parts))
        teacher = (draft.teacher[0], draft.teacher[1]) if self._index.teacher else None
        return Batch(ids, draft.images, draft.tokens, self._first, self._sizes, teacher)

    def _count(self, window: Window) -> None:
        if window.clashing and not self.clashing:
            log.warning(
                "%d rows of a window share an image or a caption with a row of their batch, and no "
                "other could stand for them: raise shuffle_rows, or lower batch_size",
                window.clashing,
            )
        self.replaced += window.replaced
        self.clashing += window.clashing


def sent_ahead(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """The batches with their images on a device; to a GPU, each is sent before its turn."""
    if device.type != "cuda":
        yield from batches
        return
    sender = Sender(device)
    started = ((batch, sender.send(batch.images)) for batch in batches)
    for batch, images in overlap(started, 1):
        yield replace(batch, images=images)


@dataclass(frozen=True)
class _Loaded:
    """A window, and the rows of the worker's lanes in it."""

    window: Window
    rows: dict[int, list[Row]]


class _Draft:
    """A batch under way."""

    def __init__(self, loaded: _Loaded, step: int, room: tuple[Tensor, Tensor, Tensor]) -> None:
        self.loaded, self.step = loaded, step
        self.images, self.tokens, self.teacher = room

    def parts(self) -> Iterator[tuple[int, list[tuple[int, int]]]]:
        """Its places in parts for a thread each: the number of the first, lanes and slots."""
        drawn = self.loaded.window.lanes
        places = [(lane, n) for lane in self.loaded.rows for n in range(drawn[lane].rows.shape[1])]
        for begin in range(0, len(places), DECODED_AT_ONCE):
            yield begin, places[begin : begin + DECODED_AT_ONCE]


@dataclass(frozen=True)
class _Part:
    ids: list[str]
    failures: list[tuple[Row, ImageError]]


class _Parts:
    """All parts of a batch."""

    def __init__(self, futures: list[Future[_Part]]) -> None:
        self._futures = futures

    def result(self) -> list[_Part]:
        return [future.result() for future in self._futures]

    def cancel(self) -> None:
        for future in self._futures:
            future.cancel()


class _Loading:
    """A window that is being read, lane by lane, as far as it was asked for."""

    def __init__(
        self, pool: ThreadPoolExecutor, order: Order, lanes: list[Lane], epoch: int, number: int
    ) -> None:
        self._pool, self._order, self._lanes = pool, order, lanes
        self._epoch, self._number = epoch, number
        self._window: Future[Window] | None = None
        self._rows = list[Future[list[Row]]]()

    def go_on(self, share: float) -> None:
        """Let the pool begin to read it up to a share of it."""
        if self._window is None:
            lanes = [lane.number for lane in self._lanes]
            self._window = self._pool.submit(self._order.window, self._epoch, self._number, lanes)
        wanted = min(len(self._lanes), int(share * len(self._lanes)))
        for lane in self._lanes[len(self._rows) : wanted]:
            self._rows.append(self._pool.submit(lane.load, self._epoch, self._number))

    def result(self) -> _Loaded:
        self.go_on(1)
        assert self._window is not None
        rows = {
            lane.number: future.result()
            for lane, future in zip(self._lanes, self._rows, strict=True)
        }
        return _Loaded(self._window.result(), rows)
