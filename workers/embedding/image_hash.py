"""A perceptual hash of an image (pHash): near images differ in few of its 64 bits.

The image becomes grey (0.30 R + 0.59 G + 0.11 B), 32 x 32 cells, each the mean of its pixels.
Of its discrete cosine transform the frequencies 1 to 8 are taken in both directions, so neither
the mean level nor light that changes along one side alone counts. A bit says whether such a
coefficient is above the median of the 64.

All of it is done in whole numbers: the hash is the same on every machine. It takes
about 1% of the time that decoding takes (``python -m benchmarks.image_hash``).
"""

from __future__ import annotations

import numpy as np

from workers.base.arrays import Int64s, UInt8s
from workers.base.compiled import compiled

BITS = 64
#: The hash of an image without any structure to hash: one colour, a gradient, stripes.
NO_HASH = 0

_CELLS = 32
_FREQUENCIES = 8
_SCALE = 1 << 12  # of the cosines
_COSINES = np.rint(
    _SCALE
    * np.cos(
        np.pi * np.arange(1, _FREQUENCIES + 1)[:, None] * (2 * np.arange(_CELLS) + 1) / (2 * _CELLS)
    )
).astype(np.int64)  # [8, 32]
#: Grey is the sum of the channels times these, in 1/256 levels.
_RED, _GREEN, _BLUE = np.int32(77), np.int32(150), np.int32(29)
#: The middle half of the coefficients must be spread over more than this. A wave of 1/32 level
#: has a coefficient of 8: below it, the bits are noise of the JPEG's quality.
_LEAST_SPREAD = 16 * 256 * _SCALE**2


def image_hash(levels: UInt8s) -> int:
    """The hash of an image, [3, H, W].

    The first bit, the highest, is of the lowest frequency in both directions; the frequency along
    a row grows first. ``NO_HASH`` where the coefficients are so equal that bits say nothing: no
    other hash is, as half of its bits are set.
    """
    return int(_hash(levels))


@compiled
def _hash(levels: UInt8s) -> np.uint64:
    cells = _grey_cells(levels)
    coefficients = _low_frequencies(cells)
    ordered = np.sort(coefficients)
    if ordered[3 * BITS // 4 - 1] - ordered[BITS // 4] <= _LEAST_SPREAD:
        return np.uint64(NO_HASH)
    twice_median = ordered[BITS // 2 - 1] + ordered[BITS // 2]
    bits = np.uint64(0)
    for coefficient in coefficients:
        bits = (bits << np.uint64(1)) | np.uint64(2 * coefficient > twice_median)
    return bits


@compiled
def _grey_cells(levels: UInt8s) -> Int64s:
    """[3, H, W] -> [32, 32], means of grey in 1/256 levels.

    Cells begin and end as those of adaptive average pooling: at least a pixel, they may overlap.
    """
    height, width = levels.shape[1:]
    cells = np.empty((_CELLS, _CELLS), np.int64)
    sums = np.empty(width, np.int32)
    for row in range(_CELLS):
        top, bottom = row * height // _CELLS, -(-(row + 1) * height // _CELLS)
        sums[:] = 0
        for y in range(top, bottom):
            for x in range(width):
                sums[x] += (
                    _RED * np.int32(levels[0, y, x])
                    + _GREEN * np.int32(levels[1, y, x])
                    + _BLUE * np.int32(levels[2, y, x])
                )
        for column in range(_CELLS):
            left, right = column * width // _CELLS, -(-(column + 1) * width // _CELLS)
            total = np.int64(0)
            for x in range(left, right):
                total += sums[x]
            cells[row, column] = total // ((bottom - top) * (right - left))
    return cells


@compiled
def _low_frequencies(cells: Int64s) -> Int64s:
    """[32, 32] -> [64], the coefficients of the cosine transform, frequency along a row last."""
    along_rows = np.zeros((_CELLS, _FREQUENCIES), np.int64)
    for row in range(_CELLS):
        for frequency in range(_FREQUENCIES):
            total = np.int64(0)
            for x in range(_CELLS):
                total += cells[row, x] * _COSINES[frequency, x]
            along_rows[row, frequency] = total
    result = np.zeros((_FREQUENCIES, _FREQUENCIES), np.int64)
    for down in range(_FREQUENCIES):
        for row in range(_CELLS):
            for along in range(_FREQUENCIES):
                result[down, along] += _COSINES[down, row] * along_rows[row, along]
    return result.ravel()
