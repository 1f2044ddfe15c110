"""Intervals against scipy, closed forms from the literature, and how often they hold the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from pipelines.evaluation.intervals import (
    CHUNK_ELEMENTS,
    bootstrap,
    difference_interval,
    draw_counts,
    estimate,
    independent_difference,
    mean_of_known,
    paired_difference,
    percentiles,
    share_interval,
    share_of,
    wilson,
)


def bools(share: float, count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(count) < share


def interval_of(right: np.ndarray, draws: int = 1000, seed: int = 0) -> tuple[float, float]:
    values = bootstrap(len(right), {"share": share_of(right)}, draws, seed)["share"]
    return share_interval(right, values[:, 0])


def test_a_draw_counts_as_many_as_there_are() -> None:
    counts = draw_counts(np.random.default_rng(0), 500, 40)
    assert counts.shape == (500, 40)
    assert (counts.sum(axis=1) == 40).all()
    # A multinomial's: mean 1, variance 1 - 1/N, and negative covariances of -1/N.
    assert counts.mean(axis=0) == pytest.approx(np.ones(40), abs=0.2)
    assert counts.var() == pytest.approx(1 - 1 / 40, abs=0.05)
    assert np.corrcoef(counts[:, 0], counts[:, 1:].sum(axis=1))[0, 1] == pytest.approx(-1)


def test_bootstrap_is_a_naive_loop_over_drawn_pictures() -> None:
    right = bools(0.6, 30)
    values = bootstrap(30, {"share": share_of(right)}, 20, 7)["share"]
    counts = draw_counts(np.random.default_rng([7, 30]), 20, 30).astype(int)
    naive = [np.mean(np.repeat(right, row)) for row in counts]
    np.testing.assert_array_equal(values[:, 0], naive)


def test_statistics_share_the_draws_and_chunks_hold_all_of_them() -> None:
    pictures = CHUNK_ELEMENTS // 3 + 1  # two draws at a time
    seen: list[int] = []

    def first(counts: np.ndarray) -> np.ndarray:
        seen.append(len(counts))
        return counts[:, :1]

    values = bootstrap(pictures, {"a": first, "b": lambda counts: counts[:, :1]}, 5, 0)
    assert seen == [2, 2, 1]
    assert values["a"].shape == (5, 1)
    np.testing.assert_array_equal(values["a"], values["b"])


def test_seeds_decide_and_nothing_else() -> None:
    right = bools(0.5, 300)
    np.random.seed(1)
    one = interval_of(right)
    np.random.seed(2)
    assert interval_of(right) == one
    assert interval_of(right, seed=1) != one


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_a_share_has_scipys_percentile_interval(share: float) -> None:
    right = bools(share, 400)
    theirs = stats.bootstrap(
        (right.astype(float),), np.mean, n_resamples=20_000, method="percentile", rng=0
    ).confidence_interval
    ours = interval_of(right, draws=20_000)
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.004)


def test_percentiles_are_scipys_of_the_same_draws() -> None:
    values = np.random.default_rng(0).normal(size=999)
    assert percentiles(values) == pytest.approx(stats.scoreatpercentile(values, [2.5, 97.5]))


def test_percentiles_leave_out_what_has_no_value_and_know_infinity() -> None:
    assert percentiles([np.nan, 1.0, 1.0]) == (1.0, 1.0)
    assert percentiles(np.r_[np.arange(90.0), np.full(10, np.inf)]) == (2.0, math.inf)
    assert percentiles(np.full(50, np.inf)) == (math.inf, math.inf)
    assert all(math.isnan(end) for end in percentiles([np.nan]))
    assert estimate(math.inf, (1.0, math.inf)) == {"value": None, "interval": [1.0, None]}


def test_mean_of_known() -> None:
    values = np.array([[1.0, np.nan, 3.0], [np.nan, np.nan, np.nan]])
    np.testing.assert_array_equal(mean_of_known(values), [2.0, np.nan])


@pytest.mark.parametrize(("right", "pictures"), [(0, 5), (1, 1), (3, 57), (57, 57), (40, 81)])
def test_wilson_is_scipys(right: int, pictures: int) -> None:
    theirs = stats.binomtest(right, pictures).proportion_ci(0.95, "wilson")
    assert wilson(right, pictures) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert 0 <= wilson(right, pictures)[0] <= right / pictures <= wilson(right, pictures)[1] <= 1


@pytest.mark.parametrize("right", [np.zeros(50, bool), np.ones(50, bool), np.ones(1, bool)])
def test_all_right_and_all_wrong_have_an_interval_of_some_width(right: np.ndarray) -> None:
    assert interval_of(right) == wilson(int(right.sum()), len(right))
    assert np.diff(interval_of(right)) > 0.05
    low, high = difference_interval(right, right, np.zeros(10))
    assert low < 0 < high
    assert -low == pytest.approx(high)


def test_paired_difference_is_bonetts_and_prices() -> None:
    # By hand: (4 + 1) / 52 and (1 + 1) / 52.
    up, down = 5 / 52, 2 / 52
    half = stats.norm.ppf(0.975) * math.sqrt((up + down - (up - down) ** 2) / 52)
    assert paired_difference(4, 1, 50) == pytest.approx((up - down - half, up - down + half))


def test_independent_difference_is_newcombes() -> None:
    # His table II: 56 of 70 and 48 of 80, method 10: 0.0524 to 0.3339.
    one, other = np.arange(70) < 56, np.arange(80) < 48
    assert independent_difference(one, other) == pytest.approx((0.0524, 0.3339), abs=5e-5)


@pytest.mark.parametrize("share", [0.5, 0.8, 0.99])
def test_of_100_intervals_about_95_hold_the_truth(share: float) -> None:
    held = 0
    for trial in range(300):
        low, high = interval_of(bools(share, 120, seed=trial), draws=200, seed=trial)
        held += low <= share <= high
    assert 0.91 <= held / 300 <= 0.985


@pytest.mark.parametrize("better", [0.3, 0.02])
def test_a_paired_difference_holds_the_truth_as_often(better: float) -> None:
    """Two classifiers that differ in 30% and in 2% of the pictures, half each way."""
    held = 0
    for trial in range(300):
        kind = np.random.default_rng(trial).random(150)
        one = kind < 0.5
        other = one ^ (np.abs(kind - 0.5) < better / 2)
        statistics = {"one": share_of(one), "other": share_of(other)}
        draws = bootstrap(150, statistics, 200, trial)
        low, high = difference_interval(one, other, (draws["one"] - draws["other"])[:, 0])
        held += low <= 0 <= high
    assert 0.91 <= held / 300 <= 1
