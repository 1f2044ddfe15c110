"""Training beside open_clip's own loop: pairs a second, share of the ceiling, memory.

``python -m benchmarks.train`` prints a table and, as its last line, the same as JSON. Both train
ViT-B/32 from new weights on the same photographs of about 500 x 400 with captions of 6 to 20
tokens, in the same precision, with AdamW and random crops: open_clip 3.3.0 by its `train_one_epoch`
behind its own loader of image files, this project by the loop of `pipelines.training` on Parquet.
Each run has a process of its own; they take turns, and the median step behind the first counts. The
ceiling is forward pass, loss, backward pass and optimizer alone, on batches that are there already.

Peak memory is what a process and those that it starts write to and nobody else has (what they have
in common counts once, files that are mapped do not), on 10,000 and on 100,000 pairs of small
pictures, for a few steps of small batches. ``--rounds 0`` measures nothing else.

On a GPU it is B/32, B/16 and L/14 in bfloat16, compiled on both sides, with the share of the GPU's
peak (MFU) and without the peaks of memory. open_clip is left out where it is not installed, and
neither Ray nor Beam needs to be.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import islice, pairwise
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from benchmarks.clip_model import plain_captions
from benchmarks.memory import anonymous_bytes, fresh_process
from benchmarks.photographs import photographs
from clip_model import ARCHITECTURES
from clip_model.flops import peak_flops, step_flops
from clip_model.model import trim
from clip_model.preprocess import normalised
from pipelines.training.accumulation import backward
from pipelines.training.data import Stream
from pipelines.training.index import Index
from pipelines.training.loop import train
from pipelines.training.metrics import Log
from pipelines.training.parallel import Workers
from pipelines.training.settings import TrainSettings
from pipelines.training.state import TrainingState
from workers.base.cores import usable_cores
from workers.base.hardware import computes_bfloat16, fastest_device
from workers.base.storage import ROW_GROUP_ROWS

CPU_MODEL = "ViT-B/32"
GPU_MODELS = {"ViT-B/32": 1024, "ViT-B/16": 512, "ViT-L/14": 192}  # batch
SHARDS = 4
TABLE = "table.tsv"
#: Photographs that there are; of more rows they come again.
PHOTOGRAPHS = 2_000
MEMORY_ROWS = (10_000, 100_000)
#: Pictures there, and their side; a step's batch, and steps. The model is most of the memory.
MEMORY_PICTURES, MEMORY_SIDE, MEMORY_BATCH, MEMORY_STEPS = 64, 64, 16, 6
#: Seconds between two looks at the memory.
LOOK = 0.05


@dataclass(frozen=True)
class Task:
    """What both sides do."""

    folder: str  # of Parquet shards, and of the same rows as files
    architecture: str
    batch_size: int
    steps: int
    precision: str
    threads: int

    @property
    def shards(self) -> list[Path]:
        return sorted(Path(self.folder).glob("*.parquet"))

    @property
    def settings(self) -> TrainSettings:
        tree = {
            "architecture": self.architecture,
            "epochs": 1,
            "batch_size": self.batch_size,
            "held_out": 0.0,
            "precision": self.precision,
            "cpus": self.threads,
            "compile": torch.cuda.is_available(),
            "optimizer": {"warmup_steps": 100},
            "checkpoints": {"every_minutes": 1e6},
        }
        return TrainSettings.model_validate(tree)


def write_data(folder: Path, rows: int, jpgs: Sequence[bytes]) -> None:
    """The rows as Parquet, and the same as image files with a table."""
    folder.mkdir()
    captions = plain_captions(rows)
    for number, jpg in enumerate(jpgs[:rows]):
        (folder / f"{number}.jpg").write_bytes(jpg)
    lines = [f"{folder}/{n % len(jpgs)}.jpg\t{caption}" for n, caption in enumerate(captions)]
    (folder / TABLE).write_text("\n".join(["filepath\ttitle", *lines]) + "\n")
    for shard in range(SHARDS):
        numbers = range(shard, rows, SHARDS)
        columns = {
            "pair_id": [f"{number:09d}" for number in numbers],
            "jpg": [jpgs[number % len(jpgs)] for number in numbers],
            "caption": [captions[number] for number in numbers],
        }
        path = folder / f"{shard:05d}.parquet"
        pq.write_table(pa.table(columns), path, row_group_size=ROW_GROUP_ROWS, compression="none")


class _EnoughError(Exception):
    """As many steps as are measured are done."""


def theirs(task: Task) -> list[float]:
    """When each step of open_clip's loop began, and the last ended."""
    from clip_model import _torchvision  # noqa: F401, I001
    import open_clip
    from open_clip_train.data import get_csv_dataset
    from open_clip_train.train import train_one_epoch

    from benchmarks.baselines import open_clip_model

    # Its loader's processes need torchvision as `_torchvision` has mended it here.
    multiprocessing.set_start_method("fork", force=True)
    torch.set_num_threads(task.threads)
    config, device = ARCHITECTURES[task.architecture], fastest_device()
    model: Any = open_clip_model(config).train().to(device)
    model.output_dict = True
    if device.type == "cuda":
        model = torch.compile(model)
    args = SimpleNamespace(
        **{"train_data": f"{task.folder}/{TABLE}", "csv_separator": "\t", "rank": 0},
        **{"csv_img_key": "filepath", "csv_caption_key": "title", "distributed": False},
        **{"batch_size": task.batch_size, "workers": task.threads, "device": str(device)},
        **{"precision": {"fp32": "fp32", "bf16": "amp_bf16"}[task.precision], "world_size": 1},
        **{"accum_freq": 1, "skip_scheduler": False, "grad_clip_norm": None, "distill": False},
        **{"horovod": False, "wandb": False, "local_rank": 0, "log_local": False},
        **{"log_every_n_steps": 1},
    )
    preprocess = open_clip.image_transform(config.image_resolution, is_train=True)
    data = get_csv_dataset(args, preprocess, True, tokenizer=open_clip.SimpleTokenizer())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, betas=(0.9, 0.98), eps=1e-6)
    stamps = list[float]()

    def stamp(_step: int) -> None:
        stamps.append(time.perf_counter())
        if len(stamps) > task.steps + 1:
            raise _EnoughError

    with suppress(_EnoughError):
        train_one_epoch(
            **{"model": model, "data": {"train": data}, "loss": open_clip.ClipLoss(), "epoch": 0},
            **{"optimizer": optimizer, "scaler": None, "dist_model": None, "args": args},
            scheduler=stamp,
        )
    return stamps


