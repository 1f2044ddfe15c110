"""Selections compared by models: settings, folders, the verdict."""

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import proxy
from pipelines.evaluation.intervals import bootstrap, share_of
from pipelines.evaluation.proxy import (
    Choice,
    ProxySettings,
    Scorer,
    run_of_choice,
)
from pipelines.evaluation.proxy_report import (
    AVERAGE,
    answers_of,
    differences_from,
    scores_of,
    write_proxy_report,
)
from pipelines.evaluation.stages import EvaluationRun
from pipelines.evaluation.suite import Suite
from pipelines.proxy import _check, _choice_run, _models, _scorer_stages
from pipelines.run.config import Config, ConfigError, Gate
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
    gates = {"model": Gate(min_kept=10)}
    pool = Run(Config(name="pool", queries="none", gates=gates), tmp_path / "pool")
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
    assert (trained.config.model, trained.config.gates) == (model, {})
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


def test_a_control_is_as_large_as_the_other_choice(tmp_path, monkeypatch):
    sizes = {"similar": 7, "raw": 9}
    monkeypatch.setattr(proxy, "_kept", lambda _, name: sizes[name])
    pool = Run(Config(name="pool", queries="none"), tmp_path / "pool")
    run = EvaluationRun(pool.config, tmp_path / "out", suite=Suite.model_construct(sets={}))
    chosen = _choice_run(settings(), pool, run, "control")
    assert chosen.config.selection.steps == (Sample(filter="sample", pairs=7),)


def test_a_training_is_of_its_choice_and_seed_and_a_scorers_of_its_own(tmp_path):
    own = TrainSettings(steps=20, batch_size=32)
    asked = settings(
        seeds=[3, 5],
        scorers={"dfn": {**SIMILAR, "model": own}, "plain": SIMILAR},
        choices={"raw": RAW, "b": {**SIMILAR, "scorer": "dfn"}},
    )
    pool = Run(Config(name="pool", queries="none"), tmp_path / "pool")
    suite = Suite.model_construct(sets={})
    run = EvaluationRun(pool.config, tmp_path / "out", suite=suite)
    stages = [(part.title, part.stage().run) for part in _models(asked, pool, run)]
    assert [(title, made.config.seed) for title, made in stages] == [
        ("choices/raw/seed-3/model", 3),
        ("choices/raw/seed-5/model", 5),
        ("choices/b/seed-3/model", 3),
        ("choices/b/seed-5/model", 5),
    ]
    assert all(made.config.model == asked.model for _, made in stages)
    assert all(made.home == run.directory / title[:-6] for title, made in stages)
    for name, model in (("dfn", own), ("plain", asked.model)):
        parts = _scorer_stages(asked, pool, run, name, asked.scorers[name])
        trained = parts["model"]().run.config
        assert (trained.model, trained.selection.steps) == (model, asked.scorers[name].steps)
        assert parts["embeddings"]().folder == run.directory / "scorers" / name / "embeddings"
    chosen = _choice_run(asked, pool, run, "b")
    assert chosen.receipts("embeddings").folder == run.directory / "scorers/dfn/embeddings"


@pytest.mark.parametrize("part", ["choices", "scorers"])
def test_a_step_that_refers_to_nothing_is_named(tmp_path, part):
    absent = {"filter": "norm_sim", "target": [str(tmp_path / "absent.parquet")], "share": 0.5}
    changed = {"choices": {"raw": RAW, "b": {"steps": [absent]}}}
    if part == "scorers":
        changed = {"scorers": {"b": {"steps": [absent]}}}
    pool = Run(Config(name="pool", queries="none"), tmp_path / "pool")
    run = EvaluationRun(pool.config, tmp_path / "out", suite=Suite.model_construct(sets={}))
    with pytest.raises(ConfigError, match=rf"{part}\.b: .*target: there is no file"):
        _check(settings(**changed), pool, run)


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


