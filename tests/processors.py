"""What the processor that the tests run on computes in, or is held to by ONEDNN_MAX_CPU_ISA."""

import pytest
import torch

from workers.base.hardware import computes_bfloat16

HAS_BFLOAT16 = computes_bfloat16(torch.device("cpu"))

#: Where a processor has both, a test that takes its precision from here runs in both.
PRECISIONS = ["fp32", "bf16"] if HAS_BFLOAT16 else ["fp32"]

needs_bfloat16 = pytest.mark.skipif(not HAS_BFLOAT16, reason="this processor has no bfloat16")


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")


def hide_bfloat16(monkeypatch, tmp_path):
    """Let Linux say of the processor that it has no instructions for bfloat16."""
    flags = tmp_path / "cpuinfo"
    flags.write_text("flags : fpu sse avx avx2")
    monkeypatch.setattr("workers.base.hardware.CPU_INFORMATION", flags)
