"""Locked towers: which weights are kept, what is remembered for them, and how the rest learns."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from clip_model import CLIP, ClipConfig
from clip_model.config import TimmTowerConfig
from clip_model.loss import contrastive_loss
from tests.pipelines.training.workers_at_work import CONFIG, LOCKED, RESNET, batch

PARTS = pytest.mark.parametrize("part", ["image", "image_trunk", "text"])
CONFIGS = {
    "ViT": CONFIG,
    "ResNet": RESNET,
    "bag of words": replace(CONFIG, text=replace(CONFIG.text, kind="cbow")),
}
#: Of towers of timm's, which weights project.
PROJECTIONS = {
    ("test_convnext", "", "mlp"): r"head\.mlp\..*",
    ("test_efficientnet", "", "linear"): r"head\.proj\..*",
    ("fastvit_t8", "avg", ""): r"trunk\.head\.fc\..*",
    ("deit_tiny_distilled_patch16_224", "token", ""): r"trunk\.head(_dist)?\..*",
}


def of_timm(name: str, pool: str, proj: Any, side: int = 224) -> ClipConfig:
    return replace(CONFIG, image_resolution=side, vision=TimmTowerConfig(name, pool, proj))


def made(config: ClipConfig) -> CLIP:
    torch.manual_seed(0)
    model = CLIP(config).double().train()
    for name, weight in model.named_parameters():
        if name.endswith("bn3.weight"):  # which start at 0, and let no gradient into the block
            nn.init.ones_(weight)
    return model


def learn(model: CLIP) -> dict[str, torch.Tensor]:
    """The gradients of a step."""
    images, tokens = batch()
    images = images[:, :, : model.config.image_resolution]
    features = model.encode_image(images), model.encode_text(tokens)
    contrastive_loss(*features, model.logit_scale).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@PARTS
@pytest.mark.parametrize("name", CONFIGS)
def test_the_rest_learns_what_it_would_and_what_is_locked_nothing(name, part):
    free, model = made(CONFIGS[name]), made(CONFIGS[name])
    model.lock_part(part)
    if part != "text":
        free.visual.eval()  # where BatchNorms are
    expected = {
        name: gradient
        for name, gradient in learn(free).items()
        if not re.fullmatch(LOCKED[part], f"model.{name}")
    }
    assert 0 < len(expected) < len(list(free.parameters()))
    assert "logit_scale" in expected
    torch.testing.assert_close(learn(model), expected, rtol=1e-9, atol=1e-12)
    assert all(p.requires_grad == (p.grad is not None) for p in model.parameters())
    torch.testing.assert_close(dict(model.named_buffers()), dict(free.named_buffers()))


def remembered(compute: Callable[[], object]) -> int:
    """How many tensors autograd keeps for a backward pass."""
    kept: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        compute()
    return len(kept)


@PARTS
@pytest.mark.parametrize("checkpointed", [False, True])
def test_nothing_is_remembered_below_the_first_weight_that_is_trained(part, checkpointed):
    model, (images, tokens) = made(RESNET), batch()
    model.lock_part(part)
    model.set_grad_checkpointing(checkpointed)
    of_image = remembered(lambda: model.encode_image(images))
    of_text = remembered(lambda: model.encode_text(tokens))
    pool = model.visual.get_submodule("attnpool")
    of_pool = remembered(lambda: pool(torch.zeros(len(images), 256, 1, 1).double()))
    assert (of_image > 0, of_text > 0) == (part != "image", part != "text")
    assert (of_image == of_pool) is (part != "text")


@PARTS
def test_what_is_locked_stays_in_eval_mode_after_it_has_been_judged(part):
    model = made(RESNET)
    model.lock_part(part)
    for _ in range(2):
        norms = [one for one in model.modules() if isinstance(one, nn.BatchNorm2d)]
        assert norms
        assert {one.training for one in norms} == {part == "text"}
        assert model.visual.get_submodule("attnpool.c_proj").training is (part != "image")
        assert model.transformer.training is (part != "text")
        assert model.training
        before = {name: value.clone() for name, value in model.named_buffers()}
        learn(model)
        same = [torch.equal(value, before[name]) for name, value in model.named_buffers()]
        assert all(same) is (part != "text")
        model.eval()
        assert not any(one.training for one in model.modules())
        model.train()


@pytest.mark.parametrize("tower", PROJECTIONS)
def test_a_tower_of_timms_trains_its_projection(tower):
    with torch.device("meta"):
        model = CLIP(of_timm(*tower))
    model.lock_part("image_trunk")
    trained = {name for name, weight in model.visual.named_parameters() if weight.requires_grad}
    names = [name for name, _ in model.visual.named_parameters()]
    assert trained == {name for name in names if re.fullmatch(PROJECTIONS[tower], name)} != set()
    training = [name for name, module in model.visual.named_modules() if module.training]
    assert training
    assert all(name.startswith(model.visual.projection_names) for name in training)


def test_a_locked_tower_of_timms_need_not_compute_again_what_its_norms_forbid():
    with torch.device("meta"):
        model = CLIP(of_timm("test_efficientnet", "", "linear", 64))
    with pytest.raises(ValueError, match="would teach the BatchNorms"):
        model.set_grad_checkpointing()
    model.lock_part("image_trunk")
    model.set_grad_checkpointing()
    assert model.transformer.grad_checkpointing


def test_a_projection_that_is_not_there_is_not_trained():
    with torch.device("meta"):
        model = CLIP(replace(of_timm("test_vit3", "map", "none", 160), embed_dim=96))
    with pytest.raises(ValueError, match="no projection into the joint space to train; lock image"):
        model.lock_part("image_trunk")
    assert all(weight.requires_grad for weight in model.parameters())
    assert model.train().visual.training
