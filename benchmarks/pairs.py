"""The speed of candidates and pairs, and that of a script of the MetaCLIP kind, in one run.

``python -m benchmarks.pairs`` takes Parquet lists of URLs and captions to matched, deduplicated,
balanced Parquet shards both ways. Ours are the stages ``candidates`` and ``pairs`` as a run does
them, on Ray's tasks, on one core and on all: receipts, hashes, rules, redaction, tallies and counts
of every query included, Ray's start and the loading of kernels not. The script is a loop over rows:
ftfy, pyahocorasick over spaced captions, a set of what was seen, a draw for each match; it has no
rules and keeps no tally. Balancing keeps all here, and both must end with the same pairs. Cleaning
and matching alone, in columns on one core, are the ceiling of a core. The lists are generated and
seeded: a tenth of the captions beyond ASCII, a tenth of the rows duplicates. ``--memory`` prints
the most memory of all processes together for several sizes. The last line is JSON.
"""

from __future__ import annotations

import argparse
import html
import json
import os
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median

import ftfy
import psutil
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from benchmarks.match import Queries, Text, aho_corasick
from benchmarks.memory import anonymous_bytes, fresh_process
from pipelines.run.config import Config
from pipelines.run.directory import Run
from pipelines.run.engines import start_ray, stop_ray
from pipelines.run.runner import run_stages
from workers.pairs.captions import CaptionCleaner
from workers.pairs.match import Matcher
from workers.pairs.reader import read_queries
from workers.pairs.settings import CaptionSettings

#: Captions that are cleaned at a time, as inputs are read.
_BATCH = 10_000
_CAP = 10**7
#: Files of a list, so that there is work for every core.
_FILES = 16
#: Pairs of a range, about, and a run that is done before the clock starts.
_RANGE, _SMALL = 500_000, 2_000

Pairs = set[tuple[str, str]]


@dataclass(frozen=True)
class Speed:
    """Medians over the rounds."""

    name: str
    captions: int
    captions_per_s: float


@dataclass(frozen=True)
class Build:
    """Candidates and pairs of a list."""

    seconds: float
    peak_bytes: int  # of all processes together, Ray's own among them


