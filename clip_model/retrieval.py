"""Retrieval: how often a right answer is among the first k."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

#: Similarities that are in memory at once, of as many queries as that allows: 128 MiB, and about
#: twice that for what is made of them. A product of few queries with a million candidates is slow:
#: of 16 a quarter slower than of 32.
CHUNK_ELEMENTS = 2**25


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
        ValueError: the shapes differ, there is no query, a query has no right answer, or a
            similarity is NaN, which is no place at all.
    """
    if similarity.shape != matches.shape or not len(similarity):
        raise ValueError(
            f"similarity {tuple(similarity.shape)} and matches {tuple(matches.shape)} must have "
            "one shape, with at least one row"
        )
    if not matches.any(dim=1).all():
        raise ValueError("every query needs at least one right answer")
    if similarity.isnan().any():
        raise ValueError("a similarity is NaN: see that all features are finite")
    best = similarity.masked_fill(~matches, -torch.inf).amax(dim=1, keepdim=True)  # Q1
    # Not `sum`, which adds truth values one by one.
    return ((similarity >= best) & ~matches).count_nonzero(dim=1)  # Q


def first_ranks(
    queries: Tensor,
    candidates: Tensor,
    matches: Callable[[slice], Tensor],
    chunk_size: int | None = None,
) -> Tensor:
    """``first_rank`` of features, a chunk of the queries at a time: int64 [Q].

    Args:
        queries: [Q, E], normalised.
        candidates: [C, E], normalised.
        matches: gives of the queries in a slice what is right: bool [q, C].
        chunk_size: queries at a time; None: as many as CHUNK_ELEMENTS allows.

    Raises:
        ValueError: there is no query, a query has no right answer, or a feature is not finite.
    """
    if not len(queries):
        raise ValueError("there is no query")
    size = chunk_size or max(1, CHUNK_ELEMENTS // max(1, len(candidates)))
    starts = range(0, len(queries), size)
    chunks = [slice(start, min(start + size, len(queries))) for start in starts]
    return torch.cat([first_rank(queries[at] @ candidates.t(), matches(at)) for at in chunks])


def pair_matches(pairs: Tensor, candidates: int) -> Callable[[slice], Tensor]:
    """For ``first_ranks``: what is right, by pairs of the numbers of a query and a candidate.

    Args:
        pairs: int64 [M, 2].
        candidates: C, how many there are.
    """
    pairs = pairs[pairs[:, 0].argsort()]
    queries = pairs[:, 0].contiguous()

    def matches(at: slice) -> Tensor:
        ends = torch.tensor([at.start, at.stop], device=queries.device)
        first, end = torch.searchsorted(queries, ends).tolist()
        some = pairs[first:end]
        shape = at.stop - at.start, candidates
        right = torch.zeros(shape, dtype=torch.bool, device=queries.device)
        right[some[:, 0] - at.start, some[:, 1]] = True
        return right

    return matches


def retrieval_recall(
    image_features: Tensor,
    text_features: Tensor,
    ks: Sequence[int] = (1, 5, 10),
    image_groups: Tensor | None = None,
    text_groups: Tensor | None = None,
    chunk_size: int | None = None,
) -> dict[str, float]:
    """Recall in both directions: `{"image_to_text@1": 0.4, ..., "text_to_image@10": 0.9}`.

    An answer is right if its group is the query's: five captions of one image, or one caption
    of several images, share a group. Without groups, row i answers row i.

    Args:
        image_features: [N, E]; they are normalised here.
        text_features: [M, E].
        image_groups: integers [N].
        text_groups: integers [M].
        chunk_size: queries whose similarities are in memory at once; None: as many as
            CHUNK_ELEMENTS allows.

    Raises:
        ValueError: only one side has groups, a query has no right answer, or a feature is not
            finite.
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

        def matches(
            at: slice, one: Tensor = query_groups, other: Tensor = candidate_groups
        ) -> Tensor:
            return one[at, None] == other

        ranks = first_ranks(queries, candidates, matches, chunk_size)
        recalls |= {f"{direction}@{k}": (ranks < k).float().mean().item() for k in ks}
    return recalls
