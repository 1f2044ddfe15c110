"""An image to the model's input, exactly as OpenAI's models were trained and measured.

The order is part of the recipe. A palette image is resized as palette indices would be if it
were converted late: so conversion to RGB comes after the resize and the crop, as in openai/CLIP.

`image_transform` is the reference. `image_bytes_transform` is the fast path, from a file's bytes
to uint8, for a model whose first convolution normalises (`fold_normalisation`);
`random_crop_bytes_transform` is its counterpart for training.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from clip_model.image_files import (
    ImageError,
    as_image_error,
    decode_image,
    decode_jpeg,
    most_pixels,
)

if TYPE_CHECKING:
    from clip_model.model import CLIP

MEAN = (0.48145466, 0.4578275, 0.40821073)  # of the images that OpenAI trained on, RGB
STD = (0.26862954, 0.26130258, 0.27577711)

Preprocess = Callable[["Image.Image"], torch.Tensor]


def image_transform(resolution: int) -> Preprocess:
    """The reference transform for a model of this resolution.

    Resize the shorter side to `resolution` (bicubic, antialiased), crop the centre, convert to
    RGB, scale to [0, 1], normalise.

    Returns:
        A function from a PIL image to float32 [3, resolution, resolution].
    """
    return _compose(resolution, normalise=True)


def image_bytes_transform(resolution: int) -> Callable[[bytes], Tensor]:
    """The fast transform, from a file's bytes to the input of a folded model.

    A JPEG is decoded by libjpeg-turbo and resized by torch: at most 2 levels of 255 away from the
    reference. Everything else is the reference's: other formats, CMYK, turned images, and
    whatever the fast decoder complains of. As there, palettes are resized as indices.

    Returns:
        A function from bytes to uint8 [3, resolution, resolution]. It raises ImageError.
    """
    reference = reference_bytes_transform(resolution)

    def transform(data: bytes) -> Tensor:
        pixels = decode_jpeg(data)
        if pixels is None:
            return reference(data)
        return _resize_and_crop(torch.from_numpy(pixels), resolution)

    return transform


def random_crop_bytes_transform(resolution: int) -> Callable[[bytes, float], Tensor]:
    """The paper's augmentation, fast: the square is cut out before it is resized.

    So pixels that are thrown away are not resized, and the square is at any pixel of the file's
    image. A JPEG is at most 2 levels of 255 away from what Pillow makes of the same square;
    other formats are Pillow's. Resized first, as the paper has it, the same square differs in the
    two pixels beside a cut, which have seen what lies beyond: by up to 16 levels on photographs.

    Returns:
        A function from a file's bytes, and where along the longer side the square is, from 0 to 1
        (1 excluded), to uint8 [3, resolution, resolution]. It raises ImageError.
    """
    size = (resolution, resolution)

    def transform(data: bytes, place: float) -> Tensor:
        pixels = decode_jpeg(data)
        if pixels is not None:
            top, left, side = _square(pixels.shape[0], pixels.shape[1], place)
            square = np.ascontiguousarray(pixels[top : top + side, left : left + side])
            x = torch.from_numpy(square).permute(2, 0, 1)[None]  # the layout that is fast
            return F.interpolate(x, size, mode="bicubic", antialias=True)[0].contiguous()
        image = decode_image(data)
        with as_image_error():
            top, left, side = _square(image.height, image.width, place)
            box = (left, top, left + side, top + side)
            resized = _to_rgb(image.crop(box).resize(size, Image.Resampling.BICUBIC))
            return torch.from_numpy(np.asarray(resized).copy()).permute(2, 0, 1).contiguous()

    return transform


def _square(height: int, width: int, place: float) -> tuple[int, int, int]:
    """Top, left and side of the largest square of an image at a place along its longer side."""
    side = min(height, width)
    offset = int(place * (abs(height - width) + 1))
    return (offset, 0, side) if height > width else (0, offset, side)


def reference_bytes_transform(resolution: int) -> Callable[[bytes], Tensor]:
    """The reference up to the last rounding: as `image_transform` of what `decode_image` reads,
    neither scaled nor normalised.

    Returns:
        A function from bytes to uint8 [3, resolution, resolution]. It raises ImageError.
    """
    pipeline = _compose(resolution, normalise=False)

    def transform(data: bytes) -> Tensor:
        image = decode_image(data)
        _resized(image.height, image.width, resolution)
        with as_image_error():
            return pipeline(image).contiguous()

    return transform


def _resized(height: int, width: int, resolution: int) -> tuple[int, int]:
    """Height and width when the shorter side is `resolution`, rounded as torchvision does.

    Raises:
        ImageError: a sliver of an image would grow beyond what Pillow opens.
    """
    if height <= width:
        size = resolution, int(resolution * width / height)
    else:
        size = int(resolution * height / width), resolution
    if size[0] * size[1] > most_pixels():
        raise ImageError("too large", f"{width} x {height} would become {size[1]} x {size[0]}")
    return size


def _resize_and_crop(pixels: Tensor, resolution: int) -> Tensor:
    """The reference's resize and crop, in torch: uint8 [H, W, 3] -> [3, R, R]."""
    height, width = _resized(pixels.shape[0], pixels.shape[1], resolution)
    x = pixels.permute(2, 0, 1)[None]  # 1CHW, strided as HWC: the layout that is fast
    x = F.interpolate(x, (height, width), mode="bicubic", antialias=True)[0]
    top, left = round((height - resolution) / 2), round((width - resolution) / 2)
    return x[:, top : top + resolution, left : left + resolution].contiguous()


