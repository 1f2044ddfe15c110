"""What each set is made of, and how."""

from __future__ import annotations

import csv
import gzip
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from lxml import html
from PIL import Image

from examples.evaluation_sets import classified
from examples.evaluation_sets.contents import (
    COUNTRIES,
    EFFICIENTNET,
    FASHION,
    FLAGS,
    GCOMPRIS,
    GIMP_HELP,
    MNIST,
    SCIKIT_IMAGE,
    SCIKIT_LEARN,
    STAMPS,
    STELLARIUM,
    TUX_PAINT,
    WESNOTH,
    Roots,
    existing,
    stamp_files,
)
from examples.evaluation_sets.layout import (
    Drawn,
    Report,
    drawn_rows,
    read_idx,
    write_idx,
    write_pairs,
)
from examples.evaluation_sets.packages import Package
from examples.evaluation_sets.weights import weights

TRAIN_ROWS = 6_000  # of MNIST's and Fashion-MNIST's 60,000, so that probes take seconds


@dataclass(frozen=True)
class Recipe:
    """A set: what it is made of, and what writes it into a new folder."""

    packages: tuple[Package, ...]
    build: Callable[[Roots, Path], Report]


# --- arrays --------------------------------------------------------------------------------------


def digits(roots: Roots, out: Path) -> Report:
    """scikit-learn's handwritten digits, in the layout that Keras has for npz files."""
    path = existing(roots[SCIKIT_LEARN] / "sklearn/datasets/data/digits.csv.gz")
    with gzip.open(path, "rt", encoding="ascii") as file:
        rows = np.array([[int(float(cell)) for cell in row] for row in csv.reader(file)])
    levels = (rows[:, :-1] * 255 + 8) // 16  # they count to 16
    images, labels = levels.astype(np.uint8).reshape(-1, 8, 8), rows[:, -1].astype(np.uint8)
    np.savez_compressed(out / "digits.npz", x_test=images, y_test=labels)
    return _counted(labels)


def mnist(roots: Roots, out: Path) -> Report:
    """MNIST as it is, and a part of its training images for probes."""
    return _idx_set(roots[MNIST] / "package/data", "-ubyte", out)


def fashion(roots: Roots, out: Path) -> Report:
    """Fashion-MNIST, likewise."""
    return _idx_set(roots[FASHION] / "usr/share/datasets/fashion-mnist", "-ubyte.gz", out)


def _idx_set(folder: Path, ending: str, out: Path) -> Report:
    for part in ("t10k", "train"):
        for kind in ("images-idx3", "labels-idx1"):
            values = read_idx(existing(folder / f"{part}-{kind}{ending}"))
            write_idx(out / f"{part}-{kind}-ubyte.gz", values)
            if part == "train":
                rows = drawn_rows(len(values), TRAIN_ROWS)
                write_idx(out / f"train-{TRAIN_ROWS}-{kind}-ubyte.gz", values[rows])
    return _counted(read_idx(out / "t10k-labels-idx1-ubyte.gz"))


def _counted(labels: Any) -> Report:
    counts = Counter(labels.tolist())
    return Report(len(labels), {str(label): counts[label] for label in sorted(counts)})


# --- pairs ---------------------------------------------------------------------------------------


def stamps(roots: Roots, out: Path) -> Report:
    """Tux Paint's stamps with the sentences that it says when they are chosen."""
    report = Report()

    def pairs() -> Iterator[Drawn]:
        for name, path in stamp_files(roots, report).items():
            text = path.with_suffix(".txt")
            if name.startswith("symbols/alphabets/"):
                report.left_out["a letter"] += 1
            elif not text.is_file():
                report.left_out["without a sentence"] += 1
            else:
                sentence = text.read_text(encoding="utf-8").splitlines()[0].strip()
                yield Drawn(sentence, name, path.read_bytes())

    write_pairs(out / "stamps.parquet", pairs(), report)
    return report


def figures(roots: Roots, out: Path) -> Report:
    """The figures of GIMP's manual with their alternative texts."""
    folder = existing(roots[GIMP_HELP] / "usr/share/gimp/2.0/help/en")
    texts: dict[str, set[str]] = {}
    for page in sorted(folder.glob("*.html")):
        for image in html.fromstring(page.read_bytes()).iter("img"):
            text = " ".join(image.get("alt", "").split())
            if text:
                texts.setdefault(image.get("src"), set()).add(text)
    times = Counter(text for those in texts.values() for text in those)
    report = Report()

    def pairs() -> Iterator[Drawn]:
        for name, those in sorted(texts.items()):
            own = [text for text in those if times[text] == 1 and len(text.split()) > 1]
            path = folder / name
            if not own:
                report.left_out["a text of one word, or of several figures"] += 1
            elif not path.is_file() or min(_size(path)) < 48:
                report.left_out["missing, or less than 48 pixels"] += 1
            else:
                yield Drawn(max(own, key=lambda t: (len(t), t)), Path(name).stem, path.read_bytes())

    write_pairs(out / "figures.parquet", pairs(), report)
    return report


def _size(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


# --- all of them ----------------------------------------------------------------------------------


def copy_licences(roots: Roots, out: Path) -> None:
    """What the packages say of rights, beside what was taken from them."""
    for package, root in roots.items():
        said = [root / "usr/share/doc" / package.name / "copyright"]
        said += [*root.glob("*.dist-info/licenses/COPYING"), *root.glob("*.dist-info/LICENSE")]
        said += root.glob("*.dist-info/LICENSE.txt")
        said.append(root / "package/package.json")
        said += root.glob("usr/share/gimp/*/help/en/legal.html")
        for path in said:
            if path.is_file():
                shutil.copyfile(path, out / f"LICENCE-{package.name}{path.suffix or '.txt'}")


SETS: dict[str, Recipe] = {
    "digits": Recipe((SCIKIT_LEARN,), digits),
    "mnist": Recipe((MNIST,), mnist),
    "fashion": Recipe((FASHION,), fashion),
    "animals": Recipe((STAMPS,), classified.of_stamps("animals")),
    "plants": Recipe((STAMPS,), classified.of_stamps("plants")),
    "objects": Recipe((STAMPS,), classified.of_stamps("objects")),
    "stamps": Recipe((STAMPS,), stamps),
    "photographs": Recipe((GCOMPRIS,), classified.of_gcompris("photographs")),
    "things": Recipe((GCOMPRIS,), classified.of_gcompris("things")),
    "landmarks": Recipe((GCOMPRIS,), classified.landmarks),
    "scenes": Recipe((TUX_PAINT,), classified.scenes),
    "specimens": Recipe((SCIKIT_IMAGE,), classified.specimens),
    "astronomy": Recipe((STELLARIUM,), classified.astronomy),
    "creatures": Recipe((WESNOTH,), classified.creatures),
    "portraits": Recipe((WESNOTH,), classified.portraits),
    "icons": Recipe((*classified.TEST_THEMES, *classified.TRAIN_THEMES), classified.icons),
    "flags": Recipe((FLAGS, COUNTRIES), classified.flags),
    "figures": Recipe((GIMP_HELP,), figures),
    "weights": Recipe((EFFICIENTNET,), weights),  # no set: what the sets' baseline is
}
