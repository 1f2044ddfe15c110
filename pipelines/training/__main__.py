"""``python -m pipelines.training``: train on anybody's shards, without a run and without Ray.

One process, or as many as ``torchrun`` starts::

    python -m pipelines.training shards/ --out model/
    torchrun --nproc-per-node 8 -m pipelines.training shards/ --out model/ --config recipe.yaml

``pipelines.train`` does the same to the data set of a run, on the workers of a Ray cluster.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist

from pipelines.cli import add_overrides, place_of, run_command
from pipelines.embed_job import shard_files
from pipelines.run.config import ConfigError, build_settings, folder_of, read_tree
from pipelines.training import CHECKPOINT
from pipelines.training.job import TrainingJob
from pipelines.training.parallel import Workers
from pipelines.training.settings import TrainSettings
from workers.base.exit_codes import ExitCode
from workers.base.failures import NeedsMendingError
from workers.base.output import say

log = logging.getLogger(__name__)

#: In the folder that the model goes to: what an interrupted training goes on from.
STATE = "_training"
CPU = torch.device("cpu")


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    result = argparse.ArgumentParser(
        prog="python -m pipelines.training",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = result.add_argument
    add("shards", nargs="+", metavar="SHARDS", help="files, folders of them, or globs in quotes")
    add("--out", required=True, metavar="DIR", help="where the model goes")
    add("--seed", type=int, default=0, metavar="N", help="of all that is drawn (default: 0)")
    add("--config", type=Path, metavar="FILE.yaml", help="the section `model`, alone in a file")
    text = "a key of the section `model` of docs/configuration.md, VALUE in YAML"
    add_overrides(result, text)
    return result


def main(argv: Sequence[str] | None = None) -> ExitCode:
    """Parse the arguments and train; returns the exit code."""
    arguments = parser().parse_args(argv)
    return run_command(lambda: train(arguments))


def train(arguments: argparse.Namespace) -> ExitCode:
    """What this process does of the training; the first of several leaves the model."""
    tree = read_tree(arguments.config) if arguments.config else {}
    folder = folder_of(arguments.config) if arguments.config else None
    source = "the settings of the training"
    settings = build_settings(TrainSettings, tree, arguments.overrides, source, folder)
    out = place_of("--out", arguments.out)
    if isinstance(out, str):
        raise ConfigError("--out: a folder; into a bucket, pipelines.train trains as part of a run")
    job = TrainingJob(tuple(shard_files(arguments.shards)), settings, arguments.seed, out / STATE)
    try:
        with process_group() as workers:
            if workers.rank == 0:
                job.renew()
            workers.barrier()
            job.work(workers, _say, Sigterm())
            if workers.rank == 0:
                tally = job.collect(out)
                say(f"{out / CHECKPOINT}: trained on {tally.kept:,} of {tally.rows_in:,} pairs")
    except NeedsMendingError as error:
        log.error("%s", error)
        return ExitCode.PARTIAL
    return ExitCode.COMPLETE


@contextmanager
def process_group() -> Iterator[Workers]:
    """The processes that ``torchrun`` has started, or this one alone."""
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if on_gpu else CPU
    if on_gpu:
        torch.cuda.set_device(device)
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield Workers(device)
        return
    dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield Workers.of_group(device)
    finally:
        dist.destroy_process_group()


class Sigterm:
    """What clouds and schedulers give notice with: a checkpoint, and then the end."""

    def __init__(self) -> None:
        self._came = False
        signal.signal(signal.SIGTERM, self._note)

    def _note(self, *_: object) -> None:
        self._came = True

    def given(self) -> bool:
        return self._came

    def obeyed(self) -> None:
        raise SystemExit(128 + signal.SIGTERM)


def _say(note: str, _share: float) -> None:
    log.info("%s", note)


if __name__ == "__main__":
    sys.exit(main())
