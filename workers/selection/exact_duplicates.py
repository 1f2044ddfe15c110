"""Pairs with one and the same file: all but one of them, or all where it is a placeholder."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from zlib import crc32

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from workers.base.arrays import Bools, Int64s
from workers.selection.duplicates import Tables, file_count, find_duplicates

#: Rows in memory at a time, about: 150 bytes each.
ROWS_PER_FILE = 1_000_000
#: The same, of rows with their URL and caption: 500 bytes each.
ROWS_PER_FILE_WITH_TEXTS = 300_000


def exact_duplicates(tables: Tables, rows: int) -> pa.LargeStringArray:
    """The pair_ids, sorted, of all pairs of a file but the one most similar to its caption.

    Args:
        tables: with pair_id, similarity and sha256; a hash that is null is nobody's duplicate.
        rows: how many there are, about.
    """
    return find_duplicates(_by_hash(tables(), file_count(rows, ROWS_PER_FILE)), "sha256", _others)


def placeholders(tables: Tables, rows: int, min_urls: int) -> pa.LargeStringArray:
    """The pair_ids, sorted, of all pairs of a file that stands for pictures that are not there.

    Such a file came from ``min_urls`` different URLs or more, with as many different captions: a
    picture that many show has one caption, or a few.

    Args:
        tables: with pair_id, similarity, sha256, url and caption.
        rows: how many there are, about.
    """
    files = file_count(rows, ROWS_PER_FILE_WITH_TEXTS)
    return find_duplicates(_by_hash(tables(), files), "sha256", partial(_stand_in, min_urls))


def _stand_in(min_urls: int, rows: pa.Table, starts: Int64s) -> Bools:
    """All rows of each group with so many URLs and captions."""
    marked = np.zeros(len(rows), bool)
    for group in np.flatnonzero(np.diff(starts) >= min_urls):
        start, end = starts[group], starts[group + 1]
        texts = (rows[name].slice(start, end - start) for name in ("url", "caption"))
        marked[start:end] = all(pc.count_distinct(some).as_py() >= min_urls for some in texts)
    return marked


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
