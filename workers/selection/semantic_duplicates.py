"""Images that are nearly the same, by their embeddings: SemDeDup (arXiv 2303.09540).

All pairs of images would be too many, so the embeddings are clustered first and images are
compared within a cluster alone. What is found follows from the set of pairs: the clusters from
those whose draws, hashes of their pair_id, are small, and an image's cluster from its embedding
and the clusters by exact arithmetic, so a copy never falls into another cluster than its image.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import pairwise

import numpy as np
import pyarrow as pa

from workers.base.arrays import Bools, Float32s, Int64s
from workers.base.sampling import draws
from workers.embedding.matrix import COSINE_ERROR, embedding_matrix
from workers.selection.duplicates import Tables, file_count, find_duplicates

ITERATIONS = 10
#: Rows of the sample that clusters are found on: for each cluster, and in all at most, which is
#: 1 GiB of 512 dimensions.
SAMPLE_ROWS = 64
MAX_SAMPLE_ROWS = 1 << 19
#: Of the draws that say which rows those are.
_SEED = 2303_09540
#: Rows in memory at a time, about, where a cluster is no larger.
ROWS_PER_FILE = 65_536
#: Rows compared with those before them at a time.
_CHUNK = 1024


def semantic_duplicates(
    tables: Tables, rows: int, max_similarity: float, cluster_rows: int
) -> pa.LargeStringArray:
    """The pair_ids, sorted, of images that have a near duplicate which is the better pair.

    Args:
        tables: with pair_id, similarity and image_embedding.
        rows: how many there are.
        max_similarity: cosine from which on two images of a cluster are duplicates.
        cluster_rows: rows of a cluster, on average.
    """
    if not rows:
        return pa.array([], pa.large_string())
    clusters = -(-rows // cluster_rows)
    wanted = min(clusters * SAMPLE_ROWS, MAX_SAMPLE_ROWS)
    centroids = _centroids(_sample(tables(), rows, wanted), clusters)
    files = min(file_count(rows, ROWS_PER_FILE), clusters)
    compare = partial(_compare, max_similarity=max_similarity)
    return find_duplicates(_by_cluster(tables(), centroids, files), "cluster", compare)


def _sample(tables: Iterator[pa.Table], rows: int, wanted: int) -> Float32s:
    """The embeddings of about so many rows, in the order of their pair_id, [S, D]."""
    share = wanted / rows
    parts = []
    for table in tables:
        drawn = draws(_SEED, table["pair_id"]) < share
        parts.append(table.select(["pair_id", "image_embedding"]).filter(pa.array(drawn)))
    sample = pa.concat_tables(parts).sort_by("pair_id")
    return embedding_matrix(sample["image_embedding"])


def _centroids(sample: Float32s, clusters: int) -> Float32s:
    """Spherical k-means: [S, D] -> [K, D], unit length. Begins with K rows of the sample.

    They are floats of 16 bits, for which cosines are exact.
    """
    centroids = sample[np.linspace(0, len(sample) - 1, min(clusters, len(sample))).astype(int)]
    for _ in range(ITERATIONS):
        nearest = _assign(sample, centroids)
        sums = np.zeros_like(centroids)
        np.add.at(sums, nearest, sample)
        length = np.linalg.norm(sums, axis=1, keepdims=True)
        means = (sums / np.maximum(length, 1e-12)).astype(np.float16)
        centroids = np.where(length > 0, means, centroids).astype(np.float32)
    return centroids


def _assign(embeddings: Float32s, centroids: Float32s) -> Int64s:
    """The nearest centroid of each row, the first of equals, exactly: [N]."""
    parts = [
        _nearest(embeddings[start : start + _CHUNK], centroids)
        for start in range(0, len(embeddings), _CHUNK)
    ]
    return np.concatenate([np.empty(0, np.int64), *parts])


def _nearest(rows: Float32s, centroids: Float32s) -> Int64s:
    cosines = rows @ centroids.T  # [N, K]
    nearest = cosines.argmax(axis=1)
    least = np.take_along_axis(cosines, nearest[:, None], axis=1) - 2 * COSINE_ERROR
    doubtful = np.count_nonzero(cosines > least, axis=1) > 1
    nearest[doubtful] = (rows[doubtful].astype(np.float64) @ centroids.T).argmax(axis=1)
    return nearest


def _by_cluster(
    tables: Iterator[pa.Table], centroids: Float32s, files: int
) -> Iterator[tuple[pa.Table, Int64s]]:
    for table in tables:
        cluster = _assign(embedding_matrix(table["image_embedding"]), centroids)
        yield table.append_column("cluster", pa.array(cluster)), cluster % files


def _compare(rows: pa.Table, starts: Int64s, max_similarity: float) -> Bools:
    marked = [
        _near_earlier(rows["image_embedding"].slice(start, end - start), max_similarity)
        for start, end in pairwise(starts)
    ]
    return np.concatenate(marked)


def _near_earlier(column: pa.ChunkedArray, max_similarity: float) -> Bools:
    """The rows of a cluster that are closer to an earlier one than ``max_similarity``."""
    embeddings = embedding_matrix(column)
    embeddings /= np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
    near = np.zeros(len(embeddings), bool)
    for start in range(0, len(embeddings), _CHUNK):
        rows = embeddings[start : start + _CHUNK]
        cosines = rows @ embeddings[: start + len(rows)].T
        earlier = np.arange(start + len(rows)) < np.arange(start, start + len(rows))[:, None]
        near[start : start + len(rows)] = ((cosines > max_similarity) & earlier).any(axis=1)
    return near
