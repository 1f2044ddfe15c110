"""The speed of the pairs stage, and that of a script of the MetaCLIP kind, in one run.

``python -m benchmarks.pairs`` takes a Parquet list of URLs and captions to matched, deduplicated,
balanced Parquet shards both ways, on one core, and prints captions a second of processor time, so
that what else the machine does counts less. Ours is
``build_pairs`` as a run calls it: Beam, rules, redaction, tallies and per-query counts included.
The script is a loop over rows: ftfy, pyahocorasick over spaced captions, a set of what was seen, a
draw for each match; it has no rules and keeps no tally. Balancing keeps all here, and both must
end with the same pairs. A third figure is the cleaning alone, in columns. The list is generated
and seeded: a tenth of the captions beyond ASCII, a tenth of the rows duplicates. The last line is
JSON.
"""

from __future__ import annotations

import argparse
import html
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median

import ftfy
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from benchmarks.match import Queries, Text, aho_corasick
from workers.base.contracts import QUERIES
from workers.base.storage import write_table
from workers.extract.inputs import find_inputs
from workers.pairs.captions import CaptionCleaner
from workers.pairs.pipeline import build_pairs
from workers.pairs.reader import read_queries
from workers.pairs.settings import CaptionSettings, PairSettings

#: Captions that are cleaned at a time, as inputs are read.
_BATCH = 10_000
_CAP = 10**7

Pairs = set[tuple[str, str]]


@dataclass(frozen=True)
class Speed:
    """Medians over the rounds."""

    name: str
    captions: int
    captions_per_s: float


def make_list(rows: int, queries: int, words: int, seed: int, folder: Path) -> tuple[Path, Path]:
    """Write a pair list and a query shard."""
    text = Text.of_seed(seed, words)
    found: Queries = text.queries(queries)
    captions = text.captions(rows, found)
    urls = [f"https://pictures.example/{number - number % 10 // 9}.jpg" for number in range(rows)]
    for number in range(9, rows, 10):  # the same pair once more
        captions[number] = captions[number - 1]
    pq.write_table(pa.table({"url": urls, "caption": captions}), folder / "list.parquet")
    terms = [{"query_id": number, "query": query, "kind": "word"} for number, query in found]
    write_table(pa.Table.from_pylist(terms, schema=QUERIES), folder / "queries.parquet")
    return folder / "list.parquet", folder / "queries.parquet"


def ours(pairs: Path, queries: Path, out: Path) -> None:
    settings = PairSettings(pairs_per_query=_CAP)
    build_pairs(find_inputs([str(pairs)]), [queries], out, settings, 0, [])


def script(pairs: Path, queries: Path, out: Path) -> None:
    """What people write: rows, one after the other."""
    match = aho_corasick(list(read_queries([queries])))
    rows, seen, counts = [], set(), Counter[int]()
    for batch in pq.ParquetFile(pairs).iter_batches(_BATCH):
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


def clean(captions: pa.StringArray) -> None:
    cleaner = CaptionCleaner(CaptionSettings())
    for start in range(0, len(captions), _BATCH):
        cleaner.clean(captions.slice(start, _BATCH))


def seconds(work: Callable[[], None]) -> float:
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
    parser.add_argument("--captions", type=int, default=200_000)
    parser.add_argument("--queries", type=int, default=50_000)
    parser.add_argument("--words", type=int, default=100_000, help="in the captions' language")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved; the median counts")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    pa.set_cpu_count(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        show(compare(options, folder))
    return 0


def compare(options: argparse.Namespace, folder: Path) -> list[Speed]:
    """The sides in turns. Raises ValueError where their pairs differ."""
    paths = make_list(options.captions, options.queries, options.words, options.seed, folder)
    captions = pa.concat_arrays(pq.read_table(paths[0])["caption"].chunks)
    sides = {"script": script, "workers.pairs.pipeline on Beam": ours}
    taken: dict[str, list[float]] = {name: [] for name in (*sides, "cleaning alone")}
    for number in range(options.rounds):
        results = []
        for name, side in sides.items():
            out = folder / f"{name} {number}"
            taken[name].append(seconds(partial(side, *paths, out)))
            results.append(pairs_in(out))
        if results[0] != results[1]:
            raise ValueError(f"the pairs differ: {list(results[0] ^ results[1])[:5]}")
        taken["cleaning alone"].append(seconds(partial(clean, captions)))
    return [
        Speed(name, options.captions, options.captions / median(rounds))
        for name, rounds in taken.items()
    ]


def show(speeds: list[Speed]) -> None:
    """The table, and the same as JSON."""
    write = sys.stdout.write
    write(f"{'':28}{'captions':>12}{'captions/s':>14}\n")
    for speed in speeds:
        write(f"{speed.name:28}{speed.captions:12,}{speed.captions_per_s:14,.0f}\n")
    slow, fast, _ = speeds
    ratio = fast.captions_per_s / slow.captions_per_s
    write(f"{'ratio':28}{ratio:26.1f}\n")
    write(json.dumps({"speeds": [asdict(speed) for speed in speeds], "ratio": ratio}) + "\n")


if __name__ == "__main__":
    sys.exit(main())
