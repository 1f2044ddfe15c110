"""Filters by a score that is computed from the embeddings of all pairs, or of a target."""

from __future__ import annotations

import logging
from functools import partial
from typing import Annotated, Literal, Self

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from workers.base.arrays import Float64s, UInt64s
from workers.base.file_systems import find_files
from workers.base.sampling import draws
from workers.base.settings import FileName, Settings, Share
from workers.embedding.matrix import embedding_matrix
from workers.selection.base_filter import (
    Available,
    Filter,
    Keeps,
    Survivors,
    check_embeddings,
    check_names,
    floats,
)
from workers.selection.duplicate_filters import references
from workers.selection.neg_clip_loss import EMBEDDINGS, Batches, neg_clip_loss
from workers.selection.scores import Scorer, Scores, is_among, pair_hashes

Norm = Literal["max", 2]

log = logging.getLogger(__name__)

#: Rows, and pictures of a target, that are compared at a time.
_CHUNK = 1024
#: From this cosine on an image is one of the target's own, as `contamination` sees it.
_SAME = 0.95
#: Of the draws that decide with weights: other ones than a sample's, so that one can follow.
_WEIGHTED = 2503_08805 << 32


class ByScore(Filter):
    """The best share of the pairs by a score, or those whose score is high enough."""

    share: Share | None = Field(
        default=None, description="of the pairs that come to this step, the best; null: no matter"
    )
    min: float | None = Field(default=None, description="the score, at least; null: no matter")

    @model_validator(mode="after")
    def _one_at_least(self) -> Self:
        if self.share is None and self.min is None:
            raise ValueError("say share or min, or both")
        return self

    def reads(self) -> tuple[str, ...]:
        return ()  # the verdict was learnt by pair_id

    def fit(self, survivors: Survivors, seed: int) -> Keeps:
        scores = Scores.of(survivors(self.columns), self.scorer(survivors, seed), seed)
        kept = self.best(scores)
        return lambda rows: is_among(pair_hashes(rows, seed), kept)

    def best(self, scores: Scores) -> UInt64s:
        """The hashes of the pairs that stay, ascending."""
        pairs = len(scores.hashes)
        wanted = pairs if self.share is None else round(self.share * pairs)
        return scores.best(wanted, self.min)

    def scorer(self, survivors: Survivors, seed: int) -> Scorer:
        """Gives the scores of a table with ``columns``."""
        raise NotImplementedError


class AgainstBatches(Settings):
    """How a pair is held against others."""

    batch_size: int = Field(
        default=4096, ge=1, description="pairs that a pair is held against at a time (paper: 32768)"
    )
    batches: int = Field(
        default=5, ge=1, description="of them, drawn by the seed; as many as there are (paper: 10)"
    )
    temperature: float | None = Field(
        default=None,
        ge=0.005,
        description="that cosines are divided by; null: that of `embeddings.model`, as it was "
        "trained (OpenAI's: 0.01)",
    )

    def known_for(self, available: Available) -> Self:
        """With the model's temperature in the place of null."""
        if self.temperature is not None:
            return self
        return self.model_copy(update={"temperature": max(available.temperature(), 0.005)})

    def scorer(self, survivors: Survivors, seed: int) -> Scorer:
        """negCLIPLoss of a table's pairs."""
        batches = Batches.drawn(lambda: survivors(EMBEDDINGS), self.batch_size, self.batches, seed)
        temperature = self.temperature

        def score(rows: pa.Table) -> Float64s:
            if batches is None or temperature is None:
                raise ValueError("negCLIPLoss takes pairs and a temperature")
            return neg_clip_loss(rows, batches, temperature, seed)

        return score


class NegClipLoss(AgainstBatches, ByScore):
    """The best by negCLIPLoss (arXiv 2405.19547): how close image and caption are, less how close
    each is to those of other pairs. Not above 0; larger is better."""

    reason = "low_neg_clip_loss"
    columns = EMBEDDINGS

    filter: Literal["neg_clip_loss"]


class NormSim(ByScore):
    """The pairs whose images are most like those of a target set, as NormSim (arXiv 2405.19547):
    the norm of an image's cosines with all of them. It says nothing of captions."""

    reason = "unlike_target"
    columns = ("image_embedding",)
    file_settings = ("target",)

    filter: Literal["norm_sim"]
    target: tuple[FileName, ...] = Field(
        min_length=1,
        description="Parquet files of `pipelines.embed` on pictures like those that the model is "
        "for, such as the train split of a data set; globs",
    )
    norm: Norm = Field(
        default="max",
        description="max: the cosine with the nearest picture; 2: the root of the sum of squares "
        "over all of them, so its size grows with the target",
    )

    def check(self, available: Available) -> None:
        check_embeddings(self.target, self.columns, "target", available)

    def fit(self, survivors: Survivors, seed: int) -> Keeps:
        files = find_files(self.target)
        # float16 is what cosines are exact of.
        target = references(files, "image_embedding").astype(np.float16).astype(np.float64)
        scorer = partial(norm_sim, target=target, norm=self.norm)
        scores = Scores.of(survivors(self.columns), scorer, seed)
        norms, nearest = scores.values.reshape(-1, 2).T
        kept = self.best(Scores(scores.hashes, norms))
        if same := int((is_among(scores.hashes, kept) & (nearest >= _SAME)).sum()):
            log.warning(
                "%s: %d of the pairs that stay show a picture of the target, or nearly (cosine of "
                "%.2f or more); if models are judged on these pictures, put `contamination` before "
                "this step",
                self.name or self.filter,
                same,
                _SAME,
            )
        return lambda rows: is_among(pair_hashes(rows, seed), kept)