def ours(task: Task) -> list[float]:
    """When each step of this project's loop ended."""
    stamps = list[float]()

    class Stamps(Log):
        def step(self, step: int, loss: float, values: Mapping[str, float]) -> None:
            super().step(step, loss, values)
            stamps.append(time.perf_counter())
            if len(stamps) > task.steps:
                raise _EnoughError

    with (
        tempfile.TemporaryDirectory() as folder,
        patch("pipelines.training.loop.Log", Stamps),
        suppress(_EnoughError),
    ):
        train(task.shards, task.settings, 0, Path(folder), Workers(fastest_device()))
    return stamps


def ceiling(task: Task) -> list[float]:
    """When each step ended of the same computation on batches that are there."""
    settings, device = task.settings, fastest_device()
    torch.set_num_threads(task.threads)
    workers = Workers(device)
    state = TrainingState(settings, 0, task.precision, workers)
    with tempfile.TemporaryDirectory() as folder:
        data = settings.of_data(0)
        index = Index.of(task.shards, Path(folder), data)
        config = state.model.config
        resolution, length = config.image_resolution, config.text.context_length
        stream = Stream(index, data, preprocessing=resolution, context_length=length)
        some = islice(stream.batches(), min(4, task.steps))
        batches = [(batch.images.to(device), trim(batch.tokens).to(device)) for batch in some]
    parts = workers.parts((task.batch_size,))
    stamps = list[float]()
    for step in range(task.steps + 1):
        images, tokens = batches[step % len(batches)]
        backward(state.compute, [normalised(images), tokens], parts)
        state.take_step(task.steps + 1)
        stamps.append(time.perf_counter())
    return stamps