def make_lists(rows: int, text: Text, found: Queries, folder: Path) -> None:
    """Write pair lists and the queries, as a list of one's own."""
    folder.mkdir()
    captions = text.captions(rows, found)
    urls = [f"https://pictures.example/{number - number % 10 // 9}.jpg" for number in range(rows)]
    for number in range(9, rows, 10):  # the same pair once more
        captions[number] = captions[number - 1]
    table = pa.table({"url": urls, "caption": captions})
    size = -(-rows // _FILES)
    for number in range(_FILES):
        pq.write_table(table.slice(number * size, size), folder / f"list{number:02d}.parquet")
    (folder / "queries.txt").write_text("".join(f"{query}\n" for _, query in found))


def build(lists: Path, small: Path, out: Path, cpus: int) -> Build:
    """What a run does, in this process and Ray's; these have ended when it returns."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[-cpus:])  # whoever is started by this process inherits it
    pa.set_cpu_count(1)
    try:
        _stages(_run(small, out.with_name(f"{out.name} small"), cpus))
        with peak_memory() as peak:
            run = _run(lists, out, cpus)
            started = time.perf_counter()
            _stages(run)
            seconds = time.perf_counter() - started
    finally:
        stop_ray()
    return Build(seconds, max(peak))


def _run(lists: Path, out: Path, cpus: int) -> Run:
    """A run whose queries are made."""
    files = sorted(lists.glob("*.parquet"))
    rows = sum(pq.read_metadata(file).num_rows for file in files)
    size = sum(file.stat().st_size for file in files)
    config = Config.model_validate(
        {
            "name": "pairs",
            "queries": {"list": str(lists / "queries.txt"), "max_queries": 10**7},
            "pairs": {
                "inputs": [str(file) for file in files],
                "pairs_per_query": _CAP,
                "shards": max(4, -(-rows // _RANGE)),
            },
            "text": {"bytes_per_shard": max(1, size // _FILES)},
            "ray": {"num_cpus": cpus},
        }
    )
    run = Run.open(config, out)
    with run.lock():
        run_stages(run, ["queries", "pages"])
        start_ray(config.ray)
    return run


def _stages(run: Run) -> None:
    with run.lock():
        result = run_stages(run, ["candidates", "pairs"])
    if not result.ended:
        raise RuntimeError(f"{run.directory} did not end well: {result}")


@contextmanager
def peak_memory() -> Iterator[list[int]]:
    """The memory of this process and all that it has started, looked at now and then."""
    sizes, ended = [0], threading.Event()

    def look() -> None:
        me = psutil.Process()
        while not ended.wait(0.2):
            pids = [me.pid, *(child.pid for child in me.children(recursive=True))]
            sizes.append(sum(map(anonymous_bytes, pids)))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield sizes
    finally:
        ended.set()
        thread.join()


def script(lists: Path, queries: Path, out: Path) -> None:
    """What people write: rows, one after the other."""
    match = aho_corasick(list(read_queries([queries])))
    rows, seen, counts = [], set(), Counter[int]()
    for file in sorted(lists.glob("*.parquet")):
        for batch in pq.ParquetFile(file).iter_batches(_BATCH):
            for row in batch.to_pylist():
                caption = " ".join(ftfy.fix_text(html.unescape(row["caption"])).split())
                key = (row["url"], caption)
                ids = match([caption])[0].tolist()
                if ids and len(caption) > 2 and key not in seen:
                    seen.add(key)
                    counts.update(ids)
                    rows.append({"url": row["url"], "caption": caption, "query_ids": ids})
    kept = [
        row for row in rows if any(random.random() < _CAP / counts[one] for one in row["query_ids"])
    ]
    out.mkdir()
    pq.write_table(pa.Table.from_pylist(kept), out / "0.parquet", compression="zstd")


def clean(captions: pa.StringArray, cleaned: list[pa.StringArray]) -> None:
    cleaner = CaptionCleaner(CaptionSettings())
    for start in range(0, len(captions), _BATCH):
        cleaned.append(cleaner.clean(captions.slice(start, _BATCH)).captions)


def match_all(matcher: Matcher, cleaned: list[pa.StringArray]) -> None:
    for captions in cleaned:
        matcher.match(captions)


def seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def pairs_in(folder: Path) -> Pairs:
    table = ds.dataset(folder, format="parquet").to_table(columns=["url", "caption"])
    return set(zip(*(column.to_pylist() for column in table.columns), strict=True))


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.pairs", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--captions", type=int, default=2_000_000)
    parser.add_argument("--queries", type=int, default=500_000)
    parser.add_argument("--words", type=int, default=1_000_000, help="in the captions' language")
    parser.add_argument("--rounds", type=int, default=1, help="interleaved; the median counts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--memory", type=int, nargs="*", default=[], help="captions of further builds, on all cores"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, text = Path(name), Text.of_seed(options.seed, options.words)
        found = text.queries(options.queries)
        make_lists(_SMALL, text, found[:100], folder / "small")
        make_lists(options.captions, text, found, folder / "lists")
        speeds = compare(options, folder)
        memory = {}
        for rows in options.memory:
            make_lists(rows, text, found, folder / str(rows))
            memory[rows] = built(folder, str(rows), "memory", len(os.sched_getaffinity(0)))
        show(speeds, memory)
    return 0


def built(folder: Path, lists: str, name: str, cpus: int) -> Build:
    """One build in a fresh process."""
    out = folder / f"run {lists} {name}"
    with fresh_process() as process:
        return process.submit(build, folder / lists, folder / "small", out, cpus).result()


def compare(options: argparse.Namespace, folder: Path) -> list[Speed]:
    """The sides in turns. Raises ValueError where their pairs differ."""
    cores = len(os.sched_getaffinity(0))
    taken: dict[str, list[float]] = {}

    def took(name: str, seconds: float) -> None:
        taken.setdefault(name, []).append(seconds)

    for number in range(options.rounds):
        for cpus in (1, cores):
            took(
                f"stages on {cpus} cores", built(folder, "lists", f"{cpus} {number}", cpus).seconds
            )
        run = folder / f"run lists {cores} {number}"
        queries = next((run / "queries").glob("*.parquet"))
        out = folder / f"script {number}"
        pa.set_cpu_count(1)
        took("script", seconds(partial(script, folder / "lists", queries, out)))
        if (one := pairs_in(out)) != (other := pairs_in(run / "pairs")):
            raise ValueError(f"the pairs differ: {list(one ^ other)[:5]}")
        captions = ds.dataset(sorted((folder / "lists").glob("*.parquet"))).to_table()["caption"]
        column = pa.concat_arrays(captions.chunks)
        cleaned: list[pa.StringArray] = []
        took("cleaning alone", seconds(partial(clean, column, cleaned)))
        matcher = Matcher(read_queries([queries]), lowercase=True)
        took("matching alone", seconds(partial(match_all, matcher, cleaned)))
    return [
        Speed(name, options.captions, options.captions / median(rounds))
        for name, rounds in taken.items()
    ]


def show(speeds: list[Speed], memory: dict[int, Build]) -> None:
    """The table, and the same as JSON."""
    write = sys.stdout.write
    write(f"{'':28}{'captions':>12}{'captions/s':>14}\n")
    for speed in speeds:
        write(f"{speed.name:28}{speed.captions:12,}{speed.captions_per_s:14,.0f}\n")
    one, all_cores, slow, *parts = (speed.captions_per_s for speed in speeds)
    ratios = {
        "one core to its parts": one * sum(1 / part for part in parts),
        "all cores to one": all_cores / one,
        "all cores to the script": all_cores / slow,
    }
    for name, ratio in ratios.items():
        write(f"{name:28}{ratio:26.2f}\n")
    for rows, build in memory.items():
        write(f"peak of {rows:,} captions: {build.peak_bytes / 2**20:,.0f} MiB\n")
    figures = {
        "speeds": [asdict(speed) for speed in speeds],
        "ratios": ratios,
        "memory": {str(rows): asdict(build) for rows, build in memory.items()},
    }
    write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    sys.exit(main())
