"""The fast path against the reference, on photographs and on awkward files."""

from __future__ import annotations

import io
from importlib import resources

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

import clip_model
from clip_model import CLIP, ClipConfig
from clip_model.config import MEAN, STD
from clip_model.image_files import ImageError, decode_image
from clip_model.preprocess import (
    fold_normalisation,
    image_bytes_transform,
    image_transform,
    reference_bytes_transform,
)
from tests.clip_model.test_model import SMALL_RESNET, SMALL_VIT

PHOTOGRAPHS = ["china.jpg", "flower.jpg"]  # of scikit-learn, 640 x 427
#: What is done to an upright image so that EXIF's orientation undoes it.
AS_TAKEN = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
LEVELS = 2  # that the fast path may be away from the reference
RESOLUTION = 96


def photograph(name: str) -> bytes:
    return (resources.files("sklearn.datasets") / "images" / name).read_bytes()


def encoded(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(mode: str, width: int = 90, height: int = 61) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def levels_apart(data: bytes, resolution: int) -> int:
    fast = image_bytes_transform(resolution)(data)
    reference = reference_bytes_transform(resolution)(data)
    assert fast.dtype == torch.uint8
    assert fast.is_contiguous()
    assert fast.shape == reference.shape == (3, resolution, resolution)
    return int((fast.int() - reference.int()).abs().max())


def openai_recipe(image: Image.Image, n: int) -> torch.Tensor:
    """The Compose of openai/CLIP, its steps in its order."""
    import clip_model._torchvision  # noqa: F401, I001
    from torchvision import transforms as T

    recipe = T.Compose(
        [
            T.Resize(n, interpolation=T.InterpolationMode.BICUBIC),
            T.CenterCrop(n),
            lambda resized: resized.convert("RGB"),
            T.ToTensor(),
            T.Normalize(MEAN, STD),
        ]
    )
    return recipe(image)


@pytest.mark.parametrize("name", PHOTOGRAPHS)
@pytest.mark.parametrize("n", [224, 336])
def test_reference_is_openais_recipe_bit_for_bit(name: str, n: int) -> None:
    data = photograph(name)
    expected = openai_recipe(decode_image(data), n)
    assert torch.equal(image_transform(n)(decode_image(data)), expected)
    levels = reference_bytes_transform(n)(data)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    assert torch.equal((levels.float() / 255 - mean) / std, expected)


@pytest.mark.parametrize("name", PHOTOGRAPHS)
@pytest.mark.parametrize("n", [32, 64, 224, 336, 448])
def test_photographs_are_at_most_two_levels_away(name: str, n: int) -> None:
    assert levels_apart(photograph(name), n) <= LEVELS


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_every_kind_of_jpeg(subsampling: int, progressive: bool) -> None:
    image = decode_image(photograph("china.jpg"))
    for quality in (40, 75, 95):
        data = encoded(image, quality=quality, subsampling=subsampling, progressive=progressive)
        assert levels_apart(data, RESOLUTION) <= LEVELS


@pytest.mark.parametrize("size", [(1, 1), (7, 50), (50, 7), (96, 96), (97, 300), (1500, 1000)])
def test_every_shape(size: tuple[int, int]) -> None:
    image = decode_image(photograph("flower.jpg")).resize(size)
    assert levels_apart(encoded(image), RESOLUTION) <= LEVELS


def test_pure_noise_is_within_the_bound() -> None:
    assert levels_apart(encoded(noise("RGB", 500, 400), quality=100), RESOLUTION) <= LEVELS


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        ("JPEG", "CMYK"),
        ("PNG", "RGB"),
        ("PNG", "RGBA"),
        ("PNG", "LA"),
        ("PNG", "P"),
        ("PNG", "1"),
        ("TIFF", "CMYK"),
        ("WEBP", "RGB"),
        ("BMP", "RGB"),
        ("GIF", "P"),
    ],
)
def test_other_files_are_exactly_the_references(kind: str, mode: str) -> None:
    data = encoded(noise(mode), kind)
    image = Image.open(io.BytesIO(data))
    assert image.mode == mode
    assert levels_apart(data, RESOLUTION) == 0
    by_reference = image_transform(RESOLUTION)(image)
    folded_by_hand = reference_bytes_transform(RESOLUTION)(data).float() / 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    assert torch.equal((folded_by_hand - mean) / std, by_reference)


