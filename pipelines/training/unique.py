"""No image and no caption twice in a batch: rows change places within a window.

A contrastive loss takes every other row of a batch for wrong; where two show one image, or have one
caption, that teaches something false.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from workers.base.arrays import Bools, Int64s, UInt64s

#: Of a lane: which of its rows are where, [steps, size], and the hashes of their images and
#: captions, [steps * size].
Lane = tuple[Int64s, UInt64s, UInt64s]


def exchange(lanes: Sequence[Lane]) -> tuple[int, int]:
    """Give each row that has its like in its batch the place of another one of its lane.

    Where none of the window fits, a row of the lane that does not clash stands for it, and is in
    the window twice. What every lane does depends on all of them, so all workers must see all.

    Args:
        lanes: their rows are changed.

    Returns:
        How many rows another one stands for, and how many clash, as there was none.
    """
    clashes = _clashes(lanes)
    if not clashes:
        return 0, 0
    batches = [_Batch(lanes, step) for step in range(len(lanes[0][0]))]
    replaced, placed = 0, True
    for lane, step, slot in clashes:
        places = _Places(lanes[lane], batches)
        if not places.move(step, slot):
            stands_in = places.replace(step, slot)
            replaced += stands_in
            placed &= stands_in
    return replaced, 0 if placed else len(_clashes(lanes))


def _clashes(lanes: Sequence[Lane]) -> list[tuple[int, int, int]]:
    """The places whose row has its like before it in its batch: lane, step, slot."""
    steps = len(lanes[0][0]) if lanes else 0
    return [clash for step in range(steps) for clash in _clashes_in(lanes, step)]


def _clashes_in(lanes: Sequence[Lane], step: int) -> Iterator[tuple[int, int, int]]:
    images = np.concatenate([images[rows[step]] for rows, images, _ in lanes])
    captions = np.concatenate([captions[rows[step]] for rows, _, captions in lanes])
    again = _again(images) | _again(captions)
    if again.any():
        ends = np.cumsum([rows.shape[1] for rows, _, _ in lanes])
        for at in np.flatnonzero(again).tolist():
            lane = int(np.searchsorted(ends, at, side="right"))
            yield lane, step, at - int(ends[lane]) + lanes[lane][0].shape[1]


def _again(hashes: UInt64s) -> Bools:
    """Which of them have been there before."""
    again = np.ones(len(hashes), np.bool_)
    again[np.unique(hashes, return_index=True)[1]] = False
    return again


class _Batch:
    """How often each image and each caption is in a batch."""

    def __init__(self, lanes: Sequence[Lane], step: int) -> None:
        self.images, self.captions = Counter[int](), Counter[int]()
        for rows, images, captions in lanes:
            self.images.update(images[rows[step]].tolist())
            self.captions.update(captions[rows[step]].tolist())

    def add(self, image: int, caption: int, times: int) -> None:
        self.images[image] += times
        self.captions[caption] += times

    def has(self, image: int, caption: int) -> bool:
        return self.images[image] > 0 or self.captions[caption] > 0


class _Places:
    """The places of a lane."""

    def __init__(self, lane: Lane, batches: Sequence[_Batch]) -> None:
        self.rows, self._images, self._captions = lane
        self._batches = batches

    def _hashes(self, row: int) -> tuple[int, int]:
        return int(self._images[row]), int(self._captions[row])

    def move(self, step: int, slot: int) -> bool:
        """Let a row and one of another batch change places, so that neither meets its like."""
        batch, row = self._batches[step], int(self.rows[step, slot])
        mine = self._hashes(row)
        batch.add(*mine, -1)
        if not batch.has(*mine):  # its like has moved away
            batch.add(*mine, 1)
            return True
        for there in self._steps_after(step):
            other_batch = self._batches[there]
            if other_batch.has(*mine):
                continue
            for at in range(self.rows.shape[1]):
                other = int(self.rows[there, at])
                theirs = self._hashes(other)
                if not batch.has(*theirs):
                    batch.add(*theirs, 1)
                    other_batch.add(*theirs, -1)
                    other_batch.add(*mine, 1)
                    self.rows[step, slot], self.rows[there, at] = other, row
                    return True
        batch.add(*mine, 1)
        return False

    def replace(self, step: int, slot: int) -> bool:
        """Let a row of another batch that has not its like in this one stand for a row."""
        batch, mine = self._batches[step], self._hashes(int(self.rows[step, slot]))
        batch.add(*mine, -1)
        for there in self._steps_after(step):
            for other in self.rows[there].tolist():
                if not batch.has(*self._hashes(other)):
                    batch.add(*self._hashes(other), 1)
                    self.rows[step, slot] = other
                    return True
        batch.add(*mine, 1)
        return False

    def _steps_after(self, step: int) -> Iterator[int]:
        """The others, from the next to the one before."""
        count = len(self._batches)
        return (other % count for other in range(step + 1, step + count))
