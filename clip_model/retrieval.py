"""Retrieval: how often a right answer is among the first k."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def recall_at_k(similarity: Tensor, matches: Tensor, k: int) -> float:
    """Share of queries with a right answer among their k most similar candidates.

    Args:
        similarity: [Q, C], a row a query.
        matches: bool [Q, C], true where the candidate is a right answer; several may be.
        k: places that count.

    Raises:
        ValueError: the shapes differ, there is no query, or a query has no right answer.
    """
    return (first_rank(similarity, matches) < k).float().mean().item()


def first_rank(similarity: Tensor, matches: Tensor) -> Tensor:
    """Wrong candidates before each query's best right one: int64 [Q], 0 is first place.

    A tie counts against the query: features that are all the same must not score 100%.

    Raises:
        ValueError: the shapes differ, there is no query, or a query has no right answer.
    """
    if similarity.shape != matches.shape or not len(similarity):
        raise ValueError(
            f"similarity {tuple(similarity.shape)} and matches {tuple(matches.shape)} must have "
            "one shape, with at least one row"
        )
    if not matches.any(dim=1).all():
        raise ValueError("every query needs at least one right answer")
    best = similarity.masked_fill(~matches, -torch.inf).amax(dim=1, keepdim=True)  # Q1
    return ((similarity >= best) & ~matches).sum(dim=1)  # Q


def retrieval_recall(
    image_features: Tensor,
    text_features: Tensor,
    ks: Sequence[int] = (1, 5, 10),
    image_groups: Tensor | None = None,
    text_groups: Tensor | None = None,
    chunk_size: int = 1024,
) -> dict[str, float]:
    """Recall in both directions: `{"image_to_text@1": 0.4, ..., "text_to_image@10": 0.9}`.

    An answer is right if its group is the query's: five captions of one picture, or one caption
    of several pictures, share a group. Without groups, row i answers row i.

    Args:
        image_features: [N, E]; they are normalised here.
        text_features: [M, E].
        image_groups: integers [N].
        text_groups: integers [M].
        chunk_size: queries whose similarities are in memory at once.

    Raises:
        ValueError: only one side has groups, or a query has no right answer.
    """
    if (image_groups is None) != (text_groups is None):
        raise ValueError("give groups for both sides or for neither")
    if image_groups is None or text_groups is None:
        image_groups, text_groups = (
            torch.arange(len(features)) for features in (image_features, text_features)
        )
    images, texts = F.normalize(image_features, dim=-1), F.normalize(text_features, dim=-1)
    recalls: dict[str, float] = {}
    for direction, queries, query_groups, candidates, candidate_groups in (
        ("image_to_text", images, image_groups, texts, text_groups),
        ("text_to_image", texts, text_groups, images, image_groups),
    ):
        ranks = torch.cat(
            [
                first_rank(some @ candidates.t(), groups[:, None] == candidate_groups)  # QC, QC
                for some, groups in zip(
                    queries.split(chunk_size), query_groups.split(chunk_size), strict=True
                )
            ]
        )
        recalls |= {f"{direction}@{k}": (ranks < k).float().mean().item() for k in ks}
    return recalls
