"""How far work is, and where an embedder's time goes: decoding, the towers, or waiting."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass

#: Of the time that threads or a GPU have; whoever is busy for less than that waits for others.
BUSY = 0.5


@dataclass(frozen=True)
class Activity:
    """What a worker has done so far; those of several add up."""

    rows: int = 0  # written
    under_way: float = 0.0  # of shards that have not ended, what share has been read
    thread_seconds: float = 0.0  # that threads had
    gpu_seconds: float = 0.0  # that GPUs had; none on a CPU
    decoding_seconds: float = 0.0  # of the threads' seconds
    computing_seconds: float = 0.0  # of the GPUs' seconds or, without any, of the threads'
    note: str = ""  # what the work says of itself; embedders leave it to ``remark``

    def __add__(self, other: Activity) -> Activity:
        pairs = zip(astuple(self), astuple(other), strict=True)
        return Activity(*(mine + its for mine, its in pairs))

    def remark(self) -> str:
        """Its note or, of embedders, what more of would make them faster, with the shares that say
        so; empty at the start."""
        if not self.thread_seconds:
            return self.note
        decoding = self.decoding_seconds / self.thread_seconds
        computing = self.computing_seconds / (self.gpu_seconds or self.thread_seconds)
        if self.gpu_seconds:
            shares = f"GPU {computing:.0%} busy, threads {decoding:.0%} decoding"
            idle = max(decoding, computing) < BUSY
        else:
            shares = f"threads {computing:.0%} in the model, {decoding:.0%} decoding"
            idle = decoding + computing < BUSY
        if idle:
            return f"waiting for files ({shares})"
        return f"{'compute' if computing >= decoding else 'decode'}-bound ({shares})"


class Meter:
    """Counts an embedder's work. Any thread may write into it, any may look at it."""

    def __init__(self, threads: int, *, on_gpu: bool) -> None:
        self._threads = threads
        self._on_gpu = on_gpu
        self._lock = threading.Lock()
        self._rows = 0
        self._read = 0.0
        self._decoding = 0.0
        self._computing = 0.0
        self._seconds = 0.0  # in shards that have ended
        self._since: float | None = None  # when the shard under way was begun

    @contextmanager
    def shard(self) -> Iterator[None]:
        """The time of a shard is the time that threads and GPUs had."""
        self._since = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                self._seconds += time.perf_counter() - self._since
                self._since, self._read = None, 0.0

    @contextmanager
    def decoding(self) -> Iterator[None]:
        """What a thread does in the block is decoding."""
        start = time.perf_counter()
        yield
        with self._lock:
            self._decoding += time.perf_counter() - start

    def computed(self, seconds: float) -> None:
        """A tower has worked for that long, of a thread's time or of a GPU's."""
        with self._lock:
            self._computing += seconds

    def read(self, share: float) -> None:
        """How much of the shard under way has been read, from 0 to 1."""
        self._read = share

    def wrote(self, rows: int) -> None:
        with self._lock:
            self._rows += rows

    def activity(self) -> Activity:
        with self._lock:
            seconds = self._seconds
            if self._since is not None:
                seconds += time.perf_counter() - self._since
            return Activity(
                rows=self._rows,
                under_way=self._read,
                thread_seconds=seconds * self._threads,
                gpu_seconds=seconds if self._on_gpu else 0.0,
                decoding_seconds=self._decoding,
                computing_seconds=self._computing,
            )
