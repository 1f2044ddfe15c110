"""The rules by which weights are moved; each stands in the paper."""

import copy
import math

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.distributed import HashStore  # type: ignore[attr-defined]
from torch.distributed.checkpoint.state_dict import (
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from clip_model.config import ARCHITECTURES, ClipConfig, ModifiedResNetConfig, TextConfig
from clip_model.model import CLIP
from clip_model.objectives import OBJECTIVES
from clip_model.optimisation import (
    adam_constants,
    clamp_logit_scale,
    clip_gradients,
    hidden_matrices,
    learning_rate,
    make_optimizer,
    parameter_groups,
    set_learning_rate,
    start_average,
    update_average,
)
from tests.shards import TINY

RESNET = ClipConfig(
    embed_dim=32,
    image_resolution=32,
    vision=ModifiedResNetConfig(layers=(1, 1, 1, 1), width=8),
    text=TextConfig(width=64, layers=1, heads=1),
)


def names_of(model, parameters):
    chosen = set(map(id, parameters))
    return {name for name, p in model.named_parameters() if id(p) in chosen}


# --- groups ----------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [TINY, RESNET])
@pytest.mark.parametrize("objective", OBJECTIVES.values())
def test_every_weight_is_in_exactly_one_group(config, objective):
    """Each that is trained: an objective leaves those alone that it does not use."""
    model = objective(CLIP(config))
    trained = sorted(id(p) for p in model.parameters() if p.requires_grad)
    grouped = [p for group in parameter_groups(model, 0.2) for p in group["params"]]
    assert sorted(map(id, grouped)) == trained
    for name in ("adamw", "muon"):
        if name == "adamw" or hidden_matrices(model):
            optimizer = make_optimizer(model, adam_constants(config), 1e-3, 0.2, name)
            moved = [p for group in optimizer.param_groups for p in group["params"]]
            assert sorted(map(id, moved)) == trained


@pytest.mark.parametrize("config", [TINY, RESNET])
@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_gains_and_biases_do_not_decay_and_all_else_does(config, name):
    model = OBJECTIVES["sigmoid"](CLIP(config))
    gains = {
        f"{prefix}.weight"
        for prefix, module in model.named_modules()
        if isinstance(module, nn.LayerNorm | nn.BatchNorm2d)
    }
    expected = {
        name
        for name, _ in model.named_parameters()
        if name not in gains and not name.endswith(("bias", "logit_scale", "class_embedding"))
    }
    groups = make_optimizer(model, adam_constants(config), 1e-3, 0.2, name).param_groups
    assert {group["weight_decay"] for group in groups} == {0.0, 0.2}
    decayed = [p for group in groups if group["weight_decay"] for p in group["params"]]
    assert names_of(model, decayed) == expected
    assert {"model.token_embedding.weight", "model.positional_embedding"} < expected


def test_a_frozen_weight_is_left_alone():
    model = CLIP(TINY)
    model.visual.requires_grad_(False)
    grouped = [p for group in parameter_groups(model, 0.2) for p in group["params"]]
    assert not any(name.startswith("visual.") for name in names_of(model, grouped))
    assert len(grouped) == len([p for p in model.parameters() if p.requires_grad])


def test_adams_constants_are_the_papers_by_image_tower_unless_given():
    for name, config in ARCHITECTURES.items():
        constants = adam_constants(config)
        expected = (0.9, 0.98, 1e-6) if name.startswith("ViT") else (0.9, 0.999, 1e-8)
        assert (constants.beta1, constants.beta2, constants.eps) == expected
        optimizer = make_optimizer(nn.Linear(2, 2), constants, 1e-3, 0.2)
        assert all((*g["betas"], g["eps"]) == expected for g in optimizer.param_groups)
    assert adam_constants(RESNET, beta2=0.98, eps=1e-6) == adam_constants(TINY)
    beside_muon = make_optimizer(CLIP(TINY), adam_constants(TINY), 1e-3, 0.2, "muon").param_groups
    assert {(*g["betas"], g["eps"]) for g in beside_muon if "betas" in g} == {(0.9, 0.98, 1e-6)}


# --- Muon ------------------------------------------------------------------------------------


def test_muon_moves_the_matrices_of_the_blocks_only():
    model = CLIP(TINY)
    matrices = (
        "attn.in_proj_weight",
        "attn.out_proj.weight",
        "mlp.c_fc.weight",
        "mlp.c_proj.weight",
    )
    assert names_of(model, hidden_matrices(model)) == {
        f"{tower}transformer.resblocks.0.{matrix}"
        for tower in ("", "visual.")
        for matrix in matrices
    }


def test_muon_without_a_matrix_to_move_is_refused():
    model = OBJECTIVES["bag_of_words"](CLIP(RESNET))  # which does not use the text tower
    with pytest.raises(ValueError, match="no transformer block that is trained: take adamw"):
        make_optimizer(model, adam_constants(RESNET), 1e-3, 0.2, "muon")


def step_of(model, optimizer, seed=0):
    """One step along random gradients."""
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=generator)
    optimizer.step()
    optimizer.zero_grad()


def test_a_step_of_muon_is_about_as_long_as_one_of_adamw_and_nearly_orthogonal():
    steps: dict[str, torch.Tensor] = {}
    for name in ("adamw", "muon"):
        torch.manual_seed(0)
        model = CLIP(TINY)
        matrix = model.get_parameter("transformer.resblocks.0.mlp.c_fc.weight")
        before = matrix.detach().clone()
        step_of(model, make_optimizer(model, adam_constants(TINY), 1e-3, 0.0, name))
        steps[name] = before - matrix.detach()
    lengths = {name: step.square().mean().sqrt().item() for name, step in steps.items()}
    assert 0.15 < lengths["muon"] / lengths["adamw"] < 0.25  # AdamW's usual step, not its first
    spread = {name: torch.linalg.svdvals(step) for name, step in steps.items()}
    assert spread["muon"].max() / spread["muon"].min() < 1.8
    assert spread["adamw"].max() / spread["adamw"].min() > 2.5


