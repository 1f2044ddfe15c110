"""How well a pair fits, less how well each of its parts fits anything (arXiv 2405.19547).

A caption that says little is near every image, and an image of text is near every caption. The
loss of CLIP's training knows: it holds a pair against the others of its batch. With its sign
changed and in the units of a cosine it is the cosine less a normaliser,

    score(i) = s_ii - t/2 * mean of [ log sum_j exp(s_ij / t) + log sum_j exp(s_ji / t) ]

where s_ij is the cosine of image i and caption j, the sums are over a batch with the pair itself in
it, and the mean over batches. The paper cuts all pairs into batches, ten times; here batches are a
sample of the pairs, held in memory, and every pair is set into each of them. Cosines of float16 are
exact in float64, so that a score doesn't depend on which rows are multiplied together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from workers.base.arrays import Bools, Float32s, Float64s, UInt64s
from workers.base.cores import usable_cores
from workers.embedding.matrix import embedding_matrix
from workers.selection.scores import is_among, pair_hashes

EMBEDDINGS = ("image_embedding", "text_embedding")
#: Rows multiplied with a batch at a time, and of these, rows that a thread sums up.
_CHUNK, _ROWS = 1024, 64


@dataclass(frozen=True)
class Batches:
    """Pairs that others are held against: so many batches of one size, one after the other."""

    size: int
    hashes: UInt64s  # [batches * size], ascending: a batch is a range of them
    images: Float32s  # [batches * size, D]
    texts: Float32s

    @classmethod
    def drawn(
        cls, tables: Callable[[], Iterable[pa.Table]], size: int, batches: int, seed: int
    ) -> Batches | None:
        """By the hashes of the pairs: those that are smallest. None of no pairs.

        Where there are too few for one batch it has all; for all batches, there are fewer.

        Args:
            tables: all pairs with ``EMBEDDINGS``, each time it is asked.
        """
        names = [pair_hashes(rows, seed) for rows in tables()]
        known = np.concatenate([np.empty(0, np.uint64), *names])
        if not len(known):
            return None
        size = min(size, len(known))
        drawn = np.sort(known)[: size * max(1, min(batches, len(known) // size))]
        parts = [
            rows.filter(pa.array(is_among(pair_hashes(rows, seed), drawn))) for rows in tables()
        ]
        table = pa.concat_tables(part.select(["pair_id", *EMBEDDINGS]) for part in parts)
        order = np.argsort(pair_hashes(table, seed), kind="stable")[: len(drawn)]
        images, texts = (embedding_matrix(table[name])[order] for name in EMBEDDINGS)
        return cls(size, drawn, images, texts)


def neg_clip_loss(rows: pa.Table, batches: Batches, temperature: float, seed: int) -> Float64s:
    """The score of each row: [N], 0 or less.

    Args:
        rows: with ``EMBEDDINGS``, float16.
        seed: that the batches were drawn with.
    """
    images, texts = (embedding_matrix(rows[name]).astype(np.float64) for name in EMBEDDINGS)
    own = (images * texts).sum(axis=1)
    names = pair_hashes(rows, seed)
    starts = range(0, len(batches.hashes), batches.size)
    total = np.zeros(len(rows))
    with ThreadPoolExecutor(usable_cores()) as pool:
        for start in starts:
            batch = slice(start, start + batches.size)
            outside = ~is_among(names, batches.hashes[batch])
            for ours, theirs in ((images, batches.texts), (texts, batches.images)):
                others = theirs[batch].astype(np.float64).T
                for first in range(0, len(rows), _CHUNK):
                    chunk = slice(first, first + _CHUNK)
                    cosines = ours[chunk] @ others  # on all cores, as what follows
                    parts = [_parts(some) for some in (cosines, own[chunk], outside[chunk])]
                    total[chunk] += np.concatenate(
                        list(pool.map(_log_sums, *parts, repeat(temperature)))
                    )
    return -temperature / 2 / len(starts) * total


def _parts(rows: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
    return [rows[start : start + _ROWS] for start in range(0, len(rows), _ROWS)]


def _log_sums(cosines: Float64s, own: Float64s, outside: Bools, temperature: float) -> Float64s:
    """log sum_j exp((s_ij - s_ii) / t) over a batch and the pair itself: [N, B] -> [N].

    NumPy adds up each row by itself, so a sum doesn't depend on other rows.

    Args:
        cosines: s_ij, overwritten.
        own: s_ii, [N].
        outside: which pairs are not in the batch, so that their own term, 1, is not there: [N].
    """
    cosines -= own[:, None]
    cosines /= temperature
    sums: Float64s = np.log(np.exp(cosines, out=cosines).sum(axis=1) + outside)
    return sums
