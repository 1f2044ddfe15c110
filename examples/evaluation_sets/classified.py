"""Pictures into folders by class: which are of which, by their path or by what the package says."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import yaml

from examples.evaluation_sets.containers import KINDS, deep_sky_kinds, qt_resources
from examples.evaluation_sets.contents import (
    COUNTRIES,
    FLAGS,
    GCOMPRIS,
    SCIKIT_IMAGE,
    STELLARIUM,
    TUX_PAINT,
    WESNOTH,
    Roots,
    existing,
    pictures_below,
    stamp_files,
)
from examples.evaluation_sets.layout import Drawn, Report, SetError, write_classes
from examples.evaluation_sets.packages import Package

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


def by_path(
    name: str, files: Mapping[str, Path | bytes], out: Path, report: Report | None = None
) -> Report:
    """Folders by class, as classes.yaml has them; returns the report, a new one or the given."""
    report = report or Report()
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


def of_stamps(name: str) -> Callable[[Roots, Path], Report]:
    """What builds a set of Tux Paint's stamps by the table of that name."""

    def build(roots: Roots, out: Path) -> Report:
        report = Report()
        return by_path(name, stamp_files(roots, report), out, report)

    return build


def of_gcompris(name: str) -> Callable[[Roots, Path], Report]:
    """What builds a set of GCompris's photographs to be put into categories, by that table."""

    def build(roots: Roots, out: Path) -> Report:
        inside = "gcompris/src/activities/categorization/resource/images/"
        return by_path(name, _gcompris(roots, "categorization", inside), out)

    return build


def scenes(roots: Roots, out: Path) -> Report:
    """The photographs that Tux Paint offers to paint on."""
    folder = roots[TUX_PAINT] / "usr/share/tuxpaint/templates"
    return by_path("scenes", pictures_below(folder, (".jpg",)), out)


def specimens(roots: Roots, out: Path) -> Report:
    """The pictures that scikit-image tries its functions on."""
    endings = (".png", ".jpg", ".gif", ".tif")
    return by_path("specimens", pictures_below(roots[SCIKIT_IMAGE] / "skimage/data", endings), out)


def landmarks(roots: Roots, out: Path) -> Report:
    """GCompris's photographs of monuments, by what its text calls them."""
    inside = "gcompris/src/activities/explore_monuments/resource/"
    resources = qt_resources(resource_file(roots, "explore_monuments"))
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
    folder = existing(roots[STELLARIUM] / "usr/share/stellarium/nebulae/default")
    kinds = deep_sky_kinds(existing(folder / "catalog.dat"))
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
    core = existing(roots[WESNOTH] / "usr/share/games/wesnoth/1.16/data/core")
    standing = re.compile(r'^(?: {4}| {8})image="units/([^":{]+)\.png"', re.MULTILINE)
    configurations = sorted((core / "units").rglob("*.cfg"))
    names = {n for path in configurations for n in standing.findall(path.read_text("utf-8"))}
    files = {name: core / "images/units" / f"{name}.png" for name in sorted(names)}
    return by_path("creatures", {n: p for n, p in files.items() if p.is_file()}, out)


def portraits(roots: Roots, out: Path) -> Report:
    """Wesnoth's paintings of the same creatures."""
    folder = roots[WESNOTH] / "usr/share/games/wesnoth/1.16/data/core/images/portraits"
    return by_path("portraits", pictures_below(folder), out)


def icons(roots: Roots, out: Path) -> Report:
    """What icon themes draw under one name: some themes are the test, others train probes."""
    report = Report()
    for part, themes in (("test", TEST_THEMES), ("train", TRAIN_THEMES)):
        drawn = [
            one
            for package, theme in themes.items()
            for one in icons_of(existing(roots[package] / "usr/share/icons" / theme), report)
        ]
        counts = Report(left_out=report.left_out)
        write_classes(out / part, class_table("icons"), drawn, counts)
        report.pictures += counts.pictures
        report.classes |= {f"{part}/{name}": count for name, count in counts.classes.items()}
    return report


def icons_of(theme: Path, report: Report) -> Iterator[Drawn]:
    """A theme's icon of each class that it has one of."""
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
    folder = existing(roots[FLAGS] / "usr/share/iso-flags-png-320x240")
    table = existing(roots[COUNTRIES] / "usr/share/iso-codes/json/iso_3166-1.json")
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
            drawn.append(Drawn(f"flag of {in_order(name)}", code, path.read_bytes()))
    write_classes(out / "pictures", (), drawn, report)
    return report


def in_order(name: str) -> str:
    """ "Virgin Islands, British" as it is said; a list of islands is in order already."""
    first, comma, rest = name.partition(", ")
    is_turned = comma and re.search(r"\b(of|of the|British|U\.S\.)$", rest)
    return f"{rest} {first}" if is_turned else name


def _gcompris(roots: Roots, activity: str, inside: str) -> dict[str, bytes]:
    resources = qt_resources(resource_file(roots, activity))
    return {
        name.removeprefix(inside).removesuffix(".webp"): content
        for name, content in sorted(resources.items())
        if name.startswith(inside) and name.endswith(".webp")
    }


def resource_file(roots: Roots, activity: str) -> Path:
    """Of GCompris's files these two alone are opened: animals of others are kept for judging."""
    assert activity in ("categorization", "explore_monuments")
    return existing(roots[GCOMPRIS] / "usr/share/gcompris-qt/rcc" / f"{activity}.rcc")
