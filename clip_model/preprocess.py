"""An image to the model's input, exactly as it was trained and measured, OpenAI's before all.

The order is part of the recipe. A palette image is resized as palette indices would be if it
were converted late: so conversion to RGB comes after the resize and the crop, as in openai/CLIP.

`image_transform` is the reference. `image_bytes_transform` is the fast path, from a file's bytes
to uint8, for a model that normalises in its first convolution or before (`fold_normalisation`);
`random_crop_bytes_transform` is its counterpart for training.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from clip_model.config import MEAN, STD, ClipConfig
from clip_model.efficientnet import EfficientNet
from clip_model.image_files import (
    ImageError,
    as_image_error,
    decode_image,
    decode_jpeg,
    most_pixels,
)
from clip_model.timm_tower import TimmTower

if TYPE_CHECKING:
    from clip_model.model import CLIP

Preprocess = Callable[["Image.Image"], torch.Tensor]

#: What torch resizes as Pillow does, to 2 levels of 255.
FAST_INTERPOLATIONS = ("bilinear", "bicubic")


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes a model's input; by default as OpenAI's models have it."""

    resolution: int  # side of the square that the model takes, in pixels
    resized: int | None = None  # the shorter side before the square is cut; None: `resolution`
    squash: bool = False  # the longer side is resized to that too
    interpolation: str = "bicubic"  # of the names that Pillow has, in small letters
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    #: Palettes become colours before the resize, as with everybody but OpenAI.
    colours_first: bool = False

    @classmethod
    def of(cls, config: ClipConfig) -> Preprocessing:
        """That of a model."""
        return cls(
            config.image_resolution,
            squash=config.squash,
            interpolation=config.interpolation,
            mean=config.mean,
            std=config.std,
        )

    @property
    def shorter(self) -> int:
        return self.resolution if self.resized is None else self.resized

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of a resized image, rounded as torchvision does.

        Raises:
            ImageError: a sliver of an image would grow beyond what Pillow opens.
        """
        side = self.shorter
        if self.squash:
            return side, side
        if height <= width:
            size = side, int(side * width / height)
        else:
            size = int(side * height / width), side
        if size[0] * size[1] > most_pixels():
            what = f"{width} x {height} would become {size[1]} x {size[0]}"
            raise ImageError("too large", what)
        return size

    @property
    def is_fast(self) -> bool:
        """Whether JPEGs are read by the fast transform, see `image_bytes_transform`."""
        return self.interpolation in FAST_INTERPOLATIONS

    def text(self) -> str:
        """In words, for a report."""
        way = "squashed" if self.squash else "centre"
        of = "" if self.shorter == self.resolution else f" of {self.shorter}"
        by = "JPEGs the fast way" if self.is_fast else "all by Pillow"
        return f"{self.resolution}{of} px, {way}, {self.interpolation}, {by}"


def image_transform(how: Preprocessing | int) -> Preprocess:
    """The reference transform for a model.

    Resize the shorter side to the resolution (bicubic, antialiased), crop the centre, convert to
    RGB, scale to [0, 1], normalise.

    Args:
        how: the model's, where it is done otherwise; of a resolution, OpenAI's.

    Returns:
        A function from a PIL image to float32 [3, resolution, resolution].
    """
    how = Preprocessing(how) if isinstance(how, int) else how
    return _Composed(how, normalise=True)


def image_bytes_transform(how: Preprocessing | int) -> Callable[[bytes], Tensor]:
    """The fast transform, from a file's bytes to the input of a model that normalises itself.

    A JPEG is decoded by libjpeg-turbo and resized by torch: at most 2 levels of 255 away from the
    reference. Everything else is the reference's: other formats, CMYK, turned images, and
    whatever the fast decoder complains of. As there, OpenAI's palettes are resized as indices.

    Args:
        how: the model's; of a resolution, OpenAI's.

    Returns:
        A function from bytes to uint8 [3, resolution, resolution]. It raises ImageError.
    """
    how = Preprocessing(how) if isinstance(how, int) else how
    reference = reference_bytes_transform(how)
    if not how.is_fast:
        return reference

    def transform(data: bytes) -> Tensor:
        pixels = decode_jpeg(data)
        if pixels is None:
            return reference(data)
        return _resize_and_crop(torch.from_numpy(pixels), how)

    return transform


def random_crop_bytes_transform(how: Preprocessing | int) -> Callable[[bytes, float], Tensor]:
    """The paper's augmentation, fast: the square is cut out before it is resized.

    So pixels that are thrown away are not resized, and the square is at any pixel of the file's
    image. A JPEG is at most 2 levels of 255 away from what Pillow makes of the same square;
    other formats are Pillow's. Resized first, as the paper has it, the same square differs in the
    two pixels beside a cut, which have seen what lies beyond: by up to 16 levels on photographs.

    Args:
        how: the model's, of which this takes the resolution and the interpolation.

    Returns:
        A function from a file's bytes, and where along the longer side the square is, from 0 to 1
        (1 excluded), to uint8 [3, resolution, resolution]. It raises ImageError.
    """
    how = Preprocessing(how) if isinstance(how, int) else how
    size, mode = (how.resolution, how.resolution), how.interpolation

    def transform(data: bytes, place: float) -> Tensor:
        pixels = decode_jpeg(data)
        if pixels is not None:
            top, left, side = _square(pixels.shape[0], pixels.shape[1], place)
            square = np.ascontiguousarray(pixels[top : top + side, left : left + side])
            x = torch.from_numpy(square).permute(2, 0, 1)[None]  # the layout that is fast
            return F.interpolate(x, size, mode=mode, antialias=True)[0].contiguous()
        image = decode_image(data)
        with as_image_error():
            top, left, side = _square(image.height, image.width, place)
            box = (left, top, left + side, top + side)
            resized = _to_rgb(image.crop(box).resize(size, Image.Resampling[mode.upper()]))
            return torch.from_numpy(np.asarray(resized).copy()).permute(2, 0, 1).contiguous()

    return transform


def _square(height: int, width: int, place: float) -> tuple[int, int, int]:
    """Top, left and side of the largest square of an image at a place along its longer side."""
    side = min(height, width)
    offset = int(place * (abs(height - width) + 1))
    return (offset, 0, side) if height > width else (0, offset, side)


def reference_bytes_transform(how: Preprocessing | int) -> Callable[[bytes], Tensor]:
    """The reference up to the last rounding: as `image_transform` of what `decode_image` reads,
    neither scaled nor normalised.

    Returns:
        A function from bytes to uint8 [3, resolution, resolution]. It raises ImageError.
    """
    how = Preprocessing(how) if isinstance(how, int) else how
    pipeline = _Composed(how, normalise=False)

    def transform(data: bytes) -> Tensor:
        image = decode_image(data)
        how.size(image.height, image.width)
        with as_image_error():
            return pipeline(image).contiguous()

    return transform


def _resize_and_crop(pixels: Tensor, how: Preprocessing) -> Tensor:
    """The reference's resize and crop, in torch: uint8 [H, W, 3] -> [3, R, R]."""
    resolution = how.resolution
    height, width = how.size(pixels.shape[0], pixels.shape[1])
    x = pixels.permute(2, 0, 1)[None]  # 1CHW, strided as HWC: the layout that is fast
    x = F.interpolate(x, (height, width), mode=how.interpolation, antialias=True)[0]
    top, left = round((height - resolution) / 2), round((width - resolution) / 2)
    return x[:, top : top + resolution, left : left + resolution].contiguous()


