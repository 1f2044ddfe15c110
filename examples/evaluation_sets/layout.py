"""How sets are laid out: folders by class, Parquet of pairs, the arrays that packages have."""

from __future__ import annotations

import gzip
import hashlib
import io
import struct
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from workers.base.arrays import UInt8s

SIDE = 336  # the longer side, at most: no CLIP of the paper's looks at more


class SetError(ValueError):
    """A package that has not what a set is made of; the text is one line and says what."""


@dataclass(frozen=True)
class Drawn:
    """One picture of a class, or with a caption."""

    label: str
    name: str  # of its file, without ending
    content: bytes


@dataclass
class Report:
    """What became of the pictures that were looked at: none is dropped without a reason."""

    pictures: int = 0
    classes: dict[str, int] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)


def as_shown(content: bytes) -> tuple[bytes, str]:
    """A picture as a page shows it, and the ending of its file.

    On white where it is transparent, at most SIDE pixels, and without a palette, whose indices
    CLIP's own transform would resize; a JPEG, PNG or WebP that needs none of this stays as it is.
    """
    with Image.open(io.BytesIO(content)) as picture:
        kind = (picture.format or "").lower()
        transparent = picture.has_transparency_data
        is_plain = picture.mode in ("RGB", "L") and not transparent
        if kind in ("jpeg", "png", "webp") and is_plain and max(picture.size) <= SIDE:
            return content, kind
        shown = picture.convert("RGBA" if transparent else "RGB")
    if transparent:
        page = Image.new("RGBA", shown.size, "white")
        page.alpha_composite(shown)
        shown = page.convert("RGB")
    shown.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    if not is_plain:
        shown.save(buffer, "PNG")
        return buffer.getvalue(), "png"
    shown.save(buffer, "JPEG", quality=95)
    return buffer.getvalue(), "jpeg"


def write_classes(
    folder: Path, classes: Iterable[str], drawn: Iterable[Drawn], report: Report
) -> None:
    """Write `folder/CLASS/NAME.png` and count them; every class must have a picture.

    A picture that two classes have says nothing of either and is left out of both; one that a
    class has twice is written once.

    Raises:
        SetError: a class has no picture.
    """
    found: dict[bytes, list[tuple[Drawn, str]]] = {}
    for one in drawn:
        content, ending = as_shown(one.content)
        found.setdefault(content, []).append((one, ending))
    counts = Counter(dict.fromkeys(classes, 0))
    for content, those in found.items():
        if len({one.label for one, _ in those}) > 1:
            report.left_out["the same picture in two classes"] += len(those)
            continue
        report.left_out["the same picture twice in a class"] += len(those) - 1
        one, ending = those[0]
        path = folder / one.label / f"{one.name}.{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            raise SetError(f"two pictures are called {one.label}/{path.name}")
        path.write_bytes(content)
        counts[one.label] += 1
    if not counts:
        raise SetError("no picture is where the package used to have it")
    if missing := [name for name, count in counts.items() if not count]:
        raise SetError(f"no picture of {', '.join(missing)} is where the package used to have it")
    report.pictures += counts.total()
    for name, count in counts.items():
        report.classes[name] = report.classes.get(name, 0) + count


def write_pairs(path: Path, pairs: Iterable[Drawn], report: Report) -> None:
    """Write Parquet of id, image and caption; a caption or picture that is there twice is left out.

    Raises:
        SetError: there is none.
    """
    rows = [(one, as_shown(one.content)[0]) for one in pairs]
    captions = Counter(one.label for one, _ in rows)
    images = Counter(content for _, content in rows)
    kept = [(o, c) for o, c in rows if captions[o.label] == 1 and images[c] == 1]
    if not kept:
        raise SetError("no picture with a caption is where the package used to have it")
    report.left_out["a caption or picture that is there twice"] += len(rows) - len(kept)
    report.pictures += len(kept)
    table = pa.table(
        {
            "id": pa.array([one.name for one, _ in kept]),
            "image": pa.array([content for _, content in kept], pa.binary()),
            "caption": pa.array([one.label for one, _ in kept]),
        }
    )
    pq.write_table(table, path, compression="none", row_group_size=1_000)


def read_idx(path: Path) -> UInt8s:
    """An idx file of bytes, compressed or not: [N] or [N, H, W]. Raises SetError."""
    content = path.read_bytes()
    if content[:2] == b"\x1f\x8b":
        content = gzip.decompress(content)
    if content[:3] != b"\0\0\x08":
        raise SetError(f"{path.name} is no idx file of bytes")
    shape = struct.unpack_from(f">{content[3]}I", content, 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * content[3]).reshape(shape)


def write_idx(path: Path, values: UInt8s) -> None:
    """The same, compressed."""
    header = b"\0\0\x08" + bytes([values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    path.write_bytes(gzip.compress(header + values.tobytes(), mtime=0))


def drawn_rows(rows: int, count: int) -> list[int]:
    """So many rows, drawn by the hash of their number, in their order."""
    order = sorted(range(rows), key=lambda row: hashlib.sha256(b"%d" % row).digest())
    return sorted(order[:count])
