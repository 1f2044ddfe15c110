"""Differences of two choices' models: over trainings, over pictures, and how often they hold."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from scipy import stats

from pipelines.evaluation.answered import Answered, difference_of_means
from pipelines.evaluation.differences import Compared, compared, over_trainings
from pipelines.evaluation.intervals import (
    bootstrap,
    draw_counts,
    paired_difference,
    percentiles,
    share_of,
)

DRAWS = 200


def answered(right: np.ndarray, seed: int = 0, *, is_share: bool = True) -> Answered:
    """A model that has these of the pictures right: bool [N]."""
    draws = bootstrap(len(right), {"share": share_of(right)}, DRAWS, seed)["share"][:, 0]
    ids = [f"{number:04d}" for number in range(len(right))]
    value = float(right.mean())
    return Answered({"value": value, "interval": [0, 1]}, ids, right if is_share else None, draws)


def models(*rights: np.ndarray, seed: int = 0) -> dict[int, Answered]:
    return {number: answered(right, seed) for number, right in enumerate(rights)}


def test_a_difference_is_of_pairs_of_trainings_with_students_interval() -> None:
    rng = random.Random(0)
    for count in (2, 3, 5, 9, 10):
        ours = {seed: rng.random() for seed in range(count)}
        first = {seed: rng.random() for seed in range(count)}
        found = over_trainings(ours, first | {99: 0.0})
        values = np.array([ours[seed] - first[seed] for seed in range(count)])
        low, high = stats.t.interval(0.95, count - 1, values.mean(), stats.sem(values))
        assert found.value == pytest.approx(values.mean())
        assert (found.low, found.high) == pytest.approx((low, high), rel=1e-3)
    with pytest.raises(ValueError, match="two seeds"):
        over_trainings({0: 1.0}, {0: 0.5})


@pytest.mark.parametrize("is_share", [True, False])
def test_pictures_are_drawn_for_all_models_at_once(is_share: bool) -> None:
    generator = np.random.default_rng(1)
    ours, first = generator.random((3, 80)) < 0.6, generator.random((2, 80)) < 0.4
    found = difference_of_means(
        *([answered(right, 5, is_share=is_share) for right in some] for some in (ours, first))
    )
    counts = draw_counts(np.random.default_rng([5, 80]), DRAWS, 80).astype(int)
    drawn = [np.repeat(np.arange(80), row) for row in counts]
    naive = [ours[:, rows].mean() - first[:, rows].mean() for rows in drawn]
    assert found["value"] == pytest.approx(ours.mean() - first.mean())
    assert found["interval"] == pytest.approx(percentiles(naive))


def test_models_that_hardly_differ_have_an_interval_in_closed_form() -> None:
    first = np.arange(60) < 30
    ours = [first.copy() for _ in range(3)]
    ours[0][30:34] = True  # a third of a picture each
    ours[1][0] = False
    found = difference_of_means([answered(one) for one in ours], [answered(first)] * 3)
    assert found["value"] == pytest.approx(1 / 60)
    assert found["interval"] == pytest.approx(paired_difference(4 / 3, 1 / 3, 60))


def test_models_of_other_pictures_are_not_compared() -> None:
    with pytest.raises(ValueError, match="same pictures"):
        difference_of_means([answered(np.ones(5, bool))], [answered(np.ones(6, bool))])


def test_the_average_of_sets_is_of_independent_pictures() -> None:
    generator = np.random.default_rng(2)
    sets = [
        [models(*(generator.random((3, pictures)) < share), seed=3) for share in (0.6, 0.4)]
        for pictures in (70, 300)
    ]
    ours, first = zip(*sets, strict=True)
    found = compared(ours, first)
    alone = [compared([one], [other]) for one, other in sets]
    assert found.trainings.value == pytest.approx(np.mean([one.trainings.value for one in alone]))
    below = math.hypot(*(one.pictures.value - one.pictures.low for one in alone)) / 2
    above = math.hypot(*(one.pictures.high - one.pictures.value for one in alone)) / 2
    assert found.pictures.low == pytest.approx(found.trainings.value - below)
    assert found.pictures.high == pytest.approx(found.trainings.value + above)
    scores = [
        {seed: np.mean([models[seed].value for models in some]) for seed in range(3)}
        for some in (ours, first)
    ]
    assert found.trainings == over_trainings(*scores)


def simulated(trial: int) -> Compared:
    """Two choices that are as good: each is better at pictures of its own, and seeds differ."""
    generator = np.random.default_rng(trial)
    ease, taste = generator.normal(size=200), generator.normal(size=200)
    rights = []
    for liking in (1, -1):
        luck = 0.2 * generator.normal(size=(5, 1)) + 0.1 * generator.normal(size=(5, 200))
        rights.append(ease + liking * taste + luck > 0)
    return compared(*([models(*right, seed=trial)] for right in rights))


def test_of_100_intervals_over_both_about_95_hold_the_truth() -> None:
    """Those over trainings or over pictures alone hold it less often."""
    held = {"both": 0, "trainings": 0, "pictures": 0}
    for trial in range(300):
        found = simulated(trial)
        for name in held:
            side = getattr(found, name)
            held[name] += side.low <= 0 <= side.high
    assert 0.92 <= held["both"] / 300 <= 0.99
    assert held["trainings"] / 300 < 0.92
    assert held["pictures"] / 300 < 0.92


def first_right(*numbers: int) -> dict[int, Answered]:
    """Models that have so many of 400 pictures right."""
    return models(*(np.arange(400) < number for number in numbers))


def test_a_verdict_needs_trainings_and_pictures() -> None:
    first = [first_right(200, 200, 200)]
    few = compared([first_right(203, 204, 203)], first)
    assert few.trainings.verdict == "better"
    assert few.pictures.verdict == few.both.verdict == "no difference shown"
    fewer = compared(first, [first_right(203, 204, 203)])
    assert fewer.trainings.verdict == "worse"
    assert fewer.pictures.verdict == fewer.both.verdict == "no difference shown"
    uneven = compared([first_right(300, 201, 201)], first)
    assert uneven.pictures.verdict == "better"
    assert uneven.trainings.verdict == uneven.both.verdict == "no difference shown"
    assert compared([first_right(260, 270, 265)], first).both.verdict == "better"
    assert compared(first, [first_right(260, 270, 265)]).both.verdict == "worse"
