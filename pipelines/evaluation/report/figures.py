"""The figures of an evaluation: which rows each shows, what they stand on, and their files.

They answer the questions of figures 4 to 9 of "Learning Transferable Visual Models From Natural
Language Supervision" (Radford et al., 2021) for the models and sets at hand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import altair as alt
import pyarrow as pa

from pipelines.evaluation.report import charts
from pipelines.evaluation.report.estimates import (
    PROMPTS,
    Estimate,
    Result,
    Results,
    common_means,
    linear_probe,
    zero_shot,
    zero_shot_beside_probes,
)
from pipelines.evaluation.report.markdown import counted, escape, table
from pipelines.evaluation.report.rows import (
    basis,
    by_value,
    estimate_of,
    models_of,
    numbers,
    probe_basis,
    row_of,
)
from workers.base.storage import replacing, write_table, write_text

#: Columns of the data beside a figure; scores and differences in percent.
COLUMNS = {
    "set": pa.string(),
    "model": pa.string(),
    "kind": pa.string(),
    "shots": pa.int64(),
    "x": pa.float64(),
    "x_low": pa.float64(),
    "x_high": pa.float64(),
    "value": pa.float64(),
    "low": pa.float64(),
    "high": pa.float64(),
    "note": pa.string(),
}

#: What figure 5's probes see.
OWN = "probe on its own features"

ERROR_BARS = "Error bars are 95% intervals."


@dataclass(frozen=True)
class Figure:
    """What is drawn, and the data beside it."""

    title: str
    caption: str  # on how much it stands
    rows: list[dict[str, Any]]  # keys of COLUMNS, the same in each
    chart: alt.TopLevelMixin


@dataclass(frozen=True)
class LeftOut:
    """A figure that would show too little, and why."""

    title: str
    reason: str


def make_figures(results: Results, gflops: Mapping[str, float]) -> dict[str, Figure | LeftOut]:
    """All figures by the name of their files; ``gflops``: of an image, by model if it is known."""
    return {name: make(results, gflops) for name, make in FIGURES.items()}


def write_figures(figures: Mapping[str, Figure | LeftOut], folder: Path) -> None:
    """Write NAME.svg, NAME.png, NAME.parquet and NAME.md of each figure that shows something.

    Files of a figure that is left out are removed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        files = {ending: folder / f"{name}.{ending}" for ending in ("svg", "png", "parquet", "md")}
        if isinstance(figure, LeftOut):
            for path in files.values():
                path.unlink(missing_ok=True)
            continue
        svg = charts.draw(figure.chart, figure.title, figure.caption)
        write_text(svg, files["svg"])
        with replacing(files["png"]) as temporary:
            temporary.write_bytes(charts.picture(svg))
        schema = pa.schema([(name, COLUMNS[name]) for name in figure.rows[0]])
        write_table(pa.Table.from_pylist(figure.rows, schema), files["parquet"])
        write_text("\n".join(_data_lines(figure)), files["md"])


def _data_lines(figure: Figure) -> list[str]:
    header = list(figure.rows[0])
    texts = sum(COLUMNS[name] == pa.string() for name in header if name != "note")
    rows = [[_cell(value) for value in row.values()] for row in figure.rows]
    return [f"# {figure.title}", "", figure.caption, "", *table(header, rows, texts)]


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:z.2f}"
    return "" if value is None else escape(value)


def prompts_gain(results: Results, _: Mapping[str, float]) -> Figure | LeftOut:
    """Figure 4: what prompts add to bare class names."""
    title = "What prompts add to bare class names"
    judged, rows = [], []
    for result in results.of("classification"):
        found = result.get("gains") or {}
        gains = {kind: Estimate.of(found[kind]) for kind in PROMPTS if kind in found}
        rows += [
            row_of(result, gains[kind], kind=name)
            for kind, name in PROMPTS.items()
            if gains.get(kind)
        ]
        judged += [result] if any(gains.values()) else []
    if not rows:
        return LeftOut(title, "no set was judged with bare names and with other prompts")
    kinds = [name for name in PROMPTS.values() if any(row["kind"] == name for row in rows)]
    sets, models = by_value(rows), models_of(results, rows)
    chart = charts.by_set(rows, sets, models, "points over bare names", kinds)
    return Figure(title, f"{basis(judged)} {ERROR_BARS}", rows, chart)


