"""The memory of a process, as the benchmarks print it."""

from __future__ import annotations

import multiprocessing
import re
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path


def fresh_process() -> ProcessPoolExecutor:
    """A process that has done nothing yet, so that its peak is that of its own work."""
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))


def peak_bytes() -> int:
    """The most resident memory that this process has had.

    Not getrusage: on Linux its peak begins with that of the parent.
    """
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert peak is not None
    return int(peak[1]) * 1024
