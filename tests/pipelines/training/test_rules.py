"""Every setting of a training reaches what it is about: each line that hands one on is missed."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from clip_model import CLIP
from clip_model.compilation import compile_blocks
from pipelines.training import loop, state
from pipelines.training.accumulation import backward
from pipelines.training.parallel import Workers
from pipelines.training.settings import BatchSettings, OptimizerSettings, TrainSettings
from pipelines.training.state import TrainingState
from tests.pipelines.training.test_training import KilledAt, KilledError, losses, run, settings
from tests.shards import images, jpeg, write_dataset
from workers.embedding.encoders import TOKENS_ROUNDED_TO

#: Changes that must make other weights, and what they are compared with.
CHANGES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"objective": "sigmoid"}, {}),
    ({"resolution": 48}, {}),
    ({"precision": "bf16"}, {}),
    ({"batch_size": 8}, {}),
    ({"caption_tokens": 4}, {}),
    ({"locked": "image"}, {}),
    ({"locked": "image_trunk"}, {"locked": "image"}),
    ({"locked": "text"}, {}),
    ({"patch_dropout": 0.5}, {}),
    ({"held_out": 0.4}, {}),
    ({"data": {"lanes": 4}}, {}),
    ({"data": {"shuffle_rows": 16}}, {}),
    ({"data": {"unique": True}}, {}),
    ({"optimizer": {"name": "muon"}}, {}),
    ({"optimizer": {"learning_rate": 1e-2}}, {}),
    ({"optimizer": {"weight_decay": 0.9}}, {}),
    ({"optimizer": {"warmup_steps": 1}}, {}),
    ({"optimizer": {"beta1": 0.1}}, {}),
    ({"optimizer": {"beta2": 0.1}}, {}),
    ({"optimizer": {"eps": 1e-1}}, {}),
    # Adam takes no notice of how long gradients are, unless they are near its eps.
    ({"optimizer": {"clip_gradients": 1e-6}}, {}),
    ({"optimizer": {"average": 0.1}}, {"optimizer": {"average": 0.9}}),
]
#: What has tests of its own: where it starts, how long it is, what is said of it on the way.
ELSEWHERE = {"recipe", "start_from", "architecture", "epochs", "steps", "evaluate_every"} | {
    *("use_gpu", "chunk", "threads", "distillation"),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with shards of which some rows share a caption, and room for models."""
    folder = tmp_path_factory.mktemp("rules")
    pairs = list(images(40))
    pairs += [(caption, jpeg((n, 255 - n, n))) for n, (caption, _) in enumerate(pairs[:20])]
    write_dataset(pairs, folder / "00000.parquet")
    return folder


@pytest.fixture(scope="module")
def weights(place):
    """What a training with some changes ends with; each is done once."""
    known = dict[str, torch.Tensor]()

    def found(more):
        name = repr(more)
        if name not in known:
            config = settings(place, epochs=1, **more)
            trained = run([place / "00000.parquet"], config, place / str(len(known)))
            known[name] = torch.cat([p.detach().flatten() for p in trained.model.parameters()])
        return known[name]

    return found


@pytest.mark.parametrize(("more", "other"), CHANGES, ids=lambda value: str(value))
def test_a_setting_that_the_weights_depend_on_changes_them(weights, more, other):
    one, two = weights(more), weights(other)
    assert one.shape != two.shape or not torch.equal(one, two)


def test_no_setting_is_left_out():
    listed = {name for more, _ in CHANGES for name in more} - {"optimizer", "data"}
    listed |= {
        name for more, _ in CHANGES for key in ("optimizer", "data") for name in more.get(key, {})
    }
    every = {
        name
        for kind in (TrainSettings, OptimizerSettings, BatchSettings)
        for name in kind.model_fields
    }
    assert listed | ELSEWHERE == every - TrainSettings.TUNING - {"optimizer", "data"}


def test_order_and_draws_are_the_seeds_and_draws_those_of_a_step(place, tmp_path, monkeypatch):
    """Draws are such as which patches are left out."""
    seeds: list[int] = []

    def noted(*arguments):
        seeds.append(torch.initial_seed())
        return backward(*arguments)

    monkeypatch.setattr(loop, "backward", noted)
    config = settings(place, epochs=2, held_out=0)  # so that the order alone differs by the seed
    found, said = [], []
    for number, seed in enumerate((0, 1, 0)):
        trained = run([place / "00000.parquet"], config, tmp_path / str(number), seed=seed)
        said.append(losses(trained))
        found.append(list(seeds))
        seeds.clear()
    one, other, again = found
    assert said[0] == said[2] != said[1]
    assert one == again
    assert len(set(one)) == len(one) > 4
    assert not set(one) & set(other)