def norm_sim(rows: pa.Table, target: Float64s, norm: Norm) -> Float64s:
    """The norm of each image's cosines with a target's [M, D], and the largest of them: [N, 2]."""
    images = embedding_matrix(rows["image_embedding"]).astype(np.float64)
    scores = np.zeros((len(images), 2))
    for start in range(0, len(images), _CHUNK):
        norms, nearest = scores[start : start + _CHUNK].T
        for first in range(0, len(target), _CHUNK):  # sums are of these, whatever the rows
            cosines = images[start : start + _CHUNK] @ target[first : first + _CHUNK].T
            np.maximum(nearest, cosines.max(axis=1), out=nearest)
            if norm == "max":
                np.maximum(norms, np.abs(cosines).max(axis=1), out=norms)
            else:
                norms += np.square(cosines).sum(axis=1)
    if norm != "max":
        scores[:, 0] = np.sqrt(scores[:, 0])
    return scores


class Weighted(Filter):
    """A share of the pairs drawn at random, each with a weight that grows with its scores.

    The weight is e to the power of z / temperature, where z is the sum of the standardised scores,
    each times its factor. No pair is drawn twice: this is the soft cap sampling of arXiv 2503.08805
    with a repetition penalty without end.
    """

    reason = "not_drawn"

    filter: Literal["weighted"]
    scores: dict[str, Annotated[float, Field(gt=-100, lt=100)]] = Field(
        min_length=1,
        description="factors, by score: `similarity`, `neg_clip_loss`, or the name of an attribute "
        "or head of `embeddings`; they are standardised over the pairs that come to this step",
    )
    share: Share = Field(description="of the pairs that come to this step, how many are drawn")
    temperature: float = Field(
        default=1.0,
        ge=0.0,
        description="0: nothing is drawn, the best by the sum of scores stay; larger: weights are "
        "more equal",
    )
    neg_clip_loss: AgainstBatches = Field(
        default=AgainstBatches(), description="how that score is computed, where it is among them"
    )

    def check(self, available: Available) -> None:
        settings = available.embeddings
        known = ["similarity", "neg_clip_loss", *settings.attributes, *settings.heads]
        where = "similarity, neg_clip_loss, embeddings.attributes and embeddings.heads"
        check_names([*self.scores], known, "scores", where)

    def known_for(self, available: Available) -> Self:
        known = self.neg_clip_loss.known_for(available) if "neg_clip_loss" in self.scores else None
        return self.model_copy(update={"neg_clip_loss": known}) if known else self

    def reads(self) -> tuple[str, ...]:
        return ()  # the verdict was learnt by pair_id

    def fit(self, survivors: Survivors, seed: int) -> Keeps:
        scorers = {name: self._scorer(name, survivors, seed) for name in self.scores}

        def columns_of(rows: pa.Table) -> Float64s:
            """[N, S + 1]: the scores and, last, what chance adds."""
            drawn = draws(seed + _WEIGHTED, rows["pair_id"])
            return np.stack([*(of(rows) for of in scorers.values()), gumbel(drawn)], axis=1)

        needed = [name for name in self.scores if name != "neg_clip_loss"]
        columns = [self._column(name) for name in needed]
        columns += EMBEDDINGS if "neg_clip_loss" in self.scores else ()
        scores = Scores.of(survivors(columns), columns_of, seed)
        wanted = round(self.share * len(scores.hashes))
        if not wanted:
            return lambda rows: np.zeros(len(rows), bool)
        kept = Scores(scores.hashes, self._sum(scores.values)).best(wanted)
        return lambda rows: is_among(pair_hashes(rows, seed), kept)

    def _scorer(self, name: str, survivors: Survivors, seed: int) -> Scorer:
        if name == "neg_clip_loss":
            return self.neg_clip_loss.scorer(survivors, seed)
        return lambda rows: floats(rows, self._column(name)).astype(np.float64)

    def _column(self, name: str) -> str:
        return name if name == "similarity" else f"score_{name}"

    def _sum(self, columns: Float64s) -> Float64s:
        """The sum of scores of each row, and what chance adds: [N, S + 1] -> [N]."""
        *scores, chance = columns.T
        factors = self.scores.values()
        z = sum(
            (factor * standardised(values) for factor, values in zip(factors, scores, strict=True)),
            start=np.zeros(len(chance)),
        )
        return z / self.temperature + chance if self.temperature else z


def standardised(values: Float64s) -> Float64s:
    """Less their mean, in standard deviations; what is no number stays so and doesn't count: [N].

    Values that are all the same say nothing: 0.
    """
    known = np.ascontiguousarray(values[np.isfinite(values)])
    if not len(known):
        return values
    deviation = known.std()
    centred: Float64s = values - known.mean()
    return centred / deviation if deviation > 1e-12 else 0.0 * values


def gumbel(drawn: Float64s) -> Float64s:
    """Draws in [0, 1) as noise of Gumbel's distribution.

    Of logarithms of weights with such noise the K largest are K draws without repetition, each with
    a probability by its weight (arXiv 1903.06059).
    """
    noise: Float64s = -np.log(-np.log(np.maximum(drawn, 2.0**-54)))
    return noise
