"""Small trainings that are judged zero-shot on the way: what `benchmarks.objectives` and
`benchmarks.model_scale` share.

The data are what `python -m examples.starter_model.pairs` lays out: emoji in many styles to train
on, and Twemoji, a style that is not among them, to judge by; each picture of the test is a class of
its own. A training runs through `pipelines.training`'s loop in this process, keeps its checkpoints,
each of which is judged, and leaves a curve. One that has left its curve is not done again, one that
was interrupted goes on from its last checkpoint.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from torch import Tensor

from clip_model.config import ClipConfig
from clip_model.preprocess import image_bytes_transform, normalised
from clip_model.tokenizer import tokenize
from examples.starter_model.pairs import PAIRS, TEST
from pipelines.evaluation.differences import Difference, over_trainings
from pipelines.evaluation.intervals import wilson
from pipelines.evaluation.report.estimates import Estimate
from pipelines.training.checkpoints import Checkpoints
from pipelines.training.loop import Say, train
from pipelines.training.parallel import Workers
from pipelines.training.settings import TrainSettings
from pipelines.training.start import known_or_described
from pipelines.training.state import trained_objective
from workers.base.cores import usable_cores
from workers.base.hardware import fastest_device
from workers.base.storage import file_hash, write_json

CURVE = "curve.json"
#: Pictures in a forward pass.
BATCH = 256
#: A training's checkpoints are judged after so many of its parts.
PARTS = 16

#: Share of the test's pictures that are right, by pairs seen.
Curve = dict[int, float]


@dataclass(frozen=True)
class Data:
    """What is trained on, and what judges: the first `classes` rows of the test."""

    folder: Path
    classes: int

    @property
    def shards(self) -> list[Path]:
        return [self.folder / PAIRS]

    @cached_property
    def digest(self) -> str:
        """Of all that a curve depends on here."""
        return file_hash(self.folder / PAIRS) + file_hash(self.folder / TEST) + str(self.classes)

    @cached_property
    def _rows(self) -> dict[str, list[Any]]:
        table = pq.read_table(self.folder / TEST).slice(0, self.classes)
        columns: dict[str, list[Any]] = table.to_pydict()
        return columns

    @property
    def names(self) -> list[str]:
        return self._rows["name"]

    def pixels(self, resolution: int) -> Tensor:
        """uint8 [N, 3, R, R]."""
        decode = image_bytes_transform(resolution)
        return torch.stack([decode(image) for image in self._rows["image"]])


@dataclass(frozen=True)
class Training:
    """A training by name, in a folder of its own."""

    name: str
    settings: TrainSettings
    seed: int

    @property
    def config(self) -> ClipConfig:
        return config_of(self.settings)


def config_of(settings: TrainSettings) -> ClipConfig:
    """The model that is trained."""
    assert settings.architecture is not None
    return known_or_described(settings.architecture)


def settings_of(
    architecture: Mapping[str, Any] | str, objective: str, options: argparse.Namespace
) -> TrainSettings:
    """What both experiments train with; only architecture and objective differ."""
    tree = {
        "architecture": architecture,
        "objective": objective,
        "steps": steps_of(options),
        "batch_size": options.batch_size,
        "held_out": 0.0,
        "cpus": usable_cores(),
        "precision": options.precision,
        "optimizer": {
            "learning_rate": options.learning_rate,
            "warmup_steps": steps_of(options) // 10,
            "beta2": 0.98,  # the same for both families of towers
            "eps": 1e-6,
            "average": 0.98,  # curves are of averaged weights, as the rate has not come down yet
        },
        "data": {"unique": True},
        "checkpoints": {"every_steps": steps_of(options) // PARTS, "keep": 10 * PARTS},
    }
    return TrainSettings.model_validate(tree)


def steps_of(options: argparse.Namespace) -> int:
    """A multiple of PARTS, so that every checkpoint is that of a part."""
    return int(max(1, options.pairs // options.batch_size // PARTS) * PARTS)


def curves_of(
    by_name: Mapping[str, TrainSettings],
    seeds: Sequence[int],
    data: Data,
    parts: Sequence[int],
    out: Path,
) -> dict[str, dict[int, Curve]]:
    """A curve for each seed of each training; those of one seed follow each other."""
    curves: dict[str, dict[int, Curve]] = {name: {} for name in by_name}
    for seed in seeds:
        for name, settings in by_name.items():
            curves[name][seed] = curve(Training(name, settings, seed), data, parts, out)
    return curves


def curve(training: Training, data: Data, parts: Sequence[int], out: Path) -> Curve:
    """Train and judge, unless it was done; the checkpoints are removed then.

    Args:
        parts: after how many of PARTS the model is judged.
    """
    identity = [training.settings.identity(), training.seed, data.digest, list(parts)]
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
    folder = out / "trainings" / f"{training.name}.{training.seed}.{key}"
    if not (folder / CURVE).exists():
        began = time.monotonic()
        found = _judged(training, data, parts, folder / "state")
        _tell(f"{training.name}, seed {training.seed}: {time.monotonic() - began:.0f} s")
        write_json({str(seen): share for seen, share in found.items()}, folder / CURVE)
        shutil.rmtree(folder / "state")
    found = json.loads((folder / CURVE).read_bytes())
    return {int(seen): share for seen, share in found.items()}


def _judged(training: Training, data: Data, parts: Sequence[int], folder: Path) -> Curve:
    settings, workers = training.settings, Workers(fastest_device())
    train(data.shards, settings, training.seed, folder, workers, _say(training.name))
    assert settings.steps is not None
    wanted = {part * settings.steps // PARTS for part in parts}
    config = training.config
    images = data.pixels(config.image_resolution)
    tokens = tokenize(data.names, config.text.context_length, truncate=True)
    return {
        entry.step * settings.batch_size: accuracy(
            trained_objective(
                torch.load(folder / entry.file, weights_only=True, mmap=True),
                config,
                settings.objective,
            ),
            images,
            tokens,
        )
        for entry in Checkpoints(folder).entries()
        if entry.step in wanted
    }


@torch.inference_mode()
def accuracy(objective: Any, images: Tensor, tokens: Tensor) -> float:
    """The share of images [N, 3, R, R] whose own sentence of [N, L] fits them best."""
    encode = objective.model.encode_image
    features = torch.cat([encode(normalised(some)) for some in images.split(BATCH)])
    found = objective.zero_shot(features, tokens).argmax(dim=-1)
    return float((found == torch.arange(len(found))).float().mean())


def over_seeds(values: Mapping[int, float]) -> Difference | None:
    """The mean with its 95% interval by Student's t; None of fewer than two seeds."""
    return over_trainings(values, dict.fromkeys(values, 0.0)) if len(values) > 1 else None