def seconds_a_step(stamps: Sequence[float]) -> float:
    """Median of the steps behind the first, in which memory is had and kernels are made."""
    return median(after - before for before, after in pairwise(stamps[1:]))


@contextmanager
def watched_memory() -> Iterator[Callable[[], int]]:
    """The most memory that the processes which this one has started had at a time, in bytes."""
    peak, stop = 0, threading.Event()

    def look() -> None:
        nonlocal peak
        while not stop.wait(LOOK):
            started = psutil.Process().children(recursive=True)
            peak = max(peak, sum(anonymous_bytes(process.pid) for process in started))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield lambda: peak
    finally:
        stop.set()
        thread.join()


def measured(side: Callable[[Task], list[float]], task: Task) -> tuple[float, int]:
    """Pairs a second of one side in a process of its own, and its peak memory."""
    with watched_memory() as peak, fresh_process() as process:
        stamps = process.submit(side, task).result()
        return task.batch_size / seconds_a_step(stamps), peak()


def speeds(task: Task, rounds: int) -> dict[str, Any]:
    """Pairs a second of both and of the ceiling; they take turns."""
    found: dict[str, list[float]] = {"open_clip": [], "ours": [], "ceiling": []}
    for _ in range(rounds):
        for (name, rates), side in zip(found.items(), (theirs, ours, ceiling), strict=True):
            rates.append(measured(side, task)[0])
            sys.stderr.write(f"{task.precision} {name}: {rates[-1]:.2f} pairs/s\n")
    rate = {name: median(rates) for name, rates in found.items()}
    ratio, share = rate["ours"] / rate["open_clip"], rate["ours"] / rate["ceiling"]
    return {"precision": task.precision, **rate, "ratio": ratio, "of_ceiling": share}


def memory(folder: Path, task: Task) -> list[dict[str, Any]]:
    """Peaks of both by the number of pairs."""
    rows = []
    jpgs = small_pictures()
    for count in MEMORY_ROWS:
        place = folder / str(count)
        write_data(place, count, jpgs)
        some = replace(task, folder=str(place), steps=MEMORY_STEPS, batch_size=MEMORY_BATCH)
        row = {"pairs": count, **{name: measured(side, some)[1] for name, side in SIDES.items()}}
        sys.stderr.write(f"{row}\n")
        rows.append(row)
    return rows


def small_pictures() -> list[bytes]:
    """JPEGs of one colour and some noise each, of about 2 kB."""
    rng = np.random.default_rng(0)
    found = []
    for colour in rng.integers(40, 216, (MEMORY_PICTURES, 1, 1, 3)):
        noise = rng.integers(-40, 40, (MEMORY_SIDE, MEMORY_SIDE, 3))
        file = io.BytesIO()
        Image.fromarray((colour + noise).astype(np.uint8)).save(file, "JPEG")
        found.append(file.getvalue())
    return found


SIDES: dict[str, Callable[[Task], list[float]]] = {"open_clip": theirs, "ours": ours}


def gpu_row(task: Task) -> dict[str, Any]:
    """Pairs a second and MFU of one model, by the loops and without data."""
    sides = {"ours": ours, "ceiling": ceiling}
    if find_spec("open_clip_train"):
        sides["open_clip"] = theirs
    rates = {}
    for name, side in sides.items():
        rates[name] = measured(side, task)[0]
        sys.stderr.write(f"{task.architecture} {name}: {rates[name]:.0f} pairs/s\n")
    config = ARCHITECTURES[task.architecture]
    flops = step_flops(config, task.batch_size, 32).model / task.batch_size
    peak = peak_flops(torch.cuda.get_device_name())
    mfu = rates["ours"] * flops / peak if peak else None
    return {"model": task.architecture, "batch": task.batch_size, **rates, "mfu": mfu}


