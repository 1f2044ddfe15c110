"""Pictures that are nearly the same, by their embeddings: SemDeDup (arXiv 2303.09540).

All pairs of pictures would be too many, so the embeddings are clustered first and pictures are
compared within a cluster alone. One cluster is in memory at a time; the others wait in files.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from workers.embedding_matrix import embedding_matrix

Floats = npt.NDArray[np.float32]

ITERATIONS = 10
#: Rows of the sample that clusters are found on, for each cluster.
SAMPLE_ROWS = 64
#: Rows compared with those before them at a time.
_CHUNK = 1024


def semantic_duplicates(
    tables: Callable[[], Iterator[pa.Table]], max_similarity: float, cluster_rows: int
) -> list[str]:
    """The pair_ids of pictures that have a near duplicate which is the better pair.

    Args:
        tables: gives pair_id, image_embedding and similarity of all pairs, each time it is asked.
        max_similarity: cosine from which on two pictures are duplicates.
        cluster_rows: rows of a cluster, on average.

    Returns:
        Sorted. Of two duplicates in a cluster the one less similar to its caption is named, of
        equals the one with the larger pair_id. What it is a duplicate of may be named, too.
    """
    rows = sum(len(table) for table in tables())
    clusters = -(-rows // cluster_rows)
    if not clusters:
        return []
    centroids = _centroids(_sample(tables(), rows, clusters * SAMPLE_ROWS), clusters)
    with tempfile.TemporaryDirectory(prefix="semantic-duplicates-") as folder:
        files = _spill(tables(), centroids, Path(folder))
        found = [name for file in files for name in _duplicates_in(file, max_similarity)]
    return sorted(found)


def _sample(tables: Iterator[pa.Table], rows: int, wanted: int) -> Floats:
    """Every n-th row, [S, D]: pairs are sorted by a hash, so that is a fair sample."""
    step = max(1, rows // wanted)
    parts, start = [], 0
    for table in tables:
        chosen = np.arange(-start % step, len(table), step)
        parts.append(embedding_matrix(table["image_embedding"].take(chosen)))
        start += len(table)
    return np.concatenate(parts)


def _centroids(sample: Floats, clusters: int) -> Floats:
    """Spherical k-means: [S, D] -> [K, D], unit length. Begins with K rows of the sample."""
    centroids = sample[np.linspace(0, len(sample) - 1, min(clusters, len(sample))).astype(int)]
    for _ in range(ITERATIONS):
        nearest = _assign(sample, centroids)
        sums = np.zeros_like(centroids)
        np.add.at(sums, nearest, sample)
        length = np.linalg.norm(sums, axis=1, keepdims=True)
        centroids = np.where(length > 0, sums / np.maximum(length, 1e-12), centroids)
    return centroids


def _assign(embeddings: Floats, centroids: Floats) -> npt.NDArray[np.int64]:
    """The nearest centroid of each row, [N]."""
    parts = [
        (embeddings[start : start + _CHUNK] @ centroids.T).argmax(axis=1)
        for start in range(0, len(embeddings), _CHUNK)
    ]
    return np.concatenate([np.empty(0, np.int64), *parts])


def _spill(tables: Iterator[pa.Table], centroids: Floats, folder: Path) -> list[Path]:
    """One file a cluster, of Arrow streams one after the other; those that are not empty."""
    files: set[Path] = set()
    for table in tables:
        cluster = _assign(embedding_matrix(table["image_embedding"]), centroids)
        for number in np.unique(cluster):
            file = folder / f"{number:08d}"
            with file.open("ab") as sink, pa.ipc.new_stream(sink, table.schema) as stream:
                stream.write_table(table.filter(pa.array(cluster == number)))
            files.add(file)
    return sorted(files)


def _duplicates_in(file: Path, max_similarity: float) -> list[str]:
    table = pa.concat_tables(_streams(file))
    table = table.sort_by([("similarity", "descending"), ("pair_id", "ascending")])
    embeddings = embedding_matrix(table["image_embedding"])
    embeddings /= np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
    duplicate = np.zeros(len(table), bool)
    for start in range(0, len(table), _CHUNK):
        rows = embeddings[start : start + _CHUNK]
        cosines = rows @ embeddings[: start + len(rows)].T
        earlier = np.arange(start + len(rows)) < np.arange(start, start + len(rows))[:, None]
        duplicate[start : start + len(rows)] = ((cosines > max_similarity) & earlier).any(axis=1)
    names: list[str] = table["pair_id"].filter(pa.array(duplicate)).to_pylist()
    return names


def _streams(file: Path) -> Iterator[pa.Table]:
    with pa.OSFile(str(file)) as source:
        while source.tell() < source.size():
            yield pa.ipc.open_stream(source).read_all()
