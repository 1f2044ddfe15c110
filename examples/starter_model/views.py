"""The trunk's features of every picture in several views: all that training needs of pictures.

The trunk stays as it is, so what it sees is computed once: `drawings` in views that vary as
`augment` has it, `photographs` in cuts of them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clip_model.config import STARTER
from clip_model.efficientnet import EfficientNet
from clip_model.preprocess import normalised
from examples.evaluation_sets.contents import EFFICIENTNET
from examples.starter_model.augment import augment
from examples.starter_model.data import load
from examples.starter_model.packages import PHOTOGRAPHS, fetched
from examples.starter_model.teachers import half, load_trunk

logger = logging.getLogger(__name__)

AT_ONCE = 128  # pictures
CUTS = 10  # of a photograph
ENDINGS = (".jpg", ".jpeg", ".png", ".webp")
LEAST_BYTES, LEAST_SIDE = 20_000, 100  # of a photograph: less is a symbol
LONGEST_SIDE = 800


def starter_tower(cache: Path) -> EfficientNet:
    """The image tower with the trunk's weights; its projection is still random."""
    vision = STARTER.vision
    tower = EfficientNet(vision, STARTER.image_resolution, STARTER.embed_dim)  # type: ignore[arg-type]
    load_trunk(tower, fetched(EFFICIENTNET, cache))
    # Convolutions run 1.5 to 4 times as fast on a CPU with the channels last.
    return tower.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def drawing_views(cache: Path, views: int, seed: int, processes: int) -> np.ndarray:
    """Features of each drawing in so many views: float16 [views, N, H]."""
    images, _ = load(cache)
    starts = [(view, row) for view in range(views) for row in range(0, len(images), AT_ONCE)]
    rows = _in_processes(partial(_view, seed), starts, cache, processes)
    return np.concatenate(rows).reshape(views, len(images), -1)


def photograph_views(cache: Path, seed: int, processes: int) -> np.ndarray:
    """Features of cuts of photographs: float16 [N, H]."""
    folders = [fetched(package, cache) for package in PHOTOGRAPHS]
    paths = [path for folder in folders for path in sorted(folder.rglob("*")) if _is_large(path)]
    numbered = list(enumerate(paths))
    return np.concatenate(_in_processes(partial(_cuts, seed), numbered, cache, processes))


def _is_large(path: Path) -> bool:
    is_picture = path.suffix in ENDINGS and path.is_file() and not path.is_symlink()
    return is_picture and path.stat().st_size > LEAST_BYTES


def _in_processes(
    compute: Callable[..., np.ndarray], tasks: Sequence[Any], cache: Path, processes: int
) -> list[np.ndarray]:
    found = list[np.ndarray]()
    with get_context("spawn").Pool(processes, _open, (cache,)) as pool:
        for rows in pool.imap(compute, tasks, chunksize=4):
            found.append(rows)
            if len(found) % 100 == 0:
                logger.info("%d of %d batches went through the trunk", len(found), len(tasks))
    return found


_tower: EfficientNet  # of a process that looks
_images: np.ndarray


def _open(cache: Path) -> None:
    global _tower, _images
    torch.set_num_threads(1)
    _tower, (_images, _) = starter_tower(cache), load(cache)


def _view(seed: int, start: tuple[int, int]) -> np.ndarray:
    row = start[1]
    drawn = np.random.default_rng((seed, *start)).integers(1 << 62)
    generator = torch.Generator().manual_seed(int(drawn))
    stored = torch.from_numpy(_images[row : row + AT_ONCE].copy())  # NSS4
    return _features(augment(stored, STARTER.image_resolution, generator))


def _cuts(seed: int, numbered: tuple[int, Path]) -> np.ndarray:
    number, path = numbered
    rng, side = np.random.default_rng((seed, number)), STARTER.image_resolution
    with Image.open(path) as opened:
        opened.draft("RGB", (LONGEST_SIDE, LONGEST_SIDE))
        image = opened.convert("RGB")
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    if min(image.size) < LEAST_SIDE:
        return np.empty((0, _tower.hidden_dim), np.float16)
    cuts = []
    for _ in range(CUTS):
        cut = min(image.size) * rng.uniform(0.35, 1)
        left, top = (rng.uniform(0, length - cut) for length in image.size)
        box = (left, top, left + cut, top + cut)
        cuts.append(np.asarray(image.resize((side, side), Image.Resampling.BICUBIC, box)))
    levels = torch.from_numpy(np.stack(cuts)).permute(0, 3, 1, 2)  # N3RR
    return _features(normalised(levels, STARTER.mean, STARTER.std))


@torch.inference_mode()
def _features(images: Tensor) -> np.ndarray:
    images = images.contiguous(memory_format=torch.channels_last)
    with half():
        return _tower.hidden(images).half().numpy()