def test_muon_and_adamw_save_load_and_step_as_one():
    constants = adam_constants(TINY)
    torch.manual_seed(0)
    model = CLIP(TINY)
    optimizer = make_optimizer(model, constants, 1e-3, 0.2, "muon")
    step_of(model, optimizer, 0)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    other = CLIP(TINY)
    resumed = make_optimizer(other, constants, 1e-3, 0.2, "muon")
    other.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    for one, its in ((model, optimizer), (other, resumed)):
        set_learning_rate(its, 1e-2)
        step_of(one, its, 1)
    moved = model.state_dict()
    assert all(torch.equal(value, moved[name]) for name, value in other.state_dict().items())
    assert not any(torch.equal(p, saved[0][name]) for name, p in model.named_parameters())


# --- schedule --------------------------------------------------------------------------------


def test_the_learning_rate_rises_in_a_line_and_falls_along_half_a_cosine_to_zero():
    rates = [learning_rate(step, 100, 2.0, 10) for step in range(101)]
    assert rates[:10] == pytest.approx([0.2 * n for n in range(1, 11)])
    assert rates[10] == max(rates) == 2.0
    assert rates[55] == pytest.approx(1.0)
    assert rates[100] == 0.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[10:55] == pytest.approx([2 - rate for rate in rates[100:55:-1]])


@given(st.integers(0, 50), st.integers(1, 100), st.integers(0, 120))
def test_the_learning_rate_is_at_most_its_peak_and_never_below_zero(step, steps, warmup):
    assert 0 <= learning_rate(step, steps, 1e-3, warmup) <= 1e-3


def test_a_set_learning_rate_is_that_of_every_weight():
    model = CLIP(TINY)
    for name in ("adamw", "muon"):
        optimizer = make_optimizer(model, adam_constants(TINY), 1e-3, 0.2, name)
        set_learning_rate(optimizer, 0.0)
        before = {key: value.clone() for key, value in model.state_dict().items()}
        step_of(model, optimizer)
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


# --- clipping, clamp, average ----------------------------------------------------------------


def test_gradients_are_shortened_together_and_short_ones_left():
    model = nn.Linear(3, 2)
    gradient = torch.randn(8, generator=torch.Generator().manual_seed(0))
    gradient *= 5 / gradient.norm()
    model.weight.grad, model.bias.grad = gradient[:6].view(2, 3).clone(), gradient[6:].clone()
    for longest, expected in ((10.0, gradient), (1.0, gradient / 5)):
        assert clip_gradients(model.parameters(), longest) == pytest.approx(5.0)
        left = torch.cat([model.weight.grad.flatten(), model.bias.grad])
        torch.testing.assert_close(left, expected)
    assert clip_gradients([nn.Parameter(torch.zeros(2))], 1.0) == 0.0


def test_the_temperature_is_bounded():
    model = CLIP(TINY)
    for value, expected in ((9.0, math.log(100)), (1.0, 1.0)):
        with torch.no_grad():
            model.logit_scale.fill_(value)
        clamp_logit_scale(model.logit_scale)
        assert model.logit_scale.item() == pytest.approx(expected)


def test_the_average_follows_fast_at_first_and_then_keeps_its_share():
    model = nn.BatchNorm2d(2)
    assert model.running_mean is not None
    assert model.num_batches_tracked is not None
    average = start_average(model)
    with torch.no_grad():
        model.weight.fill_(3.0)
        model.running_mean.fill_(1.0)
        model.num_batches_tracked.fill_(7)
    update_average(average, model, decay=0.99, step=0)
    assert average["weight"].tolist() == pytest.approx([1 + 2 * 0.9] * 2)
    assert average["running_mean"].tolist() == pytest.approx([0.9] * 2)
    assert average["num_batches_tracked"] == 7
    update_average(average, model, decay=0.5, step=1000)
    assert average["weight"].tolist() == pytest.approx([2.8 + 0.1] * 2)
    assert model.weight.tolist() == [3.0, 3.0], "the model is as it was"
    model.load_state_dict(average)


# --- sharded weights -------------------------------------------------------------------------


@pytest.fixture
def one_worker():
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.usefixtures("one_worker")
def test_weights_that_are_sharded_are_moved_as_whole_ones(name):
    """With FSDP2, where the temperature stays whole."""
    models = []
    for sharded in (False, True):
        torch.manual_seed(0)
        model = CLIP(TINY)
        if sharded:
            fully_shard(model, ignored_params={model.logit_scale})
        optimizer = make_optimizer(model, adam_constants(TINY), 1e-3, 0.2, name)
        average = start_average(model)
        for step in range(2):
            generator = torch.Generator().manual_seed(step)
            for p in model.parameters():
                grad = torch.randn(p.shape, generator=generator)
                p.grad = grad
                if isinstance(p, DTensor):
                    p.grad = DTensor.from_local(grad, p.device_mesh, p.placements)
            clip_gradients(model.parameters(), 1.0)
            optimizer.step()
            update_average(average, model, 0.9, step)
            state = get_optimizer_state_dict(model, optimizer)
            set_optimizer_state_dict(model, optimizer, state)
        models.append((model.state_dict(), average))
    assert isinstance(models[1][0]["token_embedding.weight"], DTensor)
    for whole, parts in zip(*models, strict=True):
        for key, value in parts.items():
            value = value.full_tensor() if isinstance(value, DTensor) else value
            torch.testing.assert_close(value, whole[key])
