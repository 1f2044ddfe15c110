"""What a picture is: cases of files that are none, that are bombs, and that must look so."""

from __future__ import annotations

from benchmarks.hostile_web import files
from benchmarks.hostile_web.answers import answer
from benchmarks.hostile_web.case import AGENT, Case
from benchmarks.hostile_web.files import JPEG, LOOKS, PNG, file_of, image_of
from benchmarks.hostile_web.looks import RED, WHITE, Colour, Looks
from benchmarks.hostile_web.server import Seen

#: Half red over white.
_PINK = Colour(*((level * 128 + 255 * 127) // 255 for level in RED))
_ON_WHITE = Looks(RED, _PINK, WHITE, WHITE)


def _said_who(case: Case, seen: Seen) -> str:
    agents = {visit.agent for visit in seen.of(case)}
    return "" if all(AGENT in agent for agent in agents) else f"it called itself {agents}"


def _kept(name: str, content: bytes, looks: Looks = LOOKS, kind: str = "image/png") -> Case:
    """A picture that must be read, and look so."""
    return Case(name, "kept", answer(content, fields={"Content-Type": kind}), looks=looks)


def _none(name: str, content: bytes, kind: str = "image/png") -> Case:
    """What is no picture of a kind that is read, or not a whole one."""
    return Case(name, "not_an_image", answer(content, fields={"Content-Type": kind}))


def _bomb(name: str, content: bytes, *others: str) -> Case:
    """A picture of more pixels than are safe."""
    return Case(name, ("too_large", *others), answer(content))


CASES = [
    Case("a good PNG", "kept", answer(PNG), looks=LOOKS, check=_said_who),
    _kept("a good JPEG", JPEG),
    _kept("a good WebP", file_of(image_of(), "WEBP", lossless=True)),
    _kept("a good AVIF", file_of(image_of(), "AVIF", quality=100)),
    _kept("a good GIF", file_of(image_of(), "GIF")),
    _kept("a progressive JPEG", file_of(image_of(), "JPEG", quality=95, progressive=True)),
    _bomb("a PNG of 30,000 x 30,000", files.bomb(30_000)),
    _bomb("a PNG of 13,000 x 13,000", files.bomb(13_000)),
    _bomb("a PNG of 2**31 x 2**31", files.png(2**31 - 1, 2**31 - 1, b""), "not_an_image"),
    _bomb("a JPEG of 65,500 x 65,500", files.huge_jpeg()),
    _bomb("a GIF of 65,535 x 65,535", files.huge_gif()),
    Case("a PNG with a comment of 64 MB", ("not_an_image", "kept"), answer(files.text_bomb()),
         looks=LOOKS),
    Case("a picture above the bytes allowed", "too_large", answer(PNG + bytes(5 * 2**20))),
    Case("a picture of 600 x 20", "aspect_ratio",
         answer(file_of(image_of().resize((600, 20)), "PNG"))),
    _none("a truncated PNG", PNG[: len(PNG) * 2 // 3]),
    _none("a truncated JPEG", JPEG[: len(JPEG) // 2], "image/jpeg"),
    _none("a PNG of 30 bytes", PNG[:30]),
    _none("SVG as PNG", files.SVG),
    _none("SVG as SVG", files.SVG, "image/svg+xml"),
    _none("EPS as JPEG", files.EPS, "image/jpeg"),
    _none("HTML as JPEG", files.HTML, "image/jpeg"),
    _none("HTML as HTML", files.HTML, "text/html"),
    _none("PDF as PNG", files.PDF),
    _none("FITS as PNG", files.fits_bomb()),
    _none("a BMP", file_of(image_of(), "BMP"), "image/bmp"),
    _none("a BMP as PNG", file_of(image_of(), "BMP")),
    _none("JPEG 2000 as JPEG", file_of(image_of(), "JPEG2000"), "image/jpeg"),
    _none("an ICO as GIF", file_of(image_of(), "ICO"), "image/gif"),
    _none("PPM as WebP", file_of(image_of(), "PPM"), "image/webp"),
    _none("zeros as PNG", bytes(9_999)),
    _kept("a PNG as HTML", PNG, kind="text/html; charset=utf-8"),
    _kept("a JPEG as PNG", JPEG),
    _kept("a PNG as nothing", PNG, kind=""),
    _kept("a PNG with HTML behind it", PNG + files.HTML),
    _kept("a CMYK JPEG", files.cmyk(), kind="image/jpeg"),
    _kept("a CMYK JPEG with a broken profile", files.cmyk(with_profile=True), kind="image/jpeg"),
    _kept("a grey PNG of 16 bits", files.deep_grey(), files.GREYS),
    _kept("a coloured PNG of 16 bits", files.deep_colour()),
    _kept("a TIFF of floats", files.floats(), files.GREYS),
    _kept("an animated GIF", files.animated("GIF"), kind="image/gif"),
    _kept("a GIF of 300 frames", files.animated("GIF", 300), kind="image/gif"),
    _kept("an animated WebP", files.animated("WEBP"), kind="image/webp"),
    _kept("a JPEG on its side", files.turned("JPEG"), kind="image/jpeg"),
    _kept("a PNG on its side", files.turned("PNG")),
    _kept("a WebP on its side", files.turned("WEBP"), kind="image/webp"),
    _kept("a JPEG with broken EXIF", file_of(image_of(), "JPEG", quality=95, subsampling=0,
                                              exif=b"Exif\0\0MM\0*" + b"\xff" * 40)),
    _kept("a transparent PNG", files.see_through(), _ON_WHITE),
    _kept("a transparent WebP", files.see_through("WEBP", lossless=True, exact=True), _ON_WHITE),
    _kept("a PNG with a transparent colour", files.see_through_palette(),
          Looks(RED, WHITE, RED, WHITE)),
    _kept("a PNG with a profile of sRGB", files.profiled()),
]  # fmt: skip
