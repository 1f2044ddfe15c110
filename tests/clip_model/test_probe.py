"""Probes against scikit-learn, the sweep against the whole grid, and the few-shot arithmetic."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier

from clip_model import CLIP
from clip_model.probe import (
    LinearProbe,
    Split,
    binary_sweep,
    few_shot_curve,
    few_shot_rows,
    fit_one_vs_rest,
    fit_probe,
    fit_swept_probe,
    image_features,
    shots_to_equal,
    sweep_l2,
)
from tests.clip_model.test_model import SMALL_RESNET, SMALL_VIT
from tests.processors import needs_gpu

COEFFICIENTS = 1e-4  # largest difference from scikit-learn's, both run to a slope of 1e-8


def digits(dtype: torch.dtype = torch.float64) -> Split:
    """scikit-learn's 1,797 handwritten digits: [N, 64] and [N]."""
    data = load_digits()
    return torch.from_numpy(data.data).to(dtype) / 16, torch.from_numpy(data.target)


def halves(split: Split) -> tuple[Split, Split]:
    features, labels = split
    return (features[::2], labels[::2]), (features[1::2], labels[1::2])


def sklearn_fit(features: torch.Tensor, labels: torch.Tensor, l2: float, tol: float) -> Any:
    model = LogisticRegression(C=1 / l2, max_iter=1000, tol=tol)
    return model.fit(features.numpy(), labels.numpy())


@pytest.mark.parametrize("l2", [1.0, 1 / 0.316, 100.0])
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_coefficients_are_scikit_learns(classes: int, l2: float) -> None:
    features, labels = digits()
    rows = labels < classes
    train = features[rows][:300], labels[rows][:300] * 3 - 1  # labels that are no row numbers
    theirs = sklearn_fit(*train, l2, tol=1e-8)
    ours = fit_probe(*train, l2, tolerance=1e-8)
    assert ours.classes.tolist() == theirs.classes_.tolist()
    assert ours.weight.shape == theirs.coef_.shape
    np.testing.assert_allclose(ours.weight.numpy(), theirs.coef_, rtol=0, atol=COEFFICIENTS)
    np.testing.assert_allclose(ours.bias.numpy(), theirs.intercept_, rtol=0, atol=COEFFICIENTS)
    probabilities = ours.logits(train[0]).softmax(dim=-1).numpy()
    np.testing.assert_allclose(probabilities, theirs.predict_proba(train[0]), rtol=0, atol=1e-5)


