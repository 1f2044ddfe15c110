"""``python -m pipelines.training``: train on anybody's shards, without a run and without Ray.

One process, or as many as ``torchrun`` starts::

    python -m pipelines.training shards/ --out model/
    torchrun --nproc-per-node 8 -m pipelines.training shards/ --out model/ --config recipe.yaml

``pipelines.train`` does the same to the data set of a run, on the workers of a Ray cluster.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from pipelines.cli import add_overrides, place_of, run_command
from pipelines.embed_job import origin_of, shard_files, stamp_of
from pipelines.run.config import ConfigError, build_settings, digest, folder_of, read_tree
from pipelines.run.lock import LockedError, hold_folder, open_folder
from pipelines.run.models import checkpoint_inputs
from pipelines.training import CHECKPOINT, METRICS
from pipelines.training.checkpoints import LIST
from pipelines.training.job import TrainingJob
from pipelines.training.parallel import Workers
from pipelines.training.settings import TrainSettings
from pipelines.training.teacher import Teacher
from workers.base.bucket import is_bucket
from workers.base.copies import copy_of, publish
from workers.base.exit_codes import ExitCode
from workers.base.failures import NeedsMendingError
from workers.base.opt_outs import OptOuts, OptOutSettings
from workers.base.output import say
from workers.base.storage import file_hash, remove_leftovers, write_json
from workers.base.supervisor import temporary_files

log = logging.getLogger(__name__)

#: In the folder that the model goes to: what an interrupted training goes on from, and, in that,
#: what it is a training of.
STATE = "_training"
IDENTITY = "identity.json"
CPU = torch.device("cpu")


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    result = argparse.ArgumentParser(
        prog="python -m pipelines.training",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = result.add_argument
    text = "files, folders of them, or globs in quotes; in a bucket, too (s3://, gs://, az://)"
    add("shards", nargs="+", metavar="SHARDS", help=text)
    text = "where the model goes: a folder, or a bucket's s3://, gs:// or az:// (docs/buckets.md)"
    add("--out", required=True, metavar="DIR", help=text)
    add("--seed", type=int, default=0, metavar="N", help="of all that is drawn (default: 0)")
    add("--config", type=Path, metavar="FILE.yaml", help="the section `model`, alone in a file")
    text = "the section `opt_outs` alone in a file: lists of what must not be trained on"
    add("--opt-outs", type=Path, metavar="FILE.yaml", help=text)
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
    in_bucket = any(map(is_bucket, (arguments.out, *arguments.shards)))
    try:
        with temporary_files() if in_bucket else nullcontext():
            shards = shard_files(arguments.shards)
            contents = [digest([origin_of(path), *stamp_of(path)]) for path in shards]
            opt_outs = opt_outs_in(arguments.opt_outs)
            identity = partial(identity_of, settings, arguments.seed, contents, opt_outs)
            with process_group() as workers, at_work_in(out, identity, workers) as place:
                job = TrainingJob(
                    tuple(shards),
                    settings,
                    arguments.seed,
                    place / STATE,
                    tuple(contents),
                    (opt_outs,) if opt_outs else (),
                )
                _do(job, workers, place)
    except NeedsMendingError as error:
        log.error("%s", error)
        return ExitCode.PARTIAL
    return ExitCode.COMPLETE


def _do(job: TrainingJob, workers: Workers, out: Path) -> None:
    if workers.rank == 0:
        job.renew()
    workers.barrier()
    job.work(workers, _say, Sigterm())
    if workers.rank == 0:
        tally = job.collect(out)
        for file in (METRICS, CHECKPOINT):
            publish(out / file)
        say(f"{out / CHECKPOINT}: trained on {tally.kept:,} of {tally.rows_in:,} pairs")


def opt_outs_in(file: Path | None) -> OptOuts:
    """The lists that a file names; none without one. Raises ConfigError."""
    if file is None:
        return OptOuts.none()
    settings = build_settings(OptOutSettings, read_tree(file), (), str(file), folder_of(file))
    try:
        return OptOuts.read(settings)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--opt-outs {file}: {error}") from error


def identity_of(
    settings: TrainSettings, seed: int, contents: Sequence[str], opt_outs: OptOuts
) -> dict[str, Any]:
    """What the weights depend on: a training is gone on with by the same alone.

    Args:
        contents: what each shard is known by.
    """
    files, published = checkpoint_inputs(settings.start_from, "start_from")
    start = {"start_from": [*published, *map(file_hash, files)]} if files or published else {}
    teacher = {}
    if settings.distillation:
        try:
            known = Teacher.of(settings.distillation).identity
        except ValueError as error:
            raise ConfigError(f"distillation.embeddings: {error}") from error
        teacher = {"distillation": settings.distillation.identity() | {"embeddings": digest(known)}}
    given = {"--seed": seed, "SHARDS": digest(list(contents)), "--opt-outs": opt_outs.digest()}
    return settings.identity() | start | teacher | given


@contextmanager
def at_work_in(
    place: Path | str, identity: Callable[[], dict[str, Any]], workers: Workers
) -> Iterator[Path]:
    """Hold a place for this training and no other; all workers get its folder.

    Raises LockedError or ConfigError, on all workers, where it is not to be had.
    """
    if workers.rank:
        found = workers.broadcast(None)
        if isinstance(found, Exception):
            raise found
        yield found
        return
    with ExitStack() as stack:
        try:
            out = open_folder("--out", place, _is_identity)
            stack.enter_context(hold_folder(out, "choose another --out"))
            claim(out, identity())
        except (ConfigError, LockedError) as error:
            workers.broadcast(error)
            raise
        workers.broadcast(out)
        yield out


def claim(out: Path, identity: dict[str, Any]) -> None:
    """Note whose a place is that is held. Raises ConfigError where it is not this training's."""
    record = out / STATE / IDENTITY
    for folder in (out, record.parent):
        remove_leftovers(folder)
    names = (CHECKPOINT, METRICS, f"{STATE}/{LIST}")
    if copy := copy_of(out):
        copy.look(_is_identity)
        there = [name for name in names if name in copy.sizes]
    else:
        there = [name for name in names if (out / name).exists()]
    if record.exists():
        known = _read(record)
        if others := [key for key, value in identity.items() if known.get(key) != value]:
            raise ConfigError(
                f"--out {out}: it has a training with other {', '.join(others)} ({record}); give "
                "the same as before to go on with it, or choose another place"
            )
    elif there:
        raise ConfigError(
            f"--out {out}: it holds {there[0]} of who knows what; choose an empty place"
        )
    else:
        write_json(identity, record)
        publish(record)


def _is_identity(name: str) -> bool:
    return name == f"{STATE}/{IDENTITY}"


def _read(record: Path) -> dict[str, Any]:
    try:
        known = json.loads(record.read_bytes())
    except ValueError:
        return {}
    return known if isinstance(known, dict) else {}


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
