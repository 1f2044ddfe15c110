"""The training loop and the scores, without Ray."""

import copy
import logging
import math
import re
from dataclasses import replace
from itertools import chain, repeat
from pathlib import Path
from random import Random
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from pydantic import ValidationError
from torch import nn

import clip_model
from clip_model import CLIP
from clip_model.config import ModifiedResNetConfig, TextConfig
from clip_model.flops import step_flops
from pipelines.evaluation.scoring import ask, score_models
from pipelines.run.config import Config, ScoreSettings
from pipelines.run.receipts import Shard
from pipelines.stages.scores import ScoreModels
from pipelines.training import loop
from pipelines.training.accumulation import backward
from pipelines.training.checkpoints import Checkpoints
from pipelines.training.held_out import Example, is_held_out, read_held_out
from pipelines.training.index import Index, hashes_of
from pipelines.training.loop import DivergedError, Unnoticed, train
from pipelines.training.order import DataSettings
from pipelines.training.parallel import Workers
from pipelines.training.retrieval import HeldOutRetrieval
from pipelines.training.settings import TrainSettings
from pipelines.training.state import TrainingState
from tests.pipelines.training import workers_at_work
from tests.shards import TINY, images, jpeg, save_tiny_model, write_dataset
from workers.base.failures import NeedsMendingError
from workers.base.tally import Tally


@pytest.fixture
def shards(tmp_path):
    pairs = list(images(60))
    write_dataset(pairs[:40], tmp_path / "00000.parquet")
    write_dataset(pairs[40:], tmp_path / "00001.parquet")
    return [tmp_path / "00000.parquet", tmp_path / "00001.parquet"]


#: Its table of tokens is nearly all of a tiny model, so it is narrow here.
NARROW = replace(TINY, text=TextConfig(width=16, layers=1, heads=1))


def settings(tmp_path, **more):
    model = save_tiny_model(tmp_path / "start.safetensors", config=NARROW)
    optimizer = {"learning_rate": 1e-3, "warmup_steps": 2} | more.pop("optimizer", {})
    values = {"epochs": 3, "batch_size": 16, "precision": "fp32", "optimizer": optimizer}
    return TrainSettings(start_from=model, **(values | more))


def run(shards, settings, folder, seed=0, say=lambda _note, _share: None, notice=None):
    """A training in this process."""
    notice = notice or Unnoticed()
    trained = train(shards, settings, seed, folder, Workers(torch.device("cpu")), say, notice)
    assert trained is not None
    return trained


def losses(trained):
    return [line["loss"] for line in trained.metrics if "loss" in line]


def test_the_loss_goes_down_and_every_pair_is_accounted_for(shards, tmp_path):
    config = settings(tmp_path, epochs=16)
    trained = run(shards, config, tmp_path / "t")
    found = losses(trained)
    assert sum(found[-3:]) < 0.8 * sum(found[:3])
    trained.pairs.check()
    assert trained.pairs.rows_in == 60
    assert 0 < trained.pairs.rejected["held_out"] < 30


def test_training_is_a_function_of_its_data_settings_and_seed(shards, tmp_path):
    first = run(shards, settings(tmp_path), tmp_path / "1")
    same = run(shards, settings(tmp_path), tmp_path / "2")
    other = run(shards, settings(tmp_path), tmp_path / "3", seed=1)
    assert same.metrics == first.metrics
    assert all(torch.equal(a, b) for a, b in pairwise(same.model, first.model))
    assert losses(other) != losses(first)


def pairwise(one, other):
    return zip(one.state_dict().values(), other.state_dict().values(), strict=True)


class KilledError(Exception):
    pass


class KilledAt(Unnoticed):
    """Looks at every step, and dies at one of them."""

    def __init__(self, step):
        self.left = step

    def given(self):
        self.left -= 1
        if self.left < 0:
            raise KilledError
        return False


@pytest.fixture
def _all_the_time(monkeypatch):
    """Each step is one at which workers ask for a notice, and say how far they are."""
    monkeypatch.setattr(loop, "SAY_EVERY", 0.0)


@pytest.mark.usefixtures("_all_the_time")
@pytest.mark.parametrize("more", [{}, {"optimizer": {"name": "muon", "average": 0.9}}], ids=str)
def test_killed_at_random_moments_it_ends_as_if_nothing_had_happened(shards, tmp_path, more):
    values = {"batch_size": 4, "epochs": 1, "checkpoints": {"every_steps": 1}}
    config = settings(tmp_path, patch_dropout=0.5, **values, **more)
    whole = run(shards, config, tmp_path / "whole")
    random = Random(1)
    kills = 0
    while True:
        try:
            broken = run(shards, config, tmp_path / "t", notice=KilledAt(random.randrange(3)))
        except KilledError:
            kills += 1
            assert kills < 100, "it gets no further"
        else:
            break
    assert kills >= 10
    assert broken.metrics == whole.metrics
    assert [line["step"] for line in broken.metrics] == list(range(1, len(whole.metrics) + 1))
    assert all(torch.equal(a, b) for a, b in pairwise(broken.model, whole.model))


