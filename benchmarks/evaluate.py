"""Zero-shot evaluation beside open_clip's own, on the same checkpoint and pictures, in one run.

``python -m benchmarks.evaluate`` prints a table and, as its last line, the same as JSON: seconds
from files to accuracy with the ensemble of 80 prompts, and how many pictures are classified
otherwise. A model of new weights, of the small architecture, or ``--model`` judges handwritten
digits of scikit-learn's as PNG and photographs of about 500 x 400 as JPEG, whose class is what they
are crops of (`--pictures` of these). The other side is open_clip 3.3.0: its preprocessing in a
DataLoader's processes, its classifier and its loop over batches; this side is the stages of
``pipelines.evaluate --suite``, receipts and all. Both compute in float32. The sides take turns and
the medians count.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image

import clip_model
from benchmarks.photographs import photograph, sources
from clip_model.config import SMALL
from clip_model.templates import template_set
from pipelines.evaluation.candidates import Candidate
from pipelines.evaluation.command import judged
from pipelines.evaluation.stages import EvaluationRun
from pipelines.evaluation.suite import Suite
from pipelines.run.history import Journal
from workers.base.cores import usable_cores
from workers.embedding.settings import EmbedSettings

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
#: What `benchmarks.photographs` is made of.
SOURCES = (
    *("a Chinese temple", "a dahlia", "an astronaut", "a cup of coffee", "a rocket", "a cat"),
    *("a motorcycle seen from the left", "a motorcycle seen from the right"),
)
ENSEMBLE = "ImageNet"
BATCH = 64

#: Predictions of all pictures, in the order of their files' names.
Predictions = list[int]


def write_digits(folder: Path) -> None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    for number, (levels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        path = folder / DIGITS[label] / f"{number:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((levels * 15.9375).astype(np.uint8)).save(path)


def write_photographs(folder: Path, count: int) -> None:
    for number in range(count):
        path = folder / SOURCES[number % len(sources())] / f"{number:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photograph(number))


def ours(model: str, folder: Path, out: Path) -> Predictions:
    """The command's stages in a fresh folder."""
    tree = {
        "sets": {"it": {"format": "folder", "test": {"path": str(folder)}}},
        "protocols": {"prompts": ["ensemble"], "probe": False},
    }
    run = EvaluationRun.of(Suite.model_validate(tree), out, None)
    candidate = Candidate("it", EmbedSettings(model=model, precision="fp32"))
    with run.lock():
        judged(run, [candidate], Journal(run, "benchmark"))
    table = pq.read_table(out / "results" / "it.it.parquet")
    rows = zip(table["id"].to_pylist(), table["ensemble"].to_pylist(), strict=True)
    return [prediction for _, prediction in sorted(rows)]


class Theirs:
    """open_clip's zero-shot evaluation; the model is loaded by each run, as ours is."""

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint

    @torch.inference_mode()
    def __call__(self, folder: Path) -> Predictions:
        from clip_model import _torchvision  # noqa: F401, I001
        import open_clip
        from torchvision.datasets import ImageFolder

        name = f"local-dir:{self.checkpoint}"
        model, _, preprocess = open_clip.create_model_and_transforms(name)
        model = model.eval()
        data = ImageFolder(str(folder), preprocess)
        # Its processes need torchvision as `_torchvision` has mended it here.
        context = multiprocessing.get_context("fork")
        loader = torch.utils.data.DataLoader(
            data, BATCH, num_workers=usable_cores(), multiprocessing_context=context
        )
        classifier = open_clip.build_zero_shot_classifier(
            model, open_clip.get_tokenizer(name), data.classes, template_set(ENSEMBLE)
        )
        found: Predictions = []
        for images, _ in loader:  # as open_clip_train.zero_shot.run, which keeps no predictions
            logits = 100.0 * model.encode_image(images, normalize=True) @ classifier
            found += logits.argmax(dim=-1).tolist()
        return found


def compared(name: str, folder: Path, model: str, theirs: Theirs, rounds: int) -> dict[str, Any]:
    """Seconds of both sides, and what they differ in."""
    times: dict[str, list[float]] = {"ours": [], "theirs": []}
    found: dict[str, Predictions] = {}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as out:
            works: dict[str, Callable[[], Predictions]] = {
                "ours": lambda out=out: ours(model, folder, Path(out) / "out"),  # type: ignore[misc]
                "theirs": lambda: theirs(folder),
            }
            for side, work in works.items():
                start = time.perf_counter()
                found[side] = work()
                times[side].append(time.perf_counter() - start)
    classes = sorted(path.name for path in folder.iterdir())
    labels = [classes.index(path.parent.name) for path in sorted(folder.glob("*/*"))]
    differ = sum(a != b for a, b in zip(found["ours"], found["theirs"], strict=True))
    right = {side: _right(predictions, labels) for side, predictions in found.items()}
    taken = {side: median(some) for side, some in times.items()}
    return {
        "set": name,
        "pictures": len(labels),
        "differ": differ,
        **{f"{side}_right": right[side] for side in right},
        **{f"{side}_seconds": taken[side] for side in taken},
        "ratio": taken["theirs"] / taken["ours"],
    }


def _right(predictions: Sequence[int], labels: Sequence[int]) -> int:
    return sum(a == b for a, b in zip(predictions, labels, strict=True))


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.evaluate", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "--model",
        help="a known model or a checkpoint that open_clip can have (default: new weights)",
    )
    parser.add_argument("--pictures", type=int, default=2_000, help="photographs (default: 2000)")
    parser.add_argument("--rounds", type=int, default=3, help="of each side; the median counts")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        if options.model is None:
            torch.manual_seed(0)
            options.model = str(root / "new.safetensors")
            clip_model.save(clip_model.CLIP(SMALL), options.model, half=False)
        model, _ = clip_model.load(options.model, "cpu", half=False)
        clip_model.save(model, root / "checkpoint", "open_clip")
        write_digits(root / "digits")
        write_photographs(root / "photographs", options.pictures)
        rows = [
            compared(kind, root / kind, options.model, Theirs(root / "checkpoint"), options.rounds)
            for kind in ("digits", "photographs")
        ]
    write = sys.stdout.write
    write(f"{'':14}{'pictures':>9}{'differ':>8}{'open_clip, s':>14}{'ours, s':>9}{'ratio':>7}\n")
    for row in rows:
        write(f"{row['set']:14}{row['pictures']:9}{row['differ']:8}{row['theirs_seconds']:14.2f}")
        write(f"{row['ours_seconds']:9.2f}{row['ratio']:7.2f}\n")
    write(json.dumps({"cores": usable_cores(), "rows": rows}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
