"""Filters by what is known of each pair alone: its caption, its size, its labels and scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from workers.base.arrays import Int64s
from workers.base.settings import Share
from workers.pairs.settings import LanguageSettings
from workers.selection.base_filter import (
    Available,
    Filter,
    Keep,
    Keeps,
    Survivors,
    check_names,
    floats,
)


class Caption(Filter):
    """Captions of a useful length (DataComp's basic rule: 3 words and 6 characters)."""

    reason = "short_caption"
    columns = ("caption",)

    filter: Literal["caption"]
    min_words: int = Field(default=3, ge=0, description="words, apart by white space")
    min_chars: int = Field(default=6, ge=0, description="characters")

    def keeps(self, rows: pa.Table) -> Keep:
        captions = rows["caption"].combine_chunks()
        words = pc.list_value_length(pc.utf8_split_whitespace(pc.utf8_trim_whitespace(captions)))
        enough = pc.and_(
            pc.greater_equal(words, self.min_words),
            pc.greater_equal(pc.utf8_length(captions), self.min_chars),
        )
        return enough.to_numpy(zero_copy_only=False)


class Language(LanguageSettings, Filter):
    """Captions that are not surely in another language; at a `min_probability` of 0 (DataComp's
    basic rule), those whose most probable language is allowed.
    """

    reason = "other_language"
    columns = ("caption",)

    filter: Literal["language"]
    allowed: tuple[str, ...] = Field(min_length=1, description="ISO 639 codes, such as [en]")

    def check(self, available: Available) -> None:  # noqa: ARG002 - the model knows its languages
        from workers.pairs.language import LanguageRule

        LanguageRule(self)

    def fit(self, survivors: Survivors, seed: int) -> Keeps:  # noqa: ARG002 - the model is loaded
        from workers.pairs.language import LanguageRule

        rejects = LanguageRule(self)
        return lambda rows: (
            ~rejects(rows["caption"].combine_chunks()).to_numpy(zero_copy_only=False)
        )


class Size(Filter):
    """Images large enough and not too long, as they were before resizing."""

    reason = "wrong_size"
    columns = ("width", "height", "original_width", "original_height")

    filter: Literal["size"]
    min_side: int = Field(default=200, ge=0, description="pixels of the shorter side")
    max_aspect: float = Field(default=3.0, ge=1.0, description="longer / shorter side")

    def keeps(self, rows: pa.Table) -> Keep:
        width, height = (_original(rows, side) for side in ("width", "height"))
        shorter, longer = np.minimum(width, height), np.maximum(width, height)
        return (shorter >= self.min_side) & (longer <= self.max_aspect * shorter)


class Label(Filter):
    """By the images' zero-shot labels of one set."""

    reason = "label"
    columns = ("labels",)

    filter: Literal["label"]
    set: str = Field(description="the label set's name")
    keep: tuple[str, ...] = Field(default=(), description="labels that stay; []: any")
    drop: tuple[str, ...] = Field(default=(), description="labels that go")
    min_probability: Share = Field(default=0.0, description="a label less probable is none")

    def check(self, available: Available) -> None:
        sets = available.embeddings.label_sets
        check_names([self.set], sets, "set", "embeddings.label_sets")
        where = f"embeddings.label_sets.{self.set}.classes"
        try:
            classes = sets[self.set].names()
        except ValueError as error:
            raise ValueError(f"set: {where}: {error}") from error
        check_names(self.keep, classes, "keep", where)
        check_names(self.drop, classes, "drop", where)

    def keeps(self, rows: pa.Table) -> Keep:
        return np.array([self._keeps(labels) for labels in rows["labels"].to_pylist()], bool)

    def _keeps(self, labels: Sequence[dict[str, Any]]) -> bool:
        found = {
            label["label"]
            for label in labels
            if label["set"] == self.set and label["probability"] >= self.min_probability
        }
        wanted = not self.keep or not found.isdisjoint(self.keep)
        return wanted and found.isdisjoint(self.drop)


class Score(Filter):
    """By a score of the images: of an attribute or a head (`embeddings.attributes`, `.heads`)."""

    reason = "score"

    filter: Literal["score"]
    score: str = Field(description="the attribute's or head's name")
    min: float | None = Field(default=None, description="null: no lower limit")
    max: float | None = Field(default=None, description="null: no upper limit")

    def reads(self) -> tuple[str, ...]:
        return (f"score_{self.score}",)

    def check(self, available: Available) -> None:
        scores = [*available.embeddings.attributes, *available.embeddings.heads]
        check_names([self.score], scores, "score", "embeddings.attributes or embeddings.heads")

    def keeps(self, rows: pa.Table) -> Keep:
        values = floats(rows, f"score_{self.score}")
        least = -np.inf if self.min is None else self.min
        most = np.inf if self.max is None else self.max
        return (values >= least) & (values <= most)


def _original(rows: pa.Table, side: str) -> Int64s:
    """Pixels before resizing; what was never resized has them as they are."""
    pixels = pc.coalesce(rows[f"original_{side}"], rows[side])
    values: Int64s = pixels.cast(pa.int64()).to_numpy()
    return values
