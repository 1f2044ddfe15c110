"""What people read of a run: its plan, its status and its report."""

from __future__ import annotations

import json
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.run.directory import Run
from pipelines.run.health import findings
from pipelines.run.history import SILENCE, Entry, Work, now, read_history, read_state
from pipelines.run.precision import said_by
from pipelines.run.rules import rules_line
from pipelines.run.runner import Plan, Standing, is_complete, standings
from pipelines.run.totals import StageTotals
from pipelines.stages import STAGES
from pipelines.stages.base import Stage
from pipelines.stages.embeddings import PRECISION
from pipelines.stages.selection import Selection
from workers.base.copies import bring
from workers.base.storage import DAMAGED_PARQUET, write_text

#: Images or captions below which a score is shown with its interval.
FEW = 100

#: Digits of a hash that the history shows.
HASH_DIGITS = 12

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
            lines.append(f"  {name:<11} {stage.skipped or plan_line(plan)}")
            if work := estimate(stage, plan):
                lines.append(f"  {'':<11} {work}")
            if loss := plan.loss(stage):
                lines += [f"  {'':<11} {line}" for line in loss.lines()]
        lines += [f"  {'':<11} {doubt}" for doubt in stage.doubts()]
    return "\n".join(lines)


def plan_line(plan: Plan) -> str:
    """How many shards of a stage are done and how many are to do."""
    again = f", {len(plan.again)} to try again" if plan.again else ""
    return f"{len(plan.todo)} shards to do, {len(plan.done)} done{again}"


def estimate(stage: Stage, plan: Plan) -> str:
    """What is to do of a stage, as its finished shards went; empty where none can tell."""
    receipts, shards = stage.receipts.all(), len(plan.todo) + len(plan.again)
    totals = StageTotals.of(receipts)
    if not receipts or not shards or not totals.rows:
        return ""
    share = shards / len(receipts)
    *_, (kind, counts) = totals.rows.items()
    text = (
        f"as the shards that are there: {share * counts['kept']:,.0f} {kind}, "
        f"{share * totals.bytes / 1e9:,.2f} GB, {share * totals.seconds / 3600:,.2f} core hours"
    )
    known = stage.run.record.get("stages", {}).get(stage.name, {})
    if known.get("seconds") and known.get("wall_seconds"):
        # So many shards were worked on at a time.
        at_a_time = max(1.0, known["seconds"] / known["wall_seconds"])
        text += f", about {share * totals.seconds / at_a_time / 60:,.0f} minutes"
    return text


def status_text(run: Run) -> str:
    """Who is at work, and what is done of this configuration: rows of each stage, by reason."""
    head = [f"status of {run.directory}", *at_work_lines(run)]
    report = run.directory / REPORT
    if report.is_file() and _configuration_line(run).encode() not in report.read_bytes():
        head.append(f"{REPORT} is of another configuration")
    head.append("")
    return "\n".join([*head, *_stage_table(standings(run))])


def _configuration_line(run: Run) -> str:
    return f"Configuration {run.configuration_hash[:HASH_DIGITS]}."


def at_work_lines(run: Run) -> Iterator[str]:
    """What the last command does, if it has not ended."""
    entries = read_history(run.home, recent=True)
    if not entries or entries[-1].end or not (begun := entries[-1].start):
        return
    who = f"{begun.command} since {begun.time}, process {begun.pid} on {begun.host}"
    is_alive, state = begun.is_alive(), read_state(run.home)
    if is_alive is False:
        yield f"{who}, ended without a word; the same command goes on where it stopped"
        return
    yield f"at work: {who}"
    if begun.configuration_hash != run.configuration_hash:
        yield "it works with another configuration than this one"
    if state is None or state.id != entries[-1].id:
        return
    silent = (now() - state.said).total_seconds()
    if is_alive is None or silent > SILENCE:
        yield f"it has last said something {silent:.0f} s ago"
    if state.stage is None:
        yield "between two stages"
        return
    yield state.stage.line()
    for shard, since in state.stage.open_shards.items():
        yield f"{state.stage.stage}/{shard} is worked on since {since}"


