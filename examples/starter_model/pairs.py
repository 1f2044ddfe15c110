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


def pairs(images: np.ndarray, concepts: Sequence[Concept]) -> pa.Table:
    """A row an image of each emoji without a skin tone: `pair_id`, `jpg`, and `caption`, a list."""
    rows = [
        (f"{concept.key}.{row}", web_jpeg(Image.fromarray(images[row])), concept.names)
        for concept in concepts
        if concept.kind == "emoji"
        for row in concept.rows
    ]
    # Styles come one after the other; a shuffled file needs no large window.
    rows.sort(key=lambda row: hashlib.sha256(row[0].encode()).digest())
    ids, jpgs, names = (list(column) for column in zip(*rows, strict=True))
    return pa.table({"pair_id": ids, "jpg": jpgs, "caption": names})


def twemoji(concepts: Sequence[Concept]) -> pa.Table:
    """Twemoji of those emoji: `image`, and `name`, which no two share."""
    trained = {concept.names[0] for concept in concepts if concept.kind == "emoji"}
    found = [one for one in twemoji_images() if one.kind == "emoji" and one.caption in trained]
    # Not as they stand in Unicode: the first of them are as good as any.
    found.sort(key=lambda one: hashlib.sha256(one.caption.encode()).digest())
    return pa.table(
        {
            "image": [drawn_jpeg(one.path) for one in found],
            "name": [one.caption for one in found],
        }
    )


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
    options = parser.parse_args(arguments)
    if not (options.cache / "concepts.json").exists():
        sys.stderr.write(
            f"{options.cache} has no drawings: python -m examples.starter_model --only prepare "
            "makes them\n"
        )
        return 2
    images, concepts = load(options.cache)
    options.out.mkdir(parents=True, exist_ok=True)
    for name, table in ((PAIRS, pairs(images, concepts)), (TEST, twemoji(concepts))):
        write_table(table, options.out / name)
        sys.stdout.write(f"{options.out / name}: {table.num_rows:,} rows\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