def zero_shot_minus_probe(results: Results, _: Mapping[str, float]) -> Figure | LeftOut:
    """Figure 5: zero-shot against probes on the features of supervised networks, set by set.

    Where there is no such network, and beside those that there are, on the model's own features.
    """
    title = "Zero-shot less a supervised linear probe"
    judged, rows = [], []
    for result in results.of("classification"):
        if difference := Estimate.of((result.get("probe") or {}).get("difference")):
            judged.append(result)
            rows.append(row_of(result, difference, kind=OWN, note=_winner(difference)))
    for result in results.baselines:
        if difference := Estimate.of(result["difference"]):
            kind = f"probe on {result['baseline']}"
            rows.append(row_of(result, difference, kind=kind, note=_winner(difference)))
    if not rows:
        return LeftOut(title, "no set has a linear probe beside zero-shot")
    sets, models = by_value(rows), models_of(results, rows)
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    chart = charts.by_set(rows, sets, models, "points over the probe", kinds)
    caption = f"{probe_basis(judged)} Both judged on the same pictures. {ERROR_BARS}"
    return Figure(title, caption, rows, chart)


def _winner(difference: Estimate) -> str:
    low, high = difference.interval or (difference.value, difference.value)
    return "zero-shot" if low > 0 else "probe" if high < 0 else "undecided"


def few_shot(results: Results, _: Mapping[str, float]) -> Figure | LeftOut:
    """Figure 6: few-shot probes against zero-shot, the mean of all sets."""
    title = "Few-shot linear probes beside zero-shot"
    rows = _curves(results)
    shots = sorted({row["shots"] for row in rows})
    models = models_of(results, rows)
    of = {(row["set"], row["model"], row["shots"]): row for row in rows}
    # Of models that know no text there is no zero-shot to wait for.
    with_texts = {model for _, model, number in of if number == 0}
    points = [(m, number) for m in models for number in shots if number or m in with_texts]
    sets = [name for name in results.sets if all((name, *point) in of for point in points)]
    if not rows or len(sets) < 2:
        return LeftOut(title, "fewer than two sets have all few-shot probes of all models")
    means = []
    for model, number in points:
        mean = Estimate.mean([estimate_of(of[name, model, number]) for name in sets])
        means.append({"model": model, "shots": number, **numbers(mean)})
    judged = [one for one in results.of("classification") if one["set"] in sets]
    left = len({row["set"] for row in rows}) - len(sets)
    less = f" {counted(left, 'set')} with fewer shots left out." if left else ""
    caption = f"Mean of {probe_basis(judged, seeds=True)}{less} 0: zero-shot, dashed. {ERROR_BARS}"
    return Figure(title, caption, means, charts.curves(means, models, "mean score (%)"))


def few_shot_by_set(results: Results, _: Mapping[str, float]) -> Figure | LeftOut:
    """Figure 6, set by set."""
    title = "Few-shot linear probes beside zero-shot, by set"
    rows = _curves(results)
    if not rows:
        return LeftOut(title, "no set has few-shot probes")
    models = models_of(results, rows)
    sets = [name for name in results.sets if any(row["set"] == name for row in rows)]
    judged = [one for one in results.of("classification") if one["set"] in sets]
    caption = f"{probe_basis(judged, seeds=True)} 0: zero-shot, dashed. {ERROR_BARS}"
    return Figure(title, caption, rows, charts.curves(rows, models, "score (%)", sets))


def _curves(results: Results) -> list[dict[str, Any]]:
    """A row a set, model and number of shots; 0 is zero-shot. Nothing of sets without few-shot."""
    rows = []
    for result in results.of("classification"):
        few_shot = result.get("few_shot") or {}
        scores = {int(shots): Estimate.of(one) for shots, one in few_shot.items()}
        few = {shots: score for shots, score in sorted(scores.items()) if score}
        plain = zero_shot_beside_probes(result)
        if few:
            both = {**({0: plain} if plain else {}), **few}
            rows += [row_of(result, score, shots=shots) for shots, score in both.items()]
    return rows


