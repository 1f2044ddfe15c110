"""Losses over all pairs of a batch: symmetric InfoNCE and SigLIP's sigmoid loss.

Both are exact and take the similarities in blocks of rows, which the backward pass computes
again: beside the features and their gradients, memory holds one unit vector a text and block x N
numbers, never N x N. A batch may lie in several parts (`Parts`), one a process. Each computes the
rows of its own images, n x N, and its share of the loss; the shares, and the gradients, sum to
those of the whole batch.

Everything here is computed in float32 at least, whatever the features' type and autocast say: at
a temperature of 1/100, bfloat16 would round logits to halves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

# Logits held at a time, unless a caller says otherwise: with more, a CPU's cache overflows; with
# fewer, its matrix products are slower, and a GPU, which has no such cache, waits for its next
# kernel (`python -m benchmarks.loss --blocks`).
BLOCK_LOGITS = 2**21
GPU_BLOCK_LOGITS = 2**25
MIN_BLOCK = 128  # rows
NORM_EPS = 1e-12  # as in torch.nn.functional.normalize


class Parts(Protocol):
    """A batch whose rows lie in several places, seen from one of them, which has n of all N."""

    @property
    def first(self) -> int:
        """Where this part's first row stands in the whole batch."""

    @property
    def total(self) -> int:
        """Rows of the whole batch, N."""

    @property
    def largest(self) -> int:
        """Rows of the largest part."""

    def gather(self, rows: Tensor) -> Tensor:
        """All parts' rows, in order: [n, ...] -> [N, ...].

        Backward, what all parts have for this part's rows is added up.
        """

    def logsumexp(self, partial: Tensor) -> Tensor:
        """Logarithm of the sum of the parts' exponentials: [N] -> [N]. Has no gradient."""


@dataclass(frozen=True)
class OnePart:
    """A batch that is all here."""

    total: int
    first: int = 0

    @property
    def largest(self) -> int:
        return self.total

    def gather(self, rows: Tensor) -> Tensor:
        return rows

    def logsumexp(self, partial: Tensor) -> Tensor:
        return partial


def contrastive_loss(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Tensor,
    parts: Parts | None = None,
    block: int | None = None,
) -> Tensor:
    """Symmetric InfoNCE: each image must find its text among all, and each text its image.

    The mean of the cross-entropies over the rows and the columns of
    exp(logit_scale) * I T^t with targets arange(N); figure 3 of arXiv 2103.00020.

    Args:
        image_features: [n, E], of any length; they are normalised here.
        text_features: [n, E]; row i belongs to image i.
        logit_scale: logarithm of the inverse temperature, a scalar.
        parts: where the other rows of the batch are; by default there are none, and n is N.
        block: rows of logits that are held at a time; by default as many as make them fast.

    Returns:
        A scalar: this part's share, which sums to the loss over all parts. Its gradient is that
        of the whole loss with respect to this part's features; that of `logit_scale` is a share.

    Raises:
        ValueError: the two shapes differ.
    """
    with without_autocast(image_features):
        parts = parts or OnePart(len(image_features))
        images, texts, scale = prepared(image_features, text_features, logit_scale, parts)
        return _InfoNCE.apply(images, texts, scale, parts, block or block_rows(images, parts))  # type: ignore[no-untyped-call]


def sigmoid_loss(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Tensor,
    logit_bias: Tensor,
    parts: Parts | None = None,
    block: int | None = None,
) -> Tensor:
    """SigLIP's loss: each pair of the N x N is one decision, whether the two belong together.

    -1/N sum_ij log sigmoid(z_ij (exp(logit_scale) I_i . T_j + logit_bias)), where z is 1 on the
    diagonal and -1 beside it; arXiv 2303.15343. Arguments, result and errors are those of
    `contrastive_loss`.
    """
    with without_autocast(image_features):
        parts = parts or OnePart(len(image_features))
        images, texts, scale = prepared(image_features, text_features, logit_scale, parts)
        bias = logit_bias.to(images.dtype)
        return _Sigmoid.apply(images, texts, scale, bias, parts, block or block_rows(images, parts))  # type: ignore[no-untyped-call]


