"""Filters by how similar an image and its caption are."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field

from workers.base.arrays import Float64s, Int64s
from workers.base.file_systems import find_files
from workers.base.sampling import draws
from workers.base.settings import FileName, Share
from workers.base.storage import schema_with
from workers.selection.base_filter import (
    Available,
    Cosine,
    Filter,
    Keep,
    Keeps,
    Survivors,
    among,
    floats,
)
from workers.selection.top_share import (
    DRAW_BITS,
    FLOAT_BITS,
    Border,
    Keys,
    border_of_largest,
    draw_keys,
    float_keys,
)

#: Thresholds that are often taken over, and the model that they were found for: LAION-5B's of
#: English captions and LAION-400M's.
PUBLISHED = {0.28: "ViT-B/32", 0.3: "ViT-B/32"}


class Similarity(Filter):
    """Pairs whose image and caption are close enough."""

    TUNING: ClassVar[frozenset[str]] = frozenset({"model"})

    reason = "low_similarity"
    columns = ("similarity",)

    filter: Literal["similarity"]
    min: Cosine = Field(
        description="cosine of image and caption; each model has its own scale "
        "(LAION, with ViT-B/32: 0.28, 0.30)"
    )
    model: str | None = Field(
        default=None,
        description="that `min` was found for, as `python -m pipelines.calibrate` calls it: where "
        "`embeddings` has another one, `--plan`, the log and the report say so; null: unknown, "
        "but for LAION's two numbers",
    )

    def doubts(self, available: Available) -> Iterator[str]:
        known = self.model or PUBLISHED.get(self.min)
        if known and known != (used := available.model()):
            yield (
                f"min: {self.min:g} was found for {known}, and the embeddings are by {used}, whose "
                "similarities have another scale: `python -m pipelines.calibrate` says what each "
                "threshold keeps and proposes one"
            )

    def keeps(self, rows: pa.Table) -> Keep:
        return floats(rows, "similarity") >= np.float32(self.min)


class TopFraction(Filter):
    """The best share of all pairs by similarity, exactly; of equals, those with smaller draws."""

    reason = "not_in_top_fraction"
    columns = ("similarity",)

    filter: Literal["top_fraction"]
    share: Share = Field(description="of the pairs that come to this step (DataComp: 0.3)")

    def fit(self, survivors: Survivors, seed: int) -> Keeps:
        """Find the similarity of the last pair that stays and, of its equals, the last draw."""
        last = border_of_largest(
            lambda: (float_keys(floats(rows, "similarity")) for rows in survivors(self.columns)),
            FLOAT_BITS,
            lambda pairs: round(self.share * pairs),
        )
        if not last:
            return lambda rows: np.zeros(len(rows), bool)
        last_draw = None
        if last.inside < last.equal:
            last_draw = border_of_largest(
                lambda: (_draws_of_equals(rows, last, seed)[1] for rows in survivors(self.columns)),
                DRAW_BITS,
                lambda _: last.inside,
            )
        return partial(_above, last=last, last_draw=last_draw, seed=seed)


def _above(rows: pa.Table, last: Border, last_draw: Border | None, seed: int) -> Keep:
    """The rows that are more similar than the last, or as similar and drawn."""
    keys = float_keys(floats(rows, "similarity"))
    kept: Keep = (keys >= last.key) & (keys > 0)  # 0 is what is not a number
    if last_draw:
        equals, drawn = _draws_of_equals(rows, last, seed)
        kept[equals] &= drawn >= last_draw.key
    return kept


def _draws_of_equals(rows: pa.Table, last: Border, seed: int) -> tuple[Int64s, Keys]:
    """The rows that are as similar as the last, and the keys of their draws."""
    equals = np.flatnonzero(float_keys(floats(rows, "similarity")) == last.key)
    return equals, draw_keys(draws(seed, rows["pair_id"].take(equals)))


class TopPerQuery(Filter):
    """The best pairs of each query; of equals, those with smaller draws. A pair stays if any of its
    queries keeps it."""

    reason = "not_in_top_of_query"
    columns = ("similarity", "query_ids")

    filter: Literal["top_per_query"]
    pairs: int = Field(ge=1, description="a query, as far as it has so many")

    def check(self, available: Available) -> None:
        if not available.has_queries:
            raise ValueError(
                f"filter: {self.filter} would keep nothing: captions are matched with nothing "
                "(queries: none)"
            )

    def fit(self, survivors: Survivors, seed: int) -> Keeps:
        """Find for each query where its best pairs end."""
        from workers.pairs.balance import Cap, QueryLimits
        from workers.pairs.query_draws import QueryCounts, QueryDraws

        cap = Cap(self.pairs)
        known, best = QueryCounts.total([]), QueryDraws.merge([], cap.draws_needed)
        for rows in survivors(self.columns):
            _, queries, ranks = _by_query(rows, seed)
            known = QueryCounts.total([known, QueryCounts.of(queries)])
            some = QueryDraws.smallest(queries, ranks, cap.draws_needed)
            best = QueryDraws.merge([best, some], cap.draws_needed)
        limits = QueryLimits.join([cap.limits_by_count(known), cap.limits_by_draw(known, best)])

        def keeps(rows: pa.Table) -> Keep:
            row, queries, ranks = _by_query(rows, seed)
            kept = row[cap.keeps(limits, row, queries, ranks)]
            return np.bincount(kept, minlength=len(rows)).astype(bool)

        return keeps


def _by_query(rows: pa.Table, seed: int) -> tuple[Int64s, Int64s, Float64s]:
    """One entry for each (pair, query that it matches): row, query_id, rank.

    The more similar pair has the smaller rank; of equals, the one with the smaller draw.
    """
    lists = rows["query_ids"].combine_chunks()
    row = pc.list_parent_indices(lists).to_numpy().astype(np.int64)
    queries = pc.list_flatten(lists).to_numpy().astype(np.int64)
    best_first = ~float_keys(floats(rows, "similarity")) & np.uint64(0xFFFFFFFF)
    drawn = draws(seed, rows["pair_id"])
    # All 53 bits of a float's significand: 32 of the similarity, 21 of the draw.
    return row, queries, (best_first * 2.0**21 + np.floor(drawn * 2**21))[row]


class Agreement(Filter):
    """Pairs that another model finds similar, too."""

    reason = "models_disagree"
    file_settings = ("embeddings",)

    filter: Literal["agreement"]
    embeddings: tuple[FileName, ...] = Field(
        min_length=1, description="Parquet files of the same pairs by the other model; globs"
    )
    min: Cosine = Field(description="cosine by the other model")

    def check(self, available: Available) -> None:  # noqa: ARG002 - any model may be the other
        for file in find_files(self.embeddings):
            try:
                schema_with(file, ("pair_id", "similarity"))
            except ValueError as error:
                raise ValueError(f"embeddings: {error}") from error

    def fit(self, survivors: Survivors, seed: int) -> Keeps:  # noqa: ARG002 - other files tell
        files = find_files(self.embeddings)
        enough = pc.field("similarity") >= self.min
        agreed = pa.concat_tables(
            pq.read_table(file, columns=["pair_id", "similarity"], filters=enough).select(
                ["pair_id"]
            )
            for file in files
        )
        names = agreed.sort_by("pair_id")["pair_id"].cast(pa.large_string())
        known = pa.concat_arrays([*names.chunks, pa.array([], pa.large_string())])
        return lambda rows: among(rows["pair_id"], known)
