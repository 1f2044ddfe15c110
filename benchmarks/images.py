"""Awkward images through download and embed, against Pillow's own reading.

    python -m pip download --no-deps --no-binary pillow pillow && tar xzf pillow-*.tar.gz
    python -m benchmarks.images pillow-*/Tests/images

A row for each format and mode: files, how many are kept, and how many levels of 255 a kept one is
away from Pillow's reading at most: by img2dataset's Resizer, without the loss of its JPEG, and as
the model's input.
"""

from __future__ import annotations

import argparse
import io
import logging
import warnings
from collections import defaultdict
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from clip_model.image_files import ImageError
from clip_model.preprocess import image_bytes_transform, reference_bytes_transform
from workers.base.output import say
from workers.fetch.img2dataset_parts import img2dataset_parts

RESOLUTION = 224


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    warnings.simplefilter("ignore")
    logging.disable()
    rows: dict[tuple[str, str], list[tuple[int | None, int | None]]] = defaultdict(list)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        kind, apart = measured(path.read_bytes())
        rows[kind].append(apart)
        if max(levels or 0 for levels in apart) > 2:
            say(f"{path.name}: {kind}, {apart} levels apart")
    say("| format | mode | files | kept by download | levels | by embed | levels |")
    say("|---|---|---|---|---|---|---|")
    for (name, mode), several in sorted(rows.items()):
        cells = [name, mode, str(len(several))]
        for column in zip(*several, strict=True):
            kept = [levels for levels in column if levels is not None]
            cells += [str(len(kept)), str(max(kept, default="-"))]
        say(f"| {' | '.join(cells)} |")


def measured(data: bytes) -> tuple[tuple[str, str], tuple[int | None, int | None]]:
    """Format and mode; levels apart, or None where a file is not kept, of download and embed."""
    try:
        image = Image.open(io.BytesIO(data))
        kind = image.format or "", image.mode
        if kind[0] in ("EPS", "WMF"):
            raise OSError("another program would be started")
        image.load()
    except Exception:  # noqa: BLE001 - whatever Pillow raises for what it does not read
        return ("not read by Pillow", ""), (_downloaded(data, None), _embedded(data, None))
    reading = pillows(image)
    return kind, (_downloaded(data, reading), _embedded(data, reading))


def pillows(image: Image.Image) -> Image.Image:
    """Pillow's reading, of 8 bits and upright."""
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return ImageOps.exif_transpose(image)


def _downloaded(data: bytes, reading: Image.Image | None) -> int | None:
    resizer = img2dataset_parts().Resizer(1, "no", True, encode_format="png", encode_quality=1)
    png, *_, error = resizer(io.BytesIO(data))
    if error is not None:
        return None
    if reading is None:
        return 256  # kept, though Pillow does not read it
    white = Image.new("RGBA", reading.size, "white")
    flat = Image.alpha_composite(white, reading.convert("RGBA")).convert("RGB")
    return apart(flat, Image.open(io.BytesIO(png)).convert("RGB"))


def _embedded(data: bytes, reading: Image.Image | None) -> int | None:
    try:
        levels = image_bytes_transform(RESOLUTION)(data)
    except ImageError:
        return None
    if reading is None:
        return 256
    mode = "RGBA" if reading.mode == "PA" else reading.mode
    file = io.BytesIO()
    reading.convert(mode).save(file, "TIFF", compression="raw", exif=Image.Exif())
    expected = reference_bytes_transform(RESOLUTION)(file.getvalue())
    return int((levels.int() - expected.int()).abs().max())


def apart(one: Image.Image, other: Image.Image) -> int:
    """Levels between two images at most; 256 if they are of different sizes."""
    if one.size != other.size:
        return 256
    return int(np.abs(np.asarray(one).astype(int) - np.asarray(other)).max())


if __name__ == "__main__":
    main()
