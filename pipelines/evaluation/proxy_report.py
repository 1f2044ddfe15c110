"""What a comparison of selections says: scores, differences, and a verdict in words."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

from pipelines.evaluation.answered import Answered
from pipelines.evaluation.differences import Compared, Difference, Models, compared, mean_scores
from pipelines.evaluation.proxy import ProxySettings
from pipelines.evaluation.report.markdown import table
from workers.base.storage import write_json, write_text

#: The name of the mean over all data sets.
AVERAGE = "average"

#: Of each choice and data set the models' scores, by seed.
Answers = Mapping[str, Mapping[str, Models]]
#: Of each choice and data set (and ``AVERAGE``) a score by seed.
Scores = Mapping[str, Mapping[str, Mapping[int, float]]]


def write_proxy_report(
    settings: ProxySettings,
    kept: Mapping[str, int],
    results: Sequence[Mapping[str, Any]],
    folder: Path,
) -> str:
    """Write ``proxy.md`` and ``proxy.json`` into the folder; the first one's text.

    Args:
        kept: pairs of each choice.
        results: of each model ``CHOICE.SEED`` and data set, as ``Judge`` writes them.
        folder: of the comparison; what the models have answered is in its ``results``.

    Raises:
        ValueError: a model has no score on a data set.
    """
    answers = answers_of(results, folder / "results")
    scores, first = scores_of(answers), next(iter(settings.choices))
    differences = differences_from(first, answers)
    controlled = {
        choice.as_many_as: (name, _by_set(answers[choice.as_many_as], answers[name])[AVERAGE])
        for name, choice in settings.choices.items()
        if choice.as_many_as
    }
    text = "\n".join(_lines(settings, kept, scores, differences, controlled)) + "\n"
    write_text(text, folder / "proxy.md")
    write_json(
        {
            "pairs": dict(kept),
            "seen": settings.model.steps * settings.model.batch_size,  # type: ignore[operator]
            "scores": scores,
            "differences": {
                name: {of: _entry(one) for of, one in of_sets.items()}
                for name, of_sets in differences.items()
            },
            "over_controls": {
                name: _entry(one) | {"control": control}
                for name, (control, one) in controlled.items()
            },
        },
        folder / "proxy.json",
    )
    return text


def answers_of(
    results: Sequence[Mapping[str, Any]], folder: Path
) -> dict[str, dict[str, dict[int, Answered]]]:
    """By choice, data set and seed: the number that stands for each model ``CHOICE.SEED``.

    Args:
        folder: of ``Results``.

    Raises:
        ValueError: it has none, as of classes of which none has pictures of both kinds.
    """
    found: dict[str, dict[str, dict[int, Answered]]] = {}
    for result in results:
        choice, _, seed = result["model"].rpartition(".")
        answered = Answered.of(folder, result)
        if math.isnan(answered.value):
            raise ValueError(f"{result['model']} has no score on {result['set']}")
        found.setdefault(choice, {}).setdefault(result["set"], {})[int(seed)] = answered
    return found


def scores_of(answers: Answers) -> dict[str, dict[str, dict[int, float]]]:
    """By choice, data set (and ``AVERAGE``) and seed: the scores, as shares."""
    return {
        choice: {
            AVERAGE: mean_scores(list(by_set.values())),
            **{of: mean_scores([models]) for of, models in by_set.items()},
        }
        for choice, by_set in answers.items()
    }


def differences_from(first: str, answers: Answers) -> dict[str, dict[str, Compared]]:
    """How much better each choice but the first is, by data set (and ``AVERAGE``)."""
    return {
        name: _by_set(by_set, answers[first]) for name, by_set in answers.items() if name != first
    }


def _by_set(ours: Mapping[str, Models], first: Mapping[str, Models]) -> dict[str, Compared]:
    average = compared([ours[of] for of in first], list(first.values()))
    return {AVERAGE: average, **{of: compared([ours[of]], [first[of]]) for of in first}}


def _entry(one: Compared) -> dict[str, Any]:
    """For JSON: the interval that the verdict is of, and those that it is made of."""
    alone = {"trainings": one.trainings, "pictures": one.pictures}
    return {
        **asdict(one.both),
        "verdict": one.both.verdict,
        **{name: [side.low, side.high] for name, side in alone.items()},
    }


def _lines(
    settings: ProxySettings,
    kept: Mapping[str, int],
    scores: Scores,
    differences: Mapping[str, Mapping[str, Compared]],
    controlled: Mapping[str, tuple[str, Compared]],
) -> Iterator[str]:
    first, seeds = next(iter(settings.choices)), len(settings.seeds)
    seen = (settings.model.steps or 0) * settings.model.batch_size
    yield "# Does the selection pay?"
    yield ""
    yield f"Every model has seen {seen:,} pairs; {seeds} seeds a choice. Scores in percent."
    for name, of_sets in differences.items():
        yield ""
        yield _in_words(name, first, of_sets[AVERAGE])
    for name, (control, one) in controlled.items():
        yield ""
        yield _in_words(name, control, one)
    yield ""
    yield from table(
        ["choice", "pairs", *scores[first]],
        ([f"`{name}`", f"{kept[name]:,}", *mean_cells(scores[name])] for name in settings.choices),
    )
    yield from difference_table(first, differences, seeds)


def mean_cells(by_set: Mapping[str, Mapping[int, float]]) -> Iterator[str]:
    """A choice's score on each data set, the mean of its seeds in percent."""
    return (f"{100 * fmean(by_seed.values()):.1f}" for by_seed in by_set.values())


def difference_table(
    first: str, differences: Mapping[str, Mapping[str, Compared]], seeds: int
) -> Iterator[str]:
    """In points, three lines a choice: the interval of the verdict, and what it is made of."""
    yield f"Differences from `{first}`, points, with the 95% interval of other seeds and pictures:"
    yield ""
    rows: list[list[str]] = []
    for name, of_sets in differences.items():
        sides: dict[str, Callable[[Compared], Difference]] = {
            f"`{name}`": lambda one: one.both,
            f"of {seeds} trainings alone": lambda one: one.trainings,
            "of the pictures alone": lambda one: one.pictures,
        }
        for title, side in sides.items():
            rows.append([title, *(_points(side(one)) for one in of_sets.values())])
    yield from table(["choice", *next(iter(differences.values()))], rows)


def _in_words(name: str, other: str, one: Compared) -> str:
    words = {
        "better": f"`{name}` is better than `{other}`",
        "worse": f"`{name}` is worse than `{other}`",
        "no difference shown": f"Between `{name}` and `{other}` no difference could be shown",
    }[one.both.verdict]
    return f"**{words}**: {_points(one.both)} points on the average of all sets."


def _points(one: Difference) -> str:
    return f"{100 * one.value:+.1f} [{100 * one.low:+.1f}, {100 * one.high:+.1f}]"