def show_cpu(rows: list[dict[str, Any]], peaks: list[dict[str, Any]]) -> None:
    write = sys.stdout.write
    if rows:
        write(f"{CPU_MODEL}, {usable_cores()} cores, pairs a second\n")
        write(f"{'':8}{'open_clip':>11}{'ours':>9}{'ratio':>7}{'ceiling':>9}{'of it':>8}\n")
    for row in rows:
        write(f"{row['precision']:8}{row['open_clip']:11.2f}{row['ours']:9.2f}{row['ratio']:7.2f}")
        write(f"{row['ceiling']:9.2f}{row['of_ceiling']:8.1%}\n")
    if peaks:
        write(f"{'peak memory, MiB':24}{'open_clip':>11}{'ours':>9}\n")
    for row in peaks:
        write(f"{row['pairs']:>10,} {'pairs':13}")
        write(f"{row['open_clip'] / 2**20:11,.0f}{row['ours'] / 2**20:9,.0f}\n")
    write(json.dumps({"device": "cpu", "rows": rows, "peak_bytes": peaks}) + "\n")


def show_gpu(rows: list[dict[str, Any]]) -> None:
    write, device = sys.stdout.write, torch.cuda.get_device_name()
    write(f"{device}, {usable_cores()} cores, pairs a second\n")
    write(f"{'':12}{'batch':>7}{'open_clip':>11}{'ours':>9}{'no data':>9}{'MFU':>8}\n")
    for row in rows:
        other = f"{row['open_clip']:11.0f}" if "open_clip" in row else f"{'-':>11}"
        mfu = f"{'-':>8}" if row["mfu"] is None else f"{row['mfu']:8.1%}"
        write(f"{row['model']:12}{row['batch']:7}{other}{row['ours']:9.0f}{row['ceiling']:9.0f}")
        write(f"{mfu}\n")
    write(json.dumps({"device": device, "rows": rows}) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.train", description=__doc__.splitlines()[0]
    )
    add = parser.add_argument
    add("--rounds", type=int, default=3, help="turns of each side (default: 3)")
    add("--steps", type=int, default=6, help="steps that are measured (default: 6; GPU: 10 times)")
    add("--batch-size", type=int, default=64, help="on a CPU (default: 64)")
    add("--models", default=",".join(GPU_MODELS), help="on a GPU (default: %(default)s)")
    add("--no-memory", action="store_true", help="leave out the peaks of memory")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="train-") as name:
        folder = Path(name)
        on_gpu = torch.cuda.is_available()
        gpu_models = {name: GPU_MODELS[name] for name in options.models.split(",")}
        largest = max(gpu_models.values()) if on_gpu else options.batch_size
        steps = 10 * options.steps if on_gpu else options.steps
        if options.rounds or on_gpu:
            jpgs = list(photographs(PHOTOGRAPHS))
            write_data(folder / "data", largest * (steps + 3), jpgs)
        task = Task(str(folder / "data"), CPU_MODEL, largest, steps, "fp32", usable_cores())
        if on_gpu:
            task = replace(task, precision="bf16")
            show_gpu(
                [
                    gpu_row(replace(task, architecture=model, batch_size=batch))
                    for model, batch in gpu_models.items()
                ]
            )
            return 0
        kinds = ["fp32", "bf16"] if computes_bfloat16(torch.device("cpu")) else ["fp32"]
        kinds = kinds if options.rounds else []
        rows = [speeds(replace(task, precision=kind), options.rounds) for kind in kinds]
        show_cpu(rows, [] if options.no_memory else memory(folder, task))
    return 0


if __name__ == "__main__":
    sys.exit(main())
