"""Filters of what is there twice: in the data set, or in an evaluation set, too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from workers.base.arrays import Float32s
from workers.base.file_systems import find_files
from workers.base.settings import FileName
from workers.embedding.matrix import COSINE_ERROR, embedding_matrix
from workers.selection.base_filter import (
    Available,
    Cosine,
    Filter,
    Keep,
    Keeps,
    Survivors,
    among,
    check_embeddings,
)
from workers.selection.duplicates import Tables
from workers.selection.exact_duplicates import exact_duplicates, placeholders

#: Rows compared with a reference at a time: bounds the matrix of cosines.
_CHUNK = 1024


class Alike(Filter):
    """Pairs go because others are like them."""

    def fit(self, survivors: Survivors, seed: int) -> Keeps:  # noqa: ARG002 - nothing is drawn
        rows = sum(len(some) for some in survivors(()))
        found = self.find(lambda: survivors(self.columns), rows)
        return lambda some: ~among(some["pair_id"], found)

    def find(self, tables: Tables, rows: int) -> pa.LargeStringArray:
        """The pair_ids, sorted, of those that go."""
        raise NotImplementedError


class Placeholder(Alike):
    """No pair whose file stands for pictures that are not there ("image not available"): it came
    from `min_urls` different URLs or more, with as many different captions."""

    reason = "placeholder"
    columns = ("sha256", "url", "caption", "similarity")

    filter: Literal["placeholder"]
    min_urls: int = Field(default=10, ge=2, description="URLs of one file, and captions, at least")

    def find(self, tables: Tables, rows: int) -> pa.LargeStringArray:
        return placeholders(tables, rows, self.min_urls)


class Duplicates(Alike):
    """One pair of each group of duplicates stays: the most similar one, of equals the one with the
    smaller pair_id."""


class ExactDuplicates(Duplicates):
    """One pair for each downloaded file: the most similar one."""

    reason = "duplicate_file"
    columns = ("sha256", "similarity")

    filter: Literal["exact_duplicates"]

    def find(self, tables: Tables, rows: int) -> pa.LargeStringArray:
        return exact_duplicates(tables, rows)


class PerceptualDuplicates(Duplicates):
    """One pair for each group of images with nearly equal hashes: the most similar one."""

    reason = "near_duplicate_image"
    columns = ("image_hash", "similarity")

    filter: Literal["perceptual_duplicates"]
    max_distance: int = Field(
        default=4, ge=0, le=12, description="bits of 64 that differ between duplicates, at most"
    )

    def find(self, tables: Tables, rows: int) -> pa.LargeStringArray:
        from workers.selection.perceptual_duplicates import perceptual_duplicates

        return perceptual_duplicates(tables, rows, self.max_distance)


class SemanticDuplicates(Duplicates):
    """One pair for each group of nearly equal images, as SemDeDup does (arXiv 2303.09540).

    Images are compared within clusters of their embeddings; of two that are closer than
    ``max_similarity`` the one less similar to its caption goes.
    """

    reason = "duplicate_image"
    columns = ("image_embedding", "similarity")

    filter: Literal["semantic_duplicates"]
    max_similarity: Cosine = Field(default=0.95, description="cosine of two different images")
    cluster_rows: int = Field(
        default=10_000, ge=1, description="pairs a cluster, on average: time grows with it"
    )

    def find(self, tables: Tables, rows: int) -> pa.LargeStringArray:
        from workers.selection.semantic_duplicates import semantic_duplicates

        return semantic_duplicates(tables, rows, self.max_similarity, self.cluster_rows)


class Contamination(Filter):
    """No pair that an evaluation set holds: by embeddings of that set, of the same model."""

    reason = "in_evaluation_set"
    file_settings = ("embeddings",)

    filter: Literal["contamination"]
    embeddings: tuple[FileName, ...] = Field(
        min_length=1, description="Parquet files of `pipelines.embed` on evaluation sets; globs"
    )
    max_image_similarity: Cosine = Field(
        default=0.95, description="cosine of an image and any image of the set"
    )
    max_text_similarity: Cosine = Field(
        default=1.0, description="cosine of a caption and any caption; 1: captions do not count"
    )

    def reads(self) -> tuple[str, ...]:
        images, texts = "image_embedding", "text_embedding"
        return (images, texts) if self.max_text_similarity < 1 else (images,)

    def check(self, available: Available) -> None:
        check_embeddings(self.embeddings, self.reads(), "embeddings", available)

    def fit(self, survivors: Survivors, seed: int) -> Keeps:  # noqa: ARG002 - other files tell
        files = find_files(self.embeddings)
        return partial(self._new, {column: references(files, column) for column in self.reads()})

    def _new(self, references: Mapping[str, Float32s], rows: pa.Table) -> Keep:
        """The rows that the references, by column, do not hold."""
        limits = {
            "image_embedding": self.max_image_similarity,
            "text_embedding": self.max_text_similarity,
        }
        new = np.ones(len(rows), bool)
        for column, known in references.items():
            new &= ~near(embedding_matrix(rows[column]), known, limits[column])
        return new


def near(embeddings: Float32s, references: Float32s, limit: float) -> Keep:
    """Which rows have a cosine of ``limit`` or more with any reference: [N, D], [M, D] -> [N].

    Of embeddings in float16 the answer is exact, whatever other rows there are.
    """
    best = _nearest(embeddings, references)
    doubtful = np.abs(best - limit) < COSINE_ERROR
    best[doubtful] = _nearest(embeddings[doubtful].astype(np.float64), references)
    is_near: Keep = best >= limit
    return is_near


def _nearest(embeddings: npt.NDArray[Any], references: Float32s) -> npt.NDArray[Any]:
    """The largest cosine of each row with any reference, as floats of ``embeddings``: [N]."""
    best = np.full(len(embeddings), -1, embeddings.dtype)
    for start in range(0, len(references), _CHUNK):
        some = references[start : start + _CHUNK].astype(embeddings.dtype, copy=False)
        np.maximum(best, (embeddings @ some.T).max(axis=1), out=best)
    return best


def references(files: Sequence[Path], column: str) -> Float32s:
    """The embeddings of all files: [M, D]."""
    tables = [pq.read_table(file, columns=[column]) for file in files]
    return np.concatenate([embedding_matrix(table[column]) for table in tables])
