"""The cores that this process may use; without torch, which most workers do not need."""

from __future__ import annotations

import os
from pathlib import Path

#: Where a container's share of the machine's cores stands: "QUOTA PERIOD", or "max PERIOD".
CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def usable_cores() -> int:
    """Cores that this process may use: of its affinity, and no more than its container's quota.

    Not ``torch.get_num_threads()``: Ray sets that to the CPUs of an actor's own request.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return min(cores, _quota(CPU_QUOTA) or cores)


def _quota(path: Path) -> int | None:
    """Whole cores, rounded up; None without a quota."""
    try:
        quota, period = path.read_text().split()
        return max(1, -(-int(quota) // int(period)))
    except (OSError, ValueError):  # no such file, or "max"
        return None