class NormalisingConv2d(nn.Conv2d):
    """A convolution of normalised images, made one of levels from 0 to 255.

    (u / 255 - mean) / std is u * scale + shift: the scale goes into the weight, the shift becomes
    a bias. Where the convolution pads with 0 after the normalisation, this one frames the image
    with the mean before it. Levels are exact in bfloat16 and float16, normalised pixels are not.
    """

    mean: Tensor

    def __init__(
        self, conv: nn.Conv2d, mean: Sequence[float] = MEAN, std: Sequence[float] = STD
    ) -> None:
        """Fold the normalisation into a copy of `conv`."""
        weight = conv.weight.detach()
        with torch.device("meta"):  # the weights are assigned below
            super().__init__(
                conv.in_channels,
                conv.out_channels,
                (conv.kernel_size[0], conv.kernel_size[1]),
                (conv.stride[0], conv.stride[1]),
            )
        shift, scale = (
            torch.tensor(values, dtype=torch.float64, device=weight.device).view(3, 1, 1)
            for values in (mean, std)
        )
        self.frame = int(conv.padding[0])
        # In float16 weights for levels would be too small to be precise; levels / 256 are exact.
        self.divisor = 256.0 if weight.dtype == torch.float16 else 1.0
        self.register_buffer("mean", (shift * 255).to(weight.dtype), persistent=False)
        self.weight = _frozen(weight.double() / (scale * 255 / self.divisor), weight.dtype)
        bias = -(weight.double() * shift / scale).sum(dim=(1, 2, 3))
        if conv.bias is not None:
            bias = bias + conv.bias.detach().double()
        self.bias = _frozen(bias, weight.dtype)

    def forward(self, input: Tensor) -> Tensor:
        levels = self._framed(input) if self.frame else input
        return super().forward(levels if self.divisor == 1 else levels / self.divisor)

    def _framed(self, levels: Tensor) -> Tensor:
        n, channels, height, width = levels.shape
        frame = self.frame
        framed = self.mean.expand(n, channels, height + 2 * frame, width + 2 * frame).clone()
        framed[..., frame:-frame, frame:-frame] = levels
        return framed


