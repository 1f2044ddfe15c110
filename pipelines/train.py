"""``python -m pipelines.train``: train a CLIP on a run's curated data set."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.cli import add_discard, parser, run_command, run_one_stage, start
from workers.base.exit_codes import ExitCode


def main(argv: Sequence[str] | None = None) -> ExitCode:
    """Parse the arguments and run the command; returns its exit code."""
    options = parser(
        "train",
        "Train a CLIP with the symmetric contrastive loss on the data set of a run that "
        "pipelines.build_dataset has built; the model stands in RUN/model/.",
    )
    add_discard(options)
    arguments = options.parse_args(argv)
    return run_command(lambda: run_one_stage(arguments, "model"))


if __name__ == "__main__":
    start(main)
