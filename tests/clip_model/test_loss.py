"""The losses over all pairs: against their definitions, in blocks, in every type."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from clip_model import contrastive_loss, distillation_loss, sigmoid_loss

SCALE, BIAS = math.log(8.0), -3.0
TEACHER_SCALE = math.log(20.0)
Loss = Callable[..., Tensor]


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


def all_logits(images: Tensor, texts: Tensor, logit_scale: Tensor) -> Tensor:
    return logit_scale.exp() * F.normalize(images, dim=-1) @ F.normalize(texts, dim=-1).t()  # NN


def naive_contrastive(images: Tensor, texts: Tensor, logit_scale: Tensor) -> Tensor:
    logits = all_logits(images, texts, logit_scale)
    targets = torch.arange(len(logits))
    return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.t(), targets)) / 2


def naive_sigmoid(images: Tensor, texts: Tensor, logit_scale: Tensor, bias: Tensor) -> Tensor:
    logits = all_logits(images, texts, logit_scale) + bias
    belong = 2 * torch.eye(len(logits), dtype=logits.dtype) - 1
    return -F.logsigmoid(belong * logits).sum() / len(logits)


def some_teacher(n: int) -> tuple[Tensor, Tensor]:
    """Embeddings of another width."""
    images, texts = torch.randn(2, n, 3, generator=torch.Generator().manual_seed(n + 1))
    return images.half(), texts.half()


def distillation(images: Tensor, texts: Tensor, logit_scale: Tensor, **options) -> Tensor:
    teacher = some_teacher(len(images))
    return distillation_loss(images, texts, logit_scale, teacher, TEACHER_SCALE, **options)


def naive_distillation(images: Tensor, texts: Tensor, logit_scale: Tensor) -> Tensor:
    scale = logit_scale.new_tensor(TEACHER_SCALE)
    seen_images, seen_texts = some_teacher(len(images))
    teacher = all_logits(seen_images.to(images.dtype), seen_texts.to(images.dtype), scale)
    student = all_logits(images, texts, logit_scale)
    of_rows, of_columns = (
        F.kl_div(s.log_softmax(1), t.log_softmax(1), log_target=True, reduction="batchmean")
        for s, t in ((student, teacher), (student.t(), teacher.t()))
    )
    return (of_rows + of_columns) / 2


EACH = pytest.mark.parametrize(
    ("loss", "naive", "scalars"),
    [
        pytest.param(contrastive_loss, naive_contrastive, (SCALE,), id="contrastive"),
        pytest.param(sigmoid_loss, naive_sigmoid, (SCALE, BIAS), id="sigmoid"),
        pytest.param(distillation, naive_distillation, (SCALE,), id="distillation"),
    ],
)


def some_features(n: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n)
    images, texts = torch.randn(2, n, 5, generator=generator, dtype=torch.float64)
    return images.to(dtype), texts.to(dtype)


def with_gradients(loss: Loss, *inputs: Tensor, **options) -> tuple[Tensor, ...]:
    """The loss, and three times its gradient by each input."""
    leaves = [one.clone().requires_grad_() for one in inputs]
    value = loss(*leaves, **options)
    return value.detach(), *torch.autograd.grad(3 * value, leaves)


@pytest.mark.parametrize("n", [1, 2, 7])
def test_equals_the_definition(n: int) -> None:
    images, texts = some_features(n, torch.float32)
    expected = naive_loss(images.tolist(), texts.tolist(), 8.0)
    found = contrastive_loss(images, texts, torch.tensor(SCALE)).item()
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-6)


@EACH
@pytest.mark.parametrize("block", [1, 3, 7, 100, None])
@pytest.mark.parametrize("n", [1, 7])
def test_blocks_change_neither_loss_nor_gradients(loss, naive, scalars, block, n) -> None:
    inputs = (*some_features(n), *torch.tensor(scalars, dtype=torch.float64))
    expected = with_gradients(naive, *inputs)
    found = with_gradients(loss, *inputs, block=block)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


@EACH
@pytest.mark.parametrize("block", [2, 100])
def test_a_graph_that_is_kept_gives_its_gradient_twice(loss, naive, scalars, block) -> None:
    leaves = [one.requires_grad_() for one in (*some_features(5), *torch.tensor(scalars).double())]
    value = loss(*leaves, block=block)
    first = torch.autograd.grad(value, leaves, retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(value, leaves), first, rtol=0, atol=0)


@EACH
def test_half_the_bits_are_computed_in_all_of_them(loss, naive, scalars) -> None:
    """bfloat16 features, and autocast forward and backward, cost no more than their own bits."""
    inputs = (*some_features(50, torch.bfloat16), *torch.tensor(scalars))
    exact = with_gradients(naive, *(one.double() for one in inputs))
    with torch.autocast("cpu", torch.bfloat16):
        found = with_gradients(loss, *inputs, block=16)
    assert [one.dtype for one in found] == [torch.float32, *(one.dtype for one in inputs)]
    for one, other in zip(found, exact, strict=True):
        tolerance = 1e-2 if one.dtype == torch.bfloat16 else 1e-5
        torch.testing.assert_close(one.double(), other, rtol=tolerance, atol=1e-5)


@EACH
@pytest.mark.parametrize("block", [1, 4])
def test_the_largest_temperature_neither_overflows_nor_underflows(
    loss, naive, scalars, block
) -> None:
    """One image is opposite to every text: its row and others' sums differ by exp(200)."""
    images, texts = torch.eye(4), torch.eye(4)
    images[3], texts[2] = -1.0, -1.0
    inputs = (images, texts, torch.tensor(math.log(100.0)), *torch.tensor(scalars[1:]))
    exact = with_gradients(naive, *(one.double() for one in inputs))
    found = with_gradients(loss, *inputs, block=block)
    for one, other in zip(found, exact, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-4)


