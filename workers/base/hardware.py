"""What the machine has: the arithmetic that is fast on it."""

from __future__ import annotations

import os
from pathlib import Path

# Whoever works on stages imports this first (pipelines/run/runner.py): in the driver of a job on a
# cluster, oneMKL cannot load its kernels where torch is imported after much else
# (tests/infra/test_job.py). Plans, refusals, finished runs and most of Ray's workers are without.
import torch

#: What Linux says of a CPU, and its flags for instructions that compute in bfloat16 (x86, Arm).
CPU_INFORMATION = Path("/proc/cpuinfo")
BFLOAT16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
#: What ONEDNN_MAX_CPU_ISA can hold oneDNN to, so that it takes bfloat16 and emulates it.
EMULATING_ISAS = frozenset({"AVX512_CORE", "AVX512_CORE_VNNI"})


def fastest_device() -> torch.device:
    """A GPU if this process may use one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def without_tf32() -> None:
    """Let float32 be float32 in this process: convolutions on a GPU would take TF32's 10 bits."""
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def computes_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is faster there than float32, and not emulated.

    On a CPU it takes the instructions, and oneDNN's leave to use them, which ONEDNN_MAX_CPU_ISA
    can withhold: a processor then counts as one of the kind that it is held to.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        flags = CPU_INFORMATION.read_text().split()
    except OSError:  # not Linux
        return False
    if BFLOAT16_FLAGS.isdisjoint(flags) or not torch.backends.mkldnn.is_available():
        return False
    # oneDNN says only whether it takes bfloat16, which it emulates from AVX-512 on.
    held_to = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()
    return held_to not in EMULATING_ISAS and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
