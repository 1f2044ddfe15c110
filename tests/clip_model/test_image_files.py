"""What is read of an image's file, against numpy's idea of what was written into it."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
from typing import get_args

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from clip_model.image_files import FORMATS, ImageError, decode_image, format_of
from clip_model.preprocess import reference_bytes_transform
from tests.image_samples import EPS, SAMPLES, encoded, ramp
from workers.base.settings import ImageFormat


@pytest.mark.parametrize("name", SAMPLES)
def test_levels_are_those_that_were_written(name: str) -> None:
    data, expected = SAMPLES[name]
    image = decode_image(data)
    levels = np.asarray(image.convert("RGB")).astype(int)
    assert np.abs(levels - expected).max() <= 2


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM", "JPEG2000"])
def test_all_of_16_bits_are_scaled_and_not_cut_off(kind: str) -> None:
    levels = np.arange(0, 1 << 16, 16, dtype=np.uint16).reshape(64, 64)
    image = decode_image(encoded(Image.fromarray(levels), kind))
    assert image.mode == "L"
    np.testing.assert_array_equal(np.asarray(image), levels >> 8)


@pytest.mark.parametrize(
    "levels",
    [
        ramp().astype(np.int32) << 16,
        ramp().astype(np.int32) - 200,
        ramp().astype(np.float32) - 1,
        np.array([[0.5, 5.0]], np.float32),  # a highlight; as one of 255 levels it would be black
        np.array([[0.5, 300.0]], np.float32),
        np.array([[0.5, 65_536.0]], np.float32),
        np.array([[0.5, np.inf]], np.float32),
        np.array([[0.5, np.nan]], np.float32),
    ],
)
def test_levels_of_unknown_scale_are_refused(levels: npt.NDArray[np.float32]) -> None:
    with pytest.raises(ImageError, match="broken: .*unknown scale"):
        decode_image(encoded(Image.fromarray(levels), "TIFF"))


def test_a_palette_with_alpha_is_colours_before_it_is_resized() -> None:
    """Pillow resizes the indices of such an image bicubically: colours that are not in it."""
    image = Image.new("PA", (40, 40), (200, 255))
    image.putpalette([channel for index in range(256) for channel in (index, 255 - index, 7)])
    image.paste((3, 255), (0, 0, 20, 40))
    file = io.BytesIO()
    image.save(file, "TIFF")
    assert Image.open(io.BytesIO(file.getvalue())).mode == "PA"
    read = decode_image(file.getvalue())
    assert read.mode == "RGBA"
    assert read.getpixel((0, 0)) == (3, 252, 7, 255)
    assert read.getpixel((39, 0)) == (200, 55, 7, 255)
    levels = reference_bytes_transform(20)(file.getvalue())
    assert levels[2].unique().tolist() == [7]  # the blue of all colours


def test_formats_that_are_not_on_the_list_are_no_images_and_start_no_program() -> None:
    """Pillow itself would start Ghostscript for an EPS."""
    with Image.open(io.BytesIO(EPS)) as image:
        assert image.format == "EPS"
    others = [encoded(Image.new("RGB", (8, 8)), kind) for kind in ("PCX", "SGI", "TGA", "PDF")]
    program = f"""
import sys
from clip_model.image_files import ImageError, decode_image

def no_program(event, arguments):
    assert event not in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn"), event

sys.addaudithook(no_program)
for data in {[EPS, *others]}:
    try:
        decode_image(data)
    except ImageError as error:
        assert error.reason == "not an image", error
    else:
        raise SystemExit("it was read")
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_pillow_knows_the_formats_by_these_names() -> None:
    Image.init()
    assert set(FORMATS) <= set(Image.OPEN)


def test_a_jpeg_of_several_pictures_is_a_jpeg() -> None:
    image = Image.new("RGB", (8, 8))
    data = encoded(image, "MPO", save_all=True, append_images=[image])
    assert format_of(data, ("JPEG",)) == "MPO"
    with pytest.raises(ImageError, match="none of PNG, TIFF"):
        format_of(data, ("PNG", "TIFF"))


def test_a_download_may_name_each_format_that_is_read() -> None:
    assert get_args(ImageFormat) == FORMATS


@pytest.mark.parametrize("value", [0, 9, 65535, "up", b"\xff"])
def test_an_orientation_that_means_nothing_turns_nothing(value: object) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    image = Image.new("RGB", (30, 20))
    for kind in ("JPEG", "PNG"):
        try:
            data = encoded(image, kind, exif=exif)
        except (TypeError, ValueError, struct.error):
            continue  # Pillow writes no such thing
        assert decode_image(data).size == (30, 20)
    head = b"\xff\xd8\xff\xe1\0\x10Exif\0\0MM\0*\xff\xff\xff\xff"
    assert decode_image(head + encoded(image, "JPEG")[2:]).size == (30, 20)
