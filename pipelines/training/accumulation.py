"""One training step's backward pass, in pieces where the batch is larger than memory.

A contrastive loss is no sum over examples, so it takes two passes (GradCache, arXiv 2101.06983):
the features of all pieces, without a graph; the loss's gradients by features; then each piece
again, with these gradients. Exact, because the second time everything is as it was the first:
the random state of each piece is played again, and BatchNorm's running statistics, which have seen
the piece, rest.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from clip_model.checkpointing import resting_norms
from clip_model.loss import Parts
from pipelines.training.parallel import Parallel

Features = tuple[Tensor, ...]


def backward(
    parallel: Parallel, inputs: Sequence[Tensor], parts: Parts, chunk: int | None = None
) -> Tensor:
    """Add the gradients of a batch's loss, summed over all workers, to those of the weights.

    Args:
        inputs: of the objective, each with this worker's n rows.
        parts: where the rows of the other workers are.
        chunk: rows that the towers take at a time; by default, all at once. BatchNorm's
            statistics are then those of a chunk, of all workers together.

    Returns:
        This worker's share of the loss, detached; the shares sum to the loss.
    """
    # As many chunks on every worker: FSDP2 gathers weights in each, and all must take part.
    count = 1 if chunk is None else -(-parts.largest // chunk)
    chunks = list(zip(*(one.tensor_split(count) for one in inputs), strict=True))
    if parallel.objective.separable or count == 1:
        loss = _one_pass(parallel, chunks, parts)
    else:
        loss = _two_passes(parallel, chunks, parts)
    parallel.sum_shared()
    return loss


def _one_pass(parallel: Parallel, chunks: list[Features], parts: Parts) -> Tensor:
    losses = []
    for number, chunk in enumerate(chunks, 1):
        with parallel.gradients_meet(number == len(chunks)):
            loss = parallel.objective.loss(parallel(*chunk), parts)
            loss.backward()
        losses.append(loss.detach())
    return torch.stack(losses).sum()


def _two_passes(parallel: Parallel, chunks: list[Features], parts: Parts) -> Tensor:
    device = parallel.workers.device
    count, states, pieces = len(chunks), [], []
    with torch.no_grad():
        for chunk in chunks:
            states.append(_random_state(device))
            pieces.append(parallel(*chunk))
    features = tuple(torch.cat(kind).requires_grad_() for kind in zip(*pieces, strict=True))
    del pieces
    loss = parallel.objective.loss(features, parts)
    loss.backward()
    gradients = [None if one.grad is None else one.grad.tensor_split(count) for one in features]
    known = list(zip(*(one.detach().tensor_split(count) for one in features), strict=True))
    with resting_norms(parallel.objective):
        for number, (chunk, state) in enumerate(zip(chunks, states, strict=True)):
            _set_random_state(device, state)
            with parallel.gradients_meet(number == count - 1):
                again = zip(parallel(*chunk, known=known[number]), gradients, strict=True)
                learnt = [(one, by[number]) for one, by in again if one.requires_grad and by]
                torch.autograd.backward([one for one, _ in learnt], [by for _, by in learnt])
    return loss.detach()


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    on_gpu = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return torch.get_rng_state(), on_gpu


def _set_random_state(device: torch.device, state: tuple[Tensor, Tensor | None]) -> None:
    on_cpu, on_gpu = state
    torch.set_rng_state(on_cpu)
    if on_gpu is not None:
        torch.cuda.set_rng_state(on_gpu, device)
