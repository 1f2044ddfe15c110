"""Recall and the area under the ROC curve against counting."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clip_model import recall_at_k, retrieval_recall, roc_auc
from clip_model.retrieval import first_rank, first_ranks, pair_matches

SCORES = st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=20)


@given(SCORES, SCORES)
def test_area_counts_pairs(positives: list[float], negatives: list[float]) -> None:
    wins = sum((p > n) + 0.5 * (p == n) for p in positives for n in negatives)
    assert roc_auc(positives, negatives) == pytest.approx(wins / len(positives) / len(negatives))


def test_area_extremes() -> None:
    assert roc_auc([2.0, 3.0], [0.0, 1.0]) == 1.0
    assert roc_auc([0.0], [1.0, 2.0]) == 0.0
    assert roc_auc(np.ones(3), torch.ones(4)) == 0.5


def test_area_refuses_nothing_and_nan() -> None:
    with pytest.raises(ValueError, match="positives and negatives"):
        roc_auc([], [1.0])
    for broken in (float("nan"), float("inf"), -float("inf")):
        for scores in (([broken], [1.0]), ([1.0], [broken, 2.0])):
            with pytest.raises(ValueError, match="finite"):
                roc_auc(*scores)


def brute_force(similarity: torch.Tensor, matches: torch.Tensor, k: int) -> float:
    hits = 0
    for scores, right in zip(similarity.tolist(), matches.tolist(), strict=True):
        best_first = sorted(range(len(scores)), key=lambda i: -scores[i])
        hits += any(right[i] for i in best_first[:k])
    return hits / len(similarity)


@pytest.mark.parametrize("k", [1, 3, 10])
def test_recall_equals_sorting(k: int) -> None:
    generator = torch.Generator().manual_seed(k)
    similarity = torch.rand(50, 30, generator=generator)
    matches = torch.rand(50, 30, generator=generator) < 0.05
    matches[:, 0] |= ~matches.any(dim=1)
    expected = brute_force(similarity, matches, k)
    assert recall_at_k(similarity, matches, k) == pytest.approx(expected)


def test_ties_count_against_the_query() -> None:
    ranks = first_rank(torch.ones(4, 4), torch.eye(4, dtype=torch.bool))
    assert ranks.tolist() == [3, 3, 3, 3]


def test_recall_refuses_impossible_questions() -> None:
    with pytest.raises(ValueError, match="right answer"):
        recall_at_k(torch.rand(2, 3), torch.zeros(2, 3, dtype=torch.bool), 1)
    with pytest.raises(ValueError, match="one shape"):
        recall_at_k(torch.rand(2, 3), torch.ones(3, 3, dtype=torch.bool), 1)
    with pytest.raises(ValueError, match="no query"):
        first_ranks(torch.rand(0, 3), torch.rand(2, 3), pair_matches(torch.zeros(1, 2).long(), 2))


@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
def test_what_is_not_finite_is_in_no_place(broken: float) -> None:
    with pytest.raises(ValueError, match="NaN"):
        first_rank(torch.full((2, 2), torch.nan), torch.eye(2, dtype=torch.bool))
    features = torch.eye(3)
    features[1, 1] = broken
    for images, texts in ((features, torch.eye(3)), (torch.eye(3), features)):
        with pytest.raises(ValueError, match="NaN"):
            retrieval_recall(images, texts)


@pytest.mark.parametrize("chunk_size", [1, 7, 1024, None])
def test_pairs_say_what_is_right_a_chunk_at_a_time(chunk_size: int | None) -> None:
    generator = torch.Generator().manual_seed(0)
    queries, candidates = (torch.randn(n, 8, generator=generator) for n in (20, 30))
    matches = torch.rand(20, 30, generator=generator) < 0.05
    matches[:, 3] |= ~matches.any(dim=1)
    expected = first_rank(queries @ candidates.t(), matches)
    pairs = matches.nonzero()[torch.randperm(int(matches.sum()), generator=generator)]
    ranks = first_ranks(queries, candidates, pair_matches(pairs, 30), chunk_size)
    assert torch.equal(ranks, expected)
    with pytest.raises(ValueError, match="right answer"):
        first_ranks(queries, candidates, pair_matches(pairs[pairs[:, 0] != 5], 30), chunk_size)


@pytest.mark.parametrize("chunk_size", [1, 7, 1024])
def test_retrieval_in_both_directions_with_groups(chunk_size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(20, 8, generator=generator)
    texts = torch.randn(60, 8, generator=generator)  # three captions an image
    image_groups, text_groups = torch.arange(20), torch.arange(60) // 3
    recall = retrieval_recall(images, texts, (1, 5), image_groups, text_groups, chunk_size)
    similarity = torch.nn.functional.cosine_similarity(images[:, None], texts[None], dim=-1)
    matches = image_groups[:, None] == text_groups
    for k in (1, 5):
        assert recall[f"image_to_text@{k}"] == pytest.approx(brute_force(similarity, matches, k))
        expected = brute_force(similarity.t(), matches.t(), k)
        assert recall[f"text_to_image@{k}"] == pytest.approx(expected)


def test_retrieval_without_groups_pairs_the_rows() -> None:
    features = torch.eye(12)
    assert set(retrieval_recall(features, 5 * features).values()) == {1.0}


def test_groups_for_one_side_alone_are_refused() -> None:
    with pytest.raises(ValueError, match="both sides"):
        retrieval_recall(torch.eye(2), torch.eye(2), image_groups=torch.arange(2))
