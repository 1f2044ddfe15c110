"""The speed of reading page views, and that of a loop over the lines, in one run.

``python -m benchmarks.views`` writes a monthly file of made-up lines (seeded), three projects one
after the other as Wikimedia has them, and sums the English views of a dump's titles both ways,
which must agree. The other side is what the scripts that read these files do: split each line,
look the title up in a dict. The file is plain unless ``--bz2`` is given. The last line is JSON.
"""

from __future__ import annotations

import argparse
import bz2
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from statistics import median
from typing import NamedTuple

import numpy as np

from query_builder.names import index_titles
from query_builder.views import read_views
from workers.base.arrays import Int64s
from workers.base.tally import Tally

PROJECTS = ("de.wikipedia", "en.wikipedia", "fr.wikipedia")


class Speed(NamedTuple):
    """MB (10^6 bytes) of lines, decompressed, a second."""

    wall: float
    cpu: float  # a second of processor time, all threads together


def write_lines(path: Path, titles: list[str], lines: int, random: Random) -> int:
    """Write ``lines`` lines a project, four in ten of them of a title; return the bytes."""

    def text() -> Iterator[str]:
        for project in PROJECTS:
            for page in range(lines):
                known = random.random() < 0.4
                title = random.choice(titles) if known else f"Other_{random.randrange(10**7)}"
                access = random.choice(("desktop", "mobile-web"))
                hours = "".join(f"{hour}{random.randrange(9)}" for hour in "ABCDEFGH")
                count = random.randrange(1, 5000)
                yield f"{project} {title.replace(' ', '_')} {page} {access} {count} {hours}\n"

    written = "".join(text()).encode()
    path.write_bytes(bz2.compress(written) if path.suffix == ".bz2" else written)
    return len(written)


def ours(path: Path, titles: list[str]) -> Int64s:
    return read_views(path, index_titles(titles), ("en.wikipedia",), Tally())


def baseline(path: Path, titles: list[str]) -> Int64s:
    sums = dict.fromkeys(titles, 0)
    opener = bz2.open if path.suffix == ".bz2" else open
    with opener(path, "rt", encoding="utf-8") as file:
        for line in file:
            if not line.startswith("en.wikipedia "):
                continue
            _, title, _, _, views, _ = line.split(" ")
            title = title.replace("_", " ")
            if title in sums:
                sums[title] += int(views)
    return np.fromiter(sums.values(), np.int64)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.views", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--titles", type=int, default=300_000, help="of the dump (300,000)")
    parser.add_argument("--lines", type=int, default=600_000, help="of each project (600,000)")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved; the median counts")
    parser.add_argument("--bz2", action="store_true", help="decompression is part of the work")
    options = parser.parse_args()

    titles = [f"Title of number {number}" for number in range(options.titles)]
    rounds: dict[str, list[Speed]] = {"read_views": [], "a loop over lines": []}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"pageviews-202610-user{'.bz2' if options.bz2 else ''}"
        megabytes = write_lines(path, titles, options.lines, Random(0)) / 1e6
        for _ in range(options.rounds):
            results = []
            for name, work in zip(rounds, (ours, baseline), strict=True):
                wall, cpu = time.perf_counter(), time.process_time()
                results.append(work(path, titles))
                wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
                rounds[name].append(Speed(megabytes / wall, megabytes / cpu))
            if (results[0] != results[1]).any():
                raise SystemExit("the two sides differ")
    show({name: Speed(*map(median, zip(*each, strict=True))) for name, each in rounds.items()})
    return 0


def show(speeds: dict[str, Speed]) -> None:
    """The table, and the same as JSON."""
    write = sys.stdout.write
    write(f"{'':20}{'MB/s':>8}{'MB/CPU s':>10}\n")
    fast, slow = speeds.values()
    ratio = Speed(fast.wall / slow.wall, fast.cpu / slow.cpu)
    for name, speed in {**speeds, "ratio": ratio}.items():
        write(f"{name:20}{speed.wall:8.1f}{speed.cpu:10.1f}\n")
    by_name = {name: speed._asdict() for name, speed in speeds.items()}
    write(json.dumps({"speeds": by_name, "ratio": ratio._asdict()}) + "\n")


if __name__ == "__main__":
    sys.exit(main())
