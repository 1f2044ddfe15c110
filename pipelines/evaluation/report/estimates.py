"""Estimates with their intervals, and where they stand in the results of an evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from pipelines.evaluation.report.markdown import NOTHING, clean

#: The kinds of prompts, from the plainest on, as people read them.
PROMPTS = {
    "bare": "bare names",
    "one": "one template",
    "own": "the set's own",
    "ensemble": "ensemble",
}

#: All that answers without labels.
ANSWERS = {**PROMPTS, "n_grams": "n-grams"}

Result = Mapping[str, Any]


@dataclass(frozen=True)
class Estimate:
    """A share, a difference of shares or a number, and its 95% interval where it has one.

    An interval without an upper end, of a number that may be beyond all that was tried, ends at
    infinity.
    """

    value: float
    interval: tuple[float, float] | None = None

    @classmethod
    def of(cls, entry: object) -> Estimate | None:
        """Of ``{"value": .., "interval": [low, high]}``; None where there is no finite value."""
        if not isinstance(entry, Mapping) or not _finite(entry.get("value")):
            return None
        low, high = entry.get("interval") or (None, None)
        if not _finite(low):
            return cls(float(entry["value"]))
        return cls(float(entry["value"]), (float(low), float(high) if _finite(high) else math.inf))

    @classmethod
    def mean(cls, estimates: Sequence[Estimate]) -> Estimate:
        """The mean of independent estimates.

        Its interval is made of theirs: their distances to the value are added as squares, each
        side by itself (MOVER; Zou and Donner, Statistics in Medicine 27, 2008).
        """
        value = math.fsum(one.value for one in estimates) / len(estimates)
        known = [(one.value, *one.interval) for one in estimates if one.interval]
        if len(known) < len(estimates):
            return cls(value)
        below = math.hypot(*(middle - low for middle, low, _ in known)) / len(known)
        above = math.hypot(*(high - middle for middle, _, high in known)) / len(known)
        return cls(value, (value - below, value + above))

    def scaled(self, factor: float) -> Estimate:
        interval = (self.interval[0] * factor, self.interval[1] * factor) if self.interval else None
        return Estimate(self.value * factor, interval)

    def text(self, sign: str = "") -> str:
        """Such as ``56.2 [54.1, 58.3]``; with the sign ``+``, ``+1.2 [-0.4, +2.8]``."""
        form = f"{sign}z.1f"  # z: no -0.0
        if self.interval is None:
            return f"{self.value:{form}}"
        low, high = self.interval
        end = f"{high:{form}}]" if math.isfinite(high) else "∞)"
        return f"{self.value:{form}} [{low:{form}}, {end}"


def _finite(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and math.isfinite(value)


def percent(estimate: Estimate | None) -> str:
    """A share, in percent."""
    return estimate.scaled(100).text() if estimate else NOTHING


def points(estimate: Estimate | None) -> str:
    """A difference of shares, in percentage points."""
    return estimate.scaled(100).text("+") if estimate else NOTHING


class Results:
    """The results of models on sets, in the order of sets, then of models.

    Raises:
        ValueError: two results are of one model, set and task.
    """

    #: Of two sets each, and of a model beside a baseline each: in the order they were given.
    robustness: list[Result]
    baselines: list[Result]

    def __init__(self, results: Iterable[Result], models: Iterable[str] = ()) -> None:
        named = [{**result, "model": clean(result["model"])} for result in results]
        self.robustness = [result for result in named if result["task"] == "robustness"]
        others = [
            {**result, "set": clean(result["set"])}
            for result in named
            if result["task"] != "robustness"
        ]
        self.baselines = [result for result in others if result["task"] == "baseline"]
        given = [result for result in others if result["task"] != "baseline"]
        self.sets = list(dict.fromkeys(result["set"] for result in given))
        here = {result["model"]: None for result in named}
        asked = [name for name in map(clean, models) if name in here]
        self.models = list(dict.fromkeys([*asked, *here]))
        self._of: dict[tuple[str, str], dict[str, Result]] = {}
        for result in given:
            of = self._of.setdefault((result["task"], result["set"]), {})
            if result["model"] in of:
                raise ValueError(
                    f"two results of {result['model']!r} on {result['set']!r} "
                    f"({result['task']}): give each model and each set a name of its own"
                )
            of[result["model"]] = result

    def of(self, task: str) -> Iterator[Result]:
        """Set by set, and of each set model by model."""
        for name in self.sets:
            models = self._of.get((task, name), {})
            yield from (models[model] for model in self.models if model in models)

    def one(self, task: str, name: str, model: str) -> Result:
        """Empty where there is none."""
        return self._of.get((task, name), {}).get(model, {})


def best_prompts(result: Result) -> str | None:
    """Those that probes are compared with: the ensemble, or else the last that were asked."""
    if result.get("best_prompts"):
        return str(result["best_prompts"])
    judged = result.get("zero_shot") or {}
    return next((kind for kind in reversed(PROMPTS) if kind in judged), None)


def zero_shot(result: Result) -> Estimate | None:
    """With the best prompts."""
    kind = best_prompts(result)
    return Estimate.of(result["zero_shot"].get(kind)) if kind else None


def zero_shot_beside_probes(result: Result) -> Estimate | None:
    """On the pictures that judge the probes, which are some of the set's where it has no others."""
    return Estimate.of((result.get("probe") or {}).get("zero_shot")) or zero_shot(result)


def linear_probe(result: Result) -> Estimate | None:
    return Estimate.of(result.get("probe"))


def recall_at_1(result: Result) -> Estimate | None:
    """The mean of both directions, DataComp's measure of a retrieval set."""
    ways = [result.get(way) or {} for way in ("image_to_text", "text_to_image")]
    both = [Estimate.of(way.get("1")) for way in ways]
    if both[0] is None or both[1] is None:
        return None
    if both[0].interval is None or both[1].interval is None:
        return Estimate((both[0].value + both[1].value) / 2)
    # The same pairs answer both, so they are no independent estimates: the wider interval.
    low = (both[0].interval[0] + both[1].interval[0]) / 2
    high = (both[0].interval[1] + both[1].interval[1]) / 2
    return Estimate((both[0].value + both[1].value) / 2, (low, high))


def common_means(
    results: Results,
    models: Sequence[str],
    measure: Callable[[Result], Estimate | None],
    task: str = "classification",
    sets: Sequence[str] | None = None,
) -> tuple[list[str], dict[str, Estimate]]:
    """The mean of a measure over the sets that all the models which know it have.

    Args:
        sets: of these; None: of all.

    Returns:
        Those sets, and each model's mean; models without any are left out.
    """
    found = {
        (name, model): estimate
        for name in (results.sets if sets is None else sets)
        for model in models
        if (estimate := measure(results.one(task, name, model)))
    }
    able = [model for model in models if any(one == model for _, one in found)]
    common = [
        name
        for name in dict.fromkeys(name for name, _ in found)
        if all((name, model) in found for model in able)
    ]
    if not common:
        return [], {}
    return common, {model: Estimate.mean([found[name, model] for name in common]) for model in able}
