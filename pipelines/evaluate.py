"""``python -m pipelines.evaluate``: a run's model on held-out pairs, or any models on any data."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from pipelines.cli import (
    add_discard,
    open_run,
    parser,
    place_of,
    run_command,
    run_one_stage,
    start,
)
from pipelines.embed import add_ray_options
from pipelines.report import status_text
from pipelines.run.config import ConfigError
from workers.base.exit_codes import ExitCode
from workers.base.output import say

#: Where judgements go by default.
OUT = "runs/evaluation"


def main(argv: Sequence[str] | None = None) -> ExitCode:
    """Parse the arguments and run the command; returns its exit code."""
    options = parser(
        "evaluate",
        "Score the model that pipelines.train has trained, and the one it started from, on the "
        "pairs that were held out of training; the scores stand in RUN/scores/. With --model, "
        "judge any models on labelled or captioned pictures instead.",
    )
    add_options(options)
    add_discard(options)
    arguments = options.parse_args(argv)
    return run_command(lambda: evaluate(arguments))


def add_options(to: argparse.ArgumentParser) -> None:
    """The options of models and data sets."""
    group = to.add_argument_group("any models on any data sets (docs/evaluation.md)")
    add = group.add_argument
    add(
        "--model",
        nargs="+",
        action="extend",
        metavar="[LABEL=]MODEL",
        help="judge these models: known names, checkpoints, dual encoders of other libraries "
        "(open_clip:NAME/TAG, hf:FOLDER; docs/checkpoints.md), or as supervised baselines "
        "timm:NAME=WEIGHTS and torchvision:NAME=WEIGHTS; LABEL: what the report calls it",
    )
    add("--suite", type=Path, metavar="SUITE.yaml", help="on the data sets of a file")
    add("--data", metavar="FOLDER", help="or on pictures in folders by class, all of them")
    add(
        "--trained-on",
        nargs="+",
        default=[],
        metavar="PARQUET",
        help="say which of the pictures stand in these shards of a training, a run's dataset/ say",
    )
    text = f"where the judgements go (default: {OUT}); what is there already is not done again"
    add("--out", metavar="DIR", default=OUT, help=text)
    add(
        "--status",
        action="store_true",
        help="print what is done in --out, or without --model in the run, and what is to do, and "
        "do nothing",
    )
    add("--precision", choices=("fp32", "bf16"), default="fp32", help="default: fp32")
    add_ray_options(group)


def evaluate(arguments: argparse.Namespace) -> ExitCode:
    """What the arguments ask for. Raises ConfigError where they do not go together."""
    if not arguments.model:
        if arguments.suite or arguments.data:
            raise ConfigError("--suite and --data: say which models are judged, with --model")
        if arguments.status:
            say(status_text(open_run(arguments)))
            return ExitCode.COMPLETE
        return run_one_stage(arguments, "scores")
    if arguments.config or arguments.run_dir:
        raise ConfigError("--model judges without a run: leave CONFIG.yaml and --run-dir out")
    if arguments.status:
        say(_status(arguments))
        return ExitCode.COMPLETE
    from pipelines.evaluation.command import evaluate_models  # takes long

    return evaluate_models(arguments)


def _status(arguments: argparse.Namespace) -> str:
    from pipelines.evaluation.candidates import candidates_of
    from pipelines.evaluation.stages import EvaluationRun
    from pipelines.evaluation.status import evaluation_parts, status_of
    from pipelines.evaluation.suite import suite_of

    place = place_of("--out", arguments.out)
    run = EvaluationRun.of(suite_of(arguments), place, None)
    return status_of(run, evaluation_parts(run, candidates_of(arguments), {}))


if __name__ == "__main__":
    start(main)