def results(folder, scores):
    """Of one classification and one retrieval set of 100 pictures; by choice, a score a seed.

    What the models have answered is written as `Judge` does.
    """
    ids = [f"{number:03d}" for number in range(100)]
    for choice, values in scores.items():
        for seed, value in enumerate(values):
            model, right = f"{choice}.{seed}", np.arange(100) < round(100 * value)
            draws = bootstrap(100, {"share": share_of(right)}, 300, 0)["share"][:, 0]
            answers = {"labels": [[0]] * 100, "own": np.where(right, 0, 1)}
            for of, columns in {"a": answers, "b": {}}.items():
                pq.write_table(pa.table({"id": ids, **columns}), folder / f"{model}.{of}.parquet")
                drawn = pa.table({"value": draws})
                pq.write_table(drawn, folder / f"{model}.{of}.draws.parquet")
            zero_shot = {"bare": {"value": 0.0}, "own": {"value": value, "interval": None}}
            about = {"task": "classification", "metric": "top1", "best_prompts": "own"}
            yield {"model": model, "set": "a", **about, "zero_shot": zero_shot}
            apart = {"image_to_text": 0.02, "text_to_image": -0.02}
            ways = {
                way: {"5": {"value": 0.99}, "1": {"value": value + off}}
                for way, off in apart.items()
            }
            yield {"model": model, "set": "b", "task": "retrieval", **ways}


def test_the_report_says_in_words_which_selection_is_better(tmp_path):
    scores = {
        "raw": [0.30, 0.31, 0.32],
        "similar": [0.50, 0.52, 0.51],
        "control": [0.32, 0.33, 0.34],
    }
    (tmp_path / "results").mkdir()
    found = list(results(tmp_path / "results", scores))
    answers = answers_of(found, tmp_path / "results")
    assert scores_of(answers)["similar"][AVERAGE] == pytest.approx(
        dict(enumerate(scores["similar"]))
    )
    rights = [answers["raw"]["a"][seed].right for seed in range(3)]
    assert [right is not None and right.mean() for right in rights] == pytest.approx(scores["raw"])
    kept = {"raw": 1000, "similar": 600, "control": 600}
    text = write_proxy_report(settings(), kept, found, tmp_path)
    one = differences_from("raw", answers)["similar"][AVERAGE]
    assert (one.trainings.low, one.trainings.high) == pytest.approx((0.1752, 0.2248), abs=1e-4)
    assert one.both.low < min(one.pictures.low, one.trainings.low)
    both = f"+20.0 [{100 * one.both.low:+.1f}, {100 * one.both.high:+.1f}]"
    assert f"**`similar` is better than `raw`**: {both} points on the average" in text
    assert f"\n| `similar` | {both} |" in text
    assert "\n| of 3 trainings alone | +20.0 [+17.5, +22.5] |" in text
    pictures = f"+20.0 [{100 * one.pictures.low:+.1f}, {100 * one.pictures.high:+.1f}]"
    assert f"\n| of the pictures alone | {pictures} |" in text
    of_control = differences_from("raw", answers)["control"][AVERAGE]
    assert of_control.trainings.verdict == "better"  # and yet two pictures of 100 say little
    assert "Between `control` and `raw` no difference could be shown" in text
    assert "**`similar` is better than `control`**: +18.0 [" in text
    written = json.loads((tmp_path / "proxy.json").read_text())
    over, entry = written["over_controls"]["similar"], written["differences"]["similar"][AVERAGE]
    assert (over["control"], over["verdict"]) == ("control", "better")
    assert list(written["differences"]) == ["similar", "control"]
    assert written["differences"]["control"][AVERAGE]["verdict"] == "no difference shown"
    assert (entry["low"], entry["high"]) == (one.both.low, one.both.high)
    assert entry["pictures"] == [one.pictures.low, one.pictures.high]
    assert entry["trainings"] == [one.trainings.low, one.trainings.high]
    assert "640 pairs" in text
    assert (tmp_path / "proxy.md").read_text() == text


def test_a_model_without_a_score_is_named(tmp_path):
    first, *_ = results(tmp_path, {"raw": [0.3, 0.3]})
    first["zero_shot"]["own"] = {"value": None, "interval": [None, None]}
    with pytest.raises(ValueError, match=r"raw\.0 has no score on a"):
        answers_of([first], tmp_path)
