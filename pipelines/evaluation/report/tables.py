"""The tables of an evaluation's report, a question each, with what to be careful about below."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from pipelines.evaluation.report.estimates import (
    ANSWERS,
    PROMPTS,
    Estimate,
    Result,
    Results,
    best_prompts,
    percent,
    points,
    zero_shot,
    zero_shot_beside_probes,
)
from pipelines.evaluation.report.markdown import NOTHING, escape, table

METRICS = {
    "top1": "top-1 accuracy",
    "top5": "top-5 accuracy",
    "mean_per_class": "mean of the classes' accuracies",
    "map": "mean average precision",
    "auc": "area under the ROC curve",
    "jaccard": "Jaccard index",
}
WAYS = {"image_to_text": "image to text", "text_to_image": "text to image"}

#: Below which table a warning about classification stands, by a word in it; others below the first.
ABOUT = {"few-shot": "Few-shot", "probe": "Linear probe", "": "Zero-shot"}


def zero_shot_table(results: Results) -> Iterator[str]:
    judged = [one for one in results.of("classification") if one.get("zero_shot")]
    warnings = [*_about(results, "Zero-shot"), *_near_chance(judged)]
    if not judged and not warnings:
        return
    yield from heading("Zero-shot, by prompts")
    kinds = [kind for kind in ANSWERS if any(kind in one["zero_shot"] for one in judged)]
    rows = (
        [*_names(one), chance_cell(one), *_cells(percent, one["zero_shot"], kinds)]
        for one in judged
    )
    yield from table(["set", "model", "chance", *(ANSWERS[kind] for kind in kinds)], rows, texts=2)
    yield from _bullets(warnings)
    gains = [kind for kind in kinds if any(kind in (one.get("gains") or {}) for one in judged)]
    if gains:
        beside = ", and how n-grams differ from them" if "n_grams" in gains else ""
        yield f"What prompts add to bare names{beside}, on the same pictures:"
        yield ""
        rows = ([*_names(one), *_cells(points, one.get("gains"), gains)] for one in judged)
        yield from table(["set", "model", *(ANSWERS[kind] for kind in gains)], rows, texts=2)


def _near_chance(judged: Iterable[Result]) -> Iterator[tuple[Result, str]]:
    for result in judged:
        score, chance = zero_shot(result), result.get("chance")
        if score and score.interval and chance is not None and score.interval[0] <= chance:
            kind = PROMPTS[str(best_prompts(result))]
            yield result, f"zero-shot cannot be told from chance (prompts: {kind})"


def probe_table(results: Results) -> Iterator[str]:
    judged = [one for one in results.of("classification") if one.get("probe")]
    warnings = _about(results, "Linear probe")
    if judged or warnings:
        yield from heading("Linear probe")
    if judged:
        yield "On the same pictures; the difference is zero-shot less the probe."
        yield ""
        header = ["zero-shot", "probe", "difference", "trained on", "judged on", "L2"]
        yield from table(["set", "model", *header], map(_probe_row, judged), texts=2)
    yield from _bullets(warnings)


def _probe_row(result: Result) -> list[str]:
    probe = result["probe"]
    return [
        *_names(result),
        percent(Estimate.of(probe.get("zero_shot"))),
        percent(Estimate.of(probe)),
        points(Estimate.of(probe.get("difference"))),
        *(f"{probe[key]:,}" if probe.get(key) else NOTHING for key in ("train", "pictures")),
        f"{probe['l2']:.3g}" if probe.get("l2") is not None else NOTHING,
    ]


def baselines_table(results: Results) -> Iterator[str]:
    if not results.baselines:
        return
    yield from heading("Zero-shot beside supervised baselines")
    yield (
        "A linear probe on the features of networks that know pictures alone, judged on the same "
        "pictures; the difference is zero-shot less that probe."
    )
    yield ""
    rows = (
        [
            *_names(result),
            escape(result["baseline"]),
            *_cells(percent, result, ("zero_shot", "probe")),
            *_cells(points, result, ("difference",)),
            f"{result['pictures']:,}",
        ]
        for result in results.baselines
    )
    header = ["set", "model", "baseline", "zero-shot", "baseline's probe", "difference"]
    yield from table([*header, "judged on"], rows, texts=3)


def few_shot_table(results: Results) -> Iterator[str]:
    judged = [one for one in results.of("classification") if one.get("few_shot")]
    warnings = [*_about(results, "Few-shot"), *_never(judged)]
    if judged or warnings:
        yield from heading("Few-shot")
    if judged:
        yield (
            "By labelled examples a class, the mean over the seeds; last, with how many examples a "
            "class a probe equals zero-shot (∞: more than there are)."
        )
        yield ""
        shots = sorted({int(number) for one in judged for number in one["few_shot"]})
        rows = (
            [
                *_names(one),
                percent(zero_shot_beside_probes(one)),
                *_cells(percent, one["few_shot"], map(str, shots)),
                _equal(one),
            ]
            for one in judged
        )
        header = ["set", "model", "zero-shot", *map(str, shots), "equal to zero-shot"]
        yield from table(header, rows, texts=2)
    yield from _bullets(warnings)


def _equal(result: Result) -> str:
    if not result.get("equal_shots") or not result.get("zero_shot"):
        return NOTHING
    equal = Estimate.of(result["equal_shots"])
    return equal.text() if equal else "never"


def _never(judged: Iterable[Result]) -> Iterator[tuple[Result, str]]:
    for result in judged:
        reason = (result.get("equal_shots") or {}).get("reason")
        if reason and result.get("zero_shot"):
            yield result, f"examples that equal zero-shot: {reason}"


def retrieval_table(results: Results) -> Iterator[str]:
    judged = [one for one in results.of("retrieval") if any(one.get(way) for way in WAYS)]
    if not judged:
        return
    ranks = {way: sorted({int(k) for one in judged for k in one.get(way) or {}}) for way in WAYS}
    yield from heading("Retrieval")
    rows = (
        [
            *_names(one),
            *(f"{one[key]:,}" if one.get(key) else NOTHING for key in ("pictures", "captions")),
            *(cell for way in WAYS for cell in _cells(percent, one.get(way), map(str, ranks[way]))),
        ]
        for one in judged
    )
    header = [f"{WAYS[way]} R@{k}" for way in WAYS for k in ranks[way]]
    yield from table(["set", "model", "pictures", "captions", *header], rows, texts=2)
    yield from _bullets((one, warning) for one in judged for warning in one.get("warnings") or [])


def robustness_table(results: Results) -> Iterator[str]:
    if not results.robustness:
        return
    yield from heading("Robustness")
    yield "Two sets of the same classes; the difference is the first set less the second."
    yield ""
    rows = (
        [
            *(escape(result[side]["set"]) for side in ("one", "other")),
            escape(result["model"]),
            *_cells(percent, result, ("one", "other")),
            *_cells(points, result, ("difference",)),
        ]
        for result in results.robustness
    )
    header = ["first set", "second set", "model", "first", "second", "difference"]
    yield from table(header, rows, texts=3)


def _cells(
    form: Callable[[Estimate | None], str], entries: Mapping[str, Any] | None, keys: Iterable[str]
) -> list[str]:
    return [form(Estimate.of((entries or {}).get(key))) for key in keys]


def chance_cell(result: Result) -> str:
    chance = result.get("chance")
    return f"{chance * 100:.1f}" if isinstance(chance, int | float) else NOTHING


def _names(result: Result) -> list[str]:
    return [escape(result["set"]), escape(result["model"])]


def heading(text: str) -> list[str]:
    return [f"## {text}", ""]


def _about(results: Results, table: str) -> list[tuple[Result, str]]:
    """The warnings about classification that stand below a table."""
    return [
        (result, warning)
        for result in results.of("classification")
        for warning in result.get("warnings") or []
        if next(name for word, name in ABOUT.items() if word in warning) == table
    ]


def _bullets(warnings: Iterable[tuple[Result, str]]) -> Iterator[str]:
    """Each warning once for a set, with the models that it concerns."""
    models: dict[tuple[str, str], list[str]] = {}
    for result, warning in warnings:
        models.setdefault((result["set"], warning), []).append(result["model"])
    for (name, warning), of in models.items():
        yield f"- **{escape(name)}** ({', '.join(map(escape, of))}): {escape(warning)}"
    if models:
        yield ""