class NormalisingConv2d(nn.Conv2d):
    """A convolution of normalised images, made one of levels from 0 to 255.

    (u / 255 - mean) / std is u * scale + shift: the scale goes into the weight, the shift becomes
    a bias. Where the convolution pads with 0 after the normalisation, this one frames the image
    with the mean before it. Levels are exact in bfloat16 and float16, normalised pixels are not.
    """

    mean: Tensor

    def __init__(self, conv: nn.Conv2d) -> None:
        """Fold the normalisation into a copy of `conv`, which must have no bias."""
        weight = conv.weight.detach()
        with torch.device("meta"):  # the weights are assigned below
            super().__init__(
                conv.in_channels,
                conv.out_channels,
                (conv.kernel_size[0], conv.kernel_size[1]),
                (conv.stride[0], conv.stride[1]),
            )
        mean, std = (
            torch.tensor(values, dtype=torch.float64, device=weight.device).view(3, 1, 1)
            for values in (MEAN, STD)
        )
        self.frame = int(conv.padding[0])
        # In float16 weights for levels would be too small to be precise; levels / 256 are exact.
        self.divisor = 256.0 if weight.dtype == torch.float16 else 1.0
        self.register_buffer("mean", (mean * 255).to(weight.dtype), persistent=False)
        self.weight = _frozen(weight.double() / (std * 255 / self.divisor), weight.dtype)
        self.bias = _frozen(-(weight.double() * mean / std).sum(dim=(1, 2, 3)), weight.dtype)

    def forward(self, input: Tensor) -> Tensor:
        levels = self._framed(input) if self.frame else input
        return super().forward(levels if self.divisor == 1 else levels / self.divisor)

    def _framed(self, levels: Tensor) -> Tensor:
        n, channels, height, width = levels.shape
        frame = self.frame
        framed = self.mean.expand(n, channels, height + 2 * frame, width + 2 * frame).clone()
        framed[..., frame:-frame, frame:-frame] = levels
        return framed


def normalised(levels: Tensor) -> Tensor:
    """What a model takes that normalises nothing itself: uint8 [N, 3, R, R] -> float32.

    The same to float rounding as `image_transform` gives. The channels lie innermost, in which a
    ResNet's convolutions are a quarter faster.
    """
    mean, std = (torch.tensor(values, device=levels.device).view(3, 1, 1) for values in (MEAN, STD))
    images = levels.contiguous(memory_format=torch.channels_last).float()
    return images.div_(255).sub_(mean).div_(std)


def fold_normalisation(model: CLIP) -> CLIP:
    """A model for inference that takes levels, uint8 [N, 3, R, R], and normalises them itself.

    The same features to float rounding, for a quarter of the bytes and no pass over the pixels.
    It shares every other weight with `model`, which stays as it is. It is not for saving: its
    first convolution is no longer CLIP's.

    Fold last, when the model is in the precision that it will run in.

    Raises:
        ValueError: the model is folded already.
    """
    conv = model.visual.conv1
    if isinstance(conv, NormalisingConv2d):
        raise ValueError("the normalisation is folded into this model already")
    shared: dict[int, Any] = {
        id(tensor): tensor
        for tensors in (model.parameters(), model.buffers())
        for tensor in tensors
    }
    folded = copy.deepcopy(model, shared)  # what is in `shared` is taken, not copied
    folded.visual.conv1 = NormalisingConv2d(conv)
    return folded.eval()


def _frozen(values: Tensor, dtype: torch.dtype) -> nn.Parameter:
    return nn.Parameter(values.to(dtype), requires_grad=False)


def _compose(resolution: int, *, normalise: bool) -> Preprocess:
    # Late, because it takes a second and tokenizing or loading features needs none of it; and
    # never before `_torchvision`.
    import clip_model._torchvision  # noqa: F401, I001
    from torchvision import transforms

    steps = [
        transforms.Resize(resolution, interpolation=transforms.InterpolationMode.BICUBIC),
        transforms.CenterCrop(resolution),
        _to_rgb,
    ]
    if normalise:
        steps += [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    else:
        steps.append(transforms.PILToTensor())
    pipeline: Preprocess = transforms.Compose(steps)
    return pipeline


def _to_rgb(image: Image.Image) -> Image.Image:
    return image.convert("RGB")
