"""What the machine has: cores that this process may use, and the arithmetic that is fast on it."""

from __future__ import annotations

import os
from pathlib import Path

import torch

#: Where a container's share of the machine's cores stands: "QUOTA PERIOD", or "max PERIOD".
CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")

#: What Linux says of a CPU, and its flags for instructions that compute in bfloat16 (x86, Arm).
CPU_INFORMATION = Path("/proc/cpuinfo")
BFLOAT16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})


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


def computes_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is faster there than float32, and not emulated."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        return not BFLOAT16_FLAGS.isdisjoint(CPU_INFORMATION.read_text().split())
    except OSError:  # not Linux
        return False
