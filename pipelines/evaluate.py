"""``python -m pipelines.evaluate``: zero-shot and retrieval scores on held-out pairs."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.cli import parser, run_command, run_one_stage, start
from workers.base.exit_codes import ExitCode


def main(argv: Sequence[str] | None = None) -> ExitCode:
    """Parse the arguments and run the command; returns its exit code."""
    options = parser(
        "evaluate",
        "Score the model that pipelines.train has trained, and the one it started from, on the "
        "pairs that were held out of training; the scores stand in RUN/scores/.",
    )
    arguments = options.parse_args(argv)
    return run_command(lambda: run_one_stage(arguments, "scores"))


if __name__ == "__main__":
    start(main)
