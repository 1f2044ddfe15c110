"""Damaged and hostile inputs, made by hypothesis without end: what readers make of them.

``python -m benchmarks.fuzz --minutes 60 --seed 0`` makes files of every kind that text is read
from, round after round, each round with a seed of its own that is printed where something is
found. What is held against each: that no exception leaves a page, a record or a row; that rows in
are those kept, rejected and failed; and that the whole rows which stand before and after the damage
are read. What was found is made as small as it can be, and is printed with the bytes. Prints a
table, and as its last line the same as JSON; exits 1 where something was found.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from benchmarks.hostile_texts import Kind, kinds

#: Files of a kind in a round.
FILES = 100


def rounds(every: list[Kind], first: int, until: float, folder: Path) -> Iterator[int]:
    """Rounds over all kinds until a time of the clock; a kind that fails thrice is left out."""
    for number in count(first):
        sound = [kind for kind in every if len(kind.found) < 3]
        for kind in sound:
            if time.monotonic() > until:
                return
            if text := kind.round(number, FILES, folder):
                sys.stdout.write(f"{text}\n")
        if not sound:
            return
        yield number


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fuzz",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=60, help="default: 60")
    parser.add_argument("--seed", type=int, default=0, help="of the first round (default: 0)")
    parser.add_argument("--only", default="", help="kinds whose name contains this")
    options = parser.parse_args()
    every = [kind for kind in kinds() if options.only in kind.name]
    if not every:
        parser.error(f"--only: there is no such kind; there are {[k.name for k in kinds()]}")
    until, last = time.monotonic() + 60 * options.minutes, options.seed
    with tempfile.TemporaryDirectory() as name:
        for last in rounds(every, options.seed, until, Path(name)):
            sys.stderr.write(f"\rround {last}, {sum(kind.files for kind in every):,} files")
            sys.stderr.flush()
    show(every, options.seed, last)
    return 1 if any(kind.found for kind in every) else 0


def show(every: list[Kind], first: int, last: int) -> None:
    """The table, and the same as JSON."""
    write = sys.stdout.write
    write(f"seeds {first} to {last}, {FILES} files of each kind for each\n")
    write(f"{'':18}{'files':>10}{'MB':>8}{'slowest ms':>12}{'found':>7}\n")
    for kind in every:
        write(f"{kind.name:18}{kind.files:10,}{kind.size / 1e6:8.1f}{kind.slowest:12.1f}")
        write(f"{len(kind.found):7}\n")
    fields = ("name", "files", "size", "slowest", "found")
    rows = [{name: getattr(kind, name) for name in fields} for kind in every]
    write(json.dumps({"seeds": [first, last], "kinds": rows}) + "\n")


if __name__ == "__main__":
    sys.exit(main())
