"""What the perceptual hash costs beside decoding, and beside the recipe that people use.

``python -m benchmarks.image_hash`` takes photographs through each on one thread: decoding, our
hash of what was decoded, and ImageHash's recipe on the same levels (Pillow's Lanczos to 32 x 32
grey, SciPy's cosine transform, NumPy's median). They take turns; medians over the rounds. The
last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy.fft import dct

from benchmarks.photographs import photographs
from clip_model.preprocess import image_bytes_transform
from workers.base.arrays import Bools, UInt8s
from workers.embedding.image_hash import image_hash

Levels = UInt8s


def imagehash_recipe(levels: Levels) -> Bools:
    """pHash as the package ImageHash has it: [H, W, 3] -> [8, 8]."""
    grey = Image.fromarray(levels).convert("L").resize((32, 32), Image.Resampling.LANCZOS)
    low = dct(dct(np.asarray(grey, np.float64), axis=0), axis=1)[:8, :8]
    bits: Bools = low > np.median(low)
    return bits


def seconds(work: Callable[[Any], object], items: Sequence[Any]) -> float:
    """For one item."""
    start = time.perf_counter()
    for item in items:
        work(item)
    return (time.perf_counter() - start) / len(items)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.image_hash", description=__doc__)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--resolution", type=int, default=224, help="pixels (default: 224)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    files = list(photographs(arguments.images))
    decode = image_bytes_transform(arguments.resolution)
    levels = [decode(image).numpy() for image in files]
    images = [np.ascontiguousarray(one.transpose(1, 2, 0)) for one in levels]
    works: dict[str, tuple[Callable[[Any], object], Sequence[Any]]] = {
        "decode": (decode, files),
        "hash": (image_hash, levels),
        "ImageHash's recipe": (imagehash_recipe, images),
    }
    image_hash(levels[0])  # compiled or loaded
    rounds = [
        {name: seconds(*work) for name, work in works.items()} for _ in range(arguments.rounds)
    ]
    times = {name: median(one[name] for one in rounds) * 1e6 for name in works}
    for name, micros in times.items():
        sys.stdout.write(f"{name:20} {micros:8.1f} us an image {micros / times['decode']:8.1%}\n")
    shares = {name: micros / times["decode"] for name, micros in times.items()}
    sys.stdout.write(json.dumps({"us": times, "share_of_decoding": shares}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
