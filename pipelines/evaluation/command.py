"""Any models on any data sets: what ``pipelines.evaluate`` does with ``--model``."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines.cli import at_work, place_of
from pipelines.embed import ray_settings
from pipelines.embed_job import shard_files
from pipelines.evaluation.baselines import beside_baselines
from pipelines.evaluation.candidates import Candidate, candidates_of, size_of
from pipelines.evaluation.contamination import Seen, contamination, parquet_pairs
from pipelines.evaluation.judge import read_results, robustness_of
from pipelines.evaluation.report.write import write_report
from pipelines.evaluation.sources.datacomp import DATACOMP
from pipelines.evaluation.stages import (
    EvaluationRun,
    Features,
    Results,
    Said,
    Sets,
    data_stages,
    items_of,
)
from pipelines.evaluation.suite import Suite, suite_of
from pipelines.run.history import Journal
from pipelines.run.runner import run_stage
from workers.base.copies import publish
from workers.base.exit_codes import ExitCode
from workers.base.output import say

log = logging.getLogger(__name__)


def evaluate_models(arguments: argparse.Namespace) -> ExitCode:
    """Judge each model on each data set; what has a receipt is not done again."""
    suite = suite_of(arguments)
    candidates = candidates_of(arguments)
    trained_on = shard_files(arguments.trained_on) if arguments.trained_on else []
    run = EvaluationRun.of(suite, place_of("--out", arguments.out), ray_settings(arguments))
    with at_work(run, "evaluate") as journal:
        journal.code, results = judged(run, candidates, journal)
        if results is not None:
            say(report(run, results, candidates, trained_on))
    return journal.code


def judged(
    run: EvaluationRun, candidates: Sequence[Candidate], journal: Journal
) -> tuple[ExitCode, list[dict[str, Any]] | None]:
    """The exit code, and what was found of each model and data set; None where that is not all.

    The run must be locked. Raises ConfigError for what can be seen to be wrong before any work.
    """
    results = Results(run, candidates)
    stages = [*data_stages(run), *(Features(run, one) for one in candidates), results]
    for stage in sorted(stages, key=lambda stage: isinstance(stage, Sets)):  # that reads most
        stage.check()
    for stage in stages:
        if not (result := run_stage(stage, journal)).ended:
            return result.code, None
    files = [results.folder / o.file for receipt in results.done() for o in receipt.outputs]
    return ExitCode.COMPLETE, read_results(files)


def report(
    run: EvaluationRun,
    results: list[dict[str, Any]],
    candidates: Sequence[Candidate],
    trained_on: Sequence[Path] = (),
) -> str:
    """Write what was found of these models and data sets; the report's text."""
    suite, folder = run.suite, run.directory
    info: dict[str, Any] = {
        "models": {one.label: size_of(one) for one in candidates},
        "averages": averages_of(suite),
    }
    if trained_on:
        info["seen"] = seen_in(trained_on, run)
    found = folder / "results"
    differences = robustness_of(found, results, suite.robustness, suite.protocols)
    beside = beside_baselines(found, results, suite.protocols)
    write_report([*results, *differences, *beside], folder, info)
    for path in (folder / "report.md", folder / "results.json", *(folder / "figures").iterdir()):
        publish(path)
    return (folder / "report.md").read_text(encoding="utf-8")


def seen_in(trained_on: Sequence[Path], run: EvaluationRun) -> dict[str, dict[str, Any]]:
    """What of each data set's test pictures stands in the training data."""
    log.info("looking for the test pictures in %d shards of training data", len(trained_on))
    seen, sets = Seen.of(parquet_pairs(trained_on)), Sets(run)
    found = {}
    for name in run.suite.sets:
        files = sets.files(name, "test")
        classes = Said.of(files[0]).classes or ()
        found[name] = contamination(items_of(files), seen, classes)
    return found


def averages_of(suite: Suite) -> dict[str, list[str]]:
    """The data sets whose mean is printed: all; and DataComp's, where all of them are there.

    Of some, DataComp counts what takes more than labels and captions: its own average is never had.
    """
    averages = {"all sets": list(suite.sets)} if len(suite.sets) > 1 else {}
    names = {data_set.datacomp: name for name, data_set in suite.sets.items()}
    ours = [name for name, about in DATACOMP.items() if about.our_metric]
    if names.keys() >= set(ours):
        title = (
            f"those {len(ours)} of DataComp's {len(DATACOMP)} sets whose number is DataComp's own"
        )
        averages[title] = [names[name] for name in ours]
    return averages
