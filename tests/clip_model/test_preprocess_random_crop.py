"""The random square that training sees, against what Pillow makes of the same square."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

import clip_model._torchvision  # noqa: F401
from clip_model.image_files import ImageError, decode_image
from clip_model.preprocess import random_crop_bytes_transform
from tests.clip_model.test_preprocess_fast import (
    LEVELS,
    PHOTOGRAPHS,
    RESOLUTION,
    encoded,
    noise,
    photograph,
)


def pillows(data: bytes, resolution: int, offset: int) -> torch.Tensor:
    """The square cut out of the whole image, and then resized."""
    image = decode_image(data)
    side = min(image.size)
    left, top = (offset, 0) if image.width > image.height else (0, offset)
    square = image.crop((left, top, left + side, top + side))
    resized = square.resize((resolution, resolution), Image.Resampling.BICUBIC).convert("RGB")
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1)


def levels_apart(fast: torch.Tensor, reference: torch.Tensor) -> int:
    assert fast.dtype == torch.uint8
    assert fast.is_contiguous()
    assert fast.shape == reference.shape
    return int((fast.int() - reference.int()).abs().max())


@pytest.mark.parametrize("name", PHOTOGRAPHS)
@pytest.mark.parametrize("n", [32, 64, 224, 336, 448])
def test_the_square_of_a_photograph_is_at_most_two_levels_from_pillows(name: str, n: int) -> None:
    data, crop = photograph(name), random_crop_bytes_transform(n)
    for place in (0.0, 0.5, 0.99999):
        offset = int(place * (640 - 427 + 1))
        assert levels_apart(crop(data, place), pillows(data, n, offset)) <= LEVELS


@pytest.mark.parametrize("size", [(1, 1), (7, 50), (50, 7), (96, 96), (97, 300), (3, 2000)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_every_shape(size: tuple[int, int], kind: str) -> None:
    data = encoded(decode_image(photograph("flower.jpg")).resize(size), kind)
    crop, longer = random_crop_bytes_transform(RESOLUTION), abs(size[0] - size[1])
    for offset in {0, longer // 2, longer}:
        levels = crop(data, (offset + 0.5) / (longer + 1))
        expected = pillows(data, RESOLUTION, offset)
        assert levels_apart(levels, expected) <= (LEVELS if kind == "JPEG" else 0)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "1"])
def test_other_files_are_exactly_pillows(mode: str) -> None:
    data = encoded(noise(mode), "PNG")
    levels = random_crop_bytes_transform(RESOLUTION)(data, 0.0)
    assert levels_apart(levels, pillows(data, RESOLUTION, 0)) == 0


def test_every_offset_is_drawn_as_often() -> None:
    """An image four pixels longer than high has five squares, the first to the last."""
    columns = np.repeat(np.arange(12, dtype=np.uint8)[None, :, None] * 20, 8, axis=0)
    data = encoded(Image.fromarray(np.repeat(columns, 3, axis=2)), "PNG")
    crop = random_crop_bytes_transform(8)
    firsts = [int(crop(data, (draw + 0.5) / 100)[0, 0, 0]) // 20 for draw in range(100)]
    assert [firsts.count(offset) for offset in range(5)] == [20] * 5


@pytest.mark.parametrize(("name", "edge"), [("china.jpg", 16), ("flower.jpg", 8)])
def test_at_its_edges_alone_it_differs_from_the_papers_order(name: str, edge: int) -> None:
    """Resized first and cut then: the same square where the scale is whole."""
    from torchvision import transforms

    photo = decode_image(photograph(name)).resize((640, 448))
    data, crop = encoded(photo, quality=95), random_crop_bytes_transform(224)
    resize = transforms.Resize(224, interpolation=transforms.InterpolationMode.BICUBIC)
    whole = torch.from_numpy(np.array(resize(Image.open(io.BytesIO(data))))).permute(2, 0, 1)
    for offset in range(0, 97, 8):
        levels = crop(data, (2 * offset + 0.5) / (640 - 448 + 1))
        expected = whole[:, :, offset : offset + 224]
        assert levels_apart(levels[..., 2:-2].contiguous(), expected[..., 2:-2]) <= LEVELS
        assert levels_apart(levels, expected) <= edge


@pytest.mark.parametrize("data", [b"", b"\xff\xd8" + bytes(100), b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_image_is_refused(data: bytes) -> None:
    with pytest.raises(ImageError):
        random_crop_bytes_transform(RESOLUTION)(data, 0.5)
