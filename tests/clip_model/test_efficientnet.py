"""The EfficientNet tower: two ways into the joint space, and all that every tower can do.

That it is EfficientNet-Lite0 is shown where the starter's trunk is read (tests/examples).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import clip_model
from clip_model.config import ClipConfig, EfficientNetConfig, TextConfig
from clip_model.efficientnet import EfficientNet
from clip_model.flops import image_flops
from clip_model.image_towers import counted_flops
from clip_model.model import CLIP, convert_weights
from clip_model.positions import resize_positions
from clip_model.preprocess import fold_normalisation, normalised

CONFIG = ClipConfig(
    32, 64, EfficientNetConfig(7), TextConfig(32, 1, 1), mean=(0.5, 0.4, 0.6), std=(0.5, 0.2, 0.3)
)


@pytest.fixture(scope="module")
def model() -> CLIP:
    torch.manual_seed(0)
    return CLIP(CONFIG).eval()


def levels(side: int = 64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (3, 3, side, side), generator=generator, dtype=torch.uint8)


def images(side: int = 64) -> torch.Tensor:
    return normalised(levels(side), CONFIG.mean, CONFIG.std)


def tower(model: CLIP) -> EfficientNet:
    assert isinstance(model.visual, EfficientNet)
    return model.visual


@torch.no_grad()
def test_features_are_the_sum_of_both_ways(model: CLIP) -> None:
    visual = tower(model)
    hidden = model.encode_hidden(images())
    assert hidden.shape == (3, model.hidden_dim)
    likely = torch.zeros(7)
    likely[2] = 1.0
    certain = visual.classifier.bias + 1e4 * (likely - 1)
    bias = visual.classifier.bias.clone()
    visual.classifier.bias.copy_(certain)
    features = model.project_image(hidden)
    visual.classifier.bias.copy_(bias)
    # An image that is surely of a class lies at that class's features, and where the maps say.
    torch.testing.assert_close(features, visual.class_features[2] + visual.linear(hidden))
    torch.testing.assert_close(model.encode_image(images()), model.project_image(hidden))


@torch.no_grad()
def test_levels_give_the_same_features_when_the_normalisation_is_folded(model: CLIP) -> None:
    folded = fold_normalisation(model)
    torch.testing.assert_close(folded.encode_image(levels()), model.encode_image(images()))
    with pytest.raises(ValueError, match="folded into this model already"):
        fold_normalisation(folded)


@torch.no_grad()
def test_in_bfloat16_the_trunk_is_and_the_features_point_the_same_way(
    model: CLIP, tmp_path: Path
) -> None:
    clip_model.save(model, tmp_path / "model.safetensors", half=False)
    half, _ = clip_model.load(tmp_path / "model.safetensors", device="cpu")
    convert_weights(half, torch.bfloat16)
    features = fold_normalisation(half).encode_image(levels())
    assert (half.dtype, features.dtype) == (torch.bfloat16, torch.float32)
    assert all(p.dtype == torch.float32 for p in tower(half).linear.parameters())
    cosines = torch.cosine_similarity(features.float(), model.encode_image(images()))
    assert (cosines > 0.99).all()


def test_a_file_gives_back_the_model_and_other_formats_refuse_it(
    model: CLIP, tmp_path: Path
) -> None:
    clip_model.save(model, tmp_path / "model.safetensors", half=False)
    loaded, preprocess = clip_model.load(tmp_path / "model.safetensors", device="cpu")
    assert loaded.config == CONFIG == ClipConfig.from_dict(CONFIG.to_dict())
    assert preprocess is not None
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    for format in ("openai", "open_clip", "hugging_face"):
        with pytest.raises(ValueError, match="no EfficientNets"):
            clip_model.save(model, tmp_path / "other", format)


@pytest.mark.parametrize("resolution", [32, 64, 100])
def test_flops_are_those_that_pytorch_counts(resolution: int) -> None:
    config = replace(CONFIG, image_resolution=resolution)
    counted = counted_flops(fold_normalisation(CLIP(config)))
    assert image_flops(CONFIG, resolution) == counted


@torch.no_grad()
def test_it_takes_images_of_any_size(model: CLIP) -> None:
    larger = resize_positions(model, 100)
    assert larger.config.image_resolution == 100
    torch.testing.assert_close(larger.encode_image(images(100)), model.encode_image(images(100)))


def test_checkpointed_gradients_are_the_same(model: CLIP) -> None:
    def gradients() -> list[torch.Tensor]:
        model.zero_grad()
        model.encode_image(images()).square().sum().backward()
        return [p.grad.clone() for p in tower(model).parameters() if p.grad is not None]

    plain = gradients()
    model.set_grad_checkpointing()
    again = gradients()
    model.set_grad_checkpointing(False)
    assert len(plain) == len(list(tower(model).parameters()))
    for one, other in zip(plain, again, strict=True):
        torch.testing.assert_close(one, other)


def test_its_trunk_can_be_locked() -> None:
    model = CLIP(CONFIG)
    model.lock_part("image_trunk")
    trained = {name for name, p in model.visual.named_parameters() if p.requires_grad}
    assert trained == {"classifier.weight", "classifier.bias", "class_features"} | {
        "linear.weight",
        "linear.bias",
    }


@pytest.mark.parametrize("classes", [0, -1, True, 1.5])
def test_classes_are_a_count(classes: int) -> None:
    with pytest.raises(ValueError, match="the classifier's classes"):
        EfficientNetConfig(classes)


def test_it_has_no_patches_to_leave_out() -> None:
    with pytest.raises(ValueError, match="an EfficientNet has no patches"):
        CLIP(CONFIG).set_patch_dropout(0.5)
