"""The starter model's emoji as pairs that anybody's training reads, and Twemoji to judge by.

    python -m examples.starter_model --only prepare
    python -m examples.starter_model.pairs runs/emoji

writes `pairs.parquet` (images of emoji in the styles of all sets, with the names to choose of) and
`twemoji.parquet` (the same emoji in a style that is not among them, each with its official name).
Pictures are on white and through JPEG, as web pages have them. Rows depend on the packages alone.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from examples.starter_model.data import Concept, load
from examples.starter_model.evaluate import drawn_jpeg, twemoji_images, web_jpeg
from workers.base.storage import write_table

PAIRS, TEST = "pairs.parquet", "twemoji.parquet"


def drawn(concepts: Sequence[Concept], count: int | None) -> list[Concept]:
    """Emoji without a skin tone that Twemoji has, too: the first by the hash of their names."""
    names = {one.caption for one in twemoji_images() if one.kind == "emoji"}
    found = [one for one in concepts if one.kind == "emoji" and one.names[0] in names]
    return sorted(found, key=lambda one: _hash(one.names[0]))[:count]


def pairs(images: np.ndarray, concepts: Sequence[Concept]) -> pa.Table:
    """A row an image: `pair_id`, `jpg`, and `caption`, a list."""
    rows = [
        (f"{concept.key}.{row}", web_jpeg(Image.fromarray(images[row])), concept.names)
        for concept in concepts
        for row in concept.rows
    ]
    # An emoji's images come one after the other; a shuffled file needs no large window.
    rows.sort(key=lambda row: _hash(row[0]))
    ids, jpgs, names = (list(column) for column in zip(*rows, strict=True))
    return pa.table({"pair_id": ids, "jpg": jpgs, "caption": names})


def twemoji(concepts: Sequence[Concept]) -> pa.Table:
    """Twemoji of those emoji, in their order: `image`, and `name`, which no two share."""
    paths = {one.caption: one.path for one in twemoji_images() if one.kind == "emoji"}
    names = [one.names[0] for one in concepts]
    return pa.table({"image": [drawn_jpeg(paths[name]) for name in names], "name": names})


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def main(arguments: Sequence[str] | None = None) -> int:
    """Write both files."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.starter_model.pairs", description=__doc__.splitlines()[0]
    )
    parser.add_argument("out", type=Path, metavar="DIR", help="where the files go")
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path.home() / ".cache" / "starter_model",
        help="what `examples.starter_model --only prepare` has made (default: %(default)s)",
    )
    parser.add_argument(
        "--concepts",
        type=int,
        metavar="N",
        help="so many emoji, drawn by the hash of their names: fewer are learnt from fewer pairs "
        "(default: all)",
    )
    options = parser.parse_args(arguments)
    if not (options.cache / "concepts.json").exists():
        sys.stderr.write(
            f"{options.cache} has no drawings: python -m examples.starter_model --only prepare "
            "makes them\n"
        )
        return 2
    images, there = load(options.cache)
    concepts = drawn(there, options.concepts)
    options.out.mkdir(parents=True, exist_ok=True)
    for name, table in ((PAIRS, pairs(images, concepts)), (TEST, twemoji(concepts))):
        write_table(table, options.out / name)
        sys.stdout.write(f"{options.out / name}: {table.num_rows:,} rows\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
