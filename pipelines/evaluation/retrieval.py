"""Retrieval both ways, on pictures with captions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clip_model.retrieval import first_ranks, pair_matches
from pipelines.evaluation.intervals import (
    Statistic,
    bootstrap,
    estimate,
    is_scarce,
    percentiles,
    wilson,
)
from pipelines.evaluation.pictures import (
    NO_DRAWS,
    NO_TEXTS,
    Judged,
    Pictures,
    TextTower,
    about_interval,
    as_given,
    by_id,
    named,
)
from pipelines.evaluation.settings import ProtocolSettings
from workers.base.arrays import Bools, Float64s, Int64s


def judge_retrieval(tower: TextTower | None, test: Pictures, settings: ProtocolSettings) -> Judged:
    """How often a right caption, and a right picture, is among the first k.

    Without a text tower both ways are None, and the result says why.

    A caption that several pictures have stands once, and each of them is right. Intervals are over
    pictures both ways, a picture's captions staying together: they are not independent, and
    drawing them one by one would give intervals that are too narrow.

    Raises:
        ValueError: there is no picture, one has no caption, or features are not finite.
    """
    pictures, order = by_id(test)
    captions_of = pictures.captions or [()] * len(pictures)
    if missing := [name for name, some in zip(pictures.ids, captions_of, strict=True) if not some]:
        raise ValueError(f"{len(missing)} pictures have no caption: {named(missing)}")
    pairs, captions = _pairs(captions_of)
    result: dict[str, Any] = {
        "task": "retrieval",
        "pictures": len(pictures),
        "captions": len(captions),
        "chance": len(pairs) / (len(pictures) * len(captions)),
    }
    if tower is None:
        neither = dict.fromkeys(("image_to_text", "text_to_image"))
        return Judged({**result, **neither, "reason": NO_TEXTS, "warnings": []}, {}, NO_DRAWS)
    texts = tower.texts(captions).to(pictures.features)
    caption_ranks = first_ranks(pictures.features, texts, pair_matches(pairs, len(texts)))  # N
    picture_ranks = first_ranks(
        texts, pictures.features, pair_matches(pairs.flip(1), len(pictures))
    )  # M
    # The picture that a caption is drawn with: the first that has it.
    owner = np.full(len(captions), len(pictures))
    np.minimum.at(owner, pairs[:, 1].numpy(), pairs[:, 0].numpy())
    found = {
        "image_to_text": (caption_ranks.cpu().numpy(), np.arange(len(pictures))),
        "text_to_image": (picture_ranks.cpu().numpy(), owner),
    }
    recalls, draws = _recalls(found, len(pictures), settings)
    result |= recalls
    first = min(settings.recall_at)
    result["warnings"] = [
        line
        for way in found
        for line in about_interval(f"{way}@{first}", result[way][str(first)], len(pictures))
    ]
    ranks = {"image_to_text_rank": as_given(caption_ranks.cpu(), order)}
    both = [draws[f"{way}@{first}"][:, 0] for way in found]
    return Judged(result, ranks, (both[0] + both[1]) / 2)


def _pairs(captions: Sequence[tuple[str, ...]]) -> tuple[Tensor, list[str]]:
    """Pairs of the numbers of a picture and its caption, int64 [P, 2]; and every caption once."""
    number: dict[str, int] = {}
    pairs = {
        (row, number.setdefault(text, len(number)))
        for row, some in enumerate(captions)
        for text in some
    }
    return torch.tensor(sorted(pairs)), list(number)


def _recalls(
    found: dict[str, tuple[Int64s, Int64s]], pictures: int, settings: ProtocolSettings
) -> tuple[dict[str, dict[str, Any]], dict[str, Float64s]]:
    """Recall at each k by direction, of the ranks of the queries and the picture of each.

    And the bootstrap's values, by ``DIRECTION@K``.
    """
    statistics: dict[str, Statistic] = {}
    for way, (ranks, owner) in found.items():
        for k in settings.recall_at:
            statistics[f"{way}@{k}"] = _share_by_picture(ranks < k, owner, pictures)
    draws = bootstrap(pictures, statistics, settings.bootstrap, settings.seed)
    recalls: dict[str, dict[str, Any]] = {}
    for way, (ranks, _) in found.items():
        recalls[way] = {}
        for k in settings.recall_at:
            right = ranks < k
            share = float(right.mean())
            interval = percentiles(draws[f"{way}@{k}"])
            if is_scarce(right):  # as if each picture had one query
                interval = wilson(share * pictures, pictures)
            recalls[way][str(k)] = estimate(share, interval)
    return recalls, draws


def _share_by_picture(right: Bools, owner: Int64s, pictures: int) -> Statistic:
    """The share of right queries, drawn with their pictures: [Q], [Q] -> one column."""
    hits = np.bincount(owner, weights=right, minlength=pictures)
    queries = np.bincount(owner, minlength=pictures).astype(np.float64)

    def statistic(counts: Float64s) -> Float64s:
        total = counts @ queries
        return np.divide(counts @ hits, total, out=np.full(len(counts), np.nan), where=total > 0)[
            :, None
        ]

    return statistic
