"""Labelled images for the example programs: CIFAR-100, or any folder of CLASS/image files."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

import clip_model as clip
from clip_model.image_files import decode_image
from clip_model.preprocess import Preprocess
from clip_model.probe import hash_order, image_features

ENDINGS = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp"}
HELD_OUT = 0.25  # share of a folder's images that is the test part


class Folder:
    """Part of a folder with a folder a class: `folder[i]` is a PIL image and its class number.

    A hash of an image's name says whether it is held out, so both parts stay what they are
    wherever the folder lies. Of every class with two images or more, each part has at least one.

    Raises:
        FileNotFoundError: no folder below has an image in it.
    """

    def __init__(self, root: str | Path, *, train: bool) -> None:
        by_class = {
            folder.name: sorted(f for f in folder.iterdir() if f.suffix.lower() in ENDINGS)
            for folder in sorted(Path(root).iterdir())
            if folder.is_dir()
        }
        if not any(by_class.values()):
            raise FileNotFoundError(f"{root} has no images in folders named after their classes")
        self.classes = [name for name, files in by_class.items() if files]
        self._files = [
            (path, label)
            for label, name in enumerate(self.classes)
            for path in _part(by_class[name], train)
        ]

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        path, label = self._files[index]
        return open_image(path), label


def open_image(path: Path) -> Image.Image:
    """A whole image.

    Raises:
        BadImageError: there is none, or it is cut short, broken or too large.
    """
    try:
        return decode_image(path.read_bytes())
    except (clip.ImageError, OSError) as error:
        raise BadImageError(f"{path} cannot be used: {error}") from error


class BadImageError(Exception):
    """An image that cannot be read; the text says which, and why."""


@contextmanager
def in_one_line(parser: argparse.ArgumentParser) -> Iterator[None]:
    """An image or folder that cannot be used ends the program with a line, and exit status 2."""
    try:
        yield
    except (BadImageError, OSError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")


def _part(files: Sequence[Path], train: bool) -> list[Path]:
    order = hash_order([f"{path.parent.name}/{path.name}" for path in files], seed=0)
    held_out = max(1, round(len(files) * HELD_OUT)) if len(files) > 1 else 0
    return [files[row] for row in sorted(order[held_out:] if train else order[:held_out])]


def open_data(folder: Path | None, *, train: bool) -> Any:
    """The folder's part, or CIFAR-100's, which is downloaded into the user's cache."""
    if folder is not None:
        return Folder(folder, train=train)
    import clip_model._torchvision  # noqa: F401, I001
    from torchvision.datasets import CIFAR100

    return CIFAR100(str(Path.home() / ".cache"), download=True, train=train)


def get_features(
    model: clip.CLIP,
    preprocess: Preprocess,
    data: Any,
    *,
    projected: bool = True,
    batch_size: int = 100,
) -> tuple[Tensor, Tensor]:
    """Features [N, D] and labels [N] of every image, read and encoded a batch at a time."""
    features, labels = [], []
    for start in range(0, len(data), batch_size):
        rows = [data[index] for index in range(start, min(start + batch_size, len(data)))]
        images = torch.stack([preprocess(image) for image, _ in rows])
        features.append(image_features(model, images, projected=projected).float().cpu())
        labels += [label for _, label in rows]
    return torch.cat(features), torch.tensor(labels)


def argument_parser(program: str, description: str) -> argparse.ArgumentParser:
    """A parser with the options that all the programs have."""
    parser = argparse.ArgumentParser(
        prog=f"python -m examples.{program}",
        description=description,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--model", default="starter", help="a known model's name, or its file")
    parser.add_argument(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="where the model runs",
    )
    return parser


def add_folder(parser: argparse.ArgumentParser) -> None:
    """The option that puts a folder in CIFAR-100's place."""
    parser.add_argument(
        "--folder",
        type=Path,
        help="images in folders named after their classes; without it, CIFAR-100 is downloaded",
    )
