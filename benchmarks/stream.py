"""What the stream of a training's batches costs beside the sum of its parts.

``python -m benchmarks.stream`` writes shards of images (72 x 72, as the sample has them, or
photographs of about 500 x 400), makes their index, and takes an epoch through the stream. Its parts
are taken alone: reading, decoding and cutting, tokenizing. All is CPU time, on one thread, in
rounds that take turns: other work on the machine disturbs it little. The last line is JSON.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from statistics import median

import pyarrow as pa
import torch
from PIL import Image
from torch import Tensor

from benchmarks.photographs import photographs
from clip_model import tokenize
from clip_model.preprocess import random_crop_bytes_transform
from pipelines.training.data import DECODED_AT_ONCE, Stream
from pipelines.training.index import Index
from pipelines.training.lanes import Files, Row
from pipelines.training.order import DataSettings, Order
from workers.base.pair_ids import make_pair_id
from workers.base.storage import write_table
from workers.embedding.overlap import in_chunks

CONTEXT = 77
WORDS = "a photo of the old stone bridge over river in heron standing at dawn Größe".split()  # noqa: SIM905


def small(jpeg: bytes) -> bytes:
    """A photograph of the size that the sample's images have."""
    file = io.BytesIO()
    Image.open(io.BytesIO(jpeg)).resize((72, 72)).save(file, "JPEG", quality=95)
    return file.getvalue()


def write_shards(folder: Path, images: Sequence[bytes], rows: int) -> list[Path]:
    """Shards of 2,048 rows; the images come again and again, each row with its own caption."""
    paths = []
    for begin in range(0, rows, 2048):
        numbers = range(begin, min(begin + 2048, rows))
        captions = [f"{' '.join(WORDS[n % 5 : 5 + n % 9])} {n}" for n in numbers]
        columns = {
            "pair_id": [make_pair_id("http://a/", caption) for caption in captions],
            "jpg": [images[n % len(images)] for n in numbers],
            "caption": captions,
        }
        paths.append(folder / f"{begin:09}.parquet")
        write_table(pa.table(columns), paths[-1])
    return paths


def cpu_seconds(work: Callable[[], object], rows: int) -> float:
    """For one of so many rows, unless the work says how many they were."""
    start = time.process_time()
    done = work()
    return (time.process_time() - start) / (done if isinstance(done, int) else rows)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stream", description=__doc__)
    parser.add_argument("--images", choices=("sample", "photographs"), default="sample")
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--resolution", type=int, default=224, help="pixels (default: 224)")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    images = list(photographs(256))
    if arguments.images == "sample":
        images = list(map(small, images))
    with tempfile.TemporaryDirectory() as name:
        report = measure(Path(name), images, arguments)
    print(json.dumps(report))  # noqa: T201
    return 0


def measure(
    folder: Path, images: Sequence[bytes], arguments: argparse.Namespace
) -> dict[str, float]:
    """Microseconds of CPU a row, and rows a second and core."""
    settings = DataSettings(arguments.batch_size, shuffle_rows=arguments.rows // 4)
    shards = write_shards(folder, images, arguments.rows)
    begun = time.process_time()
    index = Index.of(shards, folder / "index", settings, threads=1)
    indexing = time.process_time() - begun
    order, files = Order(index, settings), Files(index)
    pixels = arguments.resolution
    crop = random_crop_bytes_transform(pixels)
    size, count = arguments.batch_size, order.steps_per_epoch * arguments.batch_size

    def read() -> list[Row]:
        return [row for s in order.segments(0, 0, count) for row in files.rows(s)]

    rows = read()

    def decode() -> None:
        for begin in range(0, count, size):
            room = torch.empty(size, 3, pixels, pixels, dtype=torch.uint8)
            for number, row in enumerate(rows[begin : begin + size]):
                room[number] = crop(row.image, 0.5)

    def tokens() -> None:
        for some in in_chunks([row.captions[0] for row in rows], DECODED_AT_ONCE):
            tokenize(some, CONTEXT, truncate=True)

    def take() -> int:
        """An epoch, and what the stream has decoded ahead by then: the number of rows."""
        decoded = 0

        def counting(image: bytes, place: float) -> Tensor:
            nonlocal decoded
            decoded += 1
            return crop(image, place)

        stream = Stream(index, settings, preprocessing=pixels, context_length=CONTEXT, threads=1)
        stream.crop = counting
        with closing(stream.batches(0)) as batches:
            for _ in itertools.islice(batches, order.steps_per_epoch):
                pass
        return decoded

    parts = {"read": read, "decode": decode, "tokenize": tokens, "stream": take}
    rounds = [
        {part: cpu_seconds(work, count) * 1e6 for part, work in parts.items()}
        for _ in range(arguments.rounds)
    ]
    figures = {part: median(found[part] for found in rounds) for part in parts}
    shares = [sum(f[part] for part in parts if part != "stream") / f["stream"] for f in rounds]
    return {
        **{f"{part} us a row": round(figure, 1) for part, figure in figures.items()},
        "index us a row": round(indexing / arguments.rows * 1e6, 1),
        "rows a second and core": round(1e6 / figures["stream"]),
        "share of its parts": round(median(shares), 3),
    }


if __name__ == "__main__":
    sys.exit(main())
