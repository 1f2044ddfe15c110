"""Images whose perceptual hashes differ in few bits.

To compare all with all would be too much, so the 64 bits are cut into bands, one more than the
bits that may differ: two hashes within that distance are then equal in a band at least. Images
are compared within equal bands alone, and none within the distance is missed.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import pyarrow as pa

from workers.base.arrays import Bools, Int64s, UInt64s
from workers.base.compiled import compiled, inlined
from workers.embedding.image_hash import BITS, NO_HASH
from workers.selection.duplicates import Tables, file_count, find_duplicates

#: Rows in memory at a time, about: 100 bytes each.
ROWS_PER_FILE = 1_000_000


def perceptual_duplicates(tables: Tables, rows: int, max_distance: int) -> pa.LargeStringArray:
    """The pair_ids, sorted, of images that are near one that is the better pair.

    Args:
        tables: with pair_id, similarity and image_hash; an image without a hash is nobody's
            duplicate.
        rows: how many there are, about.
        max_distance: bits that differ between duplicates, at most.
    """
    files = file_count(rows * (max_distance + 1), ROWS_PER_FILE)
    compare = partial(_compare, max_distance=max_distance)
    return find_duplicates(_by_band(tables(), max_distance + 1, files), "band", compare)


def _by_band(
    tables: Iterator[pa.Table], bands: int, files: int
) -> Iterator[tuple[pa.Table, Int64s]]:
    """Every row once for each band of its hash."""
    for table in tables:
        known = table.filter(pa.array(table["image_hash"].to_numpy() != np.uint64(NO_HASH)))
        hashes = known["image_hash"].to_numpy()
        for number in range(bands):
            band = _band(hashes, number, bands)
            yield known.append_column("band", pa.array(band)), _spread(band, files)


def _band(hashes: UInt64s, number: int, bands: int) -> UInt64s:
    """A band's bits and its number, as one number."""
    first, end = number * BITS // bands, (number + 1) * BITS // bands
    bits = hashes >> np.uint64(first) & np.uint64((1 << (end - first)) - 1)
    return bits * np.uint64(bands) + np.uint64(number)


def _spread(band: UInt64s, files: int) -> Int64s:
    """The file of each band, by its product with 2**64 / the golden ratio: even for any bits."""
    mixed = band * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(32)
    return (mixed % np.uint64(files)).astype(np.int64)


def _compare(rows: pa.Table, starts: Int64s, max_distance: int) -> Bools:
    hashes = rows["image_hash"].to_numpy()
    marked = np.zeros(len(rows), np.bool_)
    _mark_near_earlier(hashes, starts, max_distance, marked)
    return marked


@inlined
def _distance(one: np.uint64, other: np.uint64) -> np.uint64:
    """Bits that differ, counted in parallel: in pairs, fours, bytes, then all."""
    bits = one ^ other
    bits -= (bits >> np.uint64(1)) & np.uint64(0x5555555555555555)
    bits = (bits & np.uint64(0x3333333333333333)) + (
        (bits >> np.uint64(2)) & np.uint64(0x3333333333333333)
    )
    bits = (bits + (bits >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return (bits * np.uint64(0x0101010101010101)) >> np.uint64(56)


@compiled
def _mark_near_earlier(hashes: UInt64s, starts: Int64s, max_distance: int, marked: Bools) -> None:
    most = np.uint64(max_distance)
    for group in range(len(starts) - 1):
        first = starts[group]
        for row in range(first + 1, starts[group + 1]):
            for earlier in range(first, row):
                if _distance(hashes[row], hashes[earlier]) <= most:
                    marked[row] = True
                    break