@pytest.mark.usefixtures("_all_the_time")
def test_a_notice_makes_a_checkpoint_at_once(shards, tmp_path):
    class AtStepTwo(KilledAt):
        def given(self):
            self.left -= 1
            return self.left < 0

        def obeyed(self):
            raise KilledError

    with pytest.raises(KilledError):
        run(shards, settings(tmp_path), tmp_path / "t", notice=AtStepTwo(1))
    assert [entry.step for entry in Checkpoints(tmp_path / "t").entries()] == [2]


@pytest.mark.usefixtures("_all_the_time")
def test_checkpoints_come_by_the_clock(shards, tmp_path):
    config = settings(tmp_path, checkpoints={"every_minutes": 1e-9, "keep": 100})
    trained = run(shards, config, tmp_path / "t")
    steps = [entry.step for entry in Checkpoints(tmp_path / "t").entries()]
    assert steps == list(range(1, len(trained.metrics) + 1))


def test_an_ended_training_gives_its_model_again_without_a_step(shards, tmp_path):
    said: list[str] = []
    first = run(shards, settings(tmp_path), tmp_path / "t")
    again = run(shards, settings(tmp_path), tmp_path / "t", say=lambda note, _: said.append(note))
    assert said == []
    assert again.metrics == first.metrics
    assert all(torch.equal(a, b) for a, b in pairwise(again.model, first.model))


def test_the_recipe_is_followed_step_by_step(shards, tmp_path):
    """Warm-up, then half a cosine; every weight moves; the temperature stays within its bound."""
    config = settings(tmp_path, epochs=4)
    start, _ = clip_model.load(config.start_from, half=False)
    with torch.no_grad():
        start.logit_scale.fill_(5.0)
    clip_model.save(start, tmp_path / "start.safetensors")
    trained = run(shards, config, tmp_path / "t")
    rates = [line["learning_rate"] for line in trained.metrics]
    total = len(rates)
    cosine = [0.5 * (1 + math.cos(math.pi * n / (total - 2))) for n in range(total - 2)]
    assert rates == pytest.approx([5e-4, 1e-3, *(1e-3 * share for share in cosine)])
    for name, weight in trained.model.named_parameters():
        assert not torch.equal(weight, start.get_parameter(name)), name
    assert trained.metrics[0]["temperature"] == pytest.approx(100)
    assert trained.model.logit_scale.exp() <= 100 + 1e-4


def test_a_weight_is_moved_by_the_rate_of_its_step(shards, tmp_path):
    """Not by the peak, with which the optimizer was made: here a warm-up has hardly begun."""
    config = settings(tmp_path, epochs=1, optimizer={"warmup_steps": 10**9})
    start, _ = clip_model.load(config.start_from, half=False)
    trained = run(shards, config, tmp_path / "t")
    for before, after in pairwise(start, trained.model):
        torch.testing.assert_close(before, after, atol=1e-9, rtol=0)


def test_the_average_of_the_weights_is_the_model(shards, tmp_path):
    plain = run(shards, settings(tmp_path), tmp_path / "1").model
    config = settings(tmp_path, optimizer={"average": 0.9})
    average = run(shards, config, tmp_path / "2").model
    start, _ = clip_model.load(config.start_from, half=False)
    for begun, mean, last in zip(*(m.parameters() for m in (start, average, plain)), strict=True):
        if begun.ndim > 1:
            assert 0 < (mean - begun).norm() < (last - begun).norm()


def test_the_average_is_what_is_judged_and_the_training_goes_on_with_its_own_weights(
    shards, tmp_path, monkeypatch
):
    judged = []
    recall = HeldOutRetrieval.recall

    def noted(held_out, compute, workers):
        judged.append(copy.deepcopy(compute.objective.model.state_dict()))
        return recall(held_out, compute, workers)

    monkeypatch.setattr(HeldOutRetrieval, "recall", noted)
    values = {"epochs": 3, "held_out": 0.4, "optimizer": {"average": 0.9}}
    trained = run(shards, settings(tmp_path, evaluate_every=1, **values), tmp_path / "1")
    unjudged = run(shards, settings(tmp_path, **values), tmp_path / "2")
    assert losses(trained) == losses(unjudged)
    assert len(judged) > 2
    for name, weight in trained.model.state_dict().items():
        assert torch.equal(judged[-1][name], weight)
        assert torch.equal(unjudged.model.get_parameter(name), weight)


