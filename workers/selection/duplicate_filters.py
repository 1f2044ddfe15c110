"""Filters of what is there twice: in the data set, or in an evaluation set, too."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from workers.base.settings import find_files
from workers.embedding.matrix import embedding_matrix
from workers.selection import settings
from workers.selection.base_filter import Filter, Floats, Keep, Survivors, among
from workers.selection.duplicates import Tables
from workers.selection.exact_duplicates import exact_duplicates

#: Rows compared with a reference at a time: bounds the matrix of cosines.
_CHUNK = 1024


class Duplicates(Filter):
    """One pair of each group of duplicates stays, the most similar one."""

    def fit(self, survivors: Survivors) -> None:
        rows = sum(len(some) for some in survivors(()))
        self.duplicates = self.find(lambda: survivors(self.columns), rows)

    @abstractmethod
    def find(self, tables: Tables, rows: int) -> pa.LargeStringArray:
        """The pair_ids, sorted, of those that go."""

    def keeps(self, rows: pa.Table) -> Keep:
        return ~among(rows["pair_id"], self.duplicates)


class ExactDuplicates(Duplicates):
    reason, columns = "duplicate_file", ("sha256", "similarity")

    def find(self, tables: Tables, rows: int) -> pa.LargeStringArray:
        return exact_duplicates(tables, rows)


class PerceptualDuplicates(Duplicates):
    reason, columns = "near_duplicate_picture", ("picture_hash", "similarity")

    def find(self, tables: Tables, rows: int) -> pa.LargeStringArray:
        from workers.selection.perceptual_duplicates import perceptual_duplicates

        return perceptual_duplicates(tables, rows, self.step.max_distance)


class SemanticDuplicates(Duplicates):
    reason, columns = "duplicate_picture", ("image_embedding", "similarity")

    def find(self, tables: Tables, rows: int) -> pa.LargeStringArray:
        from workers.selection.semantic_duplicates import semantic_duplicates

        step = self.step
        return semantic_duplicates(tables, rows, step.max_similarity, step.cluster_rows)


class Contamination(Filter):
    reason = "in_evaluation_set"

    def __init__(self, step: settings.ContaminationStep, seed: int) -> None:
        super().__init__(step, seed)
        self.columns = step.columns
        self.limits = (step.max_image_similarity, step.max_text_similarity)

    def fit(self, survivors: Survivors) -> None:  # noqa: ARG002 - it learns from other files
        files = find_files(self.step.embeddings)
        self.references = [_references(files, column) for column in self.columns]

    def keeps(self, rows: pa.Table) -> Keep:
        new = np.ones(len(rows), bool)
        for column, references, limit in zip(
            self.columns, self.references, self.limits, strict=False
        ):
            new &= nearest(embedding_matrix(rows[column]), references) < limit
        return new


def nearest(embeddings: Floats, references: Floats) -> Floats:
    """The largest cosine of each row with any reference: [N, D], [M, D] -> [N]; -1 without any."""
    best = np.full(len(embeddings), -1, np.float32)
    for start in range(0, len(references), _CHUNK):
        cosines = embeddings @ references[start : start + _CHUNK].T
        np.maximum(best, cosines.max(axis=1), out=best)
    return best


def _references(files: Sequence[Any], column: str) -> Floats:
    tables = [pq.read_table(file, columns=[column]) for file in files]
    return np.concatenate([embedding_matrix(table[column]) for table in tables])
