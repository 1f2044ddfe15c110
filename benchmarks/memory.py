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
    return _status("VmHWM")


def resident_bytes() -> int:
    """The resident memory that this process has now."""
    return _status("VmRSS")


def anonymous_bytes(pid: int) -> int:
    """The memory that a process has written to, now; what it has in common with others is divided
    among them, and pages of files that are mapped are none. 0 of a process that has ended."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return 1024 * sum(int(size) for size in re.findall(r"Pss_(?:Anon|Shmem):\s+(\d+) kB", text))


def _status(key: str) -> int:
    found = re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024
