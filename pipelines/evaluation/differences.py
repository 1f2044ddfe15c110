"""How much better one choice's models are than another's: over trainings, pictures, and both."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from pipelines.evaluation.answered import Answered, difference_of_means
from pipelines.evaluation.report.estimates import Estimate

#: Of Student's t, two-sided 95%, by degrees of freedom from 1.
T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
NORMAL95 = 1.960

#: A choice's models on a data set, by seed.
Models = Mapping[int, Answered]


@dataclass(frozen=True)
class Difference:
    """A difference of two means, and its 95% interval."""

    value: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """In words."""
        if self.low > 0:
            return "better"
        return "worse" if self.high < 0 else "no difference shown"


def over_trainings(ours: Mapping[int, float], first: Mapping[int, float]) -> Difference:
    """The mean over the seeds that both have, with its 95% interval by Student's t.

    Two models of one seed begin with the same weights, so they are compared with each other.

    Raises:
        ValueError: fewer than two seeds are in both.
    """
    seeds = sorted(ours.keys() & first.keys())
    if len(seeds) < 2:
        raise ValueError("an interval takes two seeds or more")
    differences = [ours[seed] - first[seed] for seed in seeds]
    mean, freedom = fmean(differences), len(seeds) - 1
    quantile = T95[freedom - 1] if freedom <= len(T95) else NORMAL95
    half = quantile * stdev(differences) / math.sqrt(len(seeds))
    return Difference(mean, mean - half, mean + half)


@dataclass(frozen=True)
class Compared:
    """A difference with the interval of each source of chance."""

    trainings: Difference  # of these pictures, with other seeds
    pictures: Difference  # of these trainings, with other pictures of the same kind

    @property
    def both(self) -> Difference:
        """With other seeds and other pictures: what a verdict is of.

        The two intervals' distances to the value are added as squares, each side by itself (MOVER;
        Zou and Donner, Statistics in Medicine 27, 2008). That seeds answer single pictures
        differently widens either of the two, so it counts twice: the interval is rather too wide.
        """
        value, sides = self.trainings.value, (self.trainings, self.pictures)
        below = math.hypot(*(side.value - side.low for side in sides))
        above = math.hypot(*(side.high - side.value for side in sides))
        return Difference(value, value - below, value + above)


def compared(ours: Sequence[Models], first: Sequence[Models]) -> Compared:
    """How much better a choice's models are than another's, on the average of data sets.

    Args:
        ours, first: of each data set, in the same order.

    Raises:
        ValueError: fewer than two seeds are in both; the models have not answered the same
            pictures.
    """
    trainings = over_trainings(mean_scores(ours), mean_scores(first))
    seeds = ours[0].keys() & first[0].keys()
    pictures = Estimate.mean(
        [_over_pictures(*sides, seeds) for sides in zip(ours, first, strict=True)]
    )
    assert pictures.interval
    return Compared(trainings, Difference(trainings.value, *pictures.interval))


def mean_scores(sets: Sequence[Models]) -> dict[int, float]:
    """By seed: its models' mean, each data set counting as much."""
    return {seed: fmean(models[seed].value for models in sets) for seed in sets[0]}


def _over_pictures(ours: Models, first: Models, seeds: Iterable[int]) -> Estimate:
    both = [[models[seed] for seed in sorted(seeds)] for models in (ours, first)]
    found = Estimate.of(difference_of_means(*both))
    assert found  # no model stands here that has no score
    return found
