"""The report of an evaluation: a table a question, what to be careful about below each, figures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.evaluation.report.estimates import (
    Estimate,
    Result,
    Results,
    common_means,
    linear_probe,
    percent,
    recall_at_1,
    zero_shot,
)
from pipelines.evaluation.report.figures import Figure, LeftOut, make_figures, write_figures
from pipelines.evaluation.report.markdown import NOTHING, clean, counted, escape, table
from pipelines.evaluation.report.tables import (
    METRICS,
    baselines_table,
    chance_cell,
    few_shot_table,
    heading,
    probe_table,
    retrieval_table,
    robustness_table,
    zero_shot_table,
)
from workers.base.storage import write_json, write_text


def write_report(results: Sequence[Result], folder: Path, info: Mapping[str, Any]) -> None:
    """Write report.md, results.json and figures/ into a folder; same input, same bytes.

    Args:
        results: a dict for each model and set, and protocol's task, as the protocols return them;
            what one lacks is not shown. Tables and figures have the sets in this order.
        info: ``models``: by label, in the order they are to stand in, ``gflops`` of an image and
            ``parameters`` where they are known, and of one of another library ``preprocessing``, in
            words, and ``images_only``, whether it knows no text; ``averages``: by name, sets whose
            mean is printed for each model that was judged on all of them, such as DataComp's 38;
            ``seen``: by set, what of it stands in training data, as ``contamination`` says it.

    Raises:
        ValueError: nothing to report, or two results of one model and set.
    """
    if not results:
        raise ValueError("no model was judged on any set: there is nothing to report")
    models = {clean(label): about for label, about in info.get("models", {}).items()}
    averages = {name: list(map(clean, sets)) for name, sets in info.get("averages", {}).items()}
    shown = Results(results, models)
    gflops = {
        model: float(about["gflops"]) for model, about in models.items() if about.get("gflops")
    }
    figures = make_figures(shown, gflops)
    write_figures(figures, folder / "figures")
    lines = [*report_lines(shown, models, averages, figures), *_seen(info.get("seen", {}))]
    write_text("\n".join(lines), folder / "report.md")
    write_json(_json({"info": info, "results": list(results)}), folder / "results.json")


def _seen(by_set: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    if not by_set:
        return
    yield from heading("Seen in training")
    yield (
        "Test pictures that stand in the training data: the same file, a perceptual hash within a "
        "few bits, the same caption; and class names that stand in its captions."
    )
    yield ""
    header = ["set", "pictures", "same file", "same picture", "same caption", "class names"]
    yield from table(
        header,
        (
            [
                escape(name),
                *(f"{found[key]:,}" for key in ("pictures", "same_bytes", "same_hash")),
                f"{found['same_caption']:,}",
                f"{len(found['class_names']['in_captions']):,} of {found['class_names']['all']:,}",
            ]
            for name, found in by_set.items()
        ),
    )


def _json(value: Any) -> Any:
    """As JSON can say it: NaN and infinity are null."""
    if isinstance(value, Mapping):
        return {str(key): _json(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_json(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def report_lines(
    results: Results,
    models: Mapping[str, Any],
    averages: Mapping[str, Sequence[str]],
    figures: Mapping[str, Figure | LeftOut],
) -> Iterator[str]:
    """The lines of report.md."""
    yield "# Evaluation"
    yield ""
    yield (
        f"{counted(len(results.models), 'model')} on {counted(len(results.sets), 'set')}. Scores "
        "are in percent, differences in percentage points; in brackets stands the interval in "
        "which each lies with 95% confidence. `results.json` has all of it, class by class."
    )
    yield ""
    yield from _models(results, models)
    yield from _sets(results)
    yield from _averages(results, averages)
    yield from _figures(figures, "accuracy_by_compute")
    yield from zero_shot_table(results)
    yield from _figures(figures, "prompts_gain")
    yield from probe_table(results)
    yield from baselines_table(results)
    yield from few_shot_table(results)
    yield from _figures(
        figures,
        "zero_shot_minus_probe",
        "zero_shot_and_probe",
        "few_shot",
        "few_shot_by_set",
        "examples_needed",
    )
    yield from retrieval_table(results)
    yield from robustness_table(results)
    yield from _left_out(figures)


def _models(results: Results, about: Mapping[str, Any]) -> Iterator[str]:
    known = [(model, about.get(model, {})) for model in results.models]
    if not any(one for _, one in known):
        return
    yield from heading("Models")
    header = ["model", "parameters", "GFLOP an image"]
    yield from table(header, ([escape(model), *_size(one)] for model, one in known))
    others = [(model, one) for model, one in known if "preprocessing" in one]
    for model, one in others:
        said = f"- **{escape(model)}**: {escape(one['preprocessing'])}."
        if one.get("images_only"):
            said += (
                " It knows no text: probes on its features are judged, and no zero-shot, "
                "retrieval or robustness."
            )
        yield said
    yield from [""] if others else []


def _size(about: Mapping[str, Any]) -> list[str]:
    parameters, gflops = about.get("parameters"), about.get("gflops")
    return [
        f"{parameters / 1e6:,.1f} M" if parameters else NOTHING,
        f"{gflops:,.2f}" if gflops else NOTHING,
    ]


def _sets(results: Results) -> Iterator[str]:
    yield from heading("Sets")
    first: dict[tuple[str, str], Result] = {}
    for task in ("classification", "retrieval"):
        for result in results.of(task):
            first.setdefault((result["set"], task), result)
    header = ["set", "task", "score", "pictures", "classes", "captions", "chance"]
    yield from table(header, map(_set_row, first.values()), texts=3)


def _set_row(result: Result) -> list[str]:
    metric = result.get("metric")
    score = METRICS.get(str(metric), escape(metric)) if metric else "recall at K"
    counts = [
        f"{result[key]:,}" if isinstance(result.get(key), int) else NOTHING
        for key in ("pictures", "classes", "captions")
    ]
    return [escape(result["set"]), result["task"], score, *counts, chance_cell(result)]


def _averages(results: Results, named: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Each over the sets that all the models have."""
    measures = {
        "zero-shot": common_means(results, results.models, zero_shot),
        "linear probe": common_means(results, results.models, linear_probe),
        "retrieval R@1": common_means(results, results.models, recall_at_1, "retrieval"),
    }
    measures = {name: mean for name, mean in measures.items() if mean[0]}
    if measures:
        yield from heading("Averages")
        yield "Means over the sets that all the models have; zero-shot with the best prompts."
        yield ""
        header = [f"{name}, {counted(len(sets), 'set')}" for name, (sets, _) in measures.items()]
        means = [mean for _, mean in measures.values()]
        rows = (
            [escape(model), *(percent(mean.get(model)) for mean in means)]
            for model in results.models
        )
        yield from table(["model", *header], rows)
    for name, sets in named.items():
        yield from _average_of(results, name, sets)


