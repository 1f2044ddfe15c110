"""The training loop and the scores, without Ray."""

import math
import re
from pathlib import Path

import pytest
import torch

import clip_model
from clip_model.optimisation import learning_rate
from pipelines.evaluation.scoring import ask, score_models
from pipelines.run.config import Config, ScoreSettings
from pipelines.run.receipts import Shard
from pipelines.stages.model import CHECKPOINT, finish, tally_of
from pipelines.stages.scores import ScoreModels
from pipelines.training.held_out import Example, is_held_out, read_examples
from pipelines.training.loop import DivergedError, Trained, train
from pipelines.training.settings import TrainSettings
from tests.shards import images, jpeg, save_tiny_model, write_dataset
from workers.base.failures import NeedsMendingError
from workers.base.tally import Tally


@pytest.fixture
def shards(tmp_path):
    pairs = list(images(60))
    write_dataset(pairs[:40], tmp_path / "00000.parquet")
    write_dataset(pairs[40:], tmp_path / "00001.parquet")
    return [tmp_path / "00000.parquet", tmp_path / "00001.parquet"]


def settings(tmp_path, optimizer=None, **more):
    model = save_tiny_model(tmp_path / "start.safetensors")
    values = {"start_from": model, "epochs": 3, "batch_size": 16}
    values["optimizer"] = {"learning_rate": 1e-3, "warmup_steps": 2} | (optimizer or {})
    return TrainSettings.model_validate(values | more)


class Reports:
    """The metrics that the last state holds."""

    def __init__(self):
        self.metrics = []

    def __call__(self, state):
        self.metrics = list(state["metrics"])


def test_the_loss_goes_down_and_every_pair_is_accounted_for(shards, tmp_path):
    reports = Reports()
    trained = train(shards, settings(tmp_path, epochs=8), 0, reports)
    losses = [metrics["loss"] for metrics in reports.metrics]
    assert losses[-1] < 0.8 * losses[0]
    trained.pairs.check()
    assert trained.pairs.rows_in == 60
    assert 0 < trained.pairs.rejected["held_out"] < 30


def test_training_is_a_function_of_its_seed_and_goes_on_where_it_stopped(shards, tmp_path):
    whole, again, other = Reports(), Reports(), Reports()
    config = settings(tmp_path)
    unbroken = train(shards, config, 0, whole).model.state_dict()
    train(shards, config, 1, other)
    assert whole.metrics[0]["loss"] != other.metrics[0]["loss"]

    class KilledError(Exception):
        pass

    def die_after_the_first_epoch(state):
        torch.save(state, tmp_path / "state.pt")
        raise KilledError

    with pytest.raises(KilledError):
        train(shards, config, 0, die_after_the_first_epoch)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    resumed = train(shards, config, 0, again, state).model.state_dict()
    assert again.metrics == whole.metrics
    assert [m["epoch"] for m in again.metrics] == [0, 1, 2]
    assert all(torch.equal(unbroken[name], resumed[name]) for name in unbroken)


def test_the_seed_draws_the_order_and_the_crops(shards, tmp_path):
    """Nothing is held out here, so that both trainings have the same pairs."""
    config = settings(tmp_path, held_out=0.0, epochs=1)
    losses = []
    for seed in (0, 1, 0):
        reports = Reports()
        train(shards, config, seed, reports)
        losses.append(reports.metrics[0]["loss"])
    assert losses[0] == losses[2] != losses[1]


def test_the_learning_rate_is_the_schedules_of_each_step(shards, tmp_path):
    rates: list[float] = []

    def report(state):
        rates.extend({group["lr"] for group in state["optimizer"]["param_groups"]})

    train(shards, settings(tmp_path, held_out=0.0), 0, report)  # 3 steps in each of 3 epochs
    assert rates == [learning_rate(step, 9, 1e-3, 2) for step in (2, 5, 8)]
    assert rates[0] == 1e-3 > 10 * rates[-1]


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_every_weight_is_trained_and_the_temperature_stays_within_its_bound(shards, tmp_path, name):
    config = settings(tmp_path, {"name": name}, epochs=1)
    model, _ = clip_model.load(config.start_from, half=False)
    with torch.no_grad():
        model.logit_scale.fill_(9.0)
    clip_model.save(model, config.start_from)
    trained = train(shards, config, 0, Reports()).model
    assert trained.logit_scale.item() <= math.log(100) + 1e-6
    start = dict(model.named_parameters())
    assert not [name for name, p in trained.named_parameters() if torch.equal(p, start[name])]


def test_gradients_are_clipped_where_the_settings_say_so(shards, tmp_path):
    """Adam divides by at least eps, so that gradients far below it hardly move a weight."""
    clipped = {"clip_gradients": 1e-12, "weight_decay": 0.0}
    config = settings(tmp_path, clipped, epochs=1)
    model, _ = clip_model.load(config.start_from, half=False)
    trained = train(shards, config, 0, Reports()).model
    for name, value in trained.state_dict().items():
        torch.testing.assert_close(value, model.state_dict()[name], rtol=0, atol=1e-7)


def test_a_loss_that_is_not_a_number_stops_the_training(shards, tmp_path):
    config = settings(tmp_path, {"learning_rate": 1e12, "warmup_steps": 0})
    with pytest.raises(DivergedError, match="lower model.optimizer.learning_rate"):
        train(shards, config, 0, Reports())