def test_held_out_pairs_judge_it_on_the_way_and_the_best_is_kept(shards, tmp_path):
    config = settings(tmp_path, epochs=6, held_out=0.4, evaluate_every=2, checkpoints={"keep": 1})
    trained = run(shards, config, tmp_path / "t")
    judged = [line for line in trained.metrics if "image_to_text@1" in line]
    steps = losses(trained)
    assert [line["step"] for line in judged] == list(range(2, len(steps) + 1, 2))
    scores = {line["step"]: line["image_to_text@1"] + line["text_to_image@1"] for line in judged}
    best = max(scores, key=lambda step: (scores[step], step))
    kept = {entry.step for entry in Checkpoints(tmp_path / "t").entries()}
    assert kept == {best, max(len(steps), best)}


def test_the_one_that_held_out_pairs_like_best_is_kept_beside_the_last(
    shards, tmp_path, monkeypatch
):
    shares = chain([0.1, 0.4], repeat(0.3))

    def recall(*_):
        return {"image_to_text@1": 0.5, "text_to_image@1": next(shares)}

    monkeypatch.setattr(HeldOutRetrieval, "recall", recall)
    config = settings(tmp_path, steps=5, held_out=0.4, evaluate_every=1, checkpoints={"keep": 1})
    run(shards, config, tmp_path / "t")
    entries = Checkpoints(tmp_path / "t").entries()
    assert [(entry.step, entry.score) for entry in entries] == [(2, 0.9), (5, 0.8)]


def test_judging_by_nothing_is_refused_with_what_to_do(shards, tmp_path):
    with pytest.raises(NeedsMendingError, match=r"raise model\.held_out"):
        run(shards, settings(tmp_path, held_out=0, evaluate_every=2), tmp_path / "t")


def test_a_loss_that_is_not_a_number_stops_the_training_and_names_its_pairs(shards, tmp_path):
    config = settings(tmp_path, optimizer={"learning_rate": 1e12, "warmup_steps": 0})
    with pytest.raises(DivergedError, match=r"lower model\.optimizer\.learning_rate") as error:
        run(shards, config, tmp_path / "t")
    ids = {row["pair_id"] for path in shards for row in pq.read_table(path).to_pylist()}
    assert len([name for name in re.findall(r"\w+", str(error.value)) if name in ids]) == 16


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_was_kept_before_a_loss_that_is_no_number_stays(shards, tmp_path, monkeypatch, value):
    """And the pairs that are named are those of all workers."""

    class WithAnother(Workers):
        def gather(self, values):
            return [*values, "one of another worker"] if values else []

    taken = []

    def broken_at_the_third(*arguments):
        taken.append(backward(*arguments))
        return taken[-1] * (value if len(taken) == 3 else 1)

    monkeypatch.setattr(loop, "backward", broken_at_the_third)
    monkeypatch.setattr(loop, "NAMED", 100)
    config = settings(tmp_path, checkpoints={"every_steps": 1})
    workers = WithAnother(torch.device("cpu"))
    with pytest.raises(DivergedError, match=f"the loss is {value} in step 3.*another worker$"):
        train(shards, config, 0, tmp_path / "t", workers)
    checkpoints = Checkpoints(tmp_path / "t")
    assert [entry.step for entry in checkpoints.entries()] == [1, 2]
    kept = checkpoints.latest()
    assert kept is not None
    assert all(weight.isfinite().all() for weight in kept["objective"].values())


def test_weights_that_the_last_step_breaks_are_no_model(shards, tmp_path):
    """The loss of a training of one step is that of the weights before it."""
    rates = {"learning_rate": 3e37, "weight_decay": 10, "warmup_steps": 0}
    config = settings(tmp_path, batch_size=48, epochs=1, optimizer=rates)
    model, _ = clip_model.load(config.start_from, half=False)
    with torch.no_grad():
        model.token_embedding.weight[7] = 2  # of a token in no caption, so the loss is finite
    clip_model.save(model, tmp_path / "start.safetensors")
    with pytest.raises(DivergedError, match=r"token_embedding\.weight is not finite in step 1"):
        run(shards, config, tmp_path / "t")
    assert not Checkpoints(tmp_path / "t").entries(), "nothing to go on from"


