"""Linear probes: how good an image tower's features are, by logistic regression on them.

The paper's protocol (section 3.2 and appendix A.3): full-batch L-BFGS, at most 1,000 iterations,
the L2 strength chosen on a validation split; and from 1 to 16 labelled examples a class, to find
how many of them a zero-shot classifier is worth.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from clip_model.model import CLIP

SHOTS = (1, 2, 4, 8, 16)  # labelled examples a class
SEEDS = (0, 1, 2)

#: Slopes at which a search ends: a loss within 1e-6 of the optimum's; and, in a fraction of the
#: time, one that is enough to tell strengths apart (scikit-learn's `tol`).
EXACT, COARSE = 5e-6, 1e-4
#: With float32's products it ends, too, where a step gains no more than this: the noise in slopes
#: may keep them from becoming as small as asked.
LEAST_GAIN = 1e-9

STEPS_A_DECADE = 8  # resolution of the sweep
_LOWEST, _DECADES = -6, 12  # lambda from 1e-6 to 1e6
_FIRST_STEP = 2 * STEPS_A_DECADE  # the sweep begins with every second decade

Split = tuple[Tensor, Tensor]  # features [N, D], labels [N]


@torch.inference_mode()
def image_features(
    model: CLIP, images: Tensor, *, projected: bool = True, batch_size: int = 256
) -> Tensor:
    """Features of preprocessed images, not normalised: [N, 3, R, R] -> [N, D].

    Args:
        projected: after the projection into the joint space (D = embed_dim), or before it: a ViT's
            class token after `ln_post` (D = width), as the paper probes. A ResNet's attention
            pool ends in its projection and has no output before it, so it gives the same for both.
    """
    device = model.logit_scale.device
    encode = model.encode_image if projected else model.encode_hidden
    return torch.cat([encode(some.to(device)) for some in images.split(batch_size)])


@dataclass(frozen=True)
class LinearProbe:
    """A fitted classifier. Two classes have one row of weights, as in scikit-learn."""

    classes: Tensor  # [K] labels, ascending
    weight: Tensor  # [K, D], or [1, D] for two classes
    bias: Tensor  # [K], or [1]

    def logits(self, features: Tensor) -> Tensor:
        """Scores of every class: [N, D] -> [N, K].

        Raises:
            ValueError: a row's features are not finite; the error says which rows'.
        """
        _check_finite(features)
        return _with_other_class(F.linear(features.to(self.weight), self.weight, self.bias))

    def predict(self, features: Tensor) -> Tensor:
        """The likeliest label of each row: [N, D] -> [N]."""
        return self.classes[self.logits(features).argmax(dim=-1)]

    def accuracy(self, features: Tensor, labels: Tensor) -> float:
        """Share of rows whose label is predicted.

        Raises:
            ValueError: there is no row, or a row's features are not finite.
        """
        if not len(labels):
            raise ValueError("the accuracy on no rows is not a number")
        right = self.predict(features) == labels.to(self.classes)
        return right.double().mean().item()


def _with_other_class(logits: Tensor) -> Tensor:
    """Of two classes one has a row of weights, the other one's logit is 0: [N, 1] -> [N, 2]."""
    if logits.shape[1] > 1:
        return logits
    return torch.cat([torch.zeros_like(logits), logits], dim=-1)