class LargestTensor(TorchDispatchMode):
    """Counts the numbers in the largest tensor that is made within it."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for one in made if isinstance(made, (tuple, list)) else [made]:
            if isinstance(one, Tensor):
                self.numbers = max(self.numbers, one.numel())
        return made


@EACH
@pytest.mark.parametrize("options", [{"block": 16}, {}], ids=["said", "by default"])
def test_no_tensor_of_all_pairs_is_made(loss, naive, scalars, options, monkeypatch) -> None:
    monkeypatch.setattr("clip_model.loss.MIN_BLOCK", 2)
    monkeypatch.setattr("clip_model.loss.BLOCK_LOGITS", 16 * 200)
    inputs = (*some_features(200), *torch.tensor(scalars))
    with LargestTensor() as largest:
        with_gradients(loss, *inputs, **options)
    assert largest.numbers == 16 * 200
    with LargestTensor() as largest:
        with_gradients(naive, *inputs)
    assert largest.numbers == 200 * 200


def test_same_features_cost_the_logarithm_of_their_number() -> None:
    same = torch.ones(16, 4)
    loss = contrastive_loss(same, same, torch.tensor(2.0))
    assert loss.item() == pytest.approx(math.log(16))


def test_perfect_features_cost_nothing() -> None:
    eye = torch.eye(8)
    assert contrastive_loss(eye, eye, torch.tensor(math.log(100.0))).item() < 1e-6


def test_who_sees_what_the_teacher_sees_has_nothing_to_learn() -> None:
    """At the teacher's temperature; turned and mirrored, features have the same cosines."""
    images, texts = (one.float() for one in some_teacher(9))
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)))[0]
    inputs = images @ turn, texts @ turn, torch.tensor(TEACHER_SCALE)
    loss, *gradients = with_gradients(distillation, *inputs, block=4)
    assert loss.abs() < 1e-5
    assert max(by.abs().max() for by in gradients) < 1e-4
    assert distillation(texts @ turn, images @ turn, inputs[2]) > 0.1


def test_a_teacher_has_seen_the_same_pairs() -> None:
    with pytest.raises(ValueError, match="4 pairs, of the teacher 3"):
        distillation_loss(*some_features(4), torch.tensor(SCALE), some_teacher(3), 1.0)


@EACH
def test_length_of_features_does_not_matter(loss, naive, scalars) -> None:
    (images, texts), scalars = some_features(4), torch.tensor(scalars)
    torch.testing.assert_close(loss(images * 3, texts / 7, *scalars), loss(images, texts, *scalars))


@EACH
def test_features_of_no_length_give_a_number(loss, naive, scalars) -> None:
    (images, texts), scalars = some_features(3), torch.tensor(scalars).double()
    images[1] = texts[2] = 0
    expected = with_gradients(naive, images, texts, *scalars)
    torch.testing.assert_close(with_gradients(loss, images, texts, *scalars), expected)


@pytest.mark.parametrize(
    ("loss", "scalars"),
    [(contrastive_loss, (1.0,)), (sigmoid_loss, (1.0, -2.0)), (distillation, (1.0,))],
)
@pytest.mark.parametrize("block", [2, None])
def test_gradient_reaches_all_inputs(loss, scalars, block) -> None:
    inputs = [*some_features(3), *torch.tensor(scalars, dtype=torch.float64)]
    inputs = [one.clone().requires_grad_() for one in inputs]
    assert torch.autograd.gradcheck(lambda *values: loss(*values, block=block), inputs)


@pytest.mark.parametrize("loss", [contrastive_loss, sigmoid_loss])
def test_shapes_must_agree(loss) -> None:
    scalars = torch.ones(1 if loss is contrastive_loss else 2)
    with pytest.raises(ValueError, match=r"\(3, 4\)"):
        loss(torch.ones(3, 4), torch.ones(2, 4), *scalars)
