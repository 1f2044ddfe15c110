"""The filters of the selection. Each one looks at all pairs that are left, then decides on each.

A filter is a class beside these, listed in ``FILTERS``, and its settings a class in
``selection_settings``. What it must know of all pairs together (a quantile, duplicates) it learns
in ``fit``; most need nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from workers import selection_settings as settings
from workers.embedding_matrix import embedding_matrix
from workers.settings import find_files

Keep = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]

#: Give the pairs that are left, shard by shard, with pair_id and the columns that are named.
Survivors = Callable[[Sequence[str]], Iterator[pa.Table]]

#: Rows compared with a reference at a time: bounds the matrix of cosines.
_CHUNK = 1024


class Filter(ABC):
    """Decides which pairs stay. ``reason`` counts those that do not."""

    reason: ClassVar[str]
    #: What it reads of a pair beside pair_id.
    columns: tuple[str, ...]

    def __init__(self, step: Any) -> None:
        self.step = step

    def fit(self, survivors: Survivors) -> None:  # noqa: B027 - most need to know one pair alone
        """Learn from all pairs that are left."""

    @abstractmethod
    def keeps(self, rows: pa.Table) -> Keep:
        """Which rows stay."""


class Similarity(Filter):
    reason, columns = "low_similarity", ("similarity",)

    def keeps(self, rows: pa.Table) -> Keep:
        return _floats(rows, "similarity") >= np.float32(self.step.min)


class TopFraction(Filter):
    reason, columns = "not_in_top_fraction", ("similarity",)

    def fit(self, survivors: Survivors) -> None:
        """Find the similarity of the last pair that stays: exact, in two passes."""
        from workers.top_share import least_of_top

        self.least = least_of_top(
            lambda: (_floats(rows, "similarity") for rows in survivors(self.columns)),
            self.step.share,
        )

    def keeps(self, rows: pa.Table) -> Keep:
        return _floats(rows, "similarity") >= self.least


class TopPerQuery(Filter):
    reason, columns = "not_in_top_of_query", ("similarity", "query_ids")

    def fit(self, survivors: Survivors) -> None:
        """Find for each query the similarity that its best pairs are above."""
        from workers.balance import Cap
        from workers.query_draws import QueryDraws

        self.cap = Cap(self.step.pairs)
        best = QueryDraws.merge([], self.cap.draws_needed)
        for rows in survivors(self.columns):
            _, queries, values = _by_query(rows)
            some = QueryDraws.of_matches(queries, -values, self.cap.draws_needed)
            best = QueryDraws.merge([best, some], self.cap.draws_needed)
        self.limits = self.cap.limits(best)

    def keeps(self, rows: pa.Table) -> Keep:
        row, queries, values = _by_query(rows)
        kept = row[self.cap.keeps(self.limits, row, queries, -values)]
        return np.bincount(kept, minlength=len(rows)).astype(bool)


class Caption(Filter):
    reason, columns = "short_caption", ("caption",)

    def keeps(self, rows: pa.Table) -> Keep:
        captions = rows["caption"].combine_chunks()
        words = pc.list_value_length(pc.utf8_split_whitespace(pc.utf8_trim_whitespace(captions)))
        enough = pc.and_(
            pc.greater_equal(words, self.step.min_words),
            pc.greater_equal(pc.utf8_length(captions), self.step.min_chars),
        )
        return enough.to_numpy(zero_copy_only=False)


class Size(Filter):
    reason = "wrong_size"
    columns = ("width", "height", "original_width", "original_height")

    def keeps(self, rows: pa.Table) -> Keep:
        width, height = (_original(rows, side) for side in ("width", "height"))
        shorter, longer = np.minimum(width, height), np.maximum(width, height)
        return (shorter >= self.step.min_side) & (longer <= self.step.max_aspect * shorter)


class Label(Filter):
    reason, columns = "label", ("labels",)

    def keeps(self, rows: pa.Table) -> Keep:
        return np.array([self._keeps(labels) for labels in rows["labels"].to_pylist()], bool)

    def _keeps(self, labels: Sequence[dict[str, Any]]) -> bool:
        found = {
            label["label"]
            for label in labels
            if label["set"] == self.step.set and label["probability"] >= self.step.min_probability
        }
        wanted = not self.step.keep or bool(found & set(self.step.keep))
        return wanted and not found & set(self.step.drop)


class Score(Filter):
    reason = "score"

    def __init__(self, step: settings.ScoreStep) -> None:
        super().__init__(step)
        self.column = f"score_{step.score}"
        self.columns = (self.column,)

    def keeps(self, rows: pa.Table) -> Keep:
        values = _floats(rows, self.column)
        least = -np.inf if self.step.min is None else self.step.min
        most = np.inf if self.step.max is None else self.step.max
        return (values >= least) & (values <= most)


class ExactDuplicates(Filter):
    reason, columns = "duplicate_file", ("sha256", "similarity")

    def fit(self, survivors: Survivors) -> None:
        """Find the pairs whose file another pair has, which is more similar or comes first."""
        table = pa.concat_tables(survivors(self.columns))
        order = [("sha256", "ascending"), ("similarity", "descending"), ("pair_id", "ascending")]
        table = table.sort_by(order).combine_chunks()
        file = pc.fill_null(table["sha256"].dictionary_encode().combine_chunks().indices, -1)
        file = file.to_numpy()  # equal numbers for equal files; a file not known is nobody's
        repeated = np.zeros(len(file), bool)
        repeated[1:] = (file[1:] == file[:-1]) & (file[1:] >= 0)
        self.duplicates = table.filter(pa.array(repeated))["pair_id"].combine_chunks()

    def keeps(self, rows: pa.Table) -> Keep:
        return ~_among(rows, self.duplicates)


class SemanticDuplicates(Filter):
    reason, columns = "duplicate_picture", ("image_embedding", "similarity")

    def fit(self, survivors: Survivors) -> None:
        from workers.semantic_duplicates import semantic_duplicates

        found = semantic_duplicates(
            lambda: survivors(self.columns), self.step.max_similarity, self.step.cluster_rows
        )
        self.duplicates = pa.array(found, pa.string())

    def keeps(self, rows: pa.Table) -> Keep:
        return ~_among(rows, self.duplicates)


class Contamination(Filter):
    reason, columns = "in_evaluation_set", ("image_embedding", "text_embedding")

    def fit(self, survivors: Survivors) -> None:  # noqa: ARG002 - it learns from other files
        files = find_files(self.step.embeddings)
        self.images = _references(files, "image_embedding")
        self.texts = _references(files, "text_embedding")

    def keeps(self, rows: pa.Table) -> Keep:
        images = embedding_matrix(rows["image_embedding"])
        new = nearest(images, self.images) < self.step.max_image_similarity
        if self.step.max_text_similarity < 1:
            texts = embedding_matrix(rows["text_embedding"])
            new &= nearest(texts, self.texts) < self.step.max_text_similarity
        return new


class Agreement(Filter):
    reason, columns = "models_disagree", ()

    def fit(self, survivors: Survivors) -> None:  # noqa: ARG002 - it learns from other files
        files = find_files(self.step.embeddings)
        self.others = pa.concat_tables(
            pq.read_table(file, columns=["pair_id", "similarity"]) for file in files
        ).combine_chunks()

    def keeps(self, rows: pa.Table) -> Keep:
        found = pc.index_in(rows["pair_id"], value_set=self.others["pair_id"].combine_chunks())
        similar = pc.greater_equal(self.others["similarity"].take(found), self.step.min)
        return similar.fill_null(False).to_numpy()


FILTERS: dict[type[settings.Step], type[Filter]] = {
    settings.SimilarityStep: Similarity,
    settings.TopFractionStep: TopFraction,
    settings.TopPerQueryStep: TopPerQuery,
    settings.CaptionStep: Caption,
    settings.SizeStep: Size,
    settings.LabelStep: Label,
    settings.ScoreStep: Score,
    settings.ExactDuplicatesStep: ExactDuplicates,
    settings.SemanticDuplicatesStep: SemanticDuplicates,
    settings.ContaminationStep: Contamination,
    settings.AgreementStep: Agreement,
}


def make_filter(step: settings.Step) -> Filter:
    """The filter that a step names."""
    return FILTERS[type(step)](step)


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


def _floats(rows: pa.Table, column: str) -> Floats:
    values: Floats = rows[column].to_numpy()
    return values


def _original(rows: pa.Table, side: str) -> npt.NDArray[np.int64]:
    """Pixels before resizing; what was never resized has them as they are."""
    pixels = pc.coalesce(rows[f"original_{side}"], rows[side])
    values: npt.NDArray[np.int64] = pixels.cast(pa.int64()).to_numpy()
    return values


def _by_query(
    rows: pa.Table,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """One entry for each (pair, query that it matches): row, query_id, similarity."""
    lists = rows["query_ids"].combine_chunks()
    row = pc.list_parent_indices(lists).to_numpy().astype(np.int64)
    queries = pc.list_flatten(lists).to_numpy().astype(np.int64)
    return row, queries, _floats(rows, "similarity")[row].astype(np.float64)


def _among(rows: pa.Table, pair_ids: pa.Array) -> Keep:
    among: Keep = pc.is_in(rows["pair_id"], value_set=pair_ids).to_numpy()
    return among
