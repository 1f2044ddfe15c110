"""A list of 500,000 queries from dumps of two sizes, the second four times the first.

``python -m benchmarks.query_scale`` writes seeded dumps of pages whose words follow Zipf's law and
runs ``build_queries`` on each in a fresh process. It prints the time, the peak of resident memory
and how both grow: goals under 1.3 times the memory and at most 4.2 times the time. The thresholds
grow with the dump, so that both give a list of the same size and what grows is the counting. The
last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.memory import peak_bytes

SEED = 20260101
#: Words are drawn into phrases of three, phrases into pages of 1,000 words, both by Zipf's law
#: with an exponent of 1: so some bigrams recur and most do not, as in a language.
VOCABULARY = 2_000_000
PHRASES = 1_000_000
PHRASE_WORDS = 3
PAGE_PHRASES = 333
_LETTERS = np.array(list("etaoinshrdlucmfwypvbgkjqxz"))


@dataclass(frozen=True)
class Run:
    """One build."""

    megabytes: float  # of XML, 10^6 bytes
    bigrams: int  # distinct words and bigrams counted, in all
    queries: int
    seconds: float
    peak_megabytes: float  # resident memory, after and including imports
    base_megabytes: float  # the same before the build


def vocabulary() -> np.ndarray:
    """Distinct words, the frequent ones short: the rank written in letters."""
    ranks = np.arange(VOCABULARY)
    words = np.full(VOCABULARY, "", dtype="U6")
    while ranks.any():
        words = np.char.add(words, _LETTERS[ranks % 26])
        ranks //= 26
    return words


def write_dump(path: Path, megabytes: float) -> None:
    """A plain dump of about this size."""
    source = np.random.default_rng(SEED)
    words = vocabulary()
    phrases = words[zipf(source, VOCABULARY, (PHRASES, PHRASE_WORDS))]
    with path.open("w", encoding="utf-8") as file:
        file.write("<mediawiki>\n")
        page = 0
        while file.tell() < megabytes * 1e6:
            for row in zipf(source, PHRASES, (100, PAGE_PHRASES)):
                text = " ".join(phrases[row].ravel())
                file.write(
                    f"<page><title>Page {page}</title><ns>0</ns>"
                    f"<revision><text>{text}</text></revision></page>\n"
                )
                page += 1
        file.write("</mediawiki>\n")


def zipf(source: np.random.Generator, n: int, shape: tuple[int, int]) -> np.ndarray:
    """Numbers below ``n``: the probability of each is about one in its rank."""
    # e to a uniform power: as much of it lies between 1 and 10 as between 10 and 100.
    return np.exp(source.uniform(0, np.log(n), shape)).astype(np.int64) - 1


def build(dump: Path, min_count: int) -> Run:
    """Build the list in this process and measure it."""
    from query_builder.build import build_queries
    from query_builder.counts import count, merge, partition
    from query_builder.settings import BigramSettings, QuerySettings

    merge(partition(count("compile the kernels", lower_case=True), 2))
    settings = QuerySettings(
        min_count=min_count,
        bigrams=BigramSettings(min_count=min_count, min_pmi=-99),
        titles="none",
    )
    base = peak_bytes() / 1e6
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=dump.parent) as out:
        terms = build_queries([dump], Path(out) / "queries", settings, [])["terms"]
    seconds = time.perf_counter() - start
    megabytes = dump.stat().st_size / 1e6
    return Run(megabytes, terms.rows_in, terms.kept, seconds, peak_bytes() / 1e6, base)


def in_fresh_process(dump: Path, min_count: int) -> Run:
    command = [sys.executable, "-m", "benchmarks.query_scale", "--dump", str(dump)]
    command += ["--min-count", str(min_count)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return Run(**json.loads(done.stdout.splitlines()[-1]))


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.query_scale", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--megabytes", type=float, default=60, help="of the smaller dump (60)")
    parser.add_argument("--min-count", type=int, default=2, help="with the smaller dump (2)")
    parser.add_argument("--dump", type=Path, help="build from this one alone, print JSON")
    options = parser.parse_args()
    if options.dump:
        sys.stdout.write(json.dumps(asdict(build(options.dump, options.min_count))) + "\n")
        return 0
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        for times in (1, 4):
            dump = Path(folder) / f"{times}.xml"
            write_dump(dump, times * options.megabytes)
            runs.append(in_fresh_process(dump, times * options.min_count))
    show(runs)
    return 0


def show(runs: list[Run]) -> None:
    """The table, and the same as JSON."""
    write = sys.stdout.write
    write(f"{'MB of XML':>10}{'terms':>14}{'queries':>10}{'s':>8}{'MB/s':>7}{'peak MB':>9}\n")
    for run in runs:
        speed = run.megabytes / run.seconds
        write(
            f"{run.megabytes:10,.0f}{run.bigrams:14,}{run.queries:10,}{run.seconds:8.1f}"
            f"{speed:7.1f}{run.peak_megabytes:9,.0f}\n"
        )
    small, large = runs
    growth = {
        "size": large.megabytes / small.megabytes,
        "seconds": large.seconds / small.seconds,
        "peak": large.peak_megabytes / small.peak_megabytes,
    }
    write("growth: " + ", ".join(f"{name} {value:.2f}" for name, value in growth.items()) + "\n")
    write(json.dumps({"seed": SEED, "runs": [asdict(run) for run in runs], **growth}) + "\n")


if __name__ == "__main__":
    sys.exit(main())
