"""A batch in two passes: gradients, statistics and random state as with every graph kept."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import nn

from clip_model import CLIP, ClipConfig
from clip_model.config import ModifiedResNetConfig, TextConfig
from clip_model.distillation import Distilled
from clip_model.locking import Locked
from clip_model.loss import OnePart
from clip_model.objectives import Contrastive, Objective, PredictWords, Sigmoid
from pipelines.training.accumulation import backward
from pipelines.training.parallel import Workers
from tests.pipelines.training.workers_at_work import CONFIG, ROWS, batch, teacher

ALONE = Workers(torch.device("cpu"))
CHUNK = 4
RESNET = ClipConfig(
    embed_dim=16,
    image_resolution=32,
    vision=ModifiedResNetConfig(layers=(1, 1, 1, 1), width=8),
    text=TextConfig(width=32, layers=1, heads=2, context_length=9, vocab_size=101),
)


def make(kind: type[Objective], config: ClipConfig = CONFIG, checkpointed: bool = False):
    torch.manual_seed(0)
    model = CLIP(config)
    for name, parameter in model.named_parameters():
        if name.endswith("bn3.weight"):  # which start at 0, and let no gradient into the block
            nn.init.ones_(parameter)
    model.set_grad_checkpointing(checkpointed)
    return kind(model).double().train()


def with_patch_dropout(kind: type[Objective]):
    objective = make(kind)
    objective.model.visual.patch_dropout = 0.5
    return objective


def with_lock(part: Locked, config: ClipConfig = RESNET, checkpointed: bool = False):
    objective = make(Contrastive, config, checkpointed)
    objective.model.lock_part(part)
    return objective


MODELS = {
    "contrastive": lambda: make(Contrastive),
    "sigmoid": lambda: make(Sigmoid),
    "patch dropout": lambda: with_patch_dropout(Contrastive),
    "BatchNorm": lambda: make(Contrastive, RESNET),
    "BatchNorm, checkpointed": lambda: make(Contrastive, RESNET, checkpointed=True),
    "locked": lambda: with_lock("image"),
    "locked trunk": lambda: with_lock("image_trunk", checkpointed=True),
    "locked text": lambda: with_lock("text"),
    "separable": lambda: make(PredictWords, RESNET),
}


def everything(objective: Objective, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    """What a step has brought about."""
    gradients = {
        f"gradient of {name}": parameter.grad
        for name, parameter in objective.named_parameters()
        if parameter.grad is not None
    }
    return gradients | dict(objective.named_buffers()) | {"loss": loss, "next": torch.rand(3)}


@pytest.mark.parametrize("name", MODELS)
def test_two_passes_are_as_good_as_one(name):
    """Compared with the chunks' features side by side, all their graphs kept."""
    objective = MODELS[name]()
    torch.manual_seed(1)
    pieces = [objective(*chunk) for chunk in zip(*(x.split(CHUNK) for x in batch()), strict=True)]
    features = tuple(torch.cat(kind) for kind in zip(*pieces, strict=True))
    loss = objective.loss(features, OnePart(ROWS))
    loss.backward()
    expected = everything(objective, loss.detach())

    objective = MODELS[name]()
    torch.manual_seed(1)
    loss = backward(ALONE.wrap(objective), batch(), OnePart(ROWS), CHUNK)
    found = everything(objective, loss)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("part", ["image", "image_trunk", "text"])
@pytest.mark.parametrize("kind", [Contrastive, Sigmoid, lambda model: Distilled(model, 1.0, 0.1)])
def test_a_locked_tower_sees_each_chunk_once(kind, part, monkeypatch):
    objective = make(kind)
    objective.model.lock_part(part)
    seen = Counter[str]()
    for name in ("encode_image", "encode_text"):
        encode = getattr(objective.model, name)

        def noted(rows, name=name, encode=encode):
            seen[name] += 1
            return encode(rows)

        monkeypatch.setattr(objective.model, name, noted)
    inputs = batch() + (teacher() if isinstance(objective, Distilled) else ())
    backward(ALONE.wrap(objective), inputs, OnePart(ROWS), CHUNK)
    chunks = ROWS // CHUNK
    twice = {"encode_image": part != "image", "encode_text": part != "text"}
    assert seen == {name: chunks * (1 + again) for name, again in twice.items()}


def test_a_chunk_as_large_as_the_batch_is_one_pass():
    objectives = [make(Contrastive) for _ in range(2)]
    losses = [
        backward(ALONE.wrap(objective), batch(), OnePart(ROWS), chunk)
        for objective, chunk in zip(objectives, (None, ROWS), strict=True)
    ]
    assert torch.equal(*losses)
    for one, other in zip(*(objective.parameters() for objective in objectives), strict=True):
        assert torch.equal(one.grad, other.grad)


def test_features_are_computed_in_half_precision_and_the_loss_in_full():
    torch.manual_seed(0)
    objective = Contrastive(CLIP(CONFIG))
    parallel = ALONE.wrap(objective, autocast=torch.bfloat16)
    inputs = batch(dtype=torch.float32)
    assert {one.dtype for one in parallel(*inputs)} == {torch.bfloat16}
    loss = backward(parallel, inputs, OnePart(ROWS), CHUNK)
    assert loss.dtype == torch.float32
    with torch.no_grad():
        exact = objective.loss(objective(*inputs), OnePart(ROWS))
    assert loss.item() == pytest.approx(exact.item(), abs=0.05)