def examples_needed(results: Results, _: Mapping[str, float]) -> Figure | LeftOut:
    """Figure 7: labelled examples a class with which a probe equals zero-shot."""
    title = "Labelled examples a class that equal zero-shot"
    judged, rows = [], []
    for result in results.of("classification"):
        equal = result.get("equal_shots") or {}
        needed = Estimate.of(equal)
        if not result.get("zero_shot") or not (needed or result.get("few_shot")):
            continue
        judged.append(result)
        note = None if needed else str(equal.get("reason") or "never")
        rows.append(row_of(result, needed, 1, note=note))
    if not any(row["value"] for row in rows):
        return LeftOut(title, "no set has a number of examples that equals zero-shot")
    sets, models = by_value(rows), models_of(results, rows)
    caption = f"{probe_basis(judged, seeds=True)} {ERROR_BARS}"
    return Figure(title, caption, rows, charts.needed(rows, sets, models))


def zero_shot_and_probe(results: Results, _: Mapping[str, float]) -> Figure | LeftOut:
    """Figure 8: zero-shot against a linear probe on the model's own features."""
    title = "Zero-shot against a linear probe on the model's own features"
    judged, rows = [], []
    for result in results.of("classification"):
        probe = result.get("probe") or {}
        trained, plain = Estimate.of(probe), Estimate.of(probe.get("zero_shot"))
        if trained and plain:
            judged.append(result)
            x = {
                f"x{name}": value for name, value in zip(_X, numbers(trained).values(), strict=True)
            }
            rows.append({**row_of(result, None), **x, **numbers(plain)})
    if len({row["set"] for row in rows}) < 2:
        return LeftOut(title, "fewer than two sets have a linear probe")
    caption = (
        f"{probe_basis(judged)} Both judged on the same pictures; on the dashed "
        f"line they are equal. {ERROR_BARS}"
    )
    models = models_of(results, rows)
    return Figure(title, caption, rows, charts.against(rows, models, "probe (%)", "zero-shot (%)"))


_X = ("", "_low", "_high")


def accuracy_by_compute(results: Results, gflops: Mapping[str, float]) -> Figure | LeftOut:
    """Figure 9: the mean score against what an image costs a model."""
    title = "Mean score against compute"
    models = [model for model in results.models if gflops.get(model)]
    rows, sentences = [], []
    for kind, (score, stands_on) in MEASURES.items():
        sets, means = common_means(results, models, score)
        if len(means) > 1:
            judged = [one for one in results.of("classification") if one["set"] in sets]
            sentences.append(f"{kind[0].upper()}{kind[1:]}: mean of {stands_on(judged)}")
            rows += [
                {"model": model, "kind": kind, "x": gflops[model], **numbers(mean)}
                for model, mean in means.items()
            ]
    if not rows:
        return LeftOut(title, "fewer than two models of known compute were judged on the same sets")
    kinds = [kind for kind in MEASURES if any(row["kind"] == kind for row in rows)]
    caption = f"{' '.join(sentences)} {ERROR_BARS}"
    return Figure(title, caption, rows, charts.by_compute(rows, models, kinds, "GFLOP an image"))


#: What figure 9 shows: a score, and on how much it stands.
MEASURES: dict[
    str, tuple[Callable[[Result], Estimate | None], Callable[[Sequence[Result]], str]]
] = {"zero-shot": (zero_shot, basis), "linear probe": (linear_probe, probe_basis)}

#: By the name of its files.
FIGURES: dict[str, Callable[[Results, Mapping[str, float]], Figure | LeftOut]] = {
    "prompts_gain": prompts_gain,
    "zero_shot_minus_probe": zero_shot_minus_probe,
    "few_shot": few_shot,
    "few_shot_by_set": few_shot_by_set,
    "examples_needed": examples_needed,
    "zero_shot_and_probe": zero_shot_and_probe,
    "accuracy_by_compute": accuracy_by_compute,
}