def test_it_is_said_how_far_the_training_is_from_the_first_step_on(shards, tmp_path):
    said: list[tuple[str, float]] = []
    run(shards, settings(tmp_path), tmp_path / "t", say=lambda *what: said.append(what))
    assert re.fullmatch(
        r"epoch 1 of 3, step 1 of \d, loss \d\.\d+, [\d,]+ pairs/s, \d+% waiting for data",
        said[0][0],
    )
    shares = [share for _, share in said]
    assert 0 < shares[0] < 0.2
    assert (shares, shares[-1]) == (sorted(shares), 1.0)


def test_too_few_pairs_are_refused_with_what_to_do(tmp_path):
    write_dataset(list(images(1)), tmp_path / "00000.parquet")
    with pytest.raises(NeedsMendingError, match=r"let selection\.steps keep more"):
        run([tmp_path / "00000.parquet"], settings(tmp_path, held_out=0), tmp_path / "t")


def test_fewer_pairs_than_a_batch_are_one_and_it_is_said(shards, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        trained = run(shards, settings(tmp_path, batch_size=500), tmp_path / "t")
    assert len(trained.metrics) == 3
    assert "fewer than model.batch_size" in caplog.text


def test_a_warm_up_that_never_ends_is_said(shards, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        run(shards, settings(tmp_path, epochs=1, optimizer={"warmup_steps": 3}), tmp_path / "t")
    assert "the warm-up of 3 (model.optimizer.warmup_steps) never" in caplog.text


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"resolution": 33}, "resolution 33 is not a multiple"),
        ({"architecture": "RN50", "patch_dropout": 0.5}, "a ResNet has no patches"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(shards, tmp_path, more, said):
    values = settings(tmp_path).model_dump() | more
    if "architecture" in more:
        values["start_from"] = None
    config = TrainSettings(**values)
    with pytest.raises(NeedsMendingError, match=said):
        run(shards, config, tmp_path / "t")


LOCKED: dict[str, dict[str, Any]] = {
    "image": {"locked": "image", "chunk": 5, "optimizer": {"clip_gradients": 0.1}},
    "image_trunk": {"locked": "image_trunk", "optimizer": {"name": "muon", "average": 0.9}},
    "text": {"locked": "text", "objective": "sigmoid", "gradient_checkpointing": True},
}


@pytest.mark.usefixtures("_all_the_time")
@pytest.mark.parametrize("part", LOCKED)
def test_a_locked_part_ends_as_it_began_and_all_else_moves(shards, tmp_path, part):
    """To the bit, judged on the way, killed and gone on with; an average of the weights, too."""
    resnet = replace(NARROW, vision=ModifiedResNetConfig((1, 1, 1, 1), 8))
    values = {"epochs": 1, "batch_size": 8, "evaluate_every": 2, **LOCKED[part]}
    config = settings(tmp_path, checkpoints={"every_steps": 1}, **values)
    model = CLIP(resnet)
    for norm in (one for one in model.modules() if isinstance(one, nn.BatchNorm2d)):
        norm(torch.rand(2, norm.num_features, 2, 2))
        nn.init.ones_(norm.weight)
    clip_model.save(model, tmp_path / "start.safetensors")
    start, _ = clip_model.load(config.start_from, half=False)
    whole = run(shards, config, tmp_path / "whole")
    with pytest.raises(KilledError):
        run(shards, config, tmp_path / "t", notice=KilledAt(3))
    trained = run(shards, config, tmp_path / "t")
    assert trained.metrics == whole.metrics
    assert all(torch.equal(a, b) for a, b in pairwise(trained.model, whole.model))
    ended = trained.model.state_dict()
    assert ended.keys() == start.state_dict().keys()
    same = {name for name, value in start.state_dict().items() if torch.equal(value, ended[name])}
    locked = re.compile(workers_at_work.LOCKED[part])
    assert same == {name for name in ended if locked.fullmatch(f"model.{name}")}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"start_from": None, "architecture": "ViT-B/32"}, "the new weights of architecture"),
        ({"objective": "caption"}, "caption does not train two towers"),
        ({"objective": "bag_of_words", "locked": "text"}, "bag_of_words does not train two towers"),
        ({"patch_dropout": 0.5}, "nothing is left out in an image tower that is locked"),
        ({"locked": "images"}, "'image', 'image_trunk' or 'text'"),
    ],
)
def test_what_cannot_be_locked_is_refused_at_once(more, said):
    with pytest.raises(ValidationError, match=said):
        TrainSettings(**{"locked": "image_trunk", **more})
    assert TrainSettings(locked="text", patch_dropout=0.5)


