"""A picture to the model's input, exactly as OpenAI's models were trained and measured.

The order is part of the recipe. A palette picture is resized as palette indices would be if it
were converted late: so conversion to RGB comes after the resize and the crop, as in openai/CLIP.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import torch

if TYPE_CHECKING:
    from PIL import Image

MEAN = (0.48145466, 0.4578275, 0.40821073)  # of the images that OpenAI trained on, RGB
STD = (0.26862954, 0.26130258, 0.27577711)

Preprocess = Callable[["Image.Image"], torch.Tensor]


def random_square_crop(resolution: int) -> Preprocess:
    """The paper's only augmentation: a random square of the resized picture.

    Like `image_transform`, but the crop is anywhere along the longer side. It draws from torch's
    global generator.
    """
    return _pipeline(resolution, "RandomCrop")


def image_transform(resolution: int) -> Preprocess:
    """The reference transform for a model of this resolution.

    Resize the shorter side to `resolution` (bicubic, antialiased), crop the centre, convert to
    RGB, scale to [0, 1], normalise.

    Returns:
        A function from a PIL image to float32 [3, resolution, resolution].
    """
    return _pipeline(resolution, "CenterCrop")


def _pipeline(resolution: int, crop: Literal["CenterCrop", "RandomCrop"]) -> Preprocess:
    # Late, because it takes a second and tokenizing or loading features needs none of it; and
    # never before `_torchvision`.
    import clip_model._torchvision  # noqa: F401, I001
    from torchvision import transforms

    pipeline: Preprocess = transforms.Compose(
        [
            transforms.Resize(resolution, interpolation=transforms.InterpolationMode.BICUBIC),
            getattr(transforms, crop)(resolution),
            _to_rgb,
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    return pipeline


def _to_rgb(image: Image.Image) -> Image.Image:
    return image.convert("RGB")
