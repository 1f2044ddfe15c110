"""Filters by what is known of each pair alone: its caption, its size, its labels and scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from workers.selection import settings
from workers.selection.base_filter import Filter, Keep, floats


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


class Language(Filter):
    reason, columns = "other_language", ("caption",)

    def __init__(self, step: settings.LanguageStep, seed: int) -> None:
        """Raises ValueError for a language that the model does not know."""
        from workers.pairs.language import LanguageRule

        super().__init__(step, seed)
        self.rejects = LanguageRule(step)

    def keeps(self, rows: pa.Table) -> Keep:
        rejected = self.rejects(rows["caption"].combine_chunks())
        return ~rejected.to_numpy(zero_copy_only=False)


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

    def __init__(self, step: settings.ScoreStep, seed: int) -> None:
        super().__init__(step, seed)
        self.column = f"score_{step.score}"
        self.columns = (self.column,)

    def keeps(self, rows: pa.Table) -> Keep:
        values = floats(rows, self.column)
        least = -np.inf if self.step.min is None else self.step.min
        most = np.inf if self.step.max is None else self.step.max
        return (values >= least) & (values <= most)


def _original(rows: pa.Table, side: str) -> npt.NDArray[np.int64]:
    """Pixels before resizing; what was never resized has them as they are."""
    pixels = pc.coalesce(rows[f"original_{side}"], rows[side])
    values: npt.NDArray[np.int64] = pixels.cast(pa.int64()).to_numpy()
    return values