def full_precision(x: Tensor) -> Tensor:
    """In float32 at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def without_autocast(features: Tensor) -> torch.autocast:
    """Within it, no autocast is on where the features are."""
    return torch.autocast(features.device.type, enabled=False)


def prepared(
    image_features: Tensor, text_features: Tensor, logit_scale: Tensor, parts: Parts
) -> tuple[Tensor, Tensor, Tensor]:
    """Own images [n, E], all texts [N, E] and the scale, all of one type."""
    if image_features.shape != text_features.shape:
        raise ValueError(
            f"image features {tuple(image_features.shape)} and text features "
            f"{tuple(text_features.shape)} must have one shape"
        )
    images, texts = full_precision(image_features), full_precision(text_features)
    return images, parts.gather(texts.to(images.dtype)), logit_scale.to(images.dtype)


def block_rows(images: Tensor, parts: Parts) -> int:
    """Rows of logits that are held at a time where a caller does not say."""
    logits = GPU_BLOCK_LOGITS if images.is_cuda else BLOCK_LOGITS
    return max(MIN_BLOCK, logits // max(1, parts.total))


class _InfoNCE(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, images: Tensor, texts: Tensor, logit_scale: Tensor, parts: Parts, block: int
    ) -> Tensor:
        pairs = Pairs(images, texts, logit_scale, parts.first, block)
        rows, matching = images.new_empty(2, len(images))  # n each
        columns = images.new_full((len(texts),), -torch.inf)  # N
        for own, logits in pairs.blocks():
            rows[own] = logits.logsumexp(dim=1)
            columns = torch.logaddexp(columns, logits.logsumexp(dim=0))
            matching[own] = pairs.diagonal(own, logits)
        columns = parts.logsumexp(columns)
        ctx.save_for_backward(images, texts, logit_scale, rows, columns, pairs.only_block)
        ctx.first, ctx.block = parts.first, block
        own_columns = columns[parts.first : parts.first + len(images)]  # n
        return (rows + own_columns - 2 * matching).sum() / (2 * len(texts))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        images, texts, logit_scale, rows, columns, only_block = ctx.saved_tensors

        def by_logits(own: slice, logits: Tensor) -> Tensor:
            weights = (logits - rows[own, None]).exp_()  # bN, the softmax of each row
            weights += logits.sub_(columns).exp_()  # and of each column
            pairs.diagonal(own, weights).sub_(2)
            return weights

        with without_autocast(images):
            pairs = Pairs(images, texts, logit_scale, ctx.first, ctx.block, only_block)
            *gradients, _ = pairs.gradients(by_logits, gradient / (2 * len(texts)))
        return *gradients, None, None


class _Sigmoid(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        images: Tensor,
        texts: Tensor,
        logit_scale: Tensor,
        logit_bias: Tensor,
        parts: Parts,
        block: int,
    ) -> Tensor:
        pairs = Pairs(images, texts, logit_scale, parts.first, block)
        total = images.new_zeros(())
        for own, logits in pairs.blocks():
            logits += logit_bias
            pairs.diagonal(own, logits).neg_()
            total += F.softplus(logits).sum()
        ctx.save_for_backward(images, texts, logit_scale, logit_bias, pairs.only_block)
        ctx.first, ctx.block = parts.first, block
        return total / len(texts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        images, texts, logit_scale, logit_bias, only_block = ctx.saved_tensors

        def by_logits(own: slice, logits: Tensor) -> Tensor:
            weights = logits.add_(logit_bias).sigmoid_()  # bN
            pairs.diagonal(own, weights).sub_(1)
            return weights

        with without_autocast(images):
            pairs = Pairs(images, texts, logit_scale, ctx.first, ctx.block, only_block)
            gradients = pairs.gradients(by_logits, gradient / len(texts))
        return *gradients, None, None


class Pairs:
    """A part's logits exp(logit_scale) * I T^t, some rows at a time, and gradients through them.

    Args:
        images: [n, E], of any length.
        texts: [N, E], of any length.
        logit_scale: a scalar.
        first: which text is that of the first image.
        block: rows at a time.
        only_block: [n, N], the logits as the forward pass had them, if it was one block.
    """

    def __init__(
        self,
        images: Tensor,
        texts: Tensor,
        logit_scale: Tensor,
        first: int,
        block: int,
        only_block: Tensor | None = None,
    ) -> None:
        self.images, self.image_lengths = images, _lengths(images)
        self.text_lengths = _lengths(texts)
        self.texts = texts / self.text_lengths  # NE, of length 1
        self.scale = logit_scale.exp()
        self.first, self.block = first, block
        self.only_block = only_block

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """Which rows, and their logits [b, N], which may be written over."""
        rows = len(self.images)
        buffer = self.images.new_empty(min(self.block, rows), len(self.texts))
        for start in range(0, rows, self.block):
            own = slice(start, min(start + self.block, rows))
            logits = buffer[: own.stop - start]
            if self.only_block is None:
                scaled = self.scale * self._unit_images(own)
                torch.mm(scaled, self.texts.t(), out=logits)  # bE @ EN -> bN
                if rows <= self.block:
                    self.only_block = logits.clone()
            else:
                logits.copy_(self.only_block)
            yield own, logits

    def diagonal(self, own: slice, block: Tensor) -> Tensor:
        """A view of those of a block [b, N] that belong together, [b]."""
        return block.diagonal(self.first + own.start)

    def gradients(
        self, by_logits: Callable[[slice, Tensor], Tensor], factor: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """By images [n, E], texts [N, E], logit_scale and a bias of all logits.

        Args:
            by_logits: the gradient by a block of logits, [b, N] -> [b, N].
            factor: of the whole gradient.
        """
        by_images, by_texts = torch.empty_like(self.images), torch.zeros_like(self.texts)
        by_scale, by_bias = factor.new_zeros(()), factor.new_zeros(())
        scale = factor * self.scale
        for own, logits in self.blocks():
            weights = by_logits(own, logits)
            images = self._unit_images(own)
            by_images[own] = scale * (weights @ self.texts)  # bN @ NE -> bE
            by_texts.addmm_(weights.t(), scale * images)  # Nb @ bE -> NE
            by_bias += weights.sum()
            # sum_ij weight_ij * logit_ij, which falls off on the way.
            by_scale += _through_length(by_images[own], images, self.image_lengths[own])
        for start in range(0, len(self.texts), self.block):
            some = slice(start, start + self.block)
            _through_length(by_texts[some], self.texts[some], self.text_lengths[some])
        return by_images, by_texts, by_scale, factor * by_bias

    def _unit_images(self, own: slice) -> Tensor:
        return self.images[own] / self.image_lengths[own]  # bE


def _lengths(features: Tensor) -> Tensor:
    """[N, E] -> [N, 1]"""
    return torch.linalg.vector_norm(features, dim=-1, keepdim=True).clamp_min(NORM_EPS)


def _through_length(gradient: Tensor, unit: Tensor, lengths: Tensor) -> Tensor:
    """In place, the gradient by unit vectors [b, E] becomes that by the vectors that they were.

    Returns:
        The sum of the gradient along the unit vectors, which is what they lose.
    """
    along = (gradient * unit).sum(dim=-1, keepdim=True)  # b1
    gradient.addcmul_(unit, along, value=-1).div_(lengths)
    return along.sum()
