"""Scores that are computed from the embeddings, against their formulas."""

import logging
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from workers.selection.neg_clip_loss import EMBEDDINGS, Batches, neg_clip_loss
from workers.selection.scored_filters import gumbel, norm_sim, standardised
from workers.selection.scores import Scores, pair_hashes
from workers.selection.settings import SelectionSettings

DIM, T = 16, 0.05


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


def lists(vectors):
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])


def table_of(images, texts, **columns):
    """Pairs with these embeddings, whose similarity is their cosine."""
    similarity = (images.astype(np.float32) * texts.astype(np.float32)).sum(axis=1)
    return pa.table(
        {
            "pair_id": pa.array([f"{number:04d}" for number in range(len(images))]),
            "image_embedding": lists(images),
            "text_embedding": lists(texts),
            "similarity": pa.array(similarity, pa.float32()),
            **columns,
        }
    )


def some_pairs(number, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(number, DIM))
    return table_of(unit(images), unit(images + rng.normal(size=(number, DIM))))


def step_of(**tree):
    (step,) = SelectionSettings.model_validate({"steps": [tree]}).steps
    return step


def kept_by(step, table, seed=0):
    keeps = step.fit(lambda columns: iter([table.select(["pair_id", *columns])]), seed)
    return np.flatnonzero(keeps(table.select(["pair_id", *step.reads()]))).tolist()


def arrays(table):
    return (
        np.stack(table[name].to_numpy(zero_copy_only=False)).astype(np.float64)
        for name in EMBEDDINGS
    )


def batches_of(tables, *args):
    batches = Batches.drawn(lambda: iter(tables), *args)
    assert batches
    return batches


def losses(images, texts):
    """CLIP's loss of each pair of a batch, by PyTorch: [N]."""
    logits = torch.from_numpy(images @ texts.T) / T
    right = torch.arange(len(logits))
    one, other = (cross_entropy(some, right, reduction="none") for some in (logits, logits.T))
    return ((one + other) / 2).numpy()


def test_in_a_batch_of_all_it_is_the_loss_of_clip_with_its_sign_changed():
    table = some_pairs(200)
    batches = batches_of([table], 4096, 5, 0)
    assert batches.size == len(batches.hashes) == 200
    found = neg_clip_loss(table, batches, T, 0)
    np.testing.assert_allclose(found, -T * losses(*arrays(table)), atol=1e-12)


def test_otherwise_it_is_the_mean_over_batches_with_the_pair_set_into_each():
    table, seed = some_pairs(90), 3
    images, texts = arrays(table)
    order = np.argsort(pair_hashes(table, seed))[:75]
    batches = batches_of([table[50:], table[:50]], 25, 3, seed)
    found = neg_clip_loss(table, batches, T, seed)
    for row in range(len(table)):
        mean = 0
        for batch in np.split(order, 3):
            rows = [row, *(other for other in batch if other != row)]
            mean += losses(images[rows], texts[rows])[0] / 3
        assert found[row] == pytest.approx(-T * mean, abs=1e-12)


def test_batches_are_drawn_by_the_seed_and_are_as_many_as_there_are_pairs_for():
    table = some_pairs(100)
    for size, drawn in ((10, 30), (40, 80), (101, 100)):
        assert len(batches_of([table], size, 3, 0).hashes) == drawn
    one, other = (batches_of([table], 10, 3, seed).images for seed in (0, 1))
    assert not np.array_equal(one, other)
    assert Batches.drawn(lambda: iter([table[:0]]), 10, 3, 0) is None


