"""torch.compile, a residual block at a time.

The blocks of a transformer have the same shapes, so one graph serves them all, and compiling a
tower of 24 takes no longer than compiling one of two. What lies around them, a few kernels of a
tower, is left as it is.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import torch

from clip_model.model import BLOCKS, CLIP

#: Graphs of a kind of block: an image tower's and a text tower's, of a few lengths of captions,
#: each with and without gradients, and all stages of a convolutional one. After so many nothing is
#: compiled.
MOST_GRAPHS = 64


def has_compiler() -> bool:
    """Whether there is a C compiler, which Triton needs."""
    return any(shutil.which(name) for name in ("cc", "gcc", "clang"))


def compile_blocks(model: CLIP, backend: str | Callable[..., Any] = "inductor") -> None:
    """Compile each block in place, for each shape that comes; names of weights stay as they are.

    Captions are trimmed no more: pad them to few lengths, see `trim`.
    """
    from torch._dynamo import config  # a second

    config.recompile_limit = max(config.recompile_limit, MOST_GRAPHS)
    model.trims_captions = False
    for module in model.modules():
        if isinstance(module, BLOCKS):
            # Not `module.compile`: FSDP2's hooks would be in the graph, and break it.
            module.forward = torch.compile(  # type: ignore[method-assign]
                module.forward, dynamic=False, backend=backend
            )
