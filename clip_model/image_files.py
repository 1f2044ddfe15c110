"""An image's file to pixels: the one rule for which formats are read, and as what.

- Only `FORMATS` are read. Pillow knows more, and starts another program for some (Ghostscript).
- The first frame of an animation counts.
- Levels have 8 bits: of 16 the upper 8 are kept, as Pillow does for colours and libpng when it is
  asked to strip. Floats are scaled by the least of 1, 255 and 65,535 that none of them is above.
  Where 32 bits or floats say nothing of what is white, there is no image.
- The image is turned as EXIF says, as browsers do.

Nothing in here imports torch.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, UnidentifiedImageError

#: Pillow's names of the formats that are read: the web's, and those of other people's data sets.
#: None of their readers starts a program.
FORMATS = ("AVIF", "BMP", "DIB", "GIF", "ICO", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")

Reason = Literal["not an image", "truncated", "broken", "too large"]
Pixels = np.ndarray[Any, np.dtype[np.uint8]]

# What Pillow's decoders raise on bytes that are no whole image, beside OSError.
_DECODER_ERRORS = (
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    OverflowError,
    NotImplementedError,
    struct.error,
    zlib.error,
)

#: What floats have for white: as floats, or as levels of 8 or 16 bits.
_WHITES = (1.0, 255.0, 65_535.0)
#: The share of white that the brightest of floats must have to tell levels from floats.
_LEAST_BRIGHT = 1 / 8

#: What undoes each of EXIF's orientations but 1, which is upright.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageError(ValueError):
    """Bytes that cannot become a model's input; `reason` says why, in a fixed set of words."""

    def __init__(self, reason: Reason, detail: object) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


def decode_image(data: bytes) -> Image.Image:
    """The image in a file's bytes, decoded whole, of 8 bits, upright.

    Raises:
        ImageError: it is of no format that is read, or cannot be decoded whole, or has no levels
            of a known scale, or Pillow refuses its size.
    """
    with as_image_error():
        image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
        image.load()
        turn = _TURNS.get(_orientation(image))
        image = _of_8_bits(image)
        return image if turn is None else image.transpose(turn)


def decode_jpeg(data: bytes) -> Pixels | None:
    """The same of a plain JPEG, fast: [H, W, 3], RGB; None where `decode_image` must decide."""
    import simplejpeg  # late: only this path needs it

    if not data.startswith(b"\xff\xd8") or _may_be_turned(data):
        return None
    try:
        height, width, colour, _ = simplejpeg.decode_jpeg_header(data)
        if colour not in ("YCbCr", "Gray") or height * width > most_pixels():
            return None
        pixels: Pixels = simplejpeg.decode_jpeg(data)
    except ValueError:  # even for what can be mended: Pillow mends some of it, and refuses some
        return None
    return pixels


def _may_be_turned(jpeg: bytes) -> bool:
    if b"Exif\0\0" not in jpeg and b"tiff:Orientation" not in jpeg:
        return False
    try:
        with as_image_error():
            return _orientation(Image.open(io.BytesIO(jpeg), formats=("JPEG",))) != 1
    except ImageError:
        return True


def pixels_of(data: bytes) -> int:
    """How many pixels a file says that it has, none of which is decoded. Raises ImageError."""
    with as_image_error(), Image.open(io.BytesIO(data), formats=FORMATS) as image:
        return image.width * image.height


def format_of(data: bytes, formats: tuple[str, ...] = FORMATS) -> str:
    """Pillow's name of a file's format, by its content: one of `formats`, or a kind of one (MPO).

    Raises ImageError where it is none of them; readers of others do not see the file.
    """
    with as_image_error(formats), Image.open(io.BytesIO(data), formats=formats) as image:
        return str(image.format)


def most_pixels() -> float:
    """Pixels that an image may have before Pillow warns of a decompression bomb."""
    return Image.MAX_IMAGE_PIXELS or float("inf")


@contextmanager
def as_image_error(formats: tuple[str, ...] = FORMATS) -> Iterator[None]:
    """Whatever Pillow raises for an image of one of these formats becomes an ImageError."""
    try:
        yield
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError("too large", error) from error
    except UnidentifiedImageError as error:
        raise ImageError("not an image", f"none of {', '.join(formats)}") from error
    except OSError as error:
        raise ImageError("truncated" if "truncated" in str(error) else "broken", error) from error
    except _DECODER_ERRORS as error:
        raise ImageError("broken", error) from error


def _orientation(image: Image.Image) -> int:
    """EXIF's, 1 where it says nothing that can be read: the image may be whole nevertheless."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except (OSError, *_DECODER_ERRORS):
        return 1


def _of_8_bits(image: Image.Image) -> Image.Image:
    """Grey of more bits, which Pillow's own conversion would cut off at 255: nearly all white.

    And a palette with an alpha beside it, whose indices Pillow would resize as if they were levels.
    """
    if image.mode == "PA":
        return image.convert("RGBA")
    if image.mode != "F" and not image.mode.startswith("I"):
        return image
    levels = np.asarray(image)
    grey = Image.fromarray(_floats(levels) if image.mode == "F" else _upper_bits(levels))
    if isinstance(clear := image.info.get("transparency"), int):  # a level, of 16 bits
        grey.putalpha(Image.fromarray(np.where(levels == clear, 0, 255).astype(np.uint8)))
    return grey


def _upper_bits(levels: npt.NDArray[Any]) -> Pixels:
    if levels.size and not 0 <= levels.min() <= levels.max() <= 0xFFFF:
        raise ImageError("broken", "levels are of 32 bits and unknown scale")
    return (levels >> 8).astype(np.uint8)


def _floats(levels: npt.NDArray[Any]) -> Pixels:
    darkest, brightest = levels.min(initial=0), levels.max(initial=0)
    white = next((white for white in _WHITES if brightest <= white), np.nan)
    # Floats just above 1 are highlights sooner than 8 bits of which nearly all is black.
    is_known = darkest >= 0 and (white == _WHITES[0] or brightest >= white * _LEAST_BRIGHT)
    if not is_known:  # as it is for NaN
        raise ImageError("broken", "levels are floats of unknown scale")
    return np.rint(levels * (255 / white)).astype(np.uint8)
