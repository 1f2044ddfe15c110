"""Real-size JPEGs for benchmarks: crops of the photographs that scikit-image and scikit-learn ship.

Each is another crop, size, mirror image, colour balance and quality, all functions of its number:
no two are equal, and every run measures the same files.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
from PIL import Image, ImageOps

WIDTHS, HEIGHTS = (450, 551), (360, 441)  # about 500 x 400


@cache
def sources() -> list[Image.Image]:
    """The photographs, RGB."""
    from skimage import data
    from sklearn.datasets import load_sample_images

    levels = [
        *load_sample_images().images,
        *(data.astronaut(), data.coffee(), data.rocket(), data.chelsea()),
        *data.stereo_motorcycle()[:2],
    ]
    return [Image.fromarray(image).convert("RGB") for image in levels]


def photograph(number: int) -> bytes:
    """The JPEG of a number."""
    rng = np.random.default_rng(number)
    image = sources()[number % len(sources())]
    size = int(rng.integers(*WIDTHS)), int(rng.integers(*HEIGHTS))
    share = rng.uniform(0.6, 1.0)
    scale = share * min(image.width / size[0], image.height / size[1])
    width, height = size[0] * scale, size[1] * scale
    left = rng.uniform(0, image.width - width)
    top = rng.uniform(0, image.height - height)
    box = (left, top, left + width, top + height)
    crop = image.resize(size, Image.Resampling.BICUBIC, box=box)
    if rng.random() < 0.5:
        crop = ImageOps.mirror(crop)
    gains = rng.uniform(0.8, 1.2, 3)
    crop = crop.point([min(255, round(level * gain)) for gain in gains for level in range(256)])
    file = io.BytesIO()
    crop.save(file, "JPEG", quality=int(rng.integers(85, 96)))
    return file.getvalue()


def photographs(count: int) -> Iterator[bytes]:
    """The first ``count`` of them, made by all cores."""
    sources()  # by one thread
    with ThreadPoolExecutor() as threads:
        yield from threads.map(photograph, range(count))
