"""``python -m pipelines.evaluate``: a run's model on held-out pairs, or any models on any data."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from pipelines.cli import parser, run_command, run_one_stage, start
from pipelines.evaluation.command import add_options, evaluate_models
from pipelines.run.config import ConfigError
from workers.base.exit_codes import ExitCode


def main(argv: Sequence[str] | None = None) -> ExitCode:
    """Parse the arguments and run the command; returns its exit code."""
    options = parser(
        "evaluate",
        "Score the model that pipelines.train has trained, and the one it started from, on the "
        "pairs that were held out of training; the scores stand in RUN/scores/. With --model, "
        "judge any models on labelled or captioned pictures instead.",
    )
    add_options(options)
    arguments = options.parse_args(argv)
    return run_command(lambda: evaluate(arguments))


def evaluate(arguments: argparse.Namespace) -> ExitCode:
    """What the arguments ask for. Raises ConfigError where they do not go together."""
    if not arguments.model:
        if arguments.suite or arguments.data:
            raise ConfigError("--suite and --data: say which models are judged, with --model")
        return run_one_stage(arguments, "scores")
    if arguments.config or arguments.run_dir:
        raise ConfigError("--model judges without a run: leave CONFIG.yaml and --run-dir out")
    return evaluate_models(arguments)


if __name__ == "__main__":
    start(main)