def test_new_weights_are_those_of_the_seed():
    vision = {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16}
    text = {"context_length": 8, "vocab_size": 49408, "width": 8, "heads": 1, "layers": 1}
    table = {"embed_dim": 8, "vision_cfg": vision, "text_cfg": text}
    config, alone = TrainSettings(architecture=table), Workers(torch.device("cpu"))
    one, same, other = (TrainingState(config, n, "fp32", alone).model for n in (0, 0, 1))
    assert torch.equal(
        one.visual.get_parameter("conv1.weight"), same.visual.get_parameter("conv1.weight")
    )
    assert not torch.equal(
        one.visual.get_parameter("conv1.weight"), other.visual.get_parameter("conv1.weight")
    )


def test_an_average_does_not_remember_the_first_weights_for_long(place):
    """Of 0.999 a training of a hundred steps would be the weights that it began with."""
    config = settings(place, optimizer={"average": 0.999, "warmup_steps": 0})
    training = TrainingState(config, 0, "fp32", Workers(torch.device("cpu")))
    weight = training.model.text_projection
    for step, kept in enumerate((1 / 10, 2 / 11)):
        assert training.average is not None
        before = training.average["model.text_projection"].clone()
        for parameter in training.objective.parameters():
            parameter.grad = torch.ones_like(parameter)
        training.take_step(10)
        expected = kept * before + (1 - kept) * weight.detach()
        found = training.average["model.text_projection"]
        torch.testing.assert_close(found, expected, msg=f"step {step}")


def test_a_chunk_is_the_most_that_a_tower_sees_and_its_blocks_keep_what_is_asked_for(
    place, tmp_path, monkeypatch
):
    seen = []
    encode_image = CLIP.encode_image

    def noted(model, image):
        seen.append((len(image), model.visual.transformer.grad_checkpointing))
        return encode_image(model, image)

    monkeypatch.setattr(CLIP, "encode_image", noted)
    config = settings(place, epochs=1, chunk=5, gradient_checkpointing=True)
    run([place / "00000.parquet"], config, tmp_path)
    assert max(seen) == (4, True)


@pytest.fixture
def _all_the_time(monkeypatch):
    monkeypatch.setattr(loop, "SAY_EVERY", 0.0)


def test_compiled_blocks_learn_the_same_and_captions_have_few_lengths(
    place, tmp_path, weights, monkeypatch
):
    """For each length a graph is compiled."""
    lengths = set()
    encode_text = CLIP.encode_text

    def noted(model, text):
        lengths.add(text.shape[1])
        return encode_text(model, text)

    compiled = partial(compile_blocks, backend="aot_eager")  # in a tenth of the time
    monkeypatch.setattr(state, "compile_blocks", compiled)
    monkeypatch.setattr(CLIP, "encode_text", noted)
    trained = run([place / "00000.parquet"], settings(place, epochs=1, compile=True), tmp_path)
    assert lengths == {TOKENS_ROUNDED_TO}
    found = torch.cat([p.detach().flatten() for p in trained.model.parameters()])
    torch.testing.assert_close(found, weights({}), atol=1e-4, rtol=1e-3)


@pytest.mark.usefixtures("_all_the_time")
def test_a_row_that_does_not_decode_is_failed_whoever_has_met_it(tmp_path):
    """Before the training was killed: who goes on does not meet it again."""
    pairs = list(images(40))
    pairs[0] = ("a broken one", b"no picture")
    write_dataset(pairs, tmp_path / "0.parquet")
    values = {"batch_size": 4, "epochs": 1, "held_out": 0, "checkpoints": {"every_steps": 1}}
    config = settings(tmp_path, **values)
    whole = run([tmp_path / "0.parquet"], config, tmp_path / "whole")
    with pytest.raises(KilledError):
        run([tmp_path / "0.parquet"], config, tmp_path / "t", notice=KilledAt(9))
    broken = run([tmp_path / "0.parquet"], config, tmp_path / "t")
    for trained in (whole, broken):
        trained.pairs.check()
        assert (trained.pairs.rows_in, trained.pairs.kept) == (40, 39)
        assert dict(trained.pairs.failed) == {"not_an_image": 1}


@pytest.mark.usefixtures("_all_the_time")
def test_who_goes_on_computes_in_the_precision_that_it_was_begun_in(place, tmp_path, weights):
    """On another machine, `auto` would be decided otherwise."""
    values = {"epochs": 1, "checkpoints": {"every_steps": 1}}
    config = settings(place, **values)
    with pytest.raises(KilledError):
        run([place / "00000.parquet"], config, tmp_path, notice=KilledAt(1))
    other = settings(place, precision="bf16", **values)
    trained = run([place / "00000.parquet"], other, tmp_path)
    found = torch.cat([p.detach().flatten() for p in trained.model.parameters()])
    assert torch.equal(found, weights({}))