def history_text(run: Run) -> str:
    """Every command on the run: when, where, with what, how it ended, what it has added."""
    entries = read_history(run.home)
    lines = [f"history of {run.directory}"]
    for entry in entries:
        lines += ["", _entry_line(entry, is_last=entry is entries[-1])]
        lines += [f"  {stage}: {_work_text(work)}" for stage, work in entry.stages.items()]
    return "\n".join(lines)


def _entry_line(entry: Entry, *, is_last: bool) -> str:
    begun = entry.start
    if begun is None:
        return f"a command whose line is damaged: {_end_text(entry, is_last=is_last)}"
    commit = (begun.code.get("commit") or "")[:HASH_DIGITS]
    code = " ".join(filter(None, (begun.code.get("version"), commit)))
    return (
        f"{begun.time} {begun.command}: {_end_text(entry, is_last=is_last)}; process {begun.pid} "
        f"on {begun.host}, code {code}, configuration {begun.configuration_hash[:HASH_DIGITS]}"
    )


def _end_text(entry: Entry, *, is_last: bool) -> str:
    if entry.end:
        return f"exit code {entry.exit_code} at {entry.end}"
    is_alive = entry.start.is_alive() if is_last and entry.start else False
    if is_alive is None:
        return "at work on another host, or ended without a word"
    return "at work" if is_alive else "ended without a word"


def _work_text(work: Work) -> str:
    rows = [
        f"{counts['in']:,} {kind} in, {counts['kept']:,} kept, rejected "
        f"{_reasons(counts['rejected'])}, failed {_reasons(counts['failed'])}"
        for kind, counts in work.rows.items()
    ]
    failed = f", {work.failed_shards:,} shards failed" if work.failed_shards else ""
    size = f"{work.bytes:,} bytes in {work.shards:,} shards{failed}, {work.seconds:.0f} s"
    return "; ".join([*rows, size])


def write_report(run: Run) -> str:
    """Write the report into the run's directory and give its text."""
    stages = standings(run)
    # Of a stage that is not whole, files of an older configuration may lie beside the new ones.
    done = {name for name, standing in stages.items() if standing.receipts and standing.is_whole}
    lines = [
        f"# Run {run.config.name}",
        "",
        *_stage_table(stages),
        "",
        _configuration_line(run),
        "",
    ]
    if said := rules_line({name: standing.receipts for name, standing in stages.items()}):
        lines += [said, ""]
    lines += _health_lines(run)
    if "embeddings" in done:
        lines += _model_lines(run)
    lines += _cost_lines(run, done)
    if {"embeddings", "dataset"} <= done:
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


def _health_lines(run: Run) -> Iterator[str]:
    """How the last work on each stage is unlike that before it."""
    if found := findings(read_history(run.home, recent=True), run.config.health):
        yield "## Unlike the nights before"
        yield ""
        yield from (f"- {line}" for line in found)
        yield ""


def _model_lines(run: Run) -> Iterator[str]:
    """Which model all similarities and thresholds are of."""
    files = run.outputs("embeddings")
    if (precision := run.decision(PRECISION)) and (model := said_by(files, "model")):
        seen = f" ({how})" if (how := said_by(files, "preprocessing")) else ""
        yield f"Embedded by {model} in {precision}{seen}; similarities are cosines of its features."
        yield ""
    for doubt in Selection(run).doubts():
        yield f"Warning: {doubt}."
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
    bring([truth])
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
    by_name = {path.name: json.loads(path.read_text(encoding="utf-8")) for path in files}
    yield from score_table(by_name["scores.json"])
    if suite := by_name.get("suite.json"):
        from pipelines.evaluation.report.trained import trained_table

        yield from trained_table(by_name["scores.json"], suite["sets"])


def score_table(scores: Mapping[str, Any]) -> Iterator[str]:
    """The scores of the models; those of few images or captions with their intervals."""
    yield "## Models on held-out pairs"
    yield ""
    yield (
        f"{scores['images']:,} images, {scores['captions']:,} captions; "
        f"chance {scores['chance']:.2%}"
    )
    if min(scores["images"], scores["captions"]) < FEW:
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
    asked = scores["captions" if measure.startswith("text to image") else "images"]
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
