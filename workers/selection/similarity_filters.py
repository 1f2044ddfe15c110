"""Filters by how similar a picture and its caption are."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from workers.selection.base_filter import Filter, Keep, Survivors, among, floats
from workers.settings import find_files


class Similarity(Filter):
    reason, columns = "low_similarity", ("similarity",)

    def keeps(self, rows: pa.Table) -> Keep:
        return floats(rows, "similarity") >= np.float32(self.step.min)


class TopFraction(Filter):
    reason, columns = "not_in_top_fraction", ("similarity",)

    def fit(self, survivors: Survivors) -> None:
        """Find the similarity of the last pair that stays: exact, in two passes."""
        from workers.selection.top_share import least_of_top

        self.least = least_of_top(
            lambda: (floats(rows, "similarity") for rows in survivors(self.columns)),
            self.step.share,
        )

    def keeps(self, rows: pa.Table) -> Keep:
        return floats(rows, "similarity") >= self.least


class TopPerQuery(Filter):
    reason, columns = "not_in_top_of_query", ("similarity", "query_ids")

    def fit(self, survivors: Survivors) -> None:
        """Find for each query the similarity that its best pairs are above."""
        from workers.pairs.balance import Cap
        from workers.pairs.query_draws import QueryDraws

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


class Agreement(Filter):
    reason, columns = "models_disagree", ()

    def fit(self, survivors: Survivors) -> None:  # noqa: ARG002 - it learns from other files
        files = find_files(self.step.embeddings)
        enough = pc.field("similarity") >= self.step.min
        agreed = pa.concat_tables(
            pq.read_table(file, columns=["pair_id", "similarity"], filters=enough).select(
                ["pair_id"]
            )
            for file in files
        )
        names = agreed.sort_by("pair_id")["pair_id"].cast(pa.large_string())
        self.agreed = pa.concat_arrays([*names.chunks, pa.array([], pa.large_string())])

    def keeps(self, rows: pa.Table) -> Keep:
        return among(rows["pair_id"], self.agreed)


def _by_query(
    rows: pa.Table,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """One entry for each (pair, query that it matches): row, query_id, similarity."""
    lists = rows["query_ids"].combine_chunks()
    row = pc.list_parent_indices(lists).to_numpy().astype(np.int64)
    queries = pc.list_flatten(lists).to_numpy().astype(np.int64)
    return row, queries, floats(rows, "similarity")[row].astype(np.float64)
