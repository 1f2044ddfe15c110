"""``python -m pipelines.build_dataset``: from a Wikipedia dump and pages to a curated data set."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace

from pipelines.cli import add_discard, open_run, parser, run_command, run_locked, start
from pipelines.report import history_text, plan_text, status_text
from pipelines.run.runner import check
from pipelines.stages import DATASET_STAGES
from workers.base.exit_codes import ExitCode
from workers.base.output import say


def main(argv: Sequence[str] | None = None) -> ExitCode:
    """Parse the arguments and run the command; returns its exit code."""
    arguments = _options().parse_args(argv)
    return run_command(lambda: build_dataset(arguments))


def _options() -> argparse.ArgumentParser:
    options = parser(
        "build_dataset",
        "Build a curated, scored and labelled image-text data set: "
        + ", ".join(DATASET_STAGES)
        + ". What is done already is not done again.",
    )
    options.add_argument(
        "--stage",
        action="append",
        choices=DATASET_STAGES,
        dest="stages",
        help="run this stage only; may be given many times",
    )
    options.add_argument(
        "--plan", action="store_true", help="print what would be done, and do nothing"
    )
    options.add_argument(
        "--status",
        action="store_true",
        help="print who is at work on what, and what has been done, and do nothing",
    )
    options.add_argument(
        "--history",
        action="store_true",
        help="print what each command on the run has done, and do nothing",
    )
    options.add_argument(
        "--retry",
        action="append",
        default=[],
        metavar="REASON,...",
        help="ask again now for images that failed or were refused for these reasons, also final "
        "ones (http_404, not_an_image, ...)",
    )
    options.add_argument(
        "--refetch",
        action="store_true",
        help="discard images that were made with other settings, and fetch them again",
    )
    add_discard(options)
    return options


def build_dataset(arguments: argparse.Namespace) -> ExitCode:
    """Do what the arguments ask for."""
    reasons = frozenset(name for text in arguments.retry for name in text.split(",") if name)
    run = replace(
        open_run(arguments),
        retry=reasons,
        refetch=arguments.refetch,
        discard=arguments.discard,
    )
    stages = [name for name in DATASET_STAGES if name in (arguments.stages or DATASET_STAGES)]
    if arguments.status:
        say(status_text(run))
        return ExitCode.COMPLETE
    if arguments.history:
        say(history_text(run))
        return ExitCode.COMPLETE
    if arguments.plan:
        check(run, stages)
        say(plan_text(run, stages))
        return ExitCode.COMPLETE
    return run_locked(run, stages, arguments.command)


if __name__ == "__main__":
    start(main)
