"""Filters by how similar a picture and its caption are."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from workers.base.sampling import draws
from workers.base.settings import find_files
from workers.selection.base_filter import Filter, Keep, Survivors, among, floats
from workers.selection.top_share import (
    DRAW_BITS,
    FLOAT_BITS,
    Keys,
    border_of_largest,
    draw_keys,
    float_keys,
)


class Similarity(Filter):
    reason, columns = "low_similarity", ("similarity",)

    def keeps(self, rows: pa.Table) -> Keep:
        return floats(rows, "similarity") >= np.float32(self.step.min)


class TopFraction(Filter):
    reason, columns = "not_in_top_fraction", ("similarity",)

    def fit(self, survivors: Survivors) -> None:
        """Find the similarity of the last pair that stays and, of its equals, the last draw."""
        self.last = last = border_of_largest(
            lambda: (float_keys(floats(rows, "similarity")) for rows in survivors(self.columns)),
            FLOAT_BITS,
            lambda pairs: round(self.step.share * pairs),
        )
        self.last_draw = None
        if last and last.inside < last.equal:
            self.last_draw = border_of_largest(
                lambda: (self._draws_of_equals(rows)[1] for rows in survivors(self.columns)),
                DRAW_BITS,
                lambda _: last.inside,
            )

    def keeps(self, rows: pa.Table) -> Keep:
        keys = float_keys(floats(rows, "similarity"))
        if not self.last:
            return np.zeros(len(rows), bool)
        kept: Keep = (keys >= self.last.key) & (keys > 0)  # 0 is what is not a number
        if self.last_draw:
            equals, drawn = self._draws_of_equals(rows)
            kept[equals] &= drawn >= self.last_draw.key
        return kept

    def _draws_of_equals(self, rows: pa.Table) -> tuple[npt.NDArray[np.int64], Keys]:
        """The rows that are as similar as the last, and the keys of their draws."""
        assert self.last
        equals = np.flatnonzero(float_keys(floats(rows, "similarity")) == self.last.key)
        return equals, draw_keys(draws(self.seed, rows["pair_id"].take(equals).to_pylist()))


class TopPerQuery(Filter):
    reason, columns = "not_in_top_of_query", ("similarity", "query_ids")

    def fit(self, survivors: Survivors) -> None:
        """Find for each query where its best pairs end."""
        from workers.pairs.balance import Cap
        from workers.pairs.query_draws import QueryDraws

        self.cap = Cap(self.step.pairs)
        best = QueryDraws.merge([], self.cap.draws_needed)
        for rows in survivors(self.columns):
            _, queries, ranks = self._by_query(rows)
            some = QueryDraws.of_matches(queries, ranks, self.cap.draws_needed)
            best = QueryDraws.merge([best, some], self.cap.draws_needed)
        self.limits = self.cap.limits(best)

    def keeps(self, rows: pa.Table) -> Keep:
        row, queries, ranks = self._by_query(rows)
        kept = row[self.cap.keeps(self.limits, row, queries, ranks)]
        return np.bincount(kept, minlength=len(rows)).astype(bool)

    def _by_query(
        self, rows: pa.Table
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """One entry for each (pair, query that it matches): row, query_id, rank.

        The more similar pair has the smaller rank; of equals, the one with the smaller draw.
        """
        lists = rows["query_ids"].combine_chunks()
        row = pc.list_parent_indices(lists).to_numpy().astype(np.int64)
        queries = pc.list_flatten(lists).to_numpy().astype(np.int64)
        best_first = ~float_keys(floats(rows, "similarity")) & np.uint64(0xFFFFFFFF)
        drawn = draws(self.seed, rows["pair_id"].to_pylist())
        # All 53 bits of a float's significand: 32 of the similarity, 21 of the draw.
        return row, queries, (best_first * 2.0**21 + np.floor(drawn * 2**21))[row]


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