def test_a_caption_that_is_near_every_image_is_told_from_one_that_fits():
    """The first is nearer to its image than any other: the cosine alone would keep it."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(50, DIM)) + 4 * np.eye(DIM)[0]
    texts = images + rng.normal(0, 2, size=(50, DIM))
    texts[0] = images.mean(axis=0)
    table = table_of(unit(images), unit(texts))
    step = {"share": 0.5, "batch_size": 50, "temperature": T}
    assert 0 in kept_by(step_of(filter="top_fraction", share=0.5), table)
    assert 0 not in kept_by(step_of(filter="neg_clip_loss", **step), table)


@pytest.mark.parametrize(
    "limits", [{"share": 0.3}, {"min": -0.1}, {"share": 0.3, "min": -0.02}, {"share": 0.0}]
)
def test_share_and_least_score_hold_both(limits):
    table = some_pairs(100)
    scores = -T * losses(*arrays(table))
    best = np.argsort(-scores)[: round(100 * limits.get("share", 1))]
    expected = [row for row in sorted(best) if scores[row] >= limits.get("min", -np.inf)]
    assert kept_by(step_of(filter="neg_clip_loss", temperature=T, **limits), table) == expected


@pytest.mark.parametrize(
    "step", [{"filter": "neg_clip_loss"}, {"filter": "norm_sim", "target": ["a"]}]
)
def test_a_step_without_a_limit_is_refused(step):
    with pytest.raises(ValueError, match="say share or min"):
        step_of(**step)


@pytest.mark.parametrize(("norm", "order"), [(2, 2), ("max", np.inf)])
def test_norm_sim_is_the_norm_of_the_cosines(norm, order):
    table = some_pairs(70)
    target = unit(np.random.default_rng(1).normal(size=(3000, DIM))).astype(np.float64)
    cosines = next(arrays(table)) @ target.T
    found = norm_sim(table, target, norm)
    np.testing.assert_allclose(found[:, 0], np.linalg.norm(cosines, order, axis=1), rtol=1e-12)
    np.testing.assert_allclose(found[:, 1], cosines.max(axis=1), rtol=1e-12)


def test_images_like_the_target_stay_and_its_own_pictures_are_spoken_of(tmp_path, caplog):
    table, target = some_pairs(60), some_pairs(5, seed=1)
    pq.write_table(target, tmp_path / "target.parquet")
    step = step_of(filter="norm_sim", target=[str(tmp_path / "*.parquet")], share=0.2)
    nearest = np.abs(next(arrays(table)) @ next(arrays(target)).T).max(axis=1)
    with caplog.at_level(logging.WARNING):
        assert kept_by(step, table) == sorted(np.argsort(-nearest)[:12])
        assert not caplog.records
        both = pa.concat_tables([table, target])
        names = pa.array([f"{number:04d}" for number in range(len(both))])
        both = both.set_column(0, "pair_id", names)
        assert set(range(60, 65)) <= set(kept_by(step, both))
    assert "norm_sim: 5 of the pairs that stay show a picture of the target" in caplog.text
    with caplog.at_level(logging.WARNING):
        kept_by(step.model_copy(update={"share": 3 / 65}), both)
    assert "norm_sim: 3 of the pairs that stay" in caplog.text


SIMILAR = {"filter": "weighted", "scores": {"similarity": 1}}


def test_weights_are_by_the_standardised_scores():
    """One of three, drawn by 2,000 seeds, against the weights themselves."""
    table = some_pairs(3)
    z = table["similarity"].to_numpy().astype(np.float64)
    weights = np.exp((z - z.mean()) / z.std() / 0.8)
    step = step_of(**SIMILAR, share=0.34, temperature=0.8)
    drawn = Counter(row for seed in range(2000) for row in kept_by(step, table, seed))
    assert drawn.total() == 2000
    expected = weights / weights.sum()
    found = np.array([drawn[row] for row in range(3)]) / 2000
    assert np.abs(found - expected).max() < 4 * np.sqrt(0.25 / 2000)


def test_the_larger_the_temperature_the_more_is_left_to_chance():
    table = some_pairs(400)
    best = kept_by(step_of(filter="top_fraction", share=0.25), table)
    shared = []
    for temperature in (0, 0.3, 1, 100):
        step = step_of(**SIMILAR, share=0.25, temperature=temperature)
        kept = kept_by(step, table)
        assert len(kept) == 100
        assert kept_by(step, table) == kept
        assert (kept_by(step, table, seed=1) == kept) == (temperature == 0)
        shared.append(len(set(kept) & set(best)))
    assert shared[0] == 100 > shared[1] > shared[2] > shared[3]
    assert 10 < shared[3] < 40  # 25 of chance


def test_scores_are_summed_up_in_standard_deviations():
    table = some_pairs(50).append_column("score_sharp", pa.array(np.arange(50.0), pa.float32()))
    z = [
        standardised(scores.astype(np.float64))
        for scores in (table["similarity"].to_numpy(), -T * losses(*arrays(table)), np.arange(50.0))
    ]
    expected = np.argsort(-(z[0] + 2 * z[1] - z[2]))[:10]
    factors = {"similarity": 1, "neg_clip_loss": 2, "sharp": -1}
    more = {"temperature": 0, "neg_clip_loss": {"temperature": T}}
    step = step_of(filter="weighted", scores=factors, share=0.2, **more)
    assert kept_by(step, table) == sorted(expected)


def test_what_has_no_score_is_not_drawn_and_equal_scores_say_nothing():
    values = np.array([1, 2, np.nan, 4])
    found = standardised(values)
    assert np.isnan(found[2])
    assert found[[0, 1, 3]].mean() == pytest.approx(0)
    assert found[[0, 1, 3]].std() == pytest.approx(1)
    assert standardised(np.array([3.0, 3.0])).tolist() == [0, 0]
    assert np.isnan(standardised(np.array([np.nan]))).all()
    table = some_pairs(10)
    table = table.set_column(3, "similarity", pa.array([np.nan] * 6 + [0.1] * 4, pa.float32()))
    assert kept_by(step_of(**SIMILAR, share=0.8), table) == [6, 7, 8, 9]


def test_noise_of_draws_is_gumbels_and_finite():
    drawn = np.array([0.0, 0.1, 0.5, 0.9, 1 - 2.0**-53])
    noise = gumbel(drawn)
    assert np.isfinite(noise).all()
    np.testing.assert_allclose(np.exp(-np.exp(-noise[1:])), drawn[1:])


def test_a_sample_is_drawn_otherwise_than_by_weights():
    """So that one of what the other has left is at random, too."""
    table = some_pairs(200)
    weighted = kept_by(step_of(**SIMILAR, share=0.5, temperature=1e6), table)
    sampled = kept_by(step_of(filter="sample", share=0.5), table)
    assert 30 < len(set(weighted) & set(sampled)) < 70


VALUES = st.lists(st.sampled_from([0.0, 0.5, 1.0, np.nan]), max_size=30)


@settings(max_examples=100, deadline=None)
@given(values=VALUES, wanted=st.integers(0, 30), least=st.sampled_from([None, 0.5]))
def test_the_best_are_those_of_sorting(values, wanted, least):
    hashes = np.arange(len(values), dtype=np.uint64) * 3
    found = Scores(hashes, np.array(values)).best(wanted, least).tolist()
    known = sorted((-value, row) for row, value in enumerate(values) if not np.isnan(value))
    expected = [row for negative, row in known[:wanted] if least is None or -negative >= least]
    assert found == [3 * row for row in sorted(expected)]
