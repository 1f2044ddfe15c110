"""What people read of a run: its plan, its status and its report."""

from __future__ import annotations

import json
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.run.directory import Run
from pipelines.run.receipts import StageTotals
from pipelines.run.runner import Plan, Standing, is_complete, standings
from pipelines.stages import STAGES
from pipelines.stages.embeddings import PRECISION
from workers.base.storage import DAMAGED_PARQUET, write_text

#: Pictures or captions below which a score is shown with its interval.
FEW = 100

#: The report's file in the run's directory.
REPORT = "report.md"


def plan_text(run: Run, names: Sequence[str]) -> str:
    """For each stage: how many shards are done and how many are to do."""
    lines = [f"plan of {run.directory}"]
    complete: dict[str, bool] = {}
    for name in names:
        stage = STAGES[name](run)
        missing = [other for other in stage.reads if not is_complete(run, other, complete)]
        if missing:
            lines.append(f"  {name:<11} to be planned once {', '.join(missing)} is complete")
        else:
            plan = Plan.of(stage)
            again = f", {len(plan.again)} to try again" if plan.again else ""
            done = f"{len(plan.todo)} shards to do, {len(plan.done)} done{again}"
            lines.append(f"  {name:<11} {stage.skipped or done}")
    return "\n".join(lines)


def status_text(run: Run) -> str:
    """What is done of this configuration: rows of each stage, dropped rows by reason."""
    return "\n".join([f"status of {run.directory}", "", *_stage_table(standings(run))])


def write_report(run: Run) -> str:
    """Write the report into the run's directory and give its text."""
    stages = standings(run)
    done = {name for name, standing in stages.items() if standing.receipts}
    lines = [f"# Run {run.config.name}", "", *_stage_table(stages), ""]
    if "embeddings" in done:
        lines += _precision_lines(run)
    lines += _cost_lines(run, done)
    if "dataset" in done:
        lines += _calibration_lines(run)
    if "scores" in done:
        lines += _score_lines(run)
    text = "\n".join(lines).rstrip() + "\n"
    write_text(text, run.directory / REPORT)
    return text


def read_report(run: Run) -> str:
    """The report as it was last written; written now if it is not there, or no text."""
    try:
        return (run.directory / REPORT).read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError, UnicodeDecodeError):
        return write_report(run)


def _stage_table(stages: Mapping[str, Standing]) -> Iterator[str]:
    """Every stage's rows: in = kept + rejected by reason + failed by reason."""
    yield "| stage | rows | in | kept | rejected | failed |"
    yield "|---|---|--:|--:|---|---|"
    for name, standing in stages.items():
        for kind, counts in StageTotals.of(standing.receipts).rows.items():
            yield (
                f"| {name} | {kind} | {counts['in']:,} | {counts['kept']:,} "
                f"| {_reasons(counts['rejected'])} | {_reasons(counts['failed'])} |"
            )
    others = {name: standing for name, standing in stages.items() if standing.others}
    skipped = {name: standing.skipped for name, standing in stages.items() if standing.skipped}
    if others or skipped:
        yield ""
    yield from (f"{name}: {why}" for name, why in skipped.items())
    for name, standing in others.items():
        yield f"{name}: shards that are not counted: {standing.others:,}; {standing.why}"


def _reasons(counts: dict[str, int]) -> str:
    if not counts:
        return "0"
    total = f"{sum(counts.values()):,}"
    by_number = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return f"{total}: " + ", ".join(f"{reason} {number:,}" for reason, number in by_number)


def _precision_lines(run: Run) -> Iterator[str]:
    if precision := run.decision(PRECISION):
        yield f"Embedded in {precision}."
        yield ""


