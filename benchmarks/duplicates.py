"""Time and memory of what the selection must know of all pairs at once, as their number grows.

``python -m benchmarks.duplicates`` makes shards of pairs up (10,000 each, a tenth of them
duplicates, hashes and directions uniform) and finds the top 30%, exact, perceptual and semantic
duplicates among 1, 2 and 4 times as many, each in a process of its own that reads the shards.
Beside it stands the same by holding all of the columns at once: NumPy's partition, Arrow's sort,
and for hashes NumPy's comparison of all with all, as far as that is bearable (20,000; its cost a
row grows with their number). The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.memory import fresh_process, peak_bytes
from workers.base.storage import write_table
from workers.selection.exact_duplicates import exact_duplicates
from workers.selection.perceptual_duplicates import perceptual_duplicates
from workers.selection.semantic_duplicates import semantic_duplicates
from workers.selection.top_share import FLOAT_BITS, Keys, border_of_largest, float_keys

_SHARD = 10_000
_DUPLICATES = 10  # one in
_BEARABLE = 20_000
_DIM = 64
_ROW = ("pair_id", "similarity")


@dataclass(frozen=True)
class Pairs:
    """Shards of pairs."""

    folder: Path
    rows: int

    def make(self) -> None:
        """Every tenth has the file of the one before it, and a hash one bit from its."""
        for start in range(0, self.rows, _SHARD):
            rng = np.random.default_rng(start)
            number = np.arange(_SHARD)
            files = rng.integers(0, 1 << 63, _SHARD, np.uint64)
            copies = number % _DUPLICATES == 1
            files[copies] = files[number[copies] - 1]
            bit = np.uint64(1) << (number % 64).astype(np.uint64)
            table = pa.table(
                {
                    "pair_id": [f"{value:016x}{start:016x}" for value in rng.permutation(_SHARD)],
                    "similarity": rng.normal(0.25, 0.05, _SHARD).astype(np.float32),
                    "sha256": [f"{value:064x}" for value in files],
                    "image_hash": files ^ np.where(copies, bit, 0),
                    "image_embedding": _embeddings(rng, copies),
                }
            )
            write_table(table, self.folder / f"{start:012d}.parquet")

    def tables(self, *columns: str) -> Iterator[pa.Table]:
        """A table a shard."""
        for start in range(0, self.rows, _SHARD):
            yield pq.read_table(self.folder / f"{start:012d}.parquet", columns=list(columns))

    def values(self, column: str) -> Iterator[np.ndarray]:
        return (table[column].to_numpy() for table in self.tables(column))


def _embeddings(rng: np.random.Generator, copies: np.ndarray) -> pa.Array:
    """Of unit length, [N, 64]; a copy has that of the row before it."""
    vectors = rng.normal(size=(len(copies), _DIM))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[copies] = vectors[np.flatnonzero(copies) - 1]
    values = pa.array(vectors.astype(np.float16).ravel())
    return pa.FixedSizeListArray.from_arrays(values, _DIM)


def top(pairs: Pairs) -> int:
    """Ours: how many are in the top 30%."""

    def keys() -> Iterator[Keys]:
        return map(float_keys, pairs.values("similarity"))

    last = border_of_largest(keys, FLOAT_BITS, lambda values: round(0.3 * values))
    return sum(int((some >= last.key).sum()) for some in keys()) if last else 0


def top_at_once(pairs: Pairs) -> int:
    values = np.concatenate(list(pairs.values("similarity")))
    first = len(values) - round(0.3 * len(values))
    return int((values >= np.partition(values, first)[first]).sum())


def exact(pairs: Pairs) -> int:
    """Ours: how many exact duplicates."""
    return len(exact_duplicates(lambda: pairs.tables(*_ROW, "sha256"), pairs.rows))


def exact_at_once(pairs: Pairs) -> int:
    table = pa.concat_tables(pairs.tables(*_ROW, "sha256")).sort_by(
        [("sha256", "ascending"), ("similarity", "descending"), ("pair_id", "ascending")]
    )
    hashes = table["sha256"].combine_chunks().dictionary_encode().indices.to_numpy()
    return int((hashes[1:] == hashes[:-1]).sum())


def perceptual(pairs: Pairs) -> int:
    """Ours: how many near duplicates."""
    tables = partial(pairs.tables, *_ROW, "image_hash")
    return len(perceptual_duplicates(tables, pairs.rows, 4))


def perceptual_at_once(pairs: Pairs) -> int:
    hashes = np.concatenate(list(pairs.values("image_hash")))
    return sum(
        bool((np.bitwise_count(hashes[:row] ^ hashes[row]) <= 4).any())
        for row in range(len(hashes))
    )


def semantic(pairs: Pairs) -> int:
    """Ours: how many semantic duplicates."""
    tables = partial(pairs.tables, *_ROW, "image_embedding")
    return len(semantic_duplicates(tables, pairs.rows, 0.95, 2_000))


WORKS: dict[str, Callable[[Pairs], int]] = {
    work.__name__: work
    for work in (top, top_at_once, exact, exact_at_once, perceptual, perceptual_at_once, semantic)
}


def measure(name: str, pairs: Pairs) -> dict[str, float | str]:
    """One work in this process."""
    WORKS[name](replace(pairs, rows=_SHARD))  # compiled or loaded
    start = time.perf_counter()
    found = WORKS[name](pairs)
    return {
        "work": name,
        "rows": pairs.rows,
        "found": found,
        "seconds": round(time.perf_counter() - start, 2),
        "peak_mib": round(peak_bytes() / 2**20),
    }


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.duplicates", description=__doc__)
    parser.add_argument("--rows", type=int, default=500_000, help="default: 500,000")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        Pairs(Path(folder), 4 * arguments.rows).make()
        results = list(all_works(Path(folder), arguments.rows))
    sys.stdout.write(json.dumps(results) + "\n")
    return 0


def all_works(folder: Path, rows: int) -> Iterator[dict[str, float | str]]:
    """Each work on each number of pairs, printed."""
    for name in WORKS:
        for size in [_BEARABLE] if name == "perceptual_at_once" else [rows, 2 * rows, 4 * rows]:
            with fresh_process() as process:
                result = process.submit(measure, name, Pairs(folder, size)).result()
            line = (
                "{work:20} {rows:>10,} rows {found:>9,} found {seconds:>8.2f} s {peak_mib:>6,} MiB"
            )
            sys.stdout.write(line.format(**result) + "\n")
            yield result


if __name__ == "__main__":
    sys.exit(main())
