"""What opt-out lists cost: to read them, to hold them, to look an image up.

``python -m benchmarks.opt_outs`` writes a list of URLs, reads it as a run's check does, and looks
up as many rows of other URLs as a shard has, beside a Python set of the same URLs (its memory as
its peak says, in a process of its own). Seconds are of the processor. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks.memory import fresh_process, peak_bytes
from workers.base.opt_outs import OptOuts, OptOutSettings

ROWS = 100_000  # that are looked up


def url(number: int) -> str:
    return f"https://host{number % 9973}.example/pictures/{number:09d}.jpg"


def write_list(path: Path, entries: int) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(f"{url(number)}\n" for number in range(entries))


def as_hashes(path: Path, rows: list[str]) -> dict[str, float]:
    """The lists as a run has them."""
    before, started = peak_bytes(), time.process_time()
    listed = OptOuts.read(OptOutSettings(urls=(str(path),)))
    read, peak = time.process_time() - started, peak_bytes() - before
    started = time.process_time()
    found = int(listed.has_urls(pa.array(rows)).sum())
    looked_up = time.process_time() - started
    return _figures(read, looked_up, listed.keys.nbytes, peak, found)


def as_set(path: Path, rows: list[str]) -> dict[str, float]:
    """The simplest way: a set of texts, exact URLs alone."""
    before, started = peak_bytes(), time.process_time()
    with path.open(encoding="utf-8") as file:
        listed = {line.rstrip("\n") for line in file}
    read, peak = time.process_time() - started, peak_bytes() - before
    started = time.process_time()
    found = sum(row in listed for row in rows)
    return _figures(read, time.process_time() - started, peak, peak, found)


def _figures(read: float, looked_up: float, held: int, peak: int, found: int) -> dict[str, float]:
    return {
        "read_s": round(read, 2),
        "us_a_row": round(looked_up / ROWS * 1e6, 2),
        "held_mb": round(held / 1e6, 1),
        "peak_mb": round(peak / 1e6, 1),
        "found": found,
    }


def main() -> int:
    """Measure both, print the table; 1 where they find different rows."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.opt_outs", description=__doc__)
    parser.add_argument("--entries", type=int, default=10_000_000, metavar="N")
    entries = parser.parse_args().entries
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="opt-outs-") as folder:
        path = Path(folder) / "urls.txt"
        write_list(path, entries)
        # Every tenth is listed.
        rows = [url(n // 10 % entries if n % 10 == 0 else entries + n) for n in range(ROWS)]
        for name, measure in {"hashes": as_hashes, "a set of texts": as_set}.items():
            with fresh_process() as process:
                results[name] = process.submit(measure, path, rows).result()
    write = sys.stdout.write
    write(f"| {entries:,} URLs as | read, s | a row, us | held, MB | peak, MB | found |\n")
    write("|---|--:|--:|--:|--:|--:|\n")
    for name, figures in results.items():
        write(f"| {name} | {' | '.join(f'{value:,}' for value in figures.values())} |\n")
    write(json.dumps({"entries": entries, **results}) + "\n")
    return len({figures["found"] for figures in results.values()}) - 1


if __name__ == "__main__":
    sys.exit(main())
