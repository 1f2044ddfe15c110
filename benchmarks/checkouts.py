"""The training of this checkout beside that of another one, on the same pairs, in turns.

    git worktree add ../before COMMIT
    python -m pipelines.build_dataset
    python -m benchmarks.checkouts runs/sample/dataset --other ../before --start model.safetensors

Each training is a process of its own with the checkout's code: the loop, without Ray, with one
thread and in float32, from reading the shards to the model's file. Both go on from one checkpoint
with the sample's settings, see as many pairs, and hold the same images out, on which this checkout
scores both. `--other` may be as old as a training that knew epochs alone.

It prints a table and, as its last line, the same as JSON: seconds, processor seconds, the peak of
the process's memory and what of it was there before the first pair, and the share of held-out
captions that are right.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

#: The sample's. Adam's constants are those that were not settings once.
SETTINGS = {"epochs": 2, "batch_size": 256, "held_out": 0.2, "cpus": 1}
RATE, ADAM = {"learning_rate": 3e-4}, {"beta2": 0.98, "eps": 1e-6}
MODEL = "model.safetensors"
MEASURED = ("seconds", "processor seconds", "peak MB", "MB before", "top-1 %")


def one_training(shards: Sequence[Path], start: str, seed: int, out: Path) -> dict[str, float]:
    """Train with whatever code is imported, and measure."""
    import clip_model
    import pipelines.training.loop  # noqa: F401 - loading libraries is no part of a training

    before = _kilobytes("VmRSS")
    began, used = time.monotonic(), _processor_seconds()
    new = find_spec("pipelines.training.job") is not None
    trained = (_train if new else _train_as_once)(shards, start, seed, out)
    clip_model.save(trained.model, out / MODEL)
    return {
        "seconds": time.monotonic() - began,
        "processor seconds": _processor_seconds() - used,
        "peak MB": _kilobytes("VmHWM") / 1024,
        "MB before": before / 1024,
    }


def _train(shards: Sequence[Path], start: str, seed: int, out: Path) -> Any:
    import torch

    from pipelines.training.loop import train
    from pipelines.training.parallel import Workers
    from pipelines.training.settings import TrainSettings

    tree = {**SETTINGS, "start_from": start, "precision": "fp32", "optimizer": RATE | ADAM}
    settings = TrainSettings.model_validate(tree)
    return train(shards, settings, seed, out / "state", Workers(torch.device("cpu")))


def _train_as_once(shards: Sequence[Path], start: str, seed: int, out: Path) -> Any:
    """By a loop that is given a place for the state of each epoch."""
    import torch

    from pipelines.run import config
    from pipelines.training import loop

    def keep(state: dict[str, Any]) -> None:
        torch.save(state, out / "state.pt")

    settings = vars(config)["TrainSettings"](**SETTINGS, **RATE, start_from=start)
    train: Any = loop.train
    return train(shards, settings, seed, keep)


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _kilobytes(key: str) -> int:
    found = re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1])


def score(model: Path, shards: Sequence[Path], seed: int) -> float:
    """As `pipelines.evaluate` has it: held-out images whose nearest caption is theirs, per cent."""
    from pipelines.evaluation.scoring import score_models
    from pipelines.run.config import ScoreSettings
    from pipelines.training.held_out import read_held_out
    from workers.base.tally import Tally

    examples = list(read_held_out(shards, seed, SETTINGS["held_out"], Tally()))
    found = score_models({"": str(model)}, examples, ScoreSettings())
    return 100 * float(found["models"][""]["image to text R@1"])


def compare(
    folder: Path, other: Path, start: str, seeds: Sequence[int]
) -> dict[str, list[dict[str, float]]]:
    """Of each side, what was measured by each seed."""
    shards = sorted(folder.glob("*.parquet"))
    sides = {"this": Path(__file__).parents[1], "other": other.resolve()}
    found: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    for number, seed in enumerate(seeds):
        for side in sorted(sides, reverse=number % 2 == 0):
            with tempfile.TemporaryDirectory() as place:
                command = [sys.executable, __file__, str(folder), "--start", start]
                command += ["--train", place, "--seeds", str(seed)]
                environment = os.environ | {"PYTHONPATH": str(sides[side])}
                # Python puts the script's folder first; -P leaves the checkout's alone.
                command[1:1] = ["-P"]
                done = subprocess.run(
                    command, env=environment, stdout=subprocess.PIPE, text=True, check=True
                )
                measured = json.loads(done.stdout.splitlines()[-1])
                measured["top-1 %"] = score(Path(place) / MODEL, shards, seed)
            found[side].append(measured)
            sys.stderr.write(f"{side}, seed {seed}: {json.dumps(measured)}\n")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, or do one training for who compares."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.checkouts", description=__doc__.splitlines()[0]
    )
    add = parser.add_argument
    add("data", type=Path, metavar="DATASET", help="a run's folder of shards")
    add("--other", type=Path, metavar="CHECKOUT", help="another checkout of this project")
    add("--start", required=True, metavar="FILE", help="a checkpoint that both can read")
    add("--seeds", type=int, nargs="+", default=[0, 1], help="of order and held-out images")
    add("--train", type=Path, metavar="DIR", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.train:
        shards = sorted(options.data.glob("*.parquet"))
        measured = one_training(shards, options.start, options.seeds[0], options.train)
        sys.stdout.write(json.dumps(measured) + "\n")
        return 0
    if not options.other:
        parser.error("--other: name a checkout to compare with")
    found = compare(options.data, options.other, options.start, options.seeds)
    sys.stdout.write(f"{'medians':20}" + "".join(f"{name:>18}" for name in MEASURED) + "\n")
    for side, every in found.items():
        cells = (f"{median(one[name] for one in every):18.1f}" for name in MEASURED)
        sys.stdout.write(f"{side:20}" + "".join(cells) + "\n")
    sys.stdout.write(json.dumps(found) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