def test_nothing_for_muon_is_refused_with_what_to_do(shards, tmp_path):
    values = settings(tmp_path, optimizer={"name": "muon"}, locked="text").model_dump()
    config = TrainSettings(**values | {"start_from": "starter"})  # a ResNet
    with pytest.raises(NeedsMendingError, match="model.optimizer.name: for Muon there is no"):
        run(shards, config, tmp_path / "t")


def test_the_operations_that_are_told_are_those_of_what_is_trained(tmp_path):
    data, tokens = DataSettings(batch_size=8, held_out=0, seed=0), torch.zeros(8, 9)
    config = settings(tmp_path, locked="text")
    expected = step_flops(NARROW, 8, 9, locked="text").model
    assert loop._flops(NARROW, config, data, tokens) == expected
    assert expected < loop._flops(NARROW, settings(tmp_path), data, tokens)


def test_another_resolution_and_pieces_of_a_batch_are_trained_on(shards, tmp_path):
    config = settings(tmp_path, epochs=1, resolution=48, chunk=5, gradient_checkpointing=True)
    trained = run(shards, config, tmp_path / "t")
    assert trained.model.config.image_resolution == 48
    whole = run(shards, settings(tmp_path, epochs=1, resolution=48), tmp_path / "w")
    assert losses(trained) == pytest.approx(losses(whole), rel=1e-4)


def test_gradients_are_shortened_once_all_pieces_of_a_batch_are_in_them(shards, tmp_path):
    clipped = {"epochs": 1, "batch_size": 16, "optimizer": {"clip_gradients": 1e-6}}
    whole = run(shards, settings(tmp_path, **clipped), tmp_path / "w")
    pieces = run(shards, settings(tmp_path, chunk=5, **clipped), tmp_path / "p")
    lengths, same = ([line["gradient"] for line in t.metrics] for t in (whole, pieces))
    assert same == pytest.approx(lengths, rel=1e-4)
    assert min(lengths) > 1e-3, "how long they were, not how long they are now"
    for one, other in pairwise(whole.model, pieces.model):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-3)


def test_the_parts_are_disjoint_whole_and_split_by_image(shards, tmp_path):
    tally = Tally()
    data = DataSettings(batch_size=2, held_out=0.3, seed=0)
    index = Index.of(shards, tmp_path / "index", data)
    training = [image for n in range(len(shards)) for image in index.shard(n).images.tolist()]
    held_out = list(read_held_out(shards, 0, 0.3, tally))
    assert len(training) + len(held_out) == 60
    assert not set(training) & {hashes_of(e.jpg, ())[0] for e in held_out}
    assert index.tally.rejected["held_out"] == tally.kept == len(held_out)
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
    run(shards, config, tmp_path / "t")
    examples = list(read_held_out(shards, 0, 0.5, Tally()))
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


def test_what_an_optimizer_keeps_comes_back_as_its_weight_lies_in_memory(tmp_path):
    """AdamW's kernel for GPUs refuses what lies otherwise, as a convolution's did."""
    config, alone = settings(tmp_path), Workers(torch.device("cpu"))
    before, after = (TrainingState(config, 0, "fp32", alone) for _ in range(2))
    for parameter in before.objective.parameters():
        parameter.grad = torch.randn_like(parameter)
    before.take_step(10)
    torch.save(before.kept(), tmp_path / "kept.pt")
    after.load(1, torch.load(tmp_path / "kept.pt"))
    pairs = zip(before.objective.parameters(), after.objective.parameters(), strict=True)
    strides = set()
    for parameter, other in pairs:
        strides.add(parameter.is_contiguous())
        for name, value in before.optimizer.state[parameter].items():
            came_back = after.optimizer.state[other][name]
            assert torch.equal(came_back, value)
            assert came_back.stride() == value.stride()
    assert strides == {True, False}


def test_so_many_steps_are_done_however_many_epochs_they_are(shards, tmp_path):
    said = []

    def say(note, share):
        said.append((note.split(", loss")[0], share))

    trained = run(shards, settings(tmp_path, steps=7), tmp_path / "t", say=say)
    assert [line["step"] for line in trained.metrics] == list(range(1, 8))
    per_epoch = trained.pairs.kept // 16
    assert said[-1] == (
        f"epoch {-(-7 // per_epoch)} of {-(-7 // per_epoch)}, step "
        f"{6 % per_epoch + 1} of {per_epoch}",
        1.0,
    )
    same = run(shards, settings(tmp_path, epochs=1, steps=7), tmp_path / "same")
    assert same.metrics == trained.metrics