def fit_probe(
    features: Tensor,
    labels: Tensor,
    l2: float = 1 / 0.316,
    *,
    max_iterations: int = 1000,
    tolerance: float = EXACT,
) -> LinearProbe:
    """Logistic regression as scikit-learn's `LogisticRegression(C=1 / l2, max_iter=1000)`.

    It minimises the sum of the cross-entropies plus l2 / 2 times the squared weights; the
    intercept is free. It runs where the features are; products are in their precision (float32 at
    least), weights and losses in float64: in float32 the search ends where losses no longer
    differ, short of the optimum.

    Features lie in a narrow cone, along whose axes their variances differ by orders of magnitude,
    which makes the search slow. So it goes on in centred coordinates in which the curvature of
    the loss at the start is about the same along every axis: the optimum is the same one, in a
    fraction of the steps.

    Args:
        features: [N, D].
        labels: integers [N], any two or more different ones.
        l2: the paper's lambda, scikit-learn's 1 / C. The default is that of OpenAI's README.
        tolerance: the largest slope of the mean loss, in these coordinates, at which it stops. The
            default's loss is within 1e-6 of the optimum's.

    Raises:
        ValueError: rows and labels differ in number, there is but one class, l2 is not a positive
            number, or a feature is not finite.
    """
    _check(features, labels, l2)
    if len(labels.unique()) < 2:
        raise ValueError("a probe needs examples of at least two classes")
    classes, targets = labels.to(features.device).unique(return_inverse=True)
    rows = 1 if len(classes) == 2 else len(classes)

    def loss(logits: Tensor) -> Tensor:
        return F.cross_entropy(_with_other_class(logits), targets.clone())

    weight, bias = _fit(features, rows, loss, 1 / len(classes), l2, max_iterations, tolerance)
    return LinearProbe(classes, weight, bias)


@dataclass(frozen=True)
class OneVsRest:
    """A logistic regression for each class, whether a row is of it: rows may be of several."""

    classes: Tensor  # [K] numbers of those with examples and counterexamples, ascending
    weight: Tensor  # [K, D]
    bias: Tensor  # [K]

    def logits(self, features: Tensor) -> Tensor:
        """Of every class: [N, D] -> [N, K]. Raises ValueError for features not finite."""
        _check_finite(features)
        return F.linear(features.to(self.weight), self.weight, self.bias)


def fit_one_vs_rest(
    features: Tensor,
    labels: Tensor,
    l2: float = 1 / 0.316,
    *,
    max_iterations: int = 1000,
    tolerance: float = EXACT,
) -> OneVsRest:
    """As scikit-learn's `OneVsRestClassifier(LogisticRegression(C=1 / l2))`, in one search.

    The classes share nothing but the features' axes: the sum of their losses, each as
    ``fit_probe`` has it, is at its least where each of them is.

    Args:
        features: [N, D].
        labels: which classes each row is of, bool [N, C]. Classes without examples, or without
            counterexamples, are left out.

    Raises:
        ValueError: as of ``fit_probe``; no class has both kinds of examples.
    """
    _check(features, labels[:, 0] if labels.ndim == 2 else labels, l2)
    examples = labels.sum(dim=0)
    classes = ((examples > 0) & (examples < len(labels))).nonzero().flatten().to(features.device)
    if not len(classes):
        raise ValueError("a probe needs a class with examples and counterexamples")
    targets = labels.to(features.device)[:, classes].double()

    def loss(logits: Tensor) -> Tensor:
        each = F.binary_cross_entropy_with_logits(logits, targets.clone(), reduction="none")
        return each.sum(dim=-1).mean()

    weight, bias = _fit(features, len(classes), loss, 1 / 4, l2, max_iterations, tolerance)
    return OneVsRest(classes, weight, bias)


def _fit(
    features: Tensor,
    rows: int,
    loss_of: Callable[[Tensor], Tensor],
    curvature: float,
    l2: float,
    max_iterations: int,
    tolerance: float,
) -> tuple[Tensor, Tensor]:
    """Weights [rows, D] and biases [rows] of the least mean loss of the logits [N, rows].

    Args:
        curvature: of the loss along a logit, where all logits are 0.
    """
    with torch.inference_mode(mode=False), torch.enable_grad():
        # What inference mode made cannot be trained on.
        x = features.detach().to(torch.promote_types(features.dtype, torch.float32)).clone()
        mean = x.mean(dim=0)
        x = x - mean
        directions, variances = _principal_axes(x)
        scale = (variances * curvature + l2 / len(x)).rsqrt()  # R
        x = x @ (directions * scale)  # NR
        weight = x.new_zeros(rows, x.shape[1], dtype=torch.float64).requires_grad_()
        bias = x.new_zeros(rows, dtype=torch.float64).requires_grad_()
        optimizer = torch.optim.LBFGS(
            [weight, bias],
            max_iter=max_iterations,
            max_eval=2 * max_iterations,
            history_size=30,
            tolerance_grad=tolerance,
            tolerance_change=(
                LEAST_GAIN if x.dtype == torch.float32 else torch.finfo(weight.dtype).eps
            ),
            line_search_fn="strong_wolfe",
        )

        def mean_loss() -> Tensor:
            optimizer.zero_grad()
            logits = F.linear(x, weight.to(x.dtype)).double() + bias  # NK
            loss = loss_of(logits)
            loss = loss + (weight * scale).square().sum() * (l2 / 2 / len(x))
            loss.backward()
            return loss

        optimizer.step(mean_loss)
    fitted = (weight.detach() * scale) @ directions.t().double()
    intercept = bias.detach() - fitted @ mean.double()
    return fitted.to(x.dtype), intercept.to(x.dtype)