def test_grey_jpeg() -> None:
    assert levels_apart(encoded(decode_image(photograph("china.jpg")).convert("L")), 224) <= LEVELS


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_first_frame_of_an_animation(kind: str) -> None:
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    pixels = image_bytes_transform(32)(data)
    assert pixels[0].float().mean() > 250
    assert pixels[2].float().mean() < 5


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_photograph_is_upright_before_it_is_cropped(orientation: int) -> None:
    """The camera's image turned the other way, with the orientation that undoes it."""
    upright = decode_image(photograph("china.jpg"))
    lying = upright if orientation == 1 else upright.transpose(AS_TAKEN[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    for kind in ("PNG", "WEBP", "TIFF"):
        data = encoded(lying, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
        expected = reference_bytes_transform(RESOLUTION)(encoded(upright, "PNG"))
        assert torch.equal(image_bytes_transform(RESOLUTION)(data), expected), kind
    data = encoded(lying, exif=exif, quality=95)
    assert levels_apart(data, RESOLUTION) <= LEVELS
    difference = image_bytes_transform(RESOLUTION)(data).int() - expected.int()
    assert difference.abs().float().mean() < 2  # JPEG's loss


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP"])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_truncated_files_are_refused(kind: str, share: float) -> None:
    data = encoded(noise("RGB", 200, 200), kind)
    with pytest.raises(ImageError) as refused:
        image_bytes_transform(RESOLUTION)(data[: int(len(data) * share)])
    assert refused.value.reason in ("truncated", "broken", "not an image")


@pytest.mark.parametrize(
    "data", [b"", b"<html>", b"\xff\xd8\xff", b"\xff\xd8" + bytes(100), b"\x89PNG\r\n\x1a\n"]
)
def test_what_is_no_image_is_refused(data: bytes) -> None:
    with pytest.raises(ImageError) as refused:
        image_bytes_transform(RESOLUTION)(data)
    assert refused.value.reason in ("not an image", "broken", "truncated")


def test_corrupt_bytes_give_an_image_or_an_image_error() -> None:
    transform, reference = (make(32) for make in (image_bytes_transform, reference_bytes_transform))
    generator = np.random.default_rng(1)
    for kind in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"):
        whole = np.frombuffer(encoded(noise("RGB"), kind), dtype=np.uint8)
        for _ in range(40):
            damaged = whole.copy()
            at = generator.integers(0, len(damaged), 6)
            damaged[at] = generator.integers(0, 256, 6)
            assert outcome(transform, damaged.tobytes()) == outcome(reference, damaged.tobytes())


def outcome(transform: object, data: bytes) -> str:
    assert callable(transform)
    try:
        transform(data)
    except ImageError as error:
        return error.reason
    return "a picture"


def test_a_bomb_and_a_sliver_are_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb, sliver = encoded(Image.new("RGB", (200, 200))), encoded(Image.new("RGB", (1, 150)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 19_999)
    for data in (bomb, sliver, encoded(Image.new("RGB", (1, 150)), "PNG")):
        with pytest.raises(ImageError) as refused:
            image_bytes_transform(32)(data)
        assert refused.value.reason == "too large"


@pytest.mark.parametrize("config", [SMALL_VIT, SMALL_RESNET], ids=["vit", "resnet"])
def test_folded_model_gives_the_same_features(config: ClipConfig) -> None:
    torch.manual_seed(0)
    model = CLIP(config).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    n = config.image_resolution
    levels = torch.stack([reference_bytes_transform(n)(photograph(name)) for name in PHOTOGRAPHS])
    images = torch.stack([image_transform(n)(decode_image(photograph(p))) for p in PHOTOGRAPHS])
    folded = fold_normalisation(model)
    with torch.inference_mode():
        expected, features = model.encode_image(images), folded.encode_image(levels)
        tokens = clip_model.tokenize(["a cat"])
        assert torch.equal(model.encode_text(tokens), folded.encode_text(tokens))
    torch.testing.assert_close(features, expected, rtol=1e-5, atol=1e-5)
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())
    assert folded.text_projection is model.text_projection


def first(model: CLIP) -> nn.Conv2d:
    conv = model.visual.get_submodule("conv1")
    assert isinstance(conv, nn.Conv2d)
    return conv


@pytest.mark.parametrize("config", [SMALL_VIT, SMALL_RESNET], ids=["vit", "resnet"])
def test_first_convolution_is_exact_at_the_borders_too(config: ClipConfig) -> None:
    torch.manual_seed(0)
    model = CLIP(config).double().eval()
    levels = torch.randint(0, 256, (2, 3, config.image_resolution, config.image_resolution))
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (MEAN, STD))
    with torch.inference_mode():
        expected = first(model)((levels.double() / 255 - mean) / std)
        folded = first(fold_normalisation(model))(levels.double())
    torch.testing.assert_close(folded, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("config", [SMALL_VIT, SMALL_RESNET], ids=["vit", "resnet"])
def test_folding_loses_nothing_in_half_precision(config: ClipConfig, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = CLIP(config).eval()
    levels = torch.randint(0, 256, (4, 3, config.image_resolution, config.image_resolution))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    images = (levels.float() / 255 - mean) / std
    with torch.inference_mode():
        exact = first(model)(images)
        conv = first(model.to(dtype))
        # What the weights' own rounding costs is no fault of the folding: the sums are exact here.
        plain = F.conv2d(
            images.to(dtype).double(), conv.weight.double(), None, conv.stride, conv.padding
        )
        folded = first(fold_normalisation(model))(levels.to(dtype)).double()
    worst, ours = ((x - exact).abs().max().item() for x in (plain, folded))
    assert ours <= 2 * worst + exact.abs().max().item() * torch.finfo(dtype).eps


def test_folding_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="already"):
        fold_normalisation(fold_normalisation(CLIP(SMALL_VIT)))


def test_embeddings_of_the_fast_path_are_the_references() -> None:
    model, preprocess = clip_model.load("starter", device="cpu")
    n = model.visual.input_resolution
    images = torch.stack([preprocess(decode_image(photograph(name))) for name in PHOTOGRAPHS])
    levels = torch.stack([image_bytes_transform(n)(photograph(name)) for name in PHOTOGRAPHS])
    with torch.inference_mode():
        expected = model.encode_image(images)
        features = fold_normalisation(model).encode_image(levels)
    assert F.cosine_similarity(expected, features).min() > 0.9999
