"""What a classifier's answers are worth: accuracy, by class, average precision, the ROC curve.

Each metric is a statistic of counted pictures (`pipelines.evaluation.intervals`), so that its value
and its bootstrap are one formula.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from clip_model.templates import ClassName
from clip_model.zero_shot import classify
from pipelines.evaluation.intervals import (
    Estimate,
    Statistic,
    difference_interval,
    estimate,
    mean_of_known,
    once,
    percentiles,
    share_interval,
    share_of,
    wilson,
)
from pipelines.evaluation.settings import Metric
from workers.base.arrays import Bools, Float32s, Float64s, Int64s

TOP = 5
#: Metrics of every class's scores, where an answer is not a class but an order of the pictures.
RANKED = ("map", "auc")


@dataclass(frozen=True)
class Truth:
    """Which classes each picture is of, as pairs in the order of the classes."""

    pictures: int  # N
    classes: int  # C
    rows: Int64s  # [M] the pair's picture
    labels: Int64s  # [M] and its class, ascending

    @classmethod
    def of(cls, labels: Sequence[tuple[int, ...]], classes: int) -> Truth:
        pairs = sorted({(label, row) for row, some in enumerate(labels) for label in some})
        table = np.array(pairs, dtype=np.int64).reshape(-1, 2)
        return cls(len(labels), classes, table[:, 1], table[:, 0])

    @cached_property
    def sizes(self) -> Int64s:
        """Pictures of each class: [C]."""
        return np.bincount(self.labels, minlength=self.classes)

    @cached_property
    def matrix(self) -> Bools:
        """Which classes each picture is of: [N, C]."""
        known = np.zeros((self.pictures, self.classes), dtype=np.bool_)
        known[self.rows, self.labels] = True
        return known


@dataclass(frozen=True)
class Answers:
    """What a classifier says of N pictures."""

    ranked: Int64s  # [N, K] the classes that it takes for likeliest, best first
    scores: Float32s | None  # [N, C], for the metrics that need them

    def take(self, rows: Sequence[int]) -> Answers:
        """Those to some of the pictures."""
        return Answers(self.ranked[rows], None if self.scores is None else self.scores[rows])

    def within(self, truth: Truth, k: int) -> Bools:
        """Whether a right class is among the first k: [N]."""
        right = np.zeros(truth.pictures, dtype=np.bool_)
        hits = (self.ranked[truth.rows, :k] == truth.labels[:, None]).any(axis=1)
        right[truth.rows[hits]] = True
        return right


def answer(features: Tensor, classifier: Tensor, metric: Metric) -> Answers:
    """The classes by cosine similarity: features [N, E] and classifier [C, E], both unit."""
    _, ranked = classify(features, classifier, 0.0, TOP)
    scores = (features @ classifier.t()).float() if metric in RANKED else None
    return Answers(ranked.cpu().numpy(), None if scores is None else scores.cpu().numpy())


def answer_by(scores: Tensor) -> Answers:
    """The classes by any scores of theirs: float32 [N, C]."""
    _, ranked = scores.topk(min(TOP, scores.shape[1]), dim=-1)
    return Answers(ranked.cpu().numpy(), scores.cpu().numpy())


@dataclass(frozen=True)
class Measure:
    """A metric of some answers: the value is the mean over the columns of the statistic."""

    statistic: Statistic
    pictures: int
    right: Bools | None = None  # [N], where the value is the share of right pictures
    classes: Int64s | None = None  # [Q], where a column is the score of a class

    @cached_property
    def columns(self) -> Float64s:
        return once(self.statistic, self.pictures)

    @property
    def value(self) -> float:
        return float(mean_of_known(self.columns))

    def estimate(self, draws: Float64s) -> Estimate:
        """With the interval, of the bootstrap's values [B, Q]."""
        means = mean_of_known(draws)
        interval = percentiles(means) if self.right is None else share_interval(self.right, means)
        return estimate(self.value, interval)


def difference(one: Measure, one_draws: Float64s, other: Measure, draws: Float64s) -> Estimate:
    """One less other, of the same pictures and the same draws."""
    values = mean_of_known(one_draws) - mean_of_known(draws)
    if one.right is None or other.right is None:
        interval = percentiles(values)
    else:
        interval = difference_interval(one.right, other.right, values)
    return estimate(one.value - other.value, interval)


def measure(metric: Metric, answers: Answers, truth: Truth) -> Measure:
    """The metric as a statistic; its columns are the classes that have pictures, or one."""
    if metric in RANKED:
        return _by_score(metric, answers, truth)
    right = answers.within(truth, TOP if metric == "top5" else 1)
    if metric == "mean_per_class":
        return Measure(recall_by_class(right, truth), truth.pictures)
    return Measure(share_of(right), truth.pictures, right)


def recall_by_class(right: Bools, truth: Truth) -> Statistic:
    """The share of each class's pictures that are right, a column a class that has any.

    Their mean is scikit-learn's `balanced_accuracy_score`.
    """
    starts = np.flatnonzero(np.diff(truth.labels, prepend=-1))
    hits = right[truth.rows]

    def statistic(counts: Float64s) -> Float64s:
        by_class = counts[:, truth.rows]
        total = np.add.reduceat(by_class, starts, axis=1)
        found = np.add.reduceat(by_class * hits, starts, axis=1)
        return _ratio(found, total)

    return statistic


