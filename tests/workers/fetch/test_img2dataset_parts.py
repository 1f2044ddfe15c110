"""img2dataset's classes without its imports; its resizing against albumentations itself."""

import os
import subprocess
import sys
import textwrap
from io import BytesIO

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.image_samples import EPS, SAMPLES, encoded
from workers.fetch.download import _reason
from workers.fetch.img2dataset_parts import _albumentations, img2dataset_parts

UNUSED = ("albumentations", "fire", "imghdr", "pandas", "wandb", "webdataset")


def test_an_image_is_made_smaller_where_the_unused_packages_are_not_installed():
    program = f"""
        import io, sys
        from PIL import Image

        class NotInstalled:
            def find_spec(self, name, *_):
                if name in {UNUSED}:
                    raise ModuleNotFoundError(name)

        sys.meta_path.insert(0, NotInstalled())
        from workers.fetch.img2dataset_parts import img2dataset_parts
        resizer = img2dataset_parts().Resizer(20, "keep_ratio", True)
        picture = io.BytesIO()
        Image.new("RGB", (64, 48)).save(picture, "PNG")
        print(*resizer(picture)[1:])
        print([name for name in sys.modules if name in {(*UNUSED, "img2dataset", "torch")}])
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout == "27 20 64 48 None\n[]\n"


def test_modules_that_were_imported_before_are_there_again(monkeypatch):
    real = type(sys)("wandb")
    monkeypatch.setitem(sys.modules, "wandb", real)
    img2dataset_parts.cache_clear()
    parts = img2dataset_parts()
    assert sys.modules["wandb"] is real
    assert parts.Resizer.__module__ == "img2dataset.resizer"


@pytest.mark.parametrize("shape", [(301, 200), (200, 301, 3), (37, 411, 3), (64, 64)])
@pytest.mark.parametrize("size", [17, 64, 350])
def test_the_four_transforms_are_those_of_albumentations(shape, size, monkeypatch):
    monkeypatch.setenv("NO_ALBUMENTATIONS_UPDATE", "1")  # it asks a server otherwise
    theirs, ours = pytest.importorskip("albumentations"), _albumentations()
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    for interpolation in (cv2.INTER_AREA, cv2.INTER_LANCZOS4):
        scaled = {"max_size": size, "interpolation": interpolation, "p": 1.0}
        padded = {"border_mode": cv2.BORDER_CONSTANT, "value": [255, 255, 255], "p": 1.0}
        calls = [
            [("SmallestMaxSize", scaled), ("CenterCrop", {"height": size, "width": size})],
            [
                ("LongestMaxSize", scaled),
                ("PadIfNeeded", {"min_height": size, "min_width": size, **padded}),
            ],
        ]
        for steps in calls:
            expected = result = image
            for name, options in steps:
                expected = getattr(theirs, name)(**options)(image=expected)["image"]
                result = getattr(ours, name)(**options)(image=result)["image"]
                assert np.array_equal(result, expected), name


@pytest.mark.parametrize(
    ("mode", "width", "height"),
    [
        ("no", 40, 30),
        ("keep_ratio", 27, 20),
        ("keep_ratio_largest", 20, 15),
        ("center_crop", 20, 20),
        ("border", 20, 20),
    ],
)
def test_every_mode_of_resizing_works(mode, width, height):
    ok, encoded = cv2.imencode(".png", np.full((30, 40, 3), 90, np.uint8))
    assert ok
    jpg, *sizes, error = img2dataset_parts().Resizer(20, mode, True)(BytesIO(encoded.tobytes()))
    assert (sizes, error) == ([width, height, 40, 30], None)
    decoded = cv2.imdecode(np.frombuffer(jpg, np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None
    assert decoded.shape == (height, width, 3)


def through_img2dataset(data):
    """What its Resizer makes of a file, without the loss of a JPEG: RGB."""
    resizer = img2dataset_parts().Resizer(64, "no", True, encode_format="png", encode_quality=1)
    png, *_, error = resizer(BytesIO(data))
    assert error is None, error
    return np.asarray(Image.open(BytesIO(png)).convert("RGB")).astype(int)


@pytest.mark.parametrize("name", SAMPLES)
def test_images_of_every_kind_have_the_levels_that_were_written(name):
    data, expected = SAMPLES[name]
    assert np.abs(through_img2dataset(data) - expected).max() <= 2


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_upright(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    corner = np.zeros((32, 48, 3), np.uint8)
    corner[:16, :16] = 255  # whose place says how it was turned
    data = encoded(Image.fromarray(corner), kind, exif=exif, quality=100)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(BytesIO(data))))
    assert np.abs(through_img2dataset(data) - expected).max() <= 2
    upright = expected[:, :, 0] > 128
    places = {1: "tl", 2: "tr", 3: "br", 4: "bl", 5: "tl", 6: "tr", 7: "br", 8: "bl"}
    rows = slice(0, 16) if places[orientation][0] == "t" else slice(-16, None)
    columns = slice(0, 16) if places[orientation][1] == "l" else slice(-16, None)
    assert upright[rows, columns].all()
    assert upright.shape == ((32, 48) if orientation < 5 else (48, 32))


def test_a_grey_jpeg_is_stored_as_a_grey_one():
    levels = np.random.default_rng(0).integers(0, 256, (40, 60), dtype=np.uint8)
    for image in (Image.fromarray(levels), Image.fromarray(np.stack([levels] * 3, axis=2))):
        jpg, *_ = img2dataset_parts().Resizer(64, "no", True)(BytesIO(encoded(image, "JPEG")))
        assert Image.open(BytesIO(jpg)).mode == image.mode


def test_the_outputs_of_the_process_stay_while_an_image_is_made_smaller():
    """Two threads that turn them away at a time would leave them so."""
    before = [os.fstat(number) for number in (1, 2)]
    meanwhile = []

    class Looking(BytesIO):
        def read(self, *size):
            meanwhile.append([os.fstat(number) for number in (1, 2)])
            return super().read(*size)

    picture = Looking(encoded(Image.new("RGB", (80, 60)), "JPEG"))
    *_, error = img2dataset_parts().Resizer(20, "keep_ratio", True)(picture)
    assert error is None
    assert [[one.st_ino for one in outputs] for outputs in meanwhile] == [
        [one.st_ino for one in before]
    ]


def test_what_is_transparent_is_white_of_whatever_mode():
    clear = Image.new("P", (8, 8), 1)
    clear.putpalette([0, 0, 0, 9, 9, 9])
    for image, options in (
        (Image.new("RGBA", (8, 8), (9, 9, 9, 0)), {}),
        (Image.new("LA", (8, 8), (9, 0)), {}),
        (clear, {"transparency": 1}),
        (Image.new("RGB", (8, 8), (9, 9, 9)), {"transparency": (9, 9, 9)}),
        (Image.new("L", (8, 8), 9), {"transparency": 9}),
    ):
        assert (through_img2dataset(encoded(image, "PNG", **options)) == 255).all(), image.mode


def test_one_level_of_16_bits_is_transparent_and_those_beside_it_are_not():
    levels = np.array([[1000, 1001, 999, 0xFFFF]], np.uint16)  # three have the same upper bits
    read = through_img2dataset(encoded(Image.fromarray(levels), "PNG", transparency=1000))
    assert read[0, :, 0].tolist() == [255, 3, 3, 255]


@pytest.mark.parametrize(
    "data", [EPS, b"<html>", b"", SAMPLES["jpeg"][0][:-300], SAMPLES["webp animated"][0][:60]]
)
def test_what_is_not_a_whole_image_of_a_known_format_has_an_error(data):
    *_, error = img2dataset_parts().Resizer(64, "no", True)(BytesIO(data))
    assert _reason(error) == "not_an_image"


def test_an_image_of_too_many_pixels_is_refused_by_its_head(monkeypatch):
    buffer = BytesIO()
    Image.new("L", (300, 200)).save(buffer, "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 59_999)
    resizer = img2dataset_parts().Resizer(
        image_size=8, resize_mode="no", resize_only_if_bigger=True
    )
    assert resizer(BytesIO(buffer.getvalue()))[-1] == "too large: 60,000 pixels"
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60_000)
    assert resizer(BytesIO(buffer.getvalue()))[-1] is None
