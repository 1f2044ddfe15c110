"""Selections compared by models: settings, folders, the verdict."""

import json
import random
from typing import Any

import numpy as np
import pytest
from scipy import stats

from pipelines.evaluation.proxy import (
    Choice,
    ProxySettings,
    Scorer,
    difference,
    run_of_choice,
)
from pipelines.evaluation.proxy_report import AVERAGE, scores_of, write_proxy_report
from pipelines.run.config import Config
from pipelines.run.directory import Run
from pipelines.training.settings import TrainSettings
from workers.selection.sample_filter import Sample

RAW: dict[str, Any] = {"steps": []}
SIMILAR: dict[str, Any] = {"steps": [{"filter": "similarity", "min": 0.28}]}


def settings(**changed):
    tree = {
        "pool": "pool",
        "suite": "suite.yaml",
        "choices": {"raw": RAW, "similar": SIMILAR, "control": {**RAW, "as_many_as": "similar"}},
        "model": {"steps": 10, "batch_size": 64},
    }
    return ProxySettings.model_validate(tree | changed)


def test_a_choice_keeps_its_own_folders_and_reads_the_pools(tmp_path):
    pool = Run(Config(name="pool", queries="none"), tmp_path / "pool")
    place = tmp_path / "out" / "similar"
    model = TrainSettings(steps=10)
    choice = Choice.model_validate(SIMILAR)
    chosen = run_of_choice(pool, place, choice, model, seed=None, pairs=None)
    trained = run_of_choice(pool, place, choice, model, seed=1, pairs=None)
    for stage in ("pairs", "images", "embeddings", "labels"):
        assert chosen.receipts(stage).folder == pool.directory / stage
    assert chosen.receipts("selection").folder == place / "selection"
    assert trained.receipts("dataset").folder == place / "dataset"
    assert trained.receipts("model").folder == place / "seed-1" / "model"
    assert (chosen.home, trained.home) == (place, place / "seed-1")
    assert (chosen.config.seed, trained.config.seed) == (pool.config.seed, 1)
    assert chosen.config.selection.steps == choice.steps
    drawn = run_of_choice(pool, place, choice, model, seed=None, pairs=7).config.selection
    assert drawn.steps[:-1] == choice.steps
    assert drawn.steps[-1] == Sample(filter="sample", pairs=7)


def test_a_scorer_is_trained_on_the_pools_embeddings_and_makes_its_own(tmp_path):
    pool = Run(Config(name="pool", queries="none"), tmp_path / "pool")
    place, other = tmp_path / "out" / "scorers" / "dfn", tmp_path / "out" / "choices" / "dfn"
    model = TrainSettings(steps=10)
    trusted = Scorer.model_validate(SIMILAR)
    trained = run_of_choice(pool, place, trusted, model, seed=None, pairs=None)
    scored = run_of_choice(pool, other, Choice.model_validate(RAW), model, None, None, place)
    assert trained.receipts("embeddings").folder == pool.directory / "embeddings"
    assert trained.config.embeddings == pool.config.embeddings
    assert scored.receipts("embeddings").folder == place / "embeddings"
    assert scored.receipts("images").folder == pool.directory / "images"
    assert scored.receipts("selection").folder == other / "selection"
    checkpoint = trained.receipts("model").folder / "model.safetensors"
    assert scored.config.embeddings.model == str(checkpoint)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            {"choices": {"raw": RAW, "b": {**RAW, "scorer": "dfm"}}, "scorers": {"dfn": SIMILAR}},
            "choices.b.scorer: 'dfm' is not in scorers; there are dfn",
        ),
        ({"choices": {"raw": RAW, "b": {**RAW, "scorer": "dfn"}}}, "there is none"),
        ({"model": {"epochs": 3}}, "model.steps"),
        ({"choices": {"raw": RAW}}, "choices"),
        ({"choices": {"a": {**RAW, "as_many_as": "b"}, "b": RAW}}, "no choice before this one"),
        ({"seeds": [1]}, "seeds"),
    ],
)
def test_what_would_be_no_fair_comparison_is_refused(changed, said):
    with pytest.raises(ValueError, match=said):
        settings(**changed)


def test_a_difference_is_of_pairs_of_trainings_with_students_interval():
    rng = random.Random(0)
    for count in (2, 3, 5, 9, 10):
        ours = {seed: rng.random() for seed in range(count)}
        first = {seed: rng.random() for seed in range(count)}
        found = difference(ours, first | {99: 0.0})
        values = np.array([ours[seed] - first[seed] for seed in range(count)])
        low, high = stats.t.interval(0.95, count - 1, values.mean(), stats.sem(values))
        assert found.value == pytest.approx(values.mean())
        assert (found.low, found.high) == pytest.approx((low, high), rel=1e-3)
    with pytest.raises(ValueError, match="two seeds"):
        difference({0: 1.0}, {0: 0.5})


def results(scores):
    """Of one classification and one retrieval set; by choice, a score a seed."""
    for choice, values in scores.items():
        for seed, value in enumerate(values):
            model = f"{choice}.{seed}"
            zero_shot = {"bare": {"value": 0.0}, "own": {"value": value}}
            about = {"task": "classification", "best_prompts": "own"}
            yield {"model": model, "set": "a", **about, "zero_shot": zero_shot}
            ways = {way: {"1": {"value": value}} for way in ("image_to_text", "text_to_image")}
            yield {"model": model, "set": "b", "task": "retrieval", **ways}


def test_the_report_says_in_words_which_selection_is_better(tmp_path):
    scores = {
        "raw": [0.30, 0.31, 0.32],
        "similar": [0.40, 0.42, 0.41],
        "control": [0.30, 0.33, 0.30],
    }
    found = list(results(scores))
    assert scores_of(found)["similar"][AVERAGE] == pytest.approx(dict(enumerate(scores["similar"])))
    kept = {"raw": 1000, "similar": 600, "control": 600}
    text = write_proxy_report(settings(), kept, found, tmp_path)
    assert "**`similar` is better than `raw`**: +10.0 [+7.5, +12.5] points on the average" in text
    assert "Between `control` and `raw` no difference could be shown" in text
    assert "**`similar` is better than `control`**: +10.0 [+7.5, +12.5] points" in text
    over = json.loads((tmp_path / "proxy.json").read_text())["over_controls"]["similar"]
    assert (over["control"], over["verdict"]) == ("control", "better")
    assert "640 pairs" in text
    assert (tmp_path / "proxy.md").read_text() == text
