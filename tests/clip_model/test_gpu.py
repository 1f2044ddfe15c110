"""Towers and losses on a GPU: in every type, compiled or not, against the CPU's in float32."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import clip_model
from clip_model import CLIP, contrastive_loss, sigmoid_loss, tokenize
from clip_model.model import convert_weights
from tests.clip_model.test_towers import CAPTIONS, RESNET, VIT, built
from tests.processors import needs_gpu

pytestmark = needs_gpu

#: How far unit vectors may be from those of float32 on a CPU, as a length.
LENGTHS = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}

EVERY_TOWER = pytest.mark.parametrize("config", [VIT, RESNET], ids=["vit", "resnet"])
EVERY_TYPE = pytest.mark.parametrize("dtype", list(LENGTHS), ids=str)


def features(model: CLIP, compiled: bool = False) -> tuple[Tensor, Tensor]:
    """Unit vectors of some images and captions, in float32 on the CPU."""
    device, size = model.logit_scale.device, model.config.image_resolution
    images = torch.randn(5, 3, size, size, generator=torch.Generator().manual_seed(1))
    encode = [model.encode_image, model.encode_text]
    if compiled:
        encode = [torch.compile(one, dynamic=False) for one in encode]
    with torch.inference_mode():
        found = [encode[0](images.to(device)), encode[1](tokenize(CAPTIONS).to(device))]
    image, text = (F.normalize(one.float().cpu(), dim=-1) for one in found)
    return image, text


@EVERY_TOWER
@EVERY_TYPE
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_features_are_those_of_the_cpu(config, dtype, compiled) -> None:
    model = built(config).eval()
    expected = features(model)
    model = model.cuda()
    if dtype != torch.float32:
        convert_weights(model, dtype)
    for ours, theirs in zip(features(model, compiled), expected, strict=True):
        assert (ours - theirs).norm(dim=-1).max() < LENGTHS[dtype]


def test_a_checkpoint_is_loaded_in_half_precision_as_openais_is(tmp_path) -> None:
    clip_model.save(built(VIT).eval(), tmp_path / "model.safetensors", half=False)
    model, _ = clip_model.load(tmp_path / "model.safetensors")
    assert model.logit_scale.is_cuda
    assert model.visual.dtype == torch.float16
    full, _ = clip_model.load(tmp_path / "model.safetensors", half=False)
    assert full.visual.dtype == torch.float32


@pytest.mark.parametrize(("loss", "scalars"), [(contrastive_loss, 1), (sigmoid_loss, 2)])
@pytest.mark.parametrize("block", [7, 64])
def test_losses_and_gradients_are_those_of_the_cpu(loss, scalars, block) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = [
        *torch.randn(2, 50, 16, generator=generator, dtype=torch.float64),
        *torch.tensor([math.log(8.0), -3.0], dtype=torch.float64)[:scalars],
    ]
    found = []
    for device in ("cpu", "cuda"):
        leaves = [one.to(device).detach().requires_grad_() for one in inputs]
        value = loss(*leaves, block=block)
        found.append([value.detach(), *torch.autograd.grad(value, leaves)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(theirs.cpu(), ours, rtol=1e-10, atol=1e-12)


def test_a_loss_under_autocast_is_computed_in_float32() -> None:
    images, texts = torch.randn(2, 50, 16, generator=torch.Generator().manual_seed(0)).cuda()
    scale = torch.tensor(math.log(100.0)).cuda()
    with torch.autocast("cuda", torch.bfloat16):
        ours = contrastive_loss(images, texts, scale)
    torch.testing.assert_close(ours, contrastive_loss(images, texts, scale), rtol=0, atol=0)
