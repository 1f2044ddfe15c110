"""The contrastive loss against the definition, written out."""

from __future__ import annotations

import math

import pytest
import torch

from clip_model import contrastive_loss


def naive_loss(images: list[list[float]], texts: list[list[float]], scale: float) -> float:
    def cosine(a: list[float], b: list[float]) -> float:
        dot = sum(x * y for x, y in zip(a, b, strict=True))
        return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))

    n = len(images)
    logits = [[scale * cosine(image, text) for text in texts] for image in images]
    rows = [math.log(sum(map(math.exp, logits[i]))) - logits[i][i] for i in range(n)]
    columns = [
        math.log(sum(math.exp(logits[j][i]) for j in range(n))) - logits[i][i] for i in range(n)
    ]
    return (sum(rows) / n + sum(columns) / n) / 2


@pytest.mark.parametrize("n", [1, 2, 7])
def test_equals_the_definition(n: int) -> None:
    generator = torch.Generator().manual_seed(n)
    images, texts = (torch.randn(n, 5, generator=generator) for _ in range(2))
    scale = torch.tensor(math.log(8.0))
    expected = naive_loss(images.tolist(), texts.tolist(), 8.0)
    assert contrastive_loss(images, texts, scale).item() == pytest.approx(expected, rel=1e-5)


def test_same_features_cost_the_logarithm_of_their_number() -> None:
    same = torch.ones(16, 4)
    loss = contrastive_loss(same, same, torch.tensor(2.0))
    assert loss.item() == pytest.approx(math.log(16))


def test_perfect_features_cost_nothing() -> None:
    eye = torch.eye(8)
    assert contrastive_loss(eye, eye, torch.tensor(math.log(100.0))).item() < 1e-6


def test_length_of_features_does_not_matter() -> None:
    images, texts = torch.randn(4, 6), torch.randn(4, 6)
    scale = torch.tensor(1.0)
    torch.testing.assert_close(
        contrastive_loss(images * 3, texts / 7, scale), contrastive_loss(images, texts, scale)
    )


def test_gradient_reaches_all_three() -> None:
    images, texts = (torch.randn(3, 4).double().requires_grad_() for _ in range(2))
    scale = torch.tensor(1.0).double().requires_grad_()
    assert torch.autograd.gradcheck(contrastive_loss, (images, texts, scale))


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"\(3, 4\)"):
        contrastive_loss(torch.ones(3, 4), torch.ones(2, 4), torch.tensor(1.0))
