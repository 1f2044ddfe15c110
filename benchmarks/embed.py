"""Embedding shards beside clip-retrieval's worker, and beside what the machine can give at most.

``python -m benchmarks.embed`` prints a table and, as its last line, the same as JSON. Images
are real photographs of about 500 x 400 (`benchmarks.photographs`), captions 6 to 20 tokens long,
the model has ViT-B/32's size and random weights: speed does not depend on them. Both sides of a
row take turns and the medians count.

The other side is the loop of clip-retrieval's inference worker, written down again here: a
webdataset reader, Pillow and torchvision in a DataLoader's processes, open_clip in float32 on
captions padded to 77 tokens. On a GPU only this project is measured, with the decoding and
without, and neither Ray nor Beam needs to be installed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import repeat
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.clip_model import plain_captions
from benchmarks.memory import fresh_process, peak_bytes
from benchmarks.photographs import photographs
from clip_model import ARCHITECTURES, CLIP, save
from clip_model.flops import image_flops
from workers.base.cores import usable_cores
from workers.base.hardware import computes_bfloat16, fastest_device
from workers.base.storage import ROW_GROUP_ROWS
from workers.base.tally import Tally
from workers.embedding.embedder import Embedder
from workers.embedding.overlap import overlap
from workers.embedding.settings import EmbedSettings, InputSettings
from workers.embedding.shard_reader import read_shard

CPU_MODEL, GPU_MODELS = "ViT-B/32", ("ViT-B/32", "ViT-L/14")
BOTH, IMAGES = InputSettings(), InputSettings(parts="images")
GPU_BATCHES = 20  # of the row without decoding
PRODUCT_SIZE = 2_048  # of the matrices whose product is the most that a CPU gives in float32
MEMORY_IMAGES = 1_000  # of a shard whose peak memory is measured, once, twice and four times

Work = Callable[[], object]


def seconds(works: dict[str, Work], rounds: int) -> dict[str, float]:
    """Median seconds of each work; they take turns."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            times[name].append(time.perf_counter() - start)
    return {name: median(some) for name, some in times.items()}


def write_shard(folder: Path, name: str, jpgs: Sequence[bytes]) -> Path:
    """img2dataset's columns, as Parquet."""
    keys = [f"{number:09d}" for number in range(len(jpgs))]
    columns = {"key": keys, "jpg": jpgs, "caption": plain_captions(len(jpgs))}
    path = folder / f"{name}.parquet"
    pq.write_table(pa.table(columns), path, row_group_size=ROW_GROUP_ROWS, compression="none")
    return path


def random_model(folder: Path, name: str) -> str:
    path = folder / f"{name.replace('/', '-')}.safetensors"
    if not path.exists():
        torch.manual_seed(0)
        save(CLIP(ARCHITECTURES[name]), path)
    return str(path)


def consume(items: Iterator[object]) -> None:
    for _ in items:
        pass


def our_works(embedder: Embedder, many: Path, few: Path, out: Path) -> dict[str, Work]:
    """Decoding alone, the towers alone, and all of it from file to file."""
    pairs = list(embedder.decoded(read_shard(few, BOTH), Tally()))

    def forward(source: InputSettings) -> None:
        consume(embedder.tables(embedder.encoded(iter(pairs)), embedder.schema(source), Tally()))

    return {
        "decode": lambda: consume(embedder.decoded(read_shard(many, BOTH), Tally())),
        "forward images": lambda: forward(IMAGES),
        "forward": lambda: forward(BOTH),
        "images": lambda: embedder.embed_shard(few, out, IMAGES),
        "all": lambda: embedder.embed_shard(few, out, BOTH),
    }


def cpu_rows(folder: Path, many: Path, few: Path, rounds: int) -> list[dict[str, Any]]:
    """Images a second of both sides, and the ceilings of ours."""
    from benchmarks.clip_retrieval import ClipRetrieval

    counts = {path: pq.read_metadata(path).num_rows for path in (many, few)}
    embedder = Embedder(EmbedSettings(model=random_model(folder, CPU_MODEL)))
    theirs = ClipRetrieval(ARCHITECTURES[CPU_MODEL], many, few, folder).works()
    ours = our_works(embedder, many, few, folder / "out.parquet")
    # All take turns, not the two sides of a row alone: the share of the ceiling compares rows.
    sides = {f"theirs {name}": theirs[name] for name in ours}
    taken = seconds(sides | {f"ours {name}": work for name, work in ours.items()}, rounds)
    rows = []
    for name in ours:
        images = counts[many if name == "decode" else few]
        rates = {side: images / taken[f"{side} {name}"] for side in ("theirs", "ours")}
        rows.append(
            {"name": name, "images": images, **rates, "ratio": rates["ours"] / rates["theirs"]}
        )
    return rows


def share_of_ceiling(rows: Sequence[dict[str, Any]], forward: str, end_to_end: str) -> float:
    """Of 1 / (1 / decode + 1 / forward), for both share the cores of a CPU."""
    rate = {row["name"]: row["ours"] for row in rows}
    return rate[end_to_end] * (1 / rate["decode"] + 1 / rate[forward])


