"""The query builder's speed, and that of gensim's ``filter_wiki`` with Counters, in one run.

``python -m benchmarks.query_builder`` counts the words and bigrams of a dump both ways and
prints MB of XML a second. Ours is ``build_queries`` as a user calls it: Beam, selection and the
writing of Parquet included, imports and the compilation of kernels not. Beam takes half a second
to start, whatever the dump; a hundred MB are small for one, but enough for that not to count. The
dump is the embedded sample with its pages repeated, so both sides see a vocabulary that stops
growing. It is plain XML unless ``--bz2`` is given: decompressing costs both sides the same.

``--cores`` measures ours alone on one core and on all, on a multistream dump of many parts with its
index, as Wikimedia has them; the start of Beam's processes is part of it. The last line is JSON.
"""

from __future__ import annotations

import argparse
import bz2
import json
import os
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

from gensim.corpora.wikicorpus import extract_pages, filter_wiki

from query_builder.build import build_queries
from query_builder.settings import QuerySettings
from workers.base.settings import resolve_path

SAMPLE = (
    "package:gensim/test/test_data/"
    "enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
)

_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Speed:
    """Medians over the rounds, in MB (10^6 bytes) of XML a second."""

    name: str
    megabytes: float
    wall: float
    cpu: float  # a second of processor time, all threads together


def repeat_dump(dump: Path, copies: int, path: Path, *, compressed: bool) -> float:
    """Write a dump with the pages of ``dump`` repeated; return its MB of XML.

    A bz2 file may be a chain of streams, so the pages are compressed once.
    """
    with bz2.open(dump) as file:
        xml = file.read()
    first, last = xml.index(b"<page>"), xml.rindex(b"</mediawiki>")
    parts = [xml[:first], xml[first:last], xml[last:]]
    size = len(xml) + (copies - 1) * len(parts[1])
    if compressed:
        parts = [bz2.compress(part) for part in parts]
    path.write_bytes(parts[0] + copies * parts[1] + parts[2])
    return size / 1e6


def multistream(dump: Path, copies: int, folder: Path) -> tuple[Path, float]:
    """A dump with the pages of ``dump`` repeated, a stream each time; its MB of XML."""
    path = folder / "copies-multistream.xml.bz2"
    megabytes = repeat_dump(dump, copies, path, compressed=True)
    xml = bz2.decompress(dump.read_bytes())
    head = len(bz2.compress(xml[: xml.index(b"<page>")]))
    stream = len(bz2.compress(xml[xml.index(b"<page>") : xml.rindex(b"</mediawiki>")]))
    lines = (f"{head + number * stream}:{number}:a page\n" for number in range(copies))
    index = folder / "copies-multistream-index.txt.bz2"
    index.write_bytes(bz2.compress("".join(lines).encode()))
    return path, megabytes


def on_cores(sample: Path, copies: int, rounds: int) -> None:
    """Ours on one core and on all that this process may use, in turns."""
    cores = sorted(os.sched_getaffinity(0))
    wall: dict[int, list[float]] = {1: [], len(cores): []}
    with tempfile.TemporaryDirectory() as folder:
        dump, megabytes = multistream(sample, copies, Path(folder))
        stored = dump.stat().st_size / 1e6
        for _ in range(rounds):
            for number, seconds in wall.items():
                os.sched_setaffinity(0, cores[:number])  # what is started inherits it
                started = time.perf_counter()
                ours(dump)
                seconds.append(time.perf_counter() - started)
    one, all_ = (megabytes / median(seconds) for seconds in wall.values())
    write = sys.stdout.write
    write(f"{megabytes:.0f} MB of XML, {stored:.0f} MB of bz2\n")
    write(f"{'':20}{'MB/s':>8}{'of one core':>13}\n{'one core':20}{one:8.1f}{1:13.2f}\n")
    write(f"{f'{len(cores)} cores':20}{all_:8.1f}{all_ / one:13.2f}\n")
    result = {"megabytes": megabytes, "stored_megabytes": stored, "seconds": wall}
    write(json.dumps({**result, "cores": len(cores), "of_one_core": all_ / one}) + "\n")


def ours(dump: Path) -> None:
    with tempfile.TemporaryDirectory() as out:
        build_queries([dump], Path(out) / "queries", QuerySettings(), [])


def baseline(dump: Path) -> None:
    """What a short script with gensim does."""
    words: Counter[str] = Counter()
    bigrams: Counter[tuple[str, str]] = Counter()
    opener = bz2.open if dump.suffix == ".bz2" else open
    with opener(dump, "rb") as file:
        for _, text, _ in extract_pages(file, filter_namespaces=("0",)):
            found = _WORD.findall(filter_wiki(text).lower())
            words.update(found)
            bigrams.update(pairwise(found))


def measure(name: str, work: Callable[[Path], None], dump: Path, megabytes: float) -> Speed:
    """One round."""
    wall, cpu = time.perf_counter(), time.process_time()
    work(dump)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return Speed(name, megabytes, megabytes / wall, megabytes / cpu)


def middle(rounds: list[Speed]) -> Speed:
    first = rounds[0]
    wall, cpu = median(r.wall for r in rounds), median(r.cpu for r in rounds)
    return Speed(first.name, first.megabytes, wall, cpu)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.query_builder", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--dump", default=SAMPLE, help="bz2 dump to repeat (default: the sample)")
    parser.add_argument("--copies", type=int, default=20, help="of its pages, for ours (20)")
    parser.add_argument("--baseline-copies", type=int, default=1, help="for gensim (default: 1)")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved; the median counts")
    parser.add_argument("--bz2", action="store_true", help="decompression is part of the work")
    parser.add_argument(
        "--cores", type=int, metavar="COPIES", help="of its pages, as 96; see above"
    )
    options = parser.parse_args()
    if options.cores:
        ours(resolve_path(options.dump))  # compiles the kernels
        on_cores(resolve_path(options.dump), options.cores, options.rounds)
        return 0

    rounds: dict[str, list[Speed]] = {}
    with tempfile.TemporaryDirectory() as folder:
        inputs = [
            ("query_builder on Beam", ours, options.copies),
            ("gensim filter_wiki + Counter", baseline, options.baseline_copies),
        ]
        ours(resolve_path(options.dump))  # compiles the kernels
        for _ in range(options.rounds):
            for name, work, copies in inputs:
                dump = Path(folder) / f"{copies}.xml{'.bz2' if options.bz2 else ''}"
                sample = resolve_path(options.dump)
                megabytes = repeat_dump(sample, copies, dump, compressed=options.bz2)
                rounds.setdefault(name, []).append(measure(name, work, dump, megabytes))
    show([middle(of_one) for of_one in rounds.values()])
    return 0


def show(speeds: list[Speed]) -> None:
    """The table, and the same as JSON."""
    write = sys.stdout.write
    write(f"{'':30}{'MB of XML':>10}{'MB/s':>8}{'MB/CPU s':>10}\n")
    for speed in speeds:
        write(f"{speed.name:30}{speed.megabytes:10.1f}{speed.wall:8.1f}{speed.cpu:10.1f}\n")
    fast, slow = speeds
    ratios = {"ratio_wall": fast.wall / slow.wall, "ratio_cpu": fast.cpu / slow.cpu}
    write(f"{'ratio':40}{ratios['ratio_wall']:8.1f}{ratios['ratio_cpu']:10.1f}\n")
    write(json.dumps({"speeds": [asdict(speed) for speed in speeds], **ratios}) + "\n")


if __name__ == "__main__":
    sys.exit(main())
