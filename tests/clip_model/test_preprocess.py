"""The reference transform against Pillow, step by step."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from clip_model.preprocess import MEAN, STD, image_transform, random_square_crop


def by_hand(image: Image.Image, n: int) -> torch.Tensor:
    width, height = image.size
    scale = n / min(width, height)
    size = (n, int(n * height / width)) if width <= height else (int(n * width / height), n)
    assert min(size) == round(min(width, height) * scale) == n
    resized = image.resize(size, Image.Resampling.BICUBIC)
    left, top = round((size[0] - n) / 2), round((size[1] - n) / 2)
    cropped = resized.crop((left, top, left + n, top + n)).convert("RGB")
    pixels = torch.from_numpy(np.asarray(cropped).copy()).permute(2, 0, 1).float() / 255
    return (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "CMYK", "1"])
@pytest.mark.parametrize("size", [(90, 61), (61, 90), (64, 64), (20, 33)])
def test_equals_pillow(mode: str, size: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    image = image.convert("RGBA") if mode == "RGBA" else image.convert(mode)
    assert torch.equal(image_transform(64)(image), by_hand(image, 64))


def test_random_crop_is_a_window_of_the_resized_image() -> None:
    ramp = np.tile(np.arange(256, dtype=np.uint8)[None, :, None], (64, 1, 3))
    image = Image.fromarray(ramp)  # 256 x 64, brighter to the right
    torch.manual_seed(0)
    crops = [random_square_crop(64)(image) for _ in range(8)]
    assert all(crop.shape == (3, 64, 64) for crop in crops)
    assert len({crop[0, 0, 0].item() for crop in crops}) > 1
    for crop in crops:
        levels = (crop[0, 0] * STD[0] + MEAN[0]) * 255
        torch.testing.assert_close(levels.diff(), torch.ones(63), rtol=0, atol=1e-3)


def test_importing_the_package_imports_no_torchvision() -> None:
    code = (
        "import sys, clip_model; clip_model.tokenize('a');"
        "sys.exit(any(name.partition('.')[0] in ('torchvision', 'ray', 'apache_beam')"
        " for name in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
