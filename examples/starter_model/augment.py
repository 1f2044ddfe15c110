"""Batches of image and caption, varied so that no art style helps.

What must survive is what the name says: shape, parts, and roughly the colours. What must not is
how one artist draws: exact position and size, palette, line weight, sharpness, background.
Everything is vectorised over the batch and drawn from one generator, so a seed repeats it.
"""

from __future__ import annotations

import random
import re

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from clip_model.config import STARTER
from examples.starter_model.data import Concept

TEMPLATES = ("a picture of {}", "a drawing of {}", "an icon of {}", "{} emoji", "a photo of {}")
# What else stands around a name on web pages, for the text tower to look past.
WEB_TEMPLATES = (
    "{} - clip art",
    "{} | free icons",
    "free {} clipart",
    "{}, 48 x 48 pixels",
    "a small illustration of {}",
    "vector image: {}",
    "{} in flat style",
)
KIND_WEIGHTS = {"emoji": 1.0, "skin": 0.25, "other": 0.25}  # how often a concept is drawn


class PairSampler:
    """Draws batches in which each concept occurs once: no caption is another image's too."""

    def __init__(self, concepts: list[Concept], batch_size: int) -> None:
        self.concepts = concepts
        self.batch_size = min(batch_size, len(concepts))
        weights = np.array([KIND_WEIGHTS[concept.kind] for concept in concepts])
        self._probabilities = weights / weights.sum()

    def draw(self, rng: np.random.Generator) -> tuple[list[int], list[str]]:
        """Rows of the image array, and a caption for each."""
        chosen = rng.choice(
            len(self.concepts), self.batch_size, replace=False, p=self._probabilities, shuffle=True
        )
        python_rng = random.Random(int(rng.integers(1 << 62)))
        picked = [self.concepts[i] for i in chosen]
        rows = [python_rng.choice(concept.rows) for concept in picked]
        return rows, [vary_caption(concept, python_rng) for concept in picked]


def vary_caption(concept: Concept, rng: random.Random) -> str:
    """One of a concept's names, sometimes in a sentence, sometimes in other punctuation."""
    official = concept.names[0]
    name = official if rng.random() < 0.6 else rng.choice(concept.names)
    if rng.random() < 0.2:
        name = re.sub(r"[:,-]", " ", name)
    if concept.key.startswith("emoji:1f1") and "-" in concept.key and "flag" not in name:
        name = rng.choice(("{}", "flag: {}", "flag of {}", "{} flag")).format(name)
    style = rng.random()
    if style < 0.7:
        return name
    return rng.choice(TEMPLATES if style < 0.85 else WEB_TEMPLATES).format(name)


def augment(images: Tensor, resolution: int, generator: torch.Generator) -> Tensor:
    """Model input from a batch of stored images.

    Args:
        images: uint8 [N, S, S, 4], straight RGBA.
        resolution: R, the model's.

    Returns:
        float32 [N, 3, R, R], normalised.
    """
    rgba = images.permute(0, 3, 1, 2).float() / 255  # N4SS
    rgba = torch.cat([rgba[:, :3] * rgba[:, 3:], rgba[:, 3:]], dim=1)  # premultiplied
    rgba = warp(rgba, resolution, generator)  # N4RR
    background = backgrounds(len(rgba), generator)  # N311
    image = rgba[:, :3] + (1 - rgba[:, 3:]) * background  # N3RR
    image = recolour(image, generator)
    image = soften(image, generator)
    image = cut_out(image, generator)
    return normalise(image.clamp(0, 1))


def normalise(image: Tensor) -> Tensor:
    """[0, 1] to the model's range: N3RR -> N3RR."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (STARTER.mean, STARTER.std))
    return (image - mean) / std


def warp(rgba: Tensor, resolution: int, generator: torch.Generator) -> Tensor:
    """Turn, stretch, shear, zoom and move each image, onto R x R: N4SS -> N4RR.

    Never mirrored: "left arrow" is a caption.
    """
    n = len(rgba)
    angle = 0.15 * torch.randn(n, generator=generator)
    zoom = torch.empty(n).uniform_(0.75, 1.25, generator=generator)
    stretch = torch.exp(0.08 * torch.randn(n, generator=generator))
    shear = 0.08 * torch.randn(n, generator=generator)
    shift = 0.08 * torch.randn(n, 2, generator=generator)
    cos, sin = torch.cos(angle), torch.sin(angle)
    matrix = torch.stack(
        [
            torch.stack([zoom * stretch * cos, zoom * (shear - sin), shift[:, 0]], dim=1),
            torch.stack([zoom * sin, zoom / stretch * cos, shift[:, 1]], dim=1),
        ],
        dim=1,
    )  # N23
    grid = F.affine_grid(matrix, [n, 4, resolution, resolution], align_corners=False)  # NRR2
    return F.grid_sample(rgba, grid, mode="bilinear", align_corners=False)


def backgrounds(n: int, generator: torch.Generator) -> Tensor:
    """White for six images of ten, any colour for the rest: N311."""
    colour = torch.rand(n, 3, 1, 1, generator=generator)
    white = torch.rand(n, 1, 1, 1, generator=generator) < 0.6
    return torch.where(white, torch.ones(()), colour)


def recolour(image: Tensor, generator: torch.Generator) -> Tensor:
    """Mix the channels a little, lose the colour now and then, change contrast and brightness."""
    n = len(image)
    mixing = torch.eye(3) + 0.08 * torch.randn(n, 3, 3, generator=generator)  # N33
    grey = torch.rand(n, 1, 1, generator=generator) < 0.08
    mixing = torch.where(grey, torch.full((3, 3), 1 / 3), mixing)
    gain = torch.empty(n, 1, 1, 1).uniform_(0.75, 1.25, generator=generator)
    offset = 0.06 * torch.randn(n, 1, 1, 1, generator=generator)
    image = torch.bmm(mixing, image.flatten(2)).view_as(image)
    # White stays white, or half the backgrounds would turn grey.
    return 1 - (1 - image) * gain + offset * (image < 0.98)


def soften(image: Tensor, generator: torch.Generator) -> Tensor:
    """A third of the images at half the resolution, and noise as of JPEG, on all."""
    n, _, height, width = image.shape
    coarse = F.interpolate(F.avg_pool2d(image, 2), (height, width), mode="bilinear")
    chosen = torch.rand(n, 1, 1, 1, generator=generator) < 0.3
    strength = 0.03 * torch.rand(n, 1, 1, 1, generator=generator)
    noise = torch.randn(image.shape, generator=generator)
    return torch.where(chosen, coarse, image) + strength * noise


def cut_out(image: Tensor, generator: torch.Generator) -> Tensor:
    """Hide a rectangle of up to 0.4 x 0.4 of a third of the images behind one colour."""
    n, _, height, width = image.shape
    top, left = (torch.rand(n, 1, 1, 1, generator=generator) for _ in range(2))
    tall, wide = (0.4 * torch.rand(n, 1, 1, 1, generator=generator) for _ in range(2))
    y = torch.linspace(0, 1, height).view(1, 1, -1, 1)
    x = torch.linspace(0, 1, width).view(1, 1, 1, -1)
    inside = ((y - top).abs() < tall / 2) & ((x - left).abs() < wide / 2)  # N1HW
    chosen = torch.rand(n, 1, 1, 1, generator=generator) < 0.33
    colour = torch.rand(n, 3, 1, 1, generator=generator)
    return torch.where(inside & chosen, colour, image)
