"""How the cost of embedding grows: one, two and four times the shards, without Ray and in actors.

``python -m benchmarks.embed_growth`` prints a table and, as its last line, the same as JSON. Each
row is `python -m pipelines.embed` with the starter model on shards of real photographs, in fresh
processes; rows take turns and the medians count. ``start`` is the time until every actor has done
its first shard (Ray, its actors, the model), ``a shard`` what each of the others takes from there
to the last receipt: its growth is 1 where twice the shards take twice the time. ``driver`` is the
peak memory of the process that gives out the shards; without Ray it is the one that embeds.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.embed import write_shard
from benchmarks.memory import fresh_process, peak_bytes
from benchmarks.photographs import photographs
from pipelines.embed import main as embed
from pipelines.run.receipts import Side
from workers.base.exit_codes import ExitCode

ACTORS = (0, 1, 2)  # 0: without Ray
TIMES = (1, 2, 4)


def write_shards(folder: Path, shards: int, images: int) -> None:
    """The same images in each, so that each is the same work."""
    first = write_shard(folder, "00000", list(photographs(images)))
    for number in range(1, shards):
        os.link(first, folder / f"{number:05d}.parquet")


def driver(arguments: Sequence[str]) -> int:
    """Run the command in this process; returns the peak memory of it."""
    if embed(arguments) != ExitCode.COMPLETE:
        raise RuntimeError("embedding failed; see the lines above")
    return peak_bytes()


def measure(shards: Path, number: int, actors: int, out: Path) -> dict[str, Any]:
    """Embed some of the shards with a number of actors."""
    files = [str(shards / f"{shard:05d}.parquet") for shard in range(number)]
    command = [*files, "--out", str(out), *(["--actors", str(actors)] if actors else [])]
    called = time.time()
    with fresh_process() as process:
        peak = process.submit(driver, command).result()
    ended = sorted(
        path.stat().st_mtime for path in Side.RECEIPTS.of(out / "embeddings").glob("[!.]*.json")
    )
    first_shards = max(1, actors)
    ready = ended[first_shards - 1]
    return {
        "actors": actors,
        "shards": number,
        "start": ready - called,
        "a_shard": (ended[-1] - ready) / (number - first_shards),
        "driver_bytes": peak,
    }


def runs(folder: Path, rounds: int) -> Iterator[tuple[int, int, Path]]:
    """Actors, times the shards, and where the output goes."""
    for turn, actors, times in product(range(rounds), ACTORS, TIMES):
        yield actors, times, folder / f"{turn}-{actors}-{times}"


def medians(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each number of actors and shards."""
    kinds = dict.fromkeys((row["actors"], row["shards"]) for row in rows)
    alike = [[row for row in rows if (row["actors"], row["shards"]) == kind] for kind in kinds]
    return [{name: median(row[name] for row in some) for name in some[0]} for some in alike]


def show(rows: list[dict[str, Any]], images: int) -> None:
    write = sys.stdout.write
    write(f"shards of {images} photographs, the starter model\n")
    write("actors  shards  start s  a shard s  images/s  growth  driver MiB\n")
    for row in rows:
        first = next(other for other in rows if other["actors"] == row["actors"])
        row["growth"] = row["a_shard"] / first["a_shard"]
        write(f"{row['actors'] or 'no Ray':>6}{row['shards']:8}{row['start']:9.1f}")
        write(f"{row['a_shard']:11.2f}{images / row['a_shard']:10.1f}{row['growth']:8.3f}")
        write(f"{row['driver_bytes'] / 2**20:12.0f}\n")
    write(json.dumps({"images_a_shard": images, "rows": rows}) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.embed_growth", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--shards", type=int, default=8, help="of the smallest run, even")
    parser.add_argument("--images", type=int, default=200, help="photographs a shard")
    parser.add_argument("--rounds", type=int, default=3, help="of all rows; the median counts")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "shards").mkdir()
        write_shards(folder / "shards", options.shards * max(TIMES), options.images)
        rows = [
            measure(folder / "shards", options.shards * times, actors, out)
            for actors, times, out in runs(folder, options.rounds)
        ]
    show(medians(rows), options.images)
    return 0


if __name__ == "__main__":
    sys.exit(main())