def as_one_product(rounds: int) -> float:
    """Images a second, were the image tower nothing but one large product in float32."""
    left, right = (torch.randn(PRODUCT_SIZE, PRODUCT_SIZE) for _ in range(2))
    taken = seconds({"product": lambda: left @ right}, 5 * rounds)["product"]
    return 2 * PRODUCT_SIZE**3 / taken / image_flops(ARCHITECTURES[CPU_MODEL])


def peak_of_embedding(shards: Sequence[Path], out: Path) -> int:
    """Peak memory of a process of its own that embeds shards with the starter model."""
    with fresh_process() as process:
        return process.submit(_embed_and_weigh, shards, out).result()


def _embed_and_weigh(shards: Sequence[Path], out: Path) -> int:
    embedder = Embedder(EmbedSettings())
    for shard in shards:
        embedder.embed_shard(shard, out)
    return peak_bytes()


def memory(shard: Path, out: Path) -> dict[str, int]:
    """By the number of shards."""
    return {str(number): peak_of_embedding([shard] * number, out) for number in (1, 2, 4)}


def gpu_row(folder: Path, shard: Path, name: str, rounds: int) -> dict[str, Any]:
    """Images a second of one model: decoding excluded, alone, and included."""
    embedder = Embedder(EmbedSettings(model=random_model(folder, name)))
    count = pq.read_metadata(shard).num_rows
    out = folder / "out.parquet"
    embedder.embed_shard(shard, out, IMAGES)  # compiles
    encoder = embedder.encoder
    levels = encoder.new_batch()
    levels.random_(0, 256)

    def forward() -> None:
        batches = repeat(levels, GPU_BATCHES)
        consume(overlap(((None, encoder.encode_images(b, len(b))) for b in batches), encoder.depth))

    taken = seconds(
        {
            "forward": forward,
            "decode": lambda: consume(embedder.decoded(read_shard(shard, IMAGES), Tally())),
            "all": lambda: embedder.embed_shard(shard, out, IMAGES),
        },
        rounds,
    )
    rates = {part: count / value for part, value in taken.items()}
    rates["forward"] = GPU_BATCHES * encoder.batch_size / taken["forward"]
    share = rates["all"] / min(rates["forward"], rates["decode"])
    return {"model": name, "batch": encoder.batch_size, **rates, "of_ceiling": share}


def show_cpu(rows: list[dict[str, Any]], product: float, memory_peaks: dict[str, int]) -> None:
    write = sys.stdout.write
    kind = "bf16" if computes_bfloat16(torch.device("cpu")) else "fp32"
    write(f"{CPU_MODEL}, {usable_cores()} cores, ours in {kind}, images a second\n")
    write(f"{'':20}{'images':>9}{'clip-retrieval':>16}{'ours':>9}{'ratio':>7}\n")
    for row in rows:
        write(f"{row['name']:20}{row['images']:9}{row['theirs']:16.1f}")
        write(f"{row['ours']:9.1f}{row['ratio']:7.2f}\n")
    shares = {
        "images": share_of_ceiling(rows, "forward images", "images"),
        "all": share_of_ceiling(rows, "forward", "all"),
    }
    for name, share in shares.items():
        write(f"{name}: {share:.1%} of 1 / (1 / decode + 1 / forward)\n")
    write(f"the image tower as one float32 product: {product:.1f} images a second\n")
    for number, peak in memory_peaks.items():
        write(f"peak memory, {number} shards: {peak / 2**20:.0f} MiB\n")
    result = {"device": "cpu", "precision": kind, "rows": rows, "of_ceiling": shares}
    write(json.dumps({**result, "as_one_product": product, "peak_bytes": memory_peaks}) + "\n")


def show_gpu(rows: list[dict[str, Any]]) -> None:
    write = sys.stdout.write
    device = torch.cuda.get_device_name()
    write(f"{device}, {usable_cores()} cores, images a second\n")
    write(f"{'':12}{'batch':>7}{'no decoding':>13}{'decoding':>10}{'all':>9}{'of the lower':>14}\n")
    for row in rows:
        write(f"{row['model']:12}{row['batch']:7}{row['forward']:13.0f}{row['decode']:10.0f}")
        write(f"{row['all']:9.0f}{row['of_ceiling']:14.1%}\n")
    write(json.dumps({"device": device, "rows": rows}) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.embed", description=__doc__.splitlines()[0]
    )
    add = parser.add_argument
    add("--images", type=int, default=10_000, help="images, all of which are decoded")
    add(
        "--through-model",
        type=int,
        help="of them, on a CPU (default: 2000, or 64 without bfloat16)",
    )
    add("--rounds", type=int, default=3, help="of each side; the median counts")
    options = parser.parse_args()
    on_gpu = torch.cuda.is_available()
    is_fast = computes_bfloat16(fastest_device())
    through_model = min(options.images, options.through_model or (2_000 if is_fast else 64))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        jpgs = list(photographs(options.images))
        many = write_shard(folder, "many", jpgs)
        if on_gpu:
            show_gpu([gpu_row(folder, many, model, options.rounds) for model in GPU_MODELS])
        else:
            few = write_shard(folder, "few", jpgs[:through_model])
            rows = cpu_rows(folder, many, few, options.rounds)
            shard = write_shard(folder, "memory", jpgs[:MEMORY_IMAGES])
            product = as_one_product(options.rounds)
            show_cpu(rows, product, memory(shard, folder / "out.parquet"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
