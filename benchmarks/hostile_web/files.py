"""Pictures and what only claims to be one, as bytes that a server sends."""

from __future__ import annotations

import io
import struct
import zlib
from functools import cache
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageCms

from benchmarks.hostile_web.looks import BLACK, BLUE, GREEN, RED, Colour, Looks

#: Width and height of the pictures, in pixels.
WIDTH, HEIGHT = 96, 64
#: A picture with a colour of its own in each quarter, as it is meant to be seen.
LOOKS = Looks(RED, GREEN, BLUE, BLACK)


def quarters(top_left: Any, top_right: Any, bottom_left: Any, bottom_right: Any) -> Any:
    """[HEIGHT, WIDTH] or [HEIGHT, WIDTH, channels] of four levels or lists of levels."""
    small = np.array([[top_left, top_right], [bottom_left, bottom_right]])
    return small.repeat(HEIGHT // 2, axis=0).repeat(WIDTH // 2, axis=1)


def image_of(looks: Looks = LOOKS) -> Image.Image:
    levels = quarters(looks.top_left, looks.top_right, looks.bottom_left, looks.bottom_right)
    return Image.fromarray(levels.astype(np.uint8))


def plain(colour: Colour) -> Image.Image:
    return Image.new("RGB", (WIDTH, HEIGHT), tuple(colour))


def file_of(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


PNG = file_of(image_of(), "PNG")
JPEG = file_of(image_of(), "JPEG", quality=95, subsampling=0)


def turned(kind: str) -> bytes:
    """A file whose pixels lie on their side, and whose EXIF says how to turn them."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # to be turned by 90 degrees, clockwise
    lying = image_of().transpose(Image.Transpose.ROTATE_90)
    options: dict[str, dict[str, Any]] = {
        "JPEG": {"quality": 95, "subsampling": 0},
        "WEBP": {"lossless": True},
        "PNG": {},
    }
    return file_of(lying, kind, exif=exif, **options[kind])


def cmyk(*, with_profile: bool = False) -> bytes:
    """A JPEG of inks; the profile that it may have is damaged, so that the plain formula counts."""
    options = {"icc_profile": b"no profile" * 20} if with_profile else {}
    return file_of(image_of().convert("CMYK"), "JPEG", quality=95, subsampling=0, **options)


def deep_grey() -> bytes:
    """A PNG of 16 bits, whose levels are 8-bit levels times 257."""
    return file_of(Image.fromarray((quarters(40, 100, 160, 220) * 257).astype(np.uint16)), "PNG")


def deep_colour() -> bytes:
    """A PNG of three times 16 bits."""
    levels = quarters(*(list(colour) for colour in (RED, GREEN, BLUE, BLACK))) * 257
    rows = levels.astype(">u2").tobytes()
    stride = WIDTH * 6
    lines = b"".join(b"\0" + rows[place : place + stride] for place in range(0, len(rows), stride))
    return png(WIDTH, HEIGHT, zlib.compress(lines), depth=16, colour=2)


#: Greys of the four quarters, from dark to light.
_DARK, _DIM, _PALE, _LIGHT = (Colour(level, level, level) for level in (40, 100, 160, 220))
GREYS = Looks(_DARK, _DIM, _PALE, _LIGHT)


def floats() -> bytes:
    """A TIFF of floats from 0 to 1."""
    return file_of(Image.fromarray((quarters(40, 100, 160, 220) / 255).astype(np.float32)), "TIFF")


def see_through(kind: str = "PNG", **options: Any) -> bytes:
    """Red, half red, nothing over black, and nothing over green."""
    levels = quarters([*RED, 255], [*RED, 128], [*BLACK, 0], [*GREEN, 0])
    return file_of(Image.fromarray(levels.astype(np.uint8), "RGBA"), kind, **options)


def see_through_palette() -> bytes:
    """A palette whose second colour is transparent, on the right."""
    image = Image.fromarray(quarters(0, 1, 0, 1).astype(np.uint8), "P")
    image.putpalette([*RED, *BLACK])
    return file_of(image, "PNG", transparency=1)


def animated(kind: str, frames: int = 3) -> bytes:
    """The first frame is the picture, the others are black."""
    others = [plain(Colour(0, 0, number % 7)) for number in range(1, frames)]
    lossless = {"lossless": True} if kind == "WEBP" else {}
    return file_of(image_of(), kind, save_all=True, append_images=others, **lossless)


def profiled() -> bytes:
    """A PNG with a whole profile of sRGB."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return file_of(image_of(), "PNG", icc_profile=profile)


def chunk(name: bytes, content: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(content)) + name + content + _crc(name + content)


def _crc(data: bytes) -> bytes:
    return struct.pack(">I", zlib.crc32(data))


def png(
    width: int, height: int, lines: bytes, depth: int = 8, colour: int = 0, before: bytes = b""
) -> bytes:
    """A PNG of lines that are compressed already, and of chunks before them."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = before + chunk(b"IDAT", lines) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body


@cache
def bomb(side: int) -> bytes:
    """A PNG of so many white pixels each way, one bit each: a file of kilobytes."""
    line = b"\0" + b"\xff" * ((side + 7) // 8)
    return png(side, side, deflated(line * 100, side // 100), depth=1)


def deflated(block: bytes, times: int, wbits: int = 15) -> bytes:
    """A block over and over, compressed, without ever being there as a whole."""
    packer = zlib.compressobj(1, zlib.DEFLATED, wbits)
    return b"".join([*(packer.compress(block) for _ in range(times)), packer.flush()])


def text_bomb() -> bytes:
    """A PNG with a compressed comment of 64 MB."""
    comment = chunk(b"zTXt", b"Comment\0\0" + deflated(b" " * 2**20, 64))
    return PNG[:33] + comment + PNG[33:]


def huge_jpeg() -> bytes:
    """A JPEG whose header tells of 65,500 pixels each way."""
    at = JPEG.index(b"\xff\xc0") + 5
    return JPEG[:at] + struct.pack(">HH", 65_500, 65_500) + JPEG[at + 4 :]


def huge_gif() -> bytes:
    """A GIF whose screen and frame have 65,535 pixels each way."""
    gif = file_of(plain(RED), "GIF")
    size = struct.pack("<HH", 65_535, 65_535)
    gif = gif[:6] + size + gif[10:]
    at = gif.index(b"," + b"\0" * 4) + 5
    return gif[:at] + size + gif[at + 4 :]


SVG = b"""<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;&a;">]>
<svg xmlns="http://www.w3.org/2000/svg" width="96" height="64"><rect width="96" height="64"/>
<text>&b;&b;</text></svg>"""
EPS = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 96 64
%%EndComments
{ } loop
%%EOF
"""
HTML = b"<!DOCTYPE html><html><title>Gone</title><body>This picture has been removed.</body></html>"
PDF = b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n"


def fits_bomb() -> bytes:
    """A FITS file, which Pillow has a reader for, of a gzip bomb."""
    cards = [
        "SIMPLE  =                    T", "BITPIX  =                    8",
        "NAXIS   =                    2", "NAXIS1  =                10000",
        "NAXIS2  =                10000", "END",
    ]  # fmt: skip
    return "".join(card.ljust(80) for card in cards).ljust(2_880).encode()