def estimate_of(values: Mapping[int, float], pictures: int) -> Estimate:
    """The mean share; its interval is over seeds, or over the pictures of the only one."""
    if mean := over_seeds(values):
        return Estimate(mean.value, (mean.low, mean.high))
    (share,) = values.values()
    return Estimate(share, wilson(share * pictures, pictures))


def seen_at(found: Curve, level: float, chance: float) -> float | None:
    """Pairs seen when a curve first reaches a share; straight between its points, from chance on.

    None where it never does.
    """
    before, share_before = 0, chance
    for seen, share in sorted(found.items()):
        if share >= level:
            part = (level - share_before) / (share - share_before) if share > share_before else 1.0
            return before + part * (seen - before)
        before, share_before = seen, share
    return None


def add_options(parser: argparse.ArgumentParser, pairs: int, classes: int) -> None:
    """What both experiments are told."""
    add = parser.add_argument
    add("data", type=Path, metavar="DATA", help="what examples.starter_model.pairs has laid out")
    add("--out", type=Path, required=True, metavar="DIR", help="for trainings and figures")
    add("--pairs", type=int, default=pairs, help="seen by each training (default: %(default)s)")
    add("--classes", type=int, default=classes, help="pictures of the test (default: %(default)s)")
    add("--batch-size", type=int, default=128, help="pairs a step (default: %(default)s)")
    add("--learning-rate", type=float, default=1.5e-3, help="at its peak (default: %(default)s)")
    add("--precision", choices=["fp32", "bf16", "auto"], default="fp32", help="of the trainings")


def data_of(options: argparse.Namespace) -> Data:
    """The data, as far as there are so many. Raises SystemExit with what to do."""
    if not (options.data / TEST).exists():
        raise SystemExit(
            f"{options.data} has no {TEST}: python -m examples.starter_model.pairs lays it out"
        )
    there = pq.read_metadata(options.data / TEST).num_rows
    return Data(options.data, min(options.classes, there))


def _say(name: str) -> Say:
    def say(note: str, _share: float) -> None:
        _tell(f"{name}: {note}")

    return say


def _tell(line: str) -> None:
    sys.stderr.write(f"{line}\n")
