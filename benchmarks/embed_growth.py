"""How the cost of embedding grows: one, two and four times the shards, without Ray and in actors.

``python -m benchmarks.embed_growth`` prints a table and, as its last line, the same as JSON. Each
row is `python -m pipelines.embed` with the starter model on shards of real photographs, in a fresh
process. ``start`` is the time until the first shard is begun (Ray, its actors, the model), ``work``
the time from there to the last receipt; twice the shards should take twice the work. ``driver`` is
the peak memory of the process that gives out the shards; without Ray it is the one that embeds.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.embed import write_shard
from benchmarks.memory import fresh_process, peak_bytes
from benchmarks.photographs import photographs
from pipelines.embed import main as embed
from pipelines.receipts import RECEIPTS, Ledger
from pipelines.runner import ExitCode

ACTORS = (0, 1, 2)  # 0: without Ray
TIMES = (1, 2, 4)


def write_shards(folder: Path, shards: int, images: int) -> None:
    """The same pictures in each, so that each is the same work."""
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
    ended = [(out / RECEIPTS / f"{r.shard}.json").stat().st_mtime for r in Ledger(out).receipts()]
    begun = min(
        end - receipt.seconds for end, receipt in zip(ended, Ledger(out).receipts(), strict=True)
    )
    return {
        "actors": actors,
        "shards": number,
        "start": begun - called,
        "work": max(ended) - begun,
        "driver_bytes": peak,
    }


def show(rows: list[dict[str, Any]], images: int) -> None:
    write = sys.stdout.write
    write(f"shards of {images} photographs, the starter model\n")
    write("actors  shards  start s  work s  images/s  growth of work  driver MiB\n")
    for row in rows:
        first = next(other for other in rows if other["actors"] == row["actors"])
        row["growth"] = row["work"] / first["work"] / (row["shards"] / first["shards"])
        rate = row["shards"] * images / row["work"]
        write(f"{row['actors'] or 'no Ray':>6}{row['shards']:8}{row['start']:9.1f}")
        write(f"{row['work']:8.1f}{rate:10.1f}{row['growth']:12.3f} x n")
        write(f"{row['driver_bytes'] / 2**20:12.0f}\n")
    write(json.dumps({"images_a_shard": images, "rows": rows}) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.embed_growth", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--shards", type=int, default=4, help="of the smallest run, even")
    parser.add_argument("--images", type=int, default=1000, help="photographs a shard")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "shards").mkdir()
        write_shards(folder / "shards", options.shards * max(TIMES), options.images)
        rows = [
            measure(folder / "shards", options.shards * times, actors, folder / f"{actors}-{times}")
            for actors in ACTORS
            for times in TIMES
        ]
    show(rows, options.images)
    return 0


if __name__ == "__main__":
    sys.exit(main())