def test_weights_that_the_last_step_breaks_are_no_model(shards, tmp_path):
    """The loss of a training of one step is that of the weights before it."""
    fast = {"learning_rate": 3e37, "weight_decay": 10, "warmup_steps": 0}
    config, reports = settings(tmp_path, fast, batch_size=48, epochs=1), Reports()
    model, _ = clip_model.load(config.start_from, half=False)
    with torch.no_grad():
        model.token_embedding.weight[7] = 2  # of a token in no caption, so the loss is finite
    clip_model.save(model, tmp_path / "start.safetensors")
    with pytest.raises(
        DivergedError, match="not finite after epoch 0; lower model.optimizer.learning_rate"
    ):
        train(shards, config, 0, reports)
    assert reports.metrics == [], "nothing to go on from"


def test_it_is_said_how_far_the_training_is_from_the_first_step_on(shards, tmp_path):
    said: list[tuple[str, float]] = []
    train(shards, settings(tmp_path), 0, Reports(), None, lambda *what: said.append(what))
    assert re.fullmatch(r"epoch 1 of 3, step 1 of \d, loss \d\.\d+, \d+ pairs/s", said[0][0])
    shares = [share for _, share in said]
    assert 0 < shares[0] < 0.2
    assert (shares, shares[-1]) == (sorted(shares), 1.0)


def test_too_few_pairs_are_refused_with_what_to_do(tmp_path):
    write_dataset(list(images(1)), tmp_path / "00000.parquet")
    with pytest.raises(NeedsMendingError, match="let selection.steps keep more"):
        train([tmp_path / "00000.parquet"], settings(tmp_path), 0, Reports())


def test_what_no_further_attempt_changes_is_not_begun_again_and_all_else_is(tmp_path):
    """Ray begins a worker again that has raised; one that has left its refusal it does not."""

    def diverging() -> Trained:
        raise DivergedError(
            "the loss is nan in epoch 0, step 1; lower model.optimizer.learning_rate"
        )

    def lost() -> Trained:
        raise OSError("a disk is full")

    with pytest.raises(OSError, match="full"):
        finish(lost, tmp_path)
    finish(diverging, tmp_path)
    with pytest.raises(
        NeedsMendingError, match=r"^the loss is nan .* lower model.optimizer.learning_rate$"
    ):
        tally_of(tmp_path)
    assert not (tmp_path / CHECKPOINT).exists()


def test_the_parts_are_disjoint_whole_and_split_by_image(shards):
    tallies = Tally(), Tally()
    training = list(read_examples(shards, 0, 0.3, held_out=False, tally=tallies[0]))
    held_out = list(read_examples(shards, 0, 0.3, held_out=True, tally=tallies[1]))
    assert len(training) + len(held_out) == 60
    assert not {e.jpg for e in training} & {e.jpg for e in held_out}
    assert tallies[0].rejected["held_out"] == tallies[1].kept == len(held_out)
    assert is_held_out(b"x", 0, 1.0)
    assert not is_held_out(b"x", 0, 0.0)


def test_one_image_with_two_captions_is_one_question_with_two_answers():
    examples = [
        Example("1", b"cat", "a cat"),
        Example("2", b"cat", "a kitten"),
        Example("3", b"dog", "a dog"),
    ]
    questions = ask(examples)
    assert questions.jpgs == [b"cat", b"dog"]
    assert questions.pairs.tolist() == [[0, 0], [0, 1], [1, 2]]


def test_scores_are_shares_of_the_same_questions(tmp_path):
    model = save_tiny_model(tmp_path / "m.safetensors")
    examples = [Example(str(n), jpg, caption) for n, (caption, jpg) in enumerate(images(12))]
    examples.append(Example("again", jpeg((0, 0, 0)), "black"))
    scores = score_models({"a": model, "b": model}, examples, ScoreSettings(recall_at=(1, 13)))
    assert (scores["images"], scores["captions"]) == (12, 13)
    assert scores["models"]["a"] == scores["models"]["b"]
    assert scores["models"]["a"]["image to text R@13"] == 1.0
    assert 0 < scores["chance"] < 0.1


def test_a_caption_of_any_length_is_cut_in_training_and_in_scores(tmp_path):
    pairs = [(f"{caption} {'of many words ' * 60}", jpg) for caption, jpg in images(40)]
    write_dataset(pairs, tmp_path / "00000.parquet")
    config, shards = settings(tmp_path, epochs=1, held_out=0.5), [tmp_path / "00000.parquet"]
    train(shards, config, 0, Reports())
    examples = list(read_examples(shards, 0, 0.5, held_out=True, tally=Tally()))
    scores = score_models({"start": config.start_from}, examples, ScoreSettings())
    assert scores["captions"] == len(examples) > 5


def test_a_model_whose_features_are_not_finite_has_no_score(tmp_path):
    path = tmp_path / "m.safetensors"
    save_tiny_model(path)
    model, _ = clip_model.load(str(path), half=False)
    with torch.no_grad():
        model.text_projection.fill_(3e38)
    clip_model.save(model, path, half=False)
    examples = [Example(str(n), jpg, caption) for n, (caption, jpg) in enumerate(images(12))]
    with pytest.raises(ValueError, match="'broken' gives are not finite"):
        score_models({"broken": str(path)}, examples, ScoreSettings())


def test_a_data_set_without_held_out_pairs_is_scored_with_nothing(shards, tmp_path):
    tree = {"name": "x", "queries": {}, "model": {"held_out": 1e-9}}
    work = ScoreModels(Config.model_validate(tree))
    files = {"trained": (Path("absent.safetensors"),), "dataset": tuple(shards)}
    tally = work(Shard("all", "", files), tmp_path)["pairs"]
    assert tally.counts() == {
        **{"in": 60, "kept": 0, "rejected": {"for_training": 60}, "failed": {}}
    }
    assert not (tmp_path / "scores.json").exists()


def test_nothing_held_out_is_refused_with_what_to_do():
    with pytest.raises(ValueError, match=r"raise model\.held_out"):
        score_models({}, [], ScoreSettings())
