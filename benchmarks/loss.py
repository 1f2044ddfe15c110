"""The contrastive loss in blocks beside the plain formula and open_clip's, in one run.

``python -m benchmarks.loss`` measures the peak of memory, each in a process of its own, above the
features that it is given, and the time of a forward and backward pass, in turns, the median of
the rounds. The ceiling is the time of the three matrix products that no loss does without. The
last line is JSON. With ``--blocks 64,256`` it compares sizes of blocks, too. On a machine with a
GPU all is measured there. open_clip's rows are left out where it is not installed.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from statistics import median

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.memory import fresh_process, peak_bytes, resident_bytes
from clip_model.loss import contrastive_loss

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
OURS, PLAIN, OPEN_CLIP, CEILING = "in blocks", "plain", "open_clip", "matrix products"


def plain_loss(images: Tensor, texts: Tensor, logit_scale: Tensor) -> Tensor:
    """Figure 3 of arXiv 2103.00020, line by line."""
    images, texts = F.normalize(images, dim=-1), F.normalize(texts, dim=-1)
    logits = logit_scale.exp() * images @ texts.t()  # NN
    targets = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.t(), targets)) / 2


def open_clip_loss(images: Tensor, texts: Tensor, logit_scale: Tensor) -> Tensor:
    """open_clip's (3.3.0), which is given unit vectors and the scale itself."""
    from clip_model import _torchvision  # noqa: F401, I001
    from open_clip import ClipLoss

    loss: Tensor = ClipLoss()(
        F.normalize(images, dim=-1), F.normalize(texts, dim=-1), logit_scale.exp()
    )
    return loss


def loss_of(name: str) -> Loss:
    """By a row's name, which is a number for a size of blocks."""
    if name.isdigit():
        return partial(contrastive_loss, block=int(name))
    losses: dict[str, Loss] = {
        OURS: contrastive_loss,
        PLAIN: plain_loss,
        OPEN_CLIP: open_clip_loss,
    }
    return losses[name]


def inputs(pairs: int, dim: int, device: str) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    images, texts = (torch.randn(pairs, dim, device=device) for _ in range(2))
    logit_scale = torch.tensor(math.log(1 / 0.07), device=device)
    return images.requires_grad_(), texts.requires_grad_(), logit_scale.requires_grad_()


def peak_above_inputs(name: str, pairs: int, dim: int, device: str) -> int:
    """Bytes; to be called in a fresh process."""
    loss = loss_of(name)
    loss(*inputs(64, dim, device)).backward()  # libraries have what they keep
    given = inputs(pairs, dim, device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        loss(*given).backward()
        return torch.cuda.max_memory_allocated() - before
    before = resident_bytes()
    loss(*given).backward()
    return peak_bytes() - before


def seconds(names: list[str], pairs: int, dim: int, device: str, rounds: int) -> dict[str, float]:
    """Of a forward and backward pass; all take turns, after one that does not count."""
    images, texts, logit_scale = inputs(pairs, dim, device)

    def products() -> None:
        with torch.no_grad():
            logits = images @ texts.t()
            torch.mm(logits, texts)
            torch.mm(logits.t(), images)

    def both_passes(loss: Loss) -> None:
        images.grad = texts.grad = logit_scale.grad = None
        loss(images, texts, logit_scale).backward()

    works = {name: partial(both_passes, loss_of(name)) for name in names}
    works[CEILING] = partial(products)
    measured: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds + 1):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            if device == "cuda":
                torch.cuda.synchronize()
            measured[name].append(time.perf_counter() - start)
    return {name: median(times[1:]) for name, times in measured.items()}


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loss", description=__doc__)
    parser.add_argument("--memory-pairs", type=int, default=16_384, help="default: 16384")
    parser.add_argument("--pairs", type=int, default=8_192, help="for the time (default: 8192)")
    parser.add_argument("--dim", type=int, default=512, help="of the features (default: 512)")
    parser.add_argument("--rounds", type=int, default=7, help="of each; the median counts")
    parser.add_argument("--blocks", default="", help="rows at a time, as 64,256")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: cuda where there is")
    options = parser.parse_args()
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    others = [PLAIN, OPEN_CLIP] if find_spec("open_clip") else [PLAIN]
    names = [OURS, *others, *filter(None, options.blocks.split(","))]

    peaks = {}
    for name in names:
        with fresh_process() as process:
            arguments = (name, options.memory_pairs, options.dim, device)
            peaks[name] = process.submit(peak_above_inputs, *arguments).result()
    times = seconds(names, options.pairs, options.dim, device, options.rounds)

    write = sys.stdout.write
    memory, took = f"MB at {options.memory_pairs:,}", f"ms at {options.pairs:,}"
    write(f"{'':18}{memory:>14}{'of plain':>10}{took:>14}{'of plain':>10}\n")
    for name, time_taken in times.items():
        peak = peaks.get(name)
        megabytes = f"{peak / 1e6:14.1f}{peak / peaks[PLAIN]:10.3f}" if peak else f"{'':24}"
        write(f"{name:18}{megabytes}{time_taken * 1e3:14.1f}{time_taken / times[PLAIN]:10.2f}\n")
    sizes = {key: vars(options)[key] for key in ("memory_pairs", "pairs", "dim", "rounds")}
    result = {"device": device, **sizes, "peak_bytes": peaks, "seconds": times}
    ratios = {
        "times_less_memory": peaks[PLAIN] / peaks[OURS],
        "time_of_plain": times[OURS] / times[PLAIN],
    }
    write(json.dumps(result | ratios) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