class Normalise(nn.Module):
    """The same apart, before a network that it cannot be folded into: levels, float32."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.mean, self.std = mean, std

    def forward(self, input: Tensor) -> Tensor:
        return normalised(input, self.mean, self.std)


def normalised(levels: Tensor, mean: Sequence[float] = MEAN, std: Sequence[float] = STD) -> Tensor:
    """What a model takes that normalises nothing itself: uint8 [N, 3, R, R] -> float32.

    The same to float rounding as `image_transform` gives. The channels lie innermost, in which a
    ResNet's convolutions are a quarter faster.
    """
    shift, scale = (torch.tensor(v, device=levels.device).view(3, 1, 1) for v in (mean, std))
    images = levels.contiguous(memory_format=torch.channels_last).float()
    return images.div_(255).sub_(shift).div_(scale)


def fold_normalisation(model: CLIP) -> CLIP:
    """A model for inference that takes levels, uint8 [N, 3, R, R], and normalises them itself.

    The same features to float rounding, for a quarter of the bytes and no pass over the pixels,
    where the first convolution takes it in; some of timm's do not. It shares every other weight
    with `model`, which stays as it is. It is not for saving: its first convolution is no longer
    CLIP's.

    Fold last, when the model is in the precision that it will run in.

    Raises:
        ValueError: the model is folded already.
    """
    if any(isinstance(module, NormalisingConv2d | Normalise) for module in model.visual.modules()):
        raise ValueError("the normalisation is folded into this model already")
    how = model.preprocessing
    shared: dict[int, Any] = {
        id(tensor): tensor
        for tensors in (model.parameters(), model.buffers())
        for tensor in tensors
    }
    folded = copy.deepcopy(model, shared)  # what is in `shared` is taken, not copied
    visual = folded.visual
    names = _first_convolutions(visual)
    for name in names:
        conv = visual.get_submodule(name)
        assert isinstance(conv, nn.Conv2d)
        visual.set_submodule(name, NormalisingConv2d(conv, how.mean, how.std))
    if not names:
        visual.normalise = Normalise(how.mean, how.std)
    return folded.eval()


def _first_convolutions(visual: nn.Module) -> list[str]:
    """Which take the image and can take its normalisation in."""
    if isinstance(visual, TimmTower):
        return visual.first_convolutions()
    return [] if isinstance(visual, EfficientNet) else ["conv1"]  # it pads two sides alone


def _frozen(values: Tensor, dtype: torch.dtype) -> nn.Parameter:
    return nn.Parameter(values.to(dtype), requires_grad=False)


@dataclass(frozen=True)
class _Composed:
    """torchvision's transforms, composed when the first image comes: it takes seconds to import.

    What embeds JPEGs the fast way, or texts, does without.
    """

    how: Preprocessing
    normalise: bool

    def __call__(self, image: Image.Image) -> Tensor:
        return self._pipeline(image)

    @property
    def transforms(self) -> list[Callable[..., Any]]:
        """The steps, as torchvision's ``Compose`` has them."""
        steps: list[Callable[..., Any]] = self._pipeline.transforms
        return steps

    @cached_property
    def _pipeline(self) -> Any:
        import clip_model._torchvision  # noqa: F401, I001 - first
        from torchvision import transforms

        how = self.how
        steps = [
            transforms.Resize(
                (how.shorter, how.shorter) if how.squash else how.shorter,
                interpolation=transforms.InterpolationMode(how.interpolation),
            ),
            transforms.CenterCrop(how.resolution),
        ]
        steps.insert(0 if how.colours_first else len(steps), _to_rgb)
        if self.normalise:
            steps += [transforms.ToTensor(), transforms.Normalize(how.mean, how.std)]
        else:
            steps.append(transforms.PILToTensor())
        return transforms.Compose(steps)


def _to_rgb(image: Image.Image) -> Image.Image:
    return image.convert("RGB")
