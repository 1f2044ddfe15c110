"""Learning from a teacher's embeddings: whom a batch's pairs resemble, and how much, as it sees it.

Beside the contrastive loss, the student's similarities of all N x N pairs are drawn to those of the
teacher: TinyCLIP's affinity mimicking (arXiv 2309.12314), which is the distillation of MobileCLIP's
reinforced data sets (arXiv 2311.17049). Only cosines are compared, so the two models' features need
not be of one width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from clip_model.loss import OnePart, Pairs, Parts, block_rows, prepared, without_autocast
from clip_model.model import CLIP
from clip_model.objectives import Contrastive


def distillation_loss(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Tensor,
    teacher: tuple[Tensor, Tensor],
    teacher_logit_scale: float,
    parts: Parts | None = None,
    block: int | None = None,
) -> Tensor:
    """How far the student's softmaxes over a batch are from the teacher's.

    The mean of KL(teacher || student) over the N rows (an image among all texts) and the N columns
    (a text among all images) of exp(logit_scale) * I T^t. It is 0 where both say the same. Exact,
    in blocks, and in float32 at least, as `clip_model.loss` is.

    Args:
        image_features, text_features: [n, E], the student's.
        logit_scale: logarithm of its inverse temperature, a scalar that learns, too.
        teacher: image and text features [n, D] of the same pairs, of any width; without gradients.
        teacher_logit_scale: logarithm of the teacher's inverse temperature.
        parts, block: as `contrastive_loss` takes them.

    Returns:
        A scalar: this part's share, which sums to the loss over all parts.

    Raises:
        ValueError: images and texts of one model differ in shape, or the models' numbers of rows.
    """
    if len(image_features) != len(teacher[0]):
        raise ValueError(f"{len(image_features)} pairs, of the teacher {len(teacher[0])}")
    with without_autocast(image_features):
        parts = parts or OnePart(len(image_features))
        student = prepared(image_features, text_features, logit_scale, parts)
        images, texts = (one.detach().to(student[0].dtype) for one in teacher)
        scale = images.new_tensor(teacher_logit_scale)
        of_teacher = prepared(images, texts, scale, parts)
        block = block or block_rows(student[0], parts)
        return _Distillation.apply(*student, *of_teacher, parts, block)  # type: ignore[no-untyped-call]


class Distilled(Contrastive):
    """Symmetric InfoNCE, and `weight` times the distance to a teacher's similarities.

    Args:
        weight: of the distillation; the contrastive loss's is 1.
        temperature: of the teacher's similarities.
    """

    def __init__(self, model: CLIP, weight: float, temperature: float) -> None:
        super().__init__(model)
        self.weight, self.teacher_logit_scale = weight, -math.log(temperature)

    def forward(
        self, images: Tensor, tokens: Tensor, *teacher: Tensor, known: Sequence[Tensor] = ()
    ) -> tuple[Tensor, ...]:
        """The model's features, nE each, and behind them the teacher's, nD each, if they are here.

        Without them (where a model is judged, not trained) there is nothing for `loss`.
        """
        return *super().forward(images, tokens, known=known), *teacher

    def loss(self, features: tuple[Tensor, ...], parts: Parts) -> Tensor:
        images, texts, *teacher = features
        distance = distillation_loss(
            *(images, texts, self.model.logit_scale),
            *((teacher[0], teacher[1]), self.teacher_logit_scale, parts),
        )
        return super().loss((images, texts), parts) + self.weight * distance


class _Distillation(torch.autograd.Function):
    """Notation: S are the student's logits, T the teacher's; q and p their softmaxes."""

    @staticmethod
    def forward(
        ctx: Any,
        images: Tensor,
        texts: Tensor,
        logit_scale: Tensor,
        teacher_images: Tensor,
        teacher_texts: Tensor,
        teacher_scale: Tensor,
        parts: Parts,
        block: int,
    ) -> Tensor:
        student = Pairs(images, texts, logit_scale, parts.first, block)
        teacher = Pairs(teacher_images, teacher_texts, teacher_scale, parts.first, block)
        rows = images.new_empty(2, len(images))  # S, T: logarithms of sums of exponentials
        columns = images.new_full((2, len(texts)), -torch.inf)
        of_rows, of_columns = images.new_zeros(()), images.new_zeros(len(texts))
        for (own, s), (_, t) in zip(student.blocks(), teacher.blocks(), strict=True):
            rows[0, own], rows[1, own] = s.logsumexp(dim=1), t.logsumexp(dim=1)
            before = columns.clone()
            columns[0] = torch.logaddexp(columns[0], s.logsumexp(dim=0))
            columns[1] = torch.logaddexp(columns[1], t.logsumexp(dim=0))
            apart = t - s
            of_rows += ((t - rows[1, own, None]).exp_() * apart).sum()
            # sum_i p_ij (T_ij - S_ij) of the rows so far, as if there were no others.
            of_columns *= (before[1] - columns[1]).exp_()
            of_columns += (t.sub_(columns[1]).exp_() * apart).sum(dim=0)
        ours = columns[1].clone()
        columns = torch.stack([parts.logsumexp(one) for one in columns])
        of_columns *= (ours - columns[1]).exp_()
        own_columns = columns[:, parts.first : parts.first + len(images)]  # 2n
        # KL = sum p (T - S) - logsumexp T + logsumexp S, of rows and of columns.
        normalisers = (rows[0] - rows[1] + own_columns[0] - own_columns[1]).sum()
        of_student = images, texts, logit_scale, student.only_block
        of_teacher = teacher_images, teacher_texts, teacher_scale, teacher.only_block
        ctx.save_for_backward(rows, columns, *of_student, *of_teacher)
        ctx.first, ctx.block = parts.first, block
        return (of_rows + of_columns.sum() + normalisers) / (2 * len(texts))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        of_student, of_teacher = ctx.saved_tensors[2:6], ctx.saved_tensors[6:]
        rows, columns = ctx.saved_tensors[:2]
        with without_autocast(rows):
            student = _pairs_again(of_student, ctx)
            teacher = _pairs_again(of_teacher, ctx)
            by_logits = _by_logits(teacher.blocks(), rows, columns)
            *gradients, _ = student.gradients(by_logits, gradient / (2 * columns.shape[1]))
        return *gradients, None, None, None, None, None


def _pairs_again(saved: Sequence[Tensor], ctx: Any) -> Pairs:
    images, texts, logit_scale, only_block = saved
    return Pairs(images, texts, logit_scale, ctx.first, ctx.block, only_block)


def _by_logits(
    teacher: Iterator[tuple[slice, Tensor]], rows: Tensor, columns: Tensor
) -> Callable[[slice, Tensor], Tensor]:
    """The gradient by a block of the student's logits: q - p of its rows, and of its columns."""

    def by_logits(own: slice, s: Tensor) -> Tensor:
        _, t = next(teacher)  # which comes in the same blocks
        weights = (s - rows[0, own, None]).exp_()  # bN
        weights += s.sub_(columns[0]).exp_()
        weights -= (t - rows[1, own, None]).exp_()
        weights -= t.sub_(columns[1]).exp_()
        return weights

    return by_logits
