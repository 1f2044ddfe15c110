"""The two classes of img2dataset that work on a shard, without what they have no use for.

Its modules import wandb and webdataset for a logger and tar files that are not asked for here,
imghdr, which Python 3.13 no longer has, to leave images as they are, and albumentations, which
asks a server for updates when it is imported, for four calls of OpenCV; the package itself imports
its command line. While the classes are imported, stand-ins have these names. Afterwards the
process is as it was: whoever imports wandb or img2dataset gets the real one.

What fetches an image is ours (``workers.fetch.image_fetch``). So is what reads it,
`clip_model.decode_image`: then an image is the same here and where it is embedded. OpenCV leaves 16
bits, which its JPEGs cut off at 255, turns nothing upright, and fills up what is missing of a
truncated file.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from importlib.util import find_spec
from types import ModuleType
from typing import Any, NamedTuple

import cv2
import numpy as np
import simplejpeg

from clip_model.image_files import (
    ImageError,
    as_image_error,
    decode_image,
    decode_jpeg,
    most_pixels,
    pixels_of,
)

Pixels = np.ndarray[Any, np.dtype[Any]]
#: What albumentations calls a transform: ``transform(image=pixels)["image"]``.
Transform = Callable[..., dict[str, Pixels]]

#: Imported by img2dataset, and not used by the two classes as they are called here.
_UNUSED = ("imghdr", "wandb", "webdataset")


class Parts(NamedTuple):
    """img2dataset's own classes."""

    Resizer: Any
    ParquetSampleWriter: Any


@cache
def img2dataset_parts() -> Parts:
    """The classes, imported once in a process. Raises ModuleNotFoundError without img2dataset."""
    with _stand_ins():
        from img2dataset import resizer
        from img2dataset.resizer import Resizer
        from img2dataset.writer import ParquetSampleWriter
    resizer.cv2 = _OpenCV()
    # It turns the process's own outputs away meanwhile, for what OpenCV's decoders print. What two
    # threads turn away at a time may never come back, and nothing that is called here prints.
    resizer.SuppressStdoutStderr = nullcontext
    return Parts(Resizer, ParquetSampleWriter)


class _OpenCV:
    """OpenCV as the Resizer knows it, but for how it reads an image."""

    def __getattr__(self, name: str) -> Any:
        return getattr(cv2, name)

    def imdecode(self, data: Pixels, _flags: int) -> Pixels:
        """[H, W] or [H, W, 3 or 4], blue first, of 8 bits. Raises ImageError."""
        content = data.tobytes()
        pixels = decode_jpeg(content)  # without the interpreter's lock, and with fewer copies
        if pixels is not None:
            is_grey = simplejpeg.decode_jpeg_header(content)[2] == "Gray"
            return cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY if is_grey else cv2.COLOR_RGB2BGR)
        with as_image_error():
            # Far more than any model sees, and its levels would take a GB here.
            if (size := pixels_of(content)) > most_pixels():
                raise ImageError("too large", f"{size:,} pixels")
            image = decode_image(content)
            if image.has_transparency_data:  # of a palette, too, or of one colour
                return cv2.cvtColor(np.asarray(image.convert("RGBA")), cv2.COLOR_RGBA2BGRA)
            if image.mode in ("1", "L"):
                return np.asarray(image.convert("L"))
            return cv2.cvtColor(np.asarray(image.convert("RGB")), cv2.COLOR_RGB2BGR)


@contextmanager
def _stand_ins() -> Iterator[None]:
    modules = {name: ModuleType(name) for name in _UNUSED}
    modules |= {"img2dataset": _bare_package("img2dataset"), "albumentations": _albumentations()}
    before = _take(modules)
    sys.modules.update(modules)
    try:
        yield
    finally:
        _take(modules)
        sys.modules.update(before)


def _take(names: dict[str, ModuleType]) -> dict[str, ModuleType]:
    """Take these modules and what is inside them out of ``sys.modules``."""
    return {name: sys.modules.pop(name) for name in [*sys.modules] if name.split(".")[0] in names}


def _bare_package(name: str) -> ModuleType:
    """A package whose modules can be imported without its ``__init__``."""
    spec = find_spec(name)
    if spec is None or spec.submodule_search_locations is None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    package = ModuleType(name)
    package.__path__ = list(spec.submodule_search_locations)
    return package


def _albumentations() -> ModuleType:
    """The four transforms that img2dataset's ``Resizer`` asks of albumentations 1, on OpenCV."""
    module = ModuleType("albumentations")
    vars(module).update(
        SmallestMaxSize=_smallest_max_size,
        LongestMaxSize=_longest_max_size,
        CenterCrop=_center_crop,
        PadIfNeeded=_pad_if_needed,
    )
    return module


def _smallest_max_size(max_size: int, interpolation: int, p: float) -> Transform:
    assert p == 1.0
    return lambda image: _scaled(image, max_size / min(image.shape[:2]), interpolation)


def _longest_max_size(max_size: int, interpolation: int, p: float) -> Transform:
    assert p == 1.0
    return lambda image: _scaled(image, max_size / max(image.shape[:2]), interpolation)


def _scaled(image: Pixels, scale: float, interpolation: int) -> dict[str, Pixels]:
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    if (height, width) != image.shape[:2]:
        image = cv2.resize(image, (width, height), interpolation=interpolation)
    return {"image": image}


def _center_crop(height: int, width: int) -> Transform:
    def crop(image: Pixels) -> dict[str, Pixels]:
        top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
        return {"image": image[top : top + height, left : left + width]}

    return crop


def _pad_if_needed(
    min_height: int, min_width: int, border_mode: int, value: list[int], p: float
) -> Transform:
    assert p == 1.0

    def pad(image: Pixels) -> dict[str, Pixels]:
        rows = max(0, min_height - image.shape[0])
        columns = max(0, min_width - image.shape[1])
        top, left = rows // 2, columns // 2
        padded = cv2.copyMakeBorder(
            image, top, rows - top, left, columns - left, border_mode, value=value
        )
        return {"image": padded}

    return pad
