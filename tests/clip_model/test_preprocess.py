"""The reference transform against Pillow, step by step."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from clip_model.config import MEAN, STD
from clip_model.preprocess import image_transform, normalised


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


def test_levels_normalised_are_what_the_reference_gives() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    expected = torch.stack([image_transform(64)(Image.fromarray(image)) for image in noise])
    found = normalised(torch.from_numpy(noise).permute(0, 3, 1, 2))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_importing_the_package_imports_no_torchvision() -> None:
    code = (
        "import sys, clip_model; clip_model.tokenize('a');"
        "sys.exit(any(name.partition('.')[0] in ('torchvision', 'timm', 'ray', 'apache_beam')"
        " for name in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_model_is_loaded_and_jpegs_are_read_without_torchvision_and_torchs_compiler() -> None:
    """Each takes seconds, in every process that embeds."""
    program = """
import io, sys
import torch
from PIL import Image
import clip_model
from clip_model.preprocess import image_bytes_transform

model, preprocess = clip_model.load("starter", "cpu")
file = io.BytesIO()
Image.new("RGB", (40, 30)).save(file, "JPEG")
images = image_bytes_transform(model.preprocessing)(file.getvalue())[None]
clip_model.fold_normalisation(model)
with torch.no_grad():
    model.encode_image(images)
    model.encode_text(clip_model.tokenize(["a photo"]))
assert not sys.modules.keys() & {"torchvision", "torch._dynamo"}
assert len(preprocess.transforms) == 5
assert "torchvision" in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)
