"""The peak memory of this process and all processes under it (Ray's and the services' too)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil

from workers.base.ticker import Ticker

#: Seconds between two looks; each costs a few milliseconds a process.
INTERVAL = 1.0


@dataclass
class PeakMemory:
    """The largest sum of proportional set sizes seen, in bytes."""

    bytes: int = 0

    def look(self) -> None:
        self.bytes = max(self.bytes, _tree_bytes())


def _tree_bytes() -> int:
    this = psutil.Process()
    return sum(_process_bytes(process) for process in (this, *this.children(recursive=True)))


def _process_bytes(process: psutil.Process) -> int:
    """Proportional set size: shared pages are counted once over all who share them.

    Zero for a process that has just ended. Where the system has no such figure (macOS), the
    unique set size.
    """
    try:
        memory = process.memory_full_info()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0
    return int(getattr(memory, "pss", 0) or memory.uss)


@contextmanager
def peak_memory() -> Iterator[PeakMemory]:
    """Watch the memory of the process tree in a thread while the block runs."""
    peak = PeakMemory()
    ticker = Ticker("peak-memory", INTERVAL, peak.look)
    peak.look()
    ticker.start()
    try:
        yield peak
    finally:
        ticker.stop()
        peak.look()