def _principal_axes(x: Tensor) -> tuple[Tensor, Tensor]:
    """Of centred rows [N, D], directions [D, R] and the variances along them [R], R = min(N, D).

    An optimum lies in the span of the rows, as what is outside it only adds to the penalty.
    """
    if len(x) < x.shape[1]:
        _, sizes, rows = torch.linalg.svd(x.double(), full_matrices=False)
        directions, variances = rows.t(), sizes.square() / len(x)
    else:
        variances, directions = torch.linalg.eigh((x.t() @ x / len(x)).double())
    return directions.to(x), variances.clamp_min(0).to(x)


def _check(features: Tensor, labels: Tensor, l2: float) -> None:
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        shapes = f"{tuple(features.shape)} and {tuple(labels.shape)}"
        raise ValueError(f"features [N, D] and labels [N] are needed, not {shapes}")
    if not (l2 > 0 and math.isfinite(l2)):
        raise ValueError(f"the L2 strength must be a positive number, not {l2}")
    _check_finite(features)


def _check_finite(features: Tensor) -> None:
    broken = (~features.isfinite().all(dim=-1)).nonzero().flatten().tolist()
    if broken:
        some = ", ".join(map(str, broken[:10])) + (", ..." if len(broken) > 10 else "")
        raise ValueError(
            f"features must be finite: those of {len(broken)} of {len(features)} rows are not "
            f"({some}); leave these rows out"
        )


@dataclass(frozen=True)
class Sweep:
    """What a search over the L2 strength saw."""

    l2: float
    accuracies: dict[float, float]  # on the validation split, by L2 strength, ascending


def sweep_l2(train: Split, validation: Split, max_iterations: int = 1000) -> Sweep:
    """The L2 strength that does best on the validation split, by the paper's search."""

    def accuracy(l2: float) -> float:
        probe = fit_probe(*train, l2, max_iterations=max_iterations, tolerance=COARSE)
        return probe.accuracy(*validation)

    return binary_sweep(accuracy)


def binary_sweep(score: Callable[[float], float]) -> Sweep:
    """The paper's parametric binary search over lambda, 8 steps a decade from 1e-6 to 1e6.

    It begins with every second decade, then halves the interval around the peak until neighbours
    are one step apart: 15 scores at most, where the whole grid needs 97. Of equals the stronger
    regularisation wins.
    """
    step = _FIRST_STEP
    last = _DECADES * STEPS_A_DECADE
    scores = {index: score(_strength(index)) for index in range(0, last + 1, step)}
    while step > 1:
        step //= 2
        peak = _peak(scores)
        for index in (peak - step, peak + step):
            if 0 <= index <= last and index not in scores:
                scores[index] = score(_strength(index))
    return Sweep(_strength(_peak(scores)), {_strength(i): scores[i] for i in sorted(scores)})


def _strength(index: int) -> float:
    return float(10 ** (_LOWEST + index / STEPS_A_DECADE))


def _peak(scores: Mapping[int, float]) -> int:
    return max(scores, key=lambda index: (scores[index], index))