def _by_score(metric: Metric, answers: Answers, truth: Truth) -> Measure:
    if answers.scores is None:
        raise ValueError("these answers hold no score of every class")
    scores, known = answers.scores, truth.matrix
    if metric == "auc" and truth.classes == 2:  # of the second class against the first
        return Measure(roc_auc_of(scores[:, 1] - scores[:, 0], known[:, 1]), truth.pictures)
    make = average_precision_of if metric == "map" else roc_auc_of
    present = np.flatnonzero(truth.sizes)
    columns = [make(scores[:, number], known[:, number]) for number in present]

    def statistic(counts: Float64s) -> Float64s:
        return np.concatenate([column(counts) for column in columns], axis=1)

    return Measure(statistic, truth.pictures, classes=present)


def average_precision_of(scores: Float32s, positive: Bools) -> Statistic:
    """Mean precision at each positive, as scikit-learn's: ties count together. [N], [N] -> one."""
    order, ends = _descending(scores)
    hits = positive[order]
    at = np.flatnonzero(hits)  # the positives' places

    def statistic(counts: Float64s) -> Float64s:
        drawn = counts[:, order]
        seen = drawn.cumsum(axis=1)[:, ends[at]]
        found = drawn[:, at]
        # Positives up to the end of a tie: those up to the last positive in it.
        right = found.cumsum(axis=1)[:, np.searchsorted(at, ends[at], side="right") - 1]
        total = found.sum(axis=1)
        return _ratio((found * _ratio(right, seen, 0.0)).sum(axis=1), total)[:, None]

    return statistic


def roc_auc_of(scores: Float32s, positive: Bools) -> Statistic:
    """The chance that a positive scores above a negative, a tie being half. [N], [N] -> one."""
    order, ends = _descending(scores)
    hits = positive[order]
    negatives, positives = np.flatnonzero(~hits), np.flatnonzero(hits)
    starts = np.searchsorted(ends, ends, side="left")  # of each place's tie
    # How many negatives stand before each positive's tie, and up to its end.
    before = np.searchsorted(negatives, starts[positives], side="left")
    until = np.searchsorted(negatives, ends[positives], side="right")

    def statistic(counts: Float64s) -> Float64s:
        drawn = counts[:, order]
        of_negatives = drawn[:, negatives].cumsum(axis=1)
        of_negatives = np.pad(of_negatives, ((0, 0), (1, 0)))
        above = of_negatives[:, before] + of_negatives[:, until]  # twice, as a tie is half
        found, total = drawn[:, positives], of_negatives[:, -1]
        wrong = (found * above).sum(axis=1)
        return 1 - _ratio(wrong, 2 * found.sum(axis=1) * total)[:, None]

    return statistic


def _descending(scores: Float32s) -> tuple[Int64s, Int64s]:
    """Rows from the highest score, and for each place the last one of the same score."""
    order = np.argsort(-scores, kind="stable")
    ordered = -scores[order]
    return order, np.searchsorted(ordered, ordered, side="right") - 1


def _ratio(one: Float64s, other: Float64s, of_none: float = np.nan) -> Float64s:
    return np.divide(one, other, out=np.full_like(one, of_none), where=other > 0)


def chance(metric: Metric, truth: Truth) -> float:
    """What a guess gets: classes drawn alike, or for average precision any order of pictures."""
    if metric == "auc":
        return 0.5
    if metric == "map":
        return float(truth.sizes[truth.sizes > 0].mean() / truth.pictures)
    if metric == "mean_per_class":
        return 1 / truth.classes
    places = min(TOP if metric == "top5" else 1, truth.classes)
    right = np.bincount(truth.rows, minlength=truth.pictures)  # classes of each picture
    missed = np.ones(truth.pictures)
    for place in range(places):
        missed *= np.maximum(0, truth.classes - right - place) / (truth.classes - place)
    return round(float(1 - missed.mean()), 12)


def details(
    metric: Metric,
    answers: Answers,
    truth: Truth,
    classes: Sequence[ClassName],
    measured: Measure,
    draws: Float64s,
) -> dict[str, Any]:
    """An entry of the result: the metric, the other ones, and every class.

    A class's value is its average precision or AUC where that is the metric, and else the share
    of its pictures that are right, with Wilson's interval; None where it has no pictures.
    """
    top1, top5 = (answers.within(truth, k) for k in (1, TOP))
    by_class = [estimate(np.nan, (np.nan, np.nan))] * truth.classes
    if measured.classes is not None:
        for column, number in enumerate(measured.classes):
            interval = percentiles(draws[:, column])
            by_class[number] = estimate(measured.columns[column], interval)
    else:
        right = (top5 if metric == "top5" else top1)[truth.rows]
        hits = np.bincount(truth.labels[right], minlength=truth.classes)
        for number in np.flatnonzero(truth.sizes):
            hit, size = int(hits[number]), int(truth.sizes[number])
            by_class[number] = estimate(hit / size, wilson(hit, size))
    return {
        **measured.estimate(draws),
        "top1": float(top1.mean()),
        "top5": float(top5.mean()),
        "mean_per_class": float(once(recall_by_class(top1, truth), truth.pictures).mean()),
        "per_class": [
            {"name": first_name(name), "pictures": size, **of_class}
            for name, size, of_class in zip(classes, truth.sizes.tolist(), by_class, strict=True)
        ],
    }


def first_name(name: ClassName) -> str:
    return name if isinstance(name, str) else name[0]
