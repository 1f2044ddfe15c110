"""Pairs with one and the same file."""

from __future__ import annotations

from collections.abc import Iterator
from zlib import crc32

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from workers.base.arrays import Bools, Int64s
from workers.selection.duplicates import Tables, file_count, find_duplicates

#: Rows in memory at a time, about: 150 bytes each.
ROWS_PER_FILE = 1_000_000


def exact_duplicates(tables: Tables, rows: int) -> pa.LargeStringArray:
    """The pair_ids, sorted, of all pairs of a file but the one most similar to its caption.

    Args:
        tables: with pair_id, similarity and sha256; a hash that is null is nobody's duplicate.
        rows: how many there are, about.
    """
    return find_duplicates(_by_hash(tables(), file_count(rows, ROWS_PER_FILE)), "sha256", _others)


def _by_hash(tables: Iterator[pa.Table], files: int) -> Iterator[tuple[pa.Table, Int64s]]:
    for table in tables:
        known = table.filter(pc.is_valid(table["sha256"]))
        hashes = (crc32(text.encode()) for text in known["sha256"].to_pylist())
        yield known, np.fromiter(hashes, np.int64, len(known)) % files


def _others(rows: pa.Table, starts: Int64s) -> Bools:
    """All but the first of each group."""
    marked = np.ones(len(rows), bool)
    marked[starts[:-1]] = False
    return marked
