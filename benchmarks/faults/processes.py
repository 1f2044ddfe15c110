"""Signals in every stage, and processes that are lost."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import psutil

from benchmarks.commands import worker_of
from benchmarks.faults.fault import Fault, Place

#: What is made by which command, and the stages that are taken from a finished run for it.
_COMMAND_OF = {"model": ("train", "model scores"), "scores": ("evaluate", "scores")}

#: A program whose shard kills its process, in the engine that it is given.
_POISON = """
import os, signal, sys
from pathlib import Path
from pipelines.run.config import RaySettings
from pipelines.run.engines import (
    Actors,
    in_process,
    in_ray_actors,
    in_ray_tasks,
    start_ray,
    stop_ray,
)
from pipelines.run.receipts import Shard
from workers.embedding.meter import Activity
from workers.base.supervisor import supervised
from workers.base.tally import Tally

class Poison:
    def __call__(self, shard, out):
        if shard.name == "poison":
            os.kill(os.getpid(), signal.SIGSEGV)
        return {"rows": Tally(rows_in=1, kept=1)}

    def activity(self):
        return Activity()

def outcomes(engine, folder):
    shards, ray = [Shard(name, name) for name in ("a", "poison", "b")], RaySettings(num_cpus=2)
    if engine == "process":
        return in_process(Poison(), shards, folder)
    start_ray(ray)
    if engine == "tasks":
        return in_ray_tasks(Poison(), shards, folder, ray)
    return in_ray_actors(Poison(), shards, folder, Actors(2, 1, 0, 1))

def command():
    failed = [o for o in outcomes(sys.argv[1], Path(sys.argv[2])) if o.error]
    print(*(outcome.failure() for outcome in failed), sep="\\n", flush=True)
    stop_ray()
    return 3 if [outcome.shard for outcome in failed] == ["poison"] else 1

sys.exit(supervised(command))
"""


def at_work(
    stage: str, action: Callable[[subprocess.Popen[bytes]], None], *more: str
) -> Callable[[Place], list[str]]:
    """The command that makes a stage, to which something is done once it is at work."""

    def prepare(place: Place) -> list[str]:
        command, without = _COMMAND_OF.get(stage, ("build_dataset", stage))
        place.copy(*without.split())
        place.on_stage(stage, action)
        return place.command(command, *more)

    return prepare


def send(*numbers: signal.Signals) -> Callable[[subprocess.Popen[bytes]], None]:
    """Signals to the process that was started, half a second after the stage has begun."""

    def action(process: subprocess.Popen[bytes]) -> None:
        for number in numbers:
            time.sleep(0.5)
            process.send_signal(number)

    return action


def kill(pattern: str, seconds: float = 60.0) -> Callable[[subprocess.Popen[bytes]], None]:
    """SIGKILL one of the command's processes as soon as there is one that matches."""

    def action(process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + seconds
        while process.poll() is None and time.monotonic() < deadline:
            for found in _below(process, pattern):
                found.kill()
                return
            time.sleep(0.02)

    return action


def _below(process: subprocess.Popen[bytes], pattern: str) -> Sequence[psutil.Process]:
    found = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if re.search(pattern, " ".join([child.name(), *child.cmdline()])):
                    found.append(child)
    return found


def kill_all(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL everything, as a machine that is switched off."""
    command = psutil.Process(process.pid)
    for found in [command, *command.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            found.kill()


def kill_worker(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL the process that does the work, as where memory is short."""
    (worker,) = worker_of(psutil.Process(process.pid))
    worker.kill()


def _signal(stage: str, *numbers: signal.Signals, again: bool = False) -> Fault:
    name = " and ".join(number.name for number in numbers)
    code = 128 + numbers[-1]
    return Fault(f"{name} in {stage}", at_work(stage, send(*numbers)), "", (code,),
                 again=(0, "") if again else None)  # fmt: skip


def _poison(engine: str) -> Fault:
    def prepare(place: Place) -> list[str]:
        return [sys.executable, "-c", _POISON, engine, str(place.folder / "stage")]

    return Fault(f"a shard that kills its process, {engine}", prepare,
                 "the process that worked on it was lost 3 times", (3,))  # fmt: skip


_TERM, _INT, _HUP = signal.SIGTERM, signal.SIGINT, signal.SIGHUP
_SITE = r"^\S+ \S+python\S* -m examples.sample.site"

FAULTS = [
    *(_signal(stage, _TERM) for stage in ("queries", "pages", "images", "embeddings", "dataset")),
    _signal("model", _TERM, again=True),
    _signal("scores", _TERM),
    _signal("pairs", _INT),
    _signal("images", _INT),
    _signal("model", _INT),
    _signal("embeddings", _HUP),
    _signal("images", _INT, _INT),
    *map(_poison, ("process", "tasks", "actors")),
    Fault("everything killed in embeddings", at_work("embeddings", kill_all), "", (-9,),
          again=(0, "")),
    Fault("the worker killed in pairs", at_work("pairs", kill_worker),
          "starting it again, 1 of", (0,)),
    Fault("a Ray task killed", at_work("images", kill(r"^ray::(?!IDLE)")), "images: ", (0,)),
    # The worker may be lost with them, and is started again, or may have all it needs by then.
    Fault("the raylet killed", at_work("embeddings", kill(r"^raylet ")),
          "embeddings: 3 of 3 shards, ", (0,)),
    Fault("the GCS killed", at_work("embeddings", kill(r"^gcs_server ")),
          "embeddings: 3 of 3 shards, ", (0,)),
    Fault("a crawler killed", at_work("pages", kill(r"workers\.crawl\.spider")), "pages: ", (0, 3),
          again=(0, "")),
    Fault("the site killed in images", at_work("images", kill(_SITE)),
          "service site ended while it was needed", (3,), again=(0, "")),
    Fault("the site killed in pages", at_work("pages", kill(_SITE)),
          "service site ended while it was needed", (3,), again=(0, "")),
    Fault("the guard of the site killed", at_work("images", kill(r"pipelines\.run\.guard")),
          "service site ended while it was needed", (3,), again=(0, "")),
]  # fmt: skip
