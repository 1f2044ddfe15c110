"""What a comparison of selections says: scores, differences, and a verdict in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

from pipelines.evaluation.proxy import Difference, ProxySettings, difference
from pipelines.evaluation.report.estimates import recall_at_1, zero_shot
from pipelines.evaluation.report.markdown import table
from workers.base.storage import write_json, write_text

#: The name of the mean over all data sets.
AVERAGE = "average"

#: By seed.
Scores = Mapping[int, float]


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
    """
    scores = scores_of(results)
    first = next(iter(settings.choices))
    differences = differences_from(first, scores)
    controlled = {
        choice.as_many_as: (
            name,
            difference(scores[choice.as_many_as][AVERAGE], scores[name][AVERAGE]),
        )
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
                name: {of: asdict(one) | {"verdict": one.verdict} for of, one in of_sets.items()}
                for name, of_sets in differences.items()
            },
            "over_controls": {
                name: asdict(one) | {"control": control, "verdict": one.verdict}
                for name, (control, one) in controlled.items()
            },
        },
        folder / "proxy.json",
    )
    return text


def scores_of(results: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[int, float]]]:
    """By choice, data set (and ``AVERAGE``) and seed: the share that `headline` names."""
    found: dict[str, dict[str, dict[int, float]]] = {}
    for result in results:
        choice, _, seed = result["model"].rpartition(".")
        by_set = found.setdefault(choice, {AVERAGE: {}})
        by_set.setdefault(result["set"], {})[int(seed)] = headline(result)
    for by_set in found.values():
        sets = [of for of in by_set if of != AVERAGE]
        seeds = by_set[sets[0]]
        by_set[AVERAGE] = {seed: fmean(by_set[of][seed] for of in sets) for seed in seeds}
    return found


def differences_from(
    first: str, scores: Mapping[str, Mapping[str, Scores]]
) -> dict[str, dict[str, Difference]]:
    """How much better each choice but the first is, by data set."""
    return {
        name: {of: difference(by_set[of], scores[first][of]) for of in scores[first]}
        for name, by_set in scores.items()
        if name != first
    }


def headline(result: Mapping[str, Any]) -> float:
    """The one number of a result, as the report of an evaluation has it.

    Raises:
        ValueError: it has none, as of classes of which none has pictures of both kinds.
    """
    of_task = recall_at_1 if result["task"] == "retrieval" else zero_shot
    if (found := of_task(result)) is None:
        raise ValueError(f"{result['model']} has no score on {result['set']}")
    return found.value


def _lines(
    settings: ProxySettings,
    kept: Mapping[str, int],
    scores: Mapping[str, Mapping[str, Scores]],
    differences: Mapping[str, Mapping[str, Difference]],
    controlled: Mapping[str, tuple[str, Difference]],
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


def mean_cells(by_set: Mapping[str, Scores]) -> Iterator[str]:
    """A choice's score on each data set, the mean of its seeds in percent."""
    return (f"{100 * fmean(by_seed.values()):.1f}" for by_seed in by_set.values())


def difference_table(
    first: str, differences: Mapping[str, Mapping[str, Difference]], seeds: int
) -> Iterator[str]:
    """In points, a line a choice."""
    yield f"Differences from `{first}`, points, with the 95% interval of {seeds} trainings:"
    yield ""
    sets = next(iter(differences.values()))
    yield from table(
        ["choice", *sets],
        ([f"`{name}`", *map(_points, of_sets.values())] for name, of_sets in differences.items()),
    )


def _in_words(name: str, other: str, one: Difference) -> str:
    words = {
        "better": f"`{name}` is better than `{other}`",
        "worse": f"`{name}` is worse than `{other}`",
        "no difference shown": f"Between `{name}` and `{other}` no difference could be shown",
    }[one.verdict]
    return f"**{words}**: {_points(one)} points on the average of all sets."


def _points(one: Difference) -> str:
    return f"{100 * one.value:+.1f} [{100 * one.low:+.1f}, {100 * one.high:+.1f}]"
