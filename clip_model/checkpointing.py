"""Gradient checkpointing: memory for time.

A checkpointed block keeps its input only and is computed again when its gradient is due. The
result is the same to the bit. Running statistics must not see the batch twice, so they rest
during the second pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def run_checkpointed(block: nn.Module, x: Tensor, *arguments: Any) -> Tensor:
    """`block(x, *arguments)`, remembering only `x` for the backward pass."""
    if not torch.is_grad_enabled():
        return block(x, *arguments)
    if not _norms(block):  # torch.compile takes a checkpoint, but not with contexts of its own
        return checkpoint(block, x, *arguments, use_reentrant=False)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), resting_norms(block)

    return checkpoint(block, x, *arguments, use_reentrant=False, context_fn=contexts)


@contextmanager
def resting_norms(module: nn.Module) -> Iterator[None]:
    """Within it, BatchNorms use their batch's statistics and do not learn from them.

    They still hold their running statistics: a checkpoint must save as many tensors the second
    time as the first.
    """
    norms = _norms(module)
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count


def _norms(module: nn.Module) -> list[_BatchNorm]:
    return [one for one in module.modules() if isinstance(one, _BatchNorm)]
