"""``python -m pipelines.calibrate``: what thresholds and steps are worth, by planted noise."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from pipelines.cli import open_run, parser, run_command, start
from pipelines.run.config import ConfigError
from pipelines.run.directory import Run
from pipelines.run.runner import is_complete
from pipelines.stages.selection import Selection, embedded_shards
from workers.base.arrays import Bools
from workers.base.exit_codes import ExitCode
from workers.base.output import say
from workers.selection.planted_noise import plant_noise
from workers.selection.select import EmbeddedShard, select

#: Thresholds of similarity that the table has.
THRESHOLDS = np.arange(0.10, 0.421, 0.02)

DESCRIPTION = """\
Exchange the captions of a known share of a run's embedded pairs and say, for thresholds of
similarity and for each step of `selection`, how many right and wrong pairs it keeps. Nothing of
the run is changed. Pairs that are wrong by nature count as right here, so true precision is lower
and true recall higher.
"""


def main(argv: Sequence[str] | None = None) -> ExitCode:
    """Parse the arguments and run the command; returns its exit code."""
    options = parser("calibrate", DESCRIPTION)
    options.add_argument(
        "--noise", type=float, default=0.3, metavar="SHARE", help="of the pairs (default: 0.3)"
    )
    arguments = options.parse_args(argv)
    return run_command(lambda: calibrate(arguments))


def calibrate(arguments: argparse.Namespace) -> ExitCode:
    """Print the tables."""
    if not 0 < arguments.noise < 1:
        raise ConfigError(f"--noise {arguments.noise}: a share between 0 and 1, such as 0.3")
    run = open_run(arguments)
    Selection(run).check()
    shards = []
    if is_complete(run, "labels", {}):
        run.check_outputs(*Selection.reads, drop=False)
        shards = embedded_shards({stage: tuple(run.outputs(stage)) for stage in Selection.reads})
    if not any(len(shard.verdicts) for shard in shards):
        raise ConfigError(
            f"{run.directory} has no pairs embedded in full with this configuration; run "
            "pipelines.build_dataset first"
        )
    with tempfile.TemporaryDirectory(prefix="noise-") as folder:
        noisy, wrong = plant_noise(shards, arguments.noise, run.config.seed, Path(folder))
        is_wrong = np.concatenate(wrong)
        say(f"{is_wrong.sum():,} of {len(is_wrong):,} pairs have another pair's caption.\n")
        say("\n".join(_threshold_table(noisy, is_wrong)))
        select(noisy, Path(folder) / "selection", run.config.selection, run.config.seed)
        say("\n".join(_step_table(run, noisy, is_wrong)))
    return ExitCode.COMPLETE


def _threshold_table(shards: Sequence[EmbeddedShard], is_wrong: Bools) -> Iterator[str]:
    similarity = np.concatenate([shard.read(["similarity"])["similarity"] for shard in shards])
    yield from _head("similarity")
    for threshold in THRESHOLDS:
        yield _line(f"{threshold:.2f}", similarity >= threshold, is_wrong)
    yield ""


def _step_table(run: Run, shards: Sequence[EmbeddedShard], is_wrong: Bools) -> Iterator[str]:
    verdicts = np.concatenate([shard.verdicts for shard in shards])
    yield from _head("after step")
    for number, step in enumerate(run.config.selection.steps, start=1):
        is_kept = (verdicts == 0) | (verdicts > number)
        yield _line(f"{number} {step.name or step.filter}", is_kept, is_wrong)


def _head(first: str) -> Iterator[str]:
    yield f"| {first} | kept | right kept | wrong kept | precision | recall |"
    yield "|---|--:|--:|--:|--:|--:|"


def _line(name: str, is_kept: Bools, is_wrong: Bools) -> str:
    kept, right = int(is_kept.sum()), int((is_kept & ~is_wrong).sum())
    precision, recall = right / max(1, kept), right / max(1, int((~is_wrong).sum()))
    return f"| {name} | {kept:,} | {right:,} | {kept - right:,} | {precision:.4f} | {recall:.4f} |"


if __name__ == "__main__":
    start(main)