def _cost_lines(run: Run, done: Container[str]) -> Iterator[str]:
    stages: dict[str, dict[str, Any]] = run.record.get("stages", {})
    timed = {
        name: stages[name]
        for name in STAGES
        if name in done and "wall_seconds" in stages.get(name, {})
    }
    if not timed:
        return
    each = ", ".join(f"{name} {figures['wall_seconds']:.0f}" for name, figures in timed.items())
    total = sum(figures["wall_seconds"] for figures in timed.values())
    peak = max(figures.get("peak_bytes", 0) for figures in timed.values())
    yield f"Seconds at the last work on each stage: {each}; {total:.0f} in all."
    yield f"Peak memory of all processes: {peak / 2**30:.2f} GiB."
    yield ""


def _calibration_lines(run: Run) -> Iterator[str]:
    """Similarity against the truth, where the configuration names one."""
    if run.config.report.truth is None or not run.outputs("embeddings"):
        return
    truth = Path(run.resolve(run.config.report.truth))
    if not truth.exists():
        yield f"No truth at {truth}: similarity is not calibrated."
        return
    from pipelines.evaluation.calibration import calibrate

    run.check_outputs("embeddings", "dataset", drop=True)
    try:
        result = calibrate(truth, run.outputs("embeddings"), run.outputs("dataset"))
    except (*DAMAGED_PARQUET, KeyError) as error:
        yield f"The truth at {truth} cannot be read: similarity is not calibrated ({error})."
        return
    if result is None:
        yield "The truth does not know both right and wrong pairs of those embedded."
        return
    yield "## Against the truth"
    yield ""
    yield f"- {result.right:,} right and {result.wrong:,} wrong pairs were embedded."
    yield (
        f"- Area under the ROC curve of similarity, right against wrong pairs: {result.roc_auc:.4f}"
    )
    yield (
        f"- The selection: {result.right_selected:,} right and "
        f"{result.wrong_selected:,} wrong pairs selected; precision {result.precision:.4f}, "
        f"recall {result.recall:.4f}"
    )
    yield (
        f"- Zero-shot among {result.names:,} captions: top-1 {result.top1:.2%}, "
        f"top-5 {result.top5:.2%} (chance {result.chance:.2%})"
    )
    yield ""


def _score_lines(run: Run) -> Iterator[str]:
    """The scores of the models, once they have been evaluated."""
    files = run.outputs("scores")
    if not files:
        return
    run.check_outputs("scores", drop=True)
    scores = json.loads(files[0].read_text(encoding="utf-8"))
    yield from score_table(scores)


def score_table(scores: Mapping[str, Any]) -> Iterator[str]:
    """The scores of the models; those of few pictures or captions with their intervals."""
    yield "## Models on held-out pairs"
    yield ""
    yield (
        f"{scores['pictures']:,} pictures, {scores['captions']:,} captions; "
        f"chance {scores['chance']:.2%}"
    )
    if min(scores["pictures"], scores["captions"]) < FEW:
        yield ""
        yield (
            f"Fewer than {FEW} say little: in brackets, the interval in which each score lies with "
            "95% confidence (Wilson). Raise model.held_out, or select more pairs."
        )
    yield ""
    measures = list(next(iter(scores["models"].values())))
    yield f"| model | {' | '.join(measures)} |"
    yield f"|---|{'--:|' * len(measures)}"
    for name, values in scores["models"].items():
        cells = [_score_cell(measure, values[measure], scores) for measure in measures]
        yield f"| {name} | {' | '.join(cells)} |"
    yield ""


def _score_cell(measure: str, share: float, scores: Mapping[str, Any]) -> str:
    asked = scores["captions" if measure.startswith("text to image") else "pictures"]
    if asked >= FEW:
        return f"{share:.2%}"
    low, high = wilson_interval(share, asked)
    return f"{share:.2%} ({low:.0%} to {high:.0%})"


def wilson_interval(share: float, asked: int) -> tuple[float, float]:
    """The 95% score interval (Wilson, 1927) of a share of independent answers that were right."""
    z2 = 1.959964**2
    middle = (share + z2 / (2 * asked)) / (1 + z2 / asked)
    spread = (z2 * (share * (1 - share) / asked + z2 / (4 * asked**2))) ** 0.5 / (1 + z2 / asked)
    return max(0.0, middle - spread), min(1.0, middle + spread)