def _average_of(results: Results, name: str, sets: Sequence[str]) -> Iterator[str]:
    """The mean of given sets, of each model that was judged on all of them."""
    rows = []
    for model in results.models:
        scores = [_score(results, one, model) for one in sets]
        whole = [score for score in scores if score]
        if whole and len(whole) == len(scores):
            rows.append([escape(model), percent(Estimate.mean(whole))])
    if rows:
        yield from table(["model", f"{escape(name)}, {counted(len(sets), 'set')}"], rows)


def _score(results: Results, name: str, model: str) -> Estimate | None:
    """A set's part in an average: zero-shot, or the recall of a retrieval set."""
    return zero_shot(results.one("classification", name, model)) or recall_at_1(
        results.one("retrieval", name, model)
    )


def _figures(figures: Mapping[str, Figure | LeftOut], *names: str) -> Iterator[str]:
    for name in names:
        figure = figures[name]
        if isinstance(figure, Figure):
            yield f"![{figure.title}](figures/{name}.svg)"
            yield ""
            yield f"{figure.title}. {figure.caption} [Its data](figures/{name}.md)."
            yield ""


def _left_out(figures: Mapping[str, Figure | LeftOut]) -> Iterator[str]:
    left = [figure for figure in figures.values() if isinstance(figure, LeftOut)]
    if not left:
        return
    yield from heading("Figures left out")
    yield from (f"- {figure.title}: {figure.reason}" for figure in left)
    yield ""