def fit_swept_probe(train: Split, validation: Split) -> tuple[LinearProbe, Sweep]:
    """Sweep on the validation split, then fit on both splits with the strength it chose."""
    sweep = sweep_l2(train, validation)
    features, labels = (torch.cat(pair) for pair in zip(train, validation, strict=True))
    return fit_probe(features, labels, sweep.l2), sweep


def hash_order(keys: Sequence[object], seed: int) -> list[int]:
    """Row numbers in an order that is a function of the seed and the rows' own keys alone."""

    def digest(row: int) -> bytes:
        text = f"{seed}\x1f{keys[row]}"
        return hashlib.blake2b(text.encode(), digest_size=16).digest()

    return sorted(range(len(keys)), key=digest)


def few_shot_rows(
    labels: Tensor, shots: int, seed: int = 0, keys: Sequence[object] | None = None
) -> Tensor:
    """Rows of `shots` examples of every class, drawn by hash: int64 [shots * K], ascending.

    More shots with the same seed keep the examples of fewer. A row's key is its number unless
    `keys` names the rows, file names say; then the draw does not depend on their order.

    Raises:
        ValueError: a class has fewer examples than `shots`, or shots is not positive.
    """
    if shots < 1:
        raise ValueError(f"at least one example a class is needed, not {shots}")
    by_class: dict[int, list[int]] = {label: [] for label in labels.unique().tolist()}
    values = labels.tolist()
    for row in hash_order(range(len(values)) if keys is None else keys, seed):
        if len(by_class[values[row]]) < shots:
            by_class[values[row]].append(row)
    if too_few := [label for label, rows in by_class.items() if len(rows) < shots]:
        raise ValueError(f"classes with fewer than {shots} examples: {too_few[:10]}")
    return torch.tensor(sorted(row for rows in by_class.values() for row in rows))


def few_shot_curve(
    train: Split,
    test: Split,
    *,
    shots: Sequence[int] = SHOTS,
    seeds: Sequence[int] = SEEDS,
    validation: Split | None = None,
    l2: float = 1 / 0.316,
) -> dict[int, list[float]]:
    """Test accuracies of probes on few labelled examples: by examples a class, one for each seed.

    Args:
        validation: if given, each probe's strength is swept on it; else it is `l2`.

    Raises:
        ValueError: a class has fewer examples than the largest of `shots`.
    """
    features, labels = train

    def accuracy(count: int, seed: int) -> float:
        rows = few_shot_rows(labels, count, seed).to(features.device)
        some = features[rows], labels.to(rows.device)[rows]
        strength = l2 if validation is None else sweep_l2(some, validation).l2
        return fit_probe(*some, strength).accuracy(*test)

    return {count: [accuracy(count, seed) for seed in seeds] for count in shots}


def shots_to_equal(zero_shot_accuracy: float, curve: Mapping[int, float]) -> float:
    """Labelled examples a class at which a probe equals zero-shot, by log-linear interpolation.

    As in the paper's figure 7: accuracy is taken as linear in the logarithm of the examples a
    class between measured points. The first crossing counts. Below the first point the first
    segment is extended, so the answer may be less than its count; a curve that never reaches the
    accuracy gives infinity.

    Args:
        curve: accuracy by examples a class, means over seeds; the full training set may be one of
            the points.

    Raises:
        ValueError: there are fewer than two points, a count is not positive, or an accuracy is
            not finite.
    """
    points = sorted(curve.items())
    if not all(math.isfinite(accuracy) for accuracy in (zero_shot_accuracy, *curve.values())):
        raise ValueError("accuracies must be finite")
    if len(points) < 2 or points[0][0] <= 0:
        raise ValueError("interpolation needs two points or more, at positive counts")
    for first, second in itertools.pairwise(points):
        if max(first[1], second[1]) >= zero_shot_accuracy:
            return _crossing(first, second, zero_shot_accuracy)
    return math.inf


def _crossing(first: tuple[float, float], second: tuple[float, float], level: float) -> float:
    (x0, y0), (x1, y1) = first, second
    if y1 <= y0:  # no slope to follow: the first point is at the level or above it
        return x0
    return math.exp(math.log(x0) + (level - y0) / (y1 - y0) * math.log(x1 / x0))
