"""Files of many formats and modes, with the levels that were written into them."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image

Levels = npt.NDArray[np.uint8]

EPS = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 40 30
%%EndComments
0 0 40 30 rectfill
%%EOF
"""


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def ramp() -> Levels:
    """[30, 40], no two corners alike."""
    return (4 * np.arange(40)[None, :] + 3 * np.arange(30)[:, None]).astype(np.uint8)


def _samples() -> dict[str, tuple[bytes, Levels]]:
    """By name: a file, and what is to be read from it, RGB [30, 40, 3]. None is transparent."""
    grey = np.repeat(ramp()[..., None], 3, axis=2)
    colour = np.stack([ramp(), 255 - ramp(), ramp() // 2], axis=-1)
    few = np.where(ramp()[..., None] > 99, [250, 20, 90], [10, 200, 60]).astype(np.uint8)
    rgb, lum = Image.fromarray(colour), Image.fromarray(ramp())
    alpha = Image.new("L", (40, 30), 255)
    palette = Image.fromarray(few).convert("P", palette=Image.Palette.ADAPTIVE, colors=2)
    binary = Image.fromarray(ramp() > 99)
    deep = Image.fromarray(ramp().astype(np.uint16) * 257)
    other = Image.new("RGB", (40, 30), "red")
    lossless = {"lossless": True}
    samples = {
        "png grey 16": (encoded(deep, "PNG"), grey),
        "tiff grey 16": (encoded(deep, "TIFF"), grey),
        "tiff grey 16 big-endian": (_big_endian(deep), grey),
        "pgm 16": (encoded(deep, "PPM"), grey),
        "tiff floats to 1": (encoded(_floats(1), "TIFF"), grey),
        "tiff floats to 255": (encoded(_floats(255), "TIFF"), grey),
        "tiff floats to 65,535": (encoded(_floats(65_535), "TIFF"), grey),
        "pfm": (encoded(_floats(1), "PPM"), grey),
        "png colour 16": (_png_of_16_bits(colour), colour),
        "png 1 bit": (encoded(binary, "PNG"), np.where(grey > 99, 255, 0)),
        "tiff 1 bit": (encoded(binary, "TIFF"), np.where(grey > 99, 255, 0)),
        "png palette": (encoded(palette, "PNG"), few),
        "gif": (encoded(palette, "GIF"), few),
        "bmp palette": (encoded(palette, "BMP"), few),
        "png grey and alpha": (encoded(Image.merge("LA", [lum, alpha]), "PNG"), grey),
        "png colour and alpha": (encoded(_with_alpha(rgb, alpha), "PNG"), colour),
        "webp colour and alpha": (encoded(_with_alpha(rgb, alpha), "WEBP", **lossless), colour),
        "webp animated": (
            encoded(rgb, "WEBP", save_all=True, append_images=[other], **lossless),
            colour,
        ),
        "png animated": (encoded(rgb, "PNG", save_all=True, append_images=[other]), colour),
        "tiff of two pages": (encoded(rgb, "TIFF", save_all=True, append_images=[other]), colour),
        "jpeg 2000": (encoded(rgb, "JPEG2000"), colour),
        "tiff cmyk": (encoded(rgb.convert("CMYK"), "TIFF"), colour),
        "bmp": (encoded(rgb, "BMP"), colour),
        "ppm": (encoded(rgb, "PPM"), colour),
        "ico": (encoded(rgb, "ICO", sizes=[(40, 30)]), colour),
    }
    return samples | _jpegs(Image.new("RGB", (40, 30), (200, 100, 50)))


def _jpegs(plain: Image.Image) -> dict[str, tuple[bytes, Levels]]:
    expected = np.asarray(plain)
    cmyk = encoded(plain.convert("CMYK"), "JPEG", quality=100)
    return {
        "jpeg": (encoded(plain, "JPEG", quality=100), expected),
        "jpeg progressive": (encoded(plain, "JPEG", quality=100, progressive=True), expected),
        "jpeg grey": (
            encoded(plain.convert("L"), "JPEG", quality=100),
            np.asarray(plain.convert("L").convert("RGB")),
        ),
        "jpeg cmyk": (cmyk, expected),
        "avif": (encoded(plain, "AVIF", quality=100), expected),
    }


def _with_alpha(rgb: Image.Image, alpha: Image.Image) -> Image.Image:
    rgba = rgb.convert("RGBA")
    rgba.putalpha(alpha)
    return rgba


def _floats(white: float) -> Image.Image:
    return Image.fromarray((ramp() / 255 * white).astype(np.float32))


def _big_endian(deep: Image.Image) -> bytes:
    levels = np.asarray(deep)
    big = Image.frombytes("I;16B", deep.size, levels.astype(">u2").tobytes())
    return encoded(big, "TIFF")


def _png_of_16_bits(colour: Levels) -> bytes:
    import cv2

    ok, png = cv2.imencode(".png", colour[..., ::-1].astype(np.uint16) * 257)
    assert ok
    return png.tobytes()


SAMPLES = _samples()