def several_labels(features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Of a digit: whether it is even, whether it has a loop, whether it is above 4: bool [N, 5].

    The last two are of all rows and of none.
    """
    known = [labels % 2 == 0, torch.isin(labels, torch.tensor([0, 6, 8, 9])), labels > 4]
    return torch.stack([*known, labels >= 0, labels < 0], dim=1)


@pytest.mark.parametrize("l2", [1.0, 100.0])
def test_one_vs_rest_is_scikit_learns(l2: float) -> None:
    features, labels = digits()
    known = several_labels(features, labels)
    model = OneVsRestClassifier(LogisticRegression(C=1 / l2, max_iter=10_000, tol=1e-8))
    theirs = model.fit(features[:400].numpy(), known[:400, :3].numpy())
    ours = fit_one_vs_rest(features[:400], known[:400], l2, tolerance=1e-8)
    assert ours.classes.tolist() == [0, 1, 2]
    for row, one in enumerate(theirs.estimators_):
        scale = max(1.0, float(np.abs(one.coef_).max()))
        expected = torch.from_numpy(one.coef_[0])
        assert (ours.weight[row] - expected).abs().max() < COEFFICIENTS * scale
    scores = theirs.decision_function(features[400:].numpy())
    np.testing.assert_allclose(ours.logits(features[400:]).numpy(), scores, rtol=0, atol=2e-3)


def test_one_vs_rest_of_what_no_class_can_be_told_by_is_refused() -> None:
    features, labels = digits()
    known = several_labels(features, labels)
    with pytest.raises(ValueError, match="examples and counterexamples"):
        fit_one_vs_rest(features, known[:, 3:])
    with pytest.raises(ValueError, match="features must be finite"):
        fit_one_vs_rest(features * math.nan, known)


def loss(probe: LinearProbe, split: Split, l2: float) -> float:
    features, labels = split[0].double(), split[1]
    logits = torch.nn.functional.linear(features, probe.weight.double(), probe.bias.double())
    penalty = probe.weight.double().square().sum() * (l2 / 2 / len(features))
    return (torch.nn.functional.cross_entropy(logits, labels) + penalty).item()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("l2", [1e-2, 1 / 0.316, 100.0])
def test_with_defaults_it_is_nearer_to_the_optimum_than_scikit_learn(
    l2: float, dtype: torch.dtype
) -> None:
    train, test = halves(digits(dtype))
    best, theirs = (sklearn_fit(train[0].double(), train[1], l2, tol) for tol in (1e-9, 1e-4))
    ours = fit_probe(*train, l2)
    of_best, of_theirs = (
        loss(
            LinearProbe(ours.classes, torch.from_numpy(m.coef_), torch.from_numpy(m.intercept_)),
            train,
            l2,
        )
        for m in (best, theirs)
    )
    assert loss(ours, train, l2) - of_best < min(1e-6, (of_theirs - of_best) / 2)
    assert (ours.predict(test[0]).numpy() != best.predict(test[0].numpy())).mean() <= 0.005
    assert (ours.predict(test[0]) == test[1]).double().mean() > 0.89


def test_features_in_a_narrow_cone_and_fewer_rows_than_dimensions() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(24) % 3
    features = 10 + torch.randn(24, 40, generator=generator).double() * torch.logspace(0, -4, 40)
    # Its L-BFGS gives up after 1,000 steps here.
    theirs = LogisticRegression(C=10, solver="newton-cholesky", tol=1e-10)
    theirs.fit(features.numpy(), labels.numpy())
    ours = fit_probe(features, labels, 0.1, tolerance=1e-9)
    np.testing.assert_allclose(ours.weight.numpy(), theirs.coef_, rtol=0, atol=COEFFICIENTS)
    np.testing.assert_allclose(ours.bias.numpy(), theirs.intercept_, rtol=0, atol=1e-2)
    logits = theirs.decision_function(features.numpy())
    np.testing.assert_allclose(ours.logits(features).numpy(), logits, rtol=0, atol=COEFFICIENTS)


@needs_gpu
def test_gpu_gives_the_cpus_coefficients() -> None:
    features, labels = digits()
    cpu = fit_probe(features, labels, tolerance=1e-8)
    gpu = fit_probe(features.cuda(), labels, tolerance=1e-8)
    assert gpu.weight.is_cuda
    torch.testing.assert_close(gpu.weight.cpu(), cpu.weight, rtol=0, atol=COEFFICIENTS)


def test_half_precision_and_inference_tensors_are_taken() -> None:
    features, labels = digits()
    with torch.inference_mode():
        probe = fit_probe(features.bfloat16(), labels)
        assert probe.accuracy(features.bfloat16(), labels) > 0.95
    assert probe.weight.dtype == torch.float32


def test_what_cannot_be_fitted_is_refused() -> None:
    features, labels = digits()
    with pytest.raises(ValueError, match="two classes"):
        fit_probe(features, torch.zeros_like(labels))
    with pytest.raises(ValueError, match=r"\[N, D\]"):
        fit_probe(features, labels[:5])
    with pytest.raises(ValueError, match="positive"):
        fit_probe(features, labels, 0.0)
    with pytest.raises(ValueError, match="finite"):
        fit_probe(features * torch.nan, labels)


@pytest.mark.parametrize("peak", [-6.0, -5.9, -3.3, 0.0, 1.125, 4.6, 6.0])
def test_sweep_finds_the_peak_of_the_whole_grid(peak: float) -> None:
    grid = [10 ** (-6 + index / 8) for index in range(97)]

    def score(l2: float) -> float:
        return -((math.log10(l2) - peak) ** 2)

    sweep = binary_sweep(score)
    assert sweep.l2 == pytest.approx(max(grid, key=score))
    assert len(sweep.accuracies) <= 15
    for l2 in (1e-6, 1e-4, 1e-2, 1, 1e2, 1e4, 1e6):
        assert any(seen == pytest.approx(l2) for seen in sweep.accuracies)
    assert all(any(seen == pytest.approx(point) for point in grid) for seen in sweep.accuracies)


def test_of_equals_the_stronger_regularisation_wins() -> None:
    assert binary_sweep(lambda l2: 1.0).l2 == pytest.approx(1e6)
    assert binary_sweep(lambda l2: float(l2 < 2)).l2 == pytest.approx(10**0.25)


def test_sweep_on_a_validation_split() -> None:
    train, rest = halves(digits(torch.float32))
    small = train[0][:150], train[1][:150]
    validation, test = halves(rest)
    probe, sweep = fit_swept_probe(small, validation)
    assert sweep.accuracies[sweep.l2] == max(sweep.accuracies.values())
    assert sweep.l2 == sweep_l2(small, validation).l2
    assert probe.accuracy(*test) > 0.9


def test_few_shot_rows_are_a_nested_draw_by_key() -> None:
    labels = torch.arange(200) % 7
    rows = {shots: few_shot_rows(labels, shots, seed=1) for shots in (1, 4, 16)}
    for shots, drawn in rows.items():
        assert labels[drawn].bincount().tolist() == [shots] * 7
    assert set(rows[1].tolist()) < set(rows[4].tolist()) < set(rows[16].tolist())
    assert not torch.equal(rows[4], few_shot_rows(labels, 4, seed=2))
    assert torch.equal(rows[4], few_shot_rows(labels, 4, seed=1))


def test_few_shot_draw_with_keys_does_not_depend_on_the_order() -> None:
    labels = torch.arange(60) % 3
    keys = [f"picture-{row}.png" for row in range(60)]
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0)).tolist()
    drawn = {keys[row] for row in few_shot_rows(labels, 4, 0, keys).tolist()}
    shuffled_keys = [keys[row] for row in order]
    shuffled = few_shot_rows(labels[order], 4, 0, shuffled_keys).tolist()
    assert {shuffled_keys[row] for row in shuffled} == drawn


def test_few_shot_needs_enough_examples() -> None:
    with pytest.raises(ValueError, match=r"fewer than 4 examples: \[1\]"):
        few_shot_rows(torch.tensor([0, 0, 0, 0, 1]), 4)
    with pytest.raises(ValueError, match="at least one"):
        few_shot_rows(torch.tensor([0, 1]), 0)


def test_more_labels_do_better() -> None:
    train, test = halves(digits(torch.float32))
    curve = few_shot_curve(train, test)
    means = {shots: sum(scores) / len(scores) for shots, scores in curve.items()}
    assert list(means) == [1, 2, 4, 8, 16]
    assert all(len(scores) == 3 for scores in curve.values())
    assert sorted(means.values()) == list(means.values())
    assert means[16] > 0.85
    equal = shots_to_equal((means[4] + means[8]) / 2, means)
    assert equal == pytest.approx(math.sqrt(32))
    swept = few_shot_curve(train, test, shots=(2,), seeds=(0,), validation=test)
    assert swept[2][0] >= curve[2][0] - 0.05


def test_shots_to_equal() -> None:
    curve = {1: 0.2, 2: 0.3, 4: 0.4, 8: 0.5, 16: 0.6}
    assert shots_to_equal(0.4, curve) == pytest.approx(4)
    assert shots_to_equal(0.55, curve) == pytest.approx(8 * math.sqrt(2))
    assert shots_to_equal(0.1, curve) == pytest.approx(0.5)  # the first segment, extended
    assert shots_to_equal(0.7, curve) == math.inf
    assert shots_to_equal(0.7, {**curve, 64: 0.8}) == pytest.approx(32)
    assert shots_to_equal(0.3, {1: 0.5, 2: 0.4}) == 1
    with pytest.raises(ValueError, match="two points"):
        shots_to_equal(0.3, {1: 0.5})


def test_features_before_and_after_a_vits_projection() -> None:
    torch.manual_seed(0)
    model = CLIP(SMALL_VIT).eval()
    images = torch.randn(5, 3, 32, 32)
    before = image_features(model, images, projected=False, batch_size=2)
    after = image_features(model, images, batch_size=2)
    assert before.shape == (5, 64)
    assert after.shape == (5, 32)
    with torch.inference_mode():
        projection = model.visual.get_parameter("proj")
        torch.testing.assert_close(before @ projection, after, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(after, model.encode_image(images), rtol=1e-4, atol=1e-5)


def test_a_resnet_has_its_attention_pools_output_only() -> None:
    torch.manual_seed(0)
    model = CLIP(SMALL_RESNET).eval()
    images = torch.randn(2, 3, 64, 64)
    before, after = (image_features(model, images, projected=flag) for flag in (False, True))
    assert torch.equal(before, after)


@pytest.mark.parametrize("broken", [torch.nan, torch.inf, -torch.inf])
def test_rows_that_are_not_finite_are_refused_by_number(broken: float) -> None:
    features = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(20) % 2
    probe = fit_probe(features, labels)
    features[[3, 7], 1] = broken
    for use in (
        lambda: fit_probe(features, labels),
        lambda: probe.logits(features),
        lambda: probe.predict(features),
        lambda: probe.accuracy(features, labels),
    ):
        with pytest.raises(ValueError, match=r"those of 2 of 20 rows are not \(3, 7\)"):
            use()


def test_an_accuracy_of_nothing_is_none() -> None:
    probe = fit_probe(torch.eye(2), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="no rows"):
        probe.accuracy(torch.zeros(0, 2), torch.zeros(0, dtype=torch.long))
    with pytest.raises(ValueError, match="finite"):
        shots_to_equal(float("nan"), {1: 0.1, 2: 0.2})
    with pytest.raises(ValueError, match="finite"):
        shots_to_equal(0.5, {1: 0.1, 2: float("nan")})
