"""Image towers of timm's: what open_clip has saved computes the same, is trained and goes back.

Each folder has the parts of a published architecture with random weights, small enough for a test.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import clip_model
from clip_model import (
    CLIP,
    _torchvision,  # noqa: F401
)
from clip_model.config import ClipConfig, TextConfig, TimmTowerConfig
from clip_model.flops import image_flops, text_flops
from clip_model.model import convert_weights
from clip_model.objectives import OBJECTIVES, Contrastive
from clip_model.optimisation import VIT_CONSTANTS, adam_constants, make_optimizer
from clip_model.positions import resize_positions
from clip_model.preprocess import Normalise, fold_normalisation, normalised
from pipelines.training.settings import OptimizerSettings, TrainSettings
from tests.pipelines.training.test_training import losses, run
from tests.shards import images as coloured
from tests.shards import write_dataset, write_images
from workers.base.failures import NeedsMendingError
from workers.embedding.embedder import Embedder
from workers.embedding.settings import EmbedSettings

import open_clip  # isort: skip
from timm.layers.layer_scale import LayerScale, LayerScale2d  # isort: skip

TEXT = {"context_length": 20, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1}
MOBILE = {"mean": [0.0] * 3, "std": [1.0] * 3, "interpolation": "bilinear"}
SIGLIPS = {"mean": [0.5] * 3, "std": [0.5] * 3, "resize_mode": "squash"}


def of_timm(name: str, pool: str, proj: str | None, side: int) -> dict[str, Any]:
    named = {"timm_model_name": name, "timm_pool": pool, "timm_proj": proj, "image_size": side}
    return named | {"timm_model_pretrained": False, "timm_drop": 0.0, "timm_drop_path": 0.1}


#: Vision, what the text tower has besides, preprocessing.
FAMILIES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "ConvNeXt": (of_timm("test_convnext", "", "linear", 64), {}, {}),
    "ConvNeXt-d": (of_timm("test_convnext", "", "mlp", 64), {}, {}),
    "MobileCLIP": (of_timm("fastvit_t8", "avg", None, 64), {"no_causal_mask": True}, MOBILE),
    "EVA02": (of_timm("eva02_tiny_patch14_224", "token", None, 224), {}, {}),
    "ViTamin": (of_timm("vitamin_small_224", "", "linear", 224), {}, {}),
    "SigLIP's tower": (of_timm("test_vit3", "map", "none", 160), {}, SIGLIPS),
}
EACH = pytest.mark.parametrize("family", FAMILIES)
#: Its own features are those of the joint space.
WIDTHS = {"SigLIP's tower": 96}

TOKENS = torch.zeros(3, 20, dtype=torch.long)
TOKENS[:, :4] = torch.tensor(
    [[49406, 320, 1125, 49407], [49406, 7, 49407, 0], [49406, 49407, 0, 0]]
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return cache(lambda family: saved_by_open_clip(family, tmp_path_factory.mktemp("of") / "x"))


def saved_by_open_clip(family: str, folder: Path) -> tuple[Path, Any]:
    """The folder, and open_clip's model of it. No gain is 1, no bias 0."""
    vision, text, preprocess = FAMILIES[family]
    model_cfg = {
        "embed_dim": WIDTHS.get(family, 32),
        "custom_text": family == "EVA02",
        "vision_cfg": vision,
        "text_cfg": TEXT | text,
    }
    folder.mkdir(parents=True)
    fields = {"model_cfg": model_cfg, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(fields))
    torch.manual_seed(0)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False).eval()
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(torch.rand_like(tensor) / 50)
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    return folder, model


def levels_for(model: CLIP) -> Tensor:
    side, generator = model.config.image_resolution, torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8, generator=generator)


def images_for(model: CLIP) -> Tensor:
    how = model.preprocessing
    return normalised(levels_for(model), how.mean, how.std)


def assert_near(ours: Tensor, theirs: Tensor, tolerance: float = 1e-5) -> None:
    assert ours.shape == theirs.shape
    assert (F.normalize(ours, dim=-1) - F.normalize(theirs, dim=-1)).abs().max() < tolerance


@EACH
@torch.inference_mode()
def test_features_are_open_clips(family, folders) -> None:
    folder, theirs = folders(family)
    ours, _ = clip_model.load(folder, device="cpu")
    images = images_for(ours)
    features = theirs.encode_image(images)
    assert_near(ours.encode_image(images), features)
    texts = theirs.encode_text(TOKENS)
    assert_near(ours.encode_text(TOKENS), texts)
    assert_near(ours.encode_text(TOKENS[:, :4]), texts)  # as `trim` gives them
    how, expected = theirs.visual.preprocess_cfg, ours.preprocessing
    assert (how["size"], how["mean"], how["std"]) == (
        (expected.resolution, expected.resolution),
        pytest.approx(list(expected.mean)),
        pytest.approx(list(expected.std)),
    )
    assert (how["interpolation"], how["resize_mode"] == "squash") == (
        expected.interpolation,
        expected.squash,
    )
    assert ours.encode_hidden(images).shape == (2, ours.hidden_dim)
    assert_near(ours.project_image(ours.encode_hidden(images)), features)
    # The normalisation within the network, and half precision.
    folded = fold_normalisation(ours)
    assert not any(isinstance(module, Normalise) for module in folded.visual.modules())
    assert_near(folded.encode_image(levels_for(ours)), features, 1e-4)
    convert_weights(ours, torch.bfloat16)
    half = fold_normalisation(ours).encode_image(levels_for(ours))
    assert half.dtype == torch.bfloat16
    assert F.cosine_similarity(half.float(), features).min() > 0.99
    assert F.cosine_similarity(ours.encode_text(TOKENS).float(), texts).min() > 0.99


def test_a_normalisation_that_no_convolution_takes_in_is_done_before(folders) -> None:
    folder, _ = folders("ConvNeXt")
    model, _ = clip_model.load(folder, device="cpu")
    stem = model.visual.get_submodule("trunk.stem.0")
    assert isinstance(stem, nn.Conv2d)
    stem.padding_mode = "reflect"
    folded = fold_normalisation(model)
    assert any(isinstance(module, Normalise) for module in folded.visual.modules())
    with pytest.raises(ValueError, match="already"):
        fold_normalisation(folded)
    with torch.inference_mode():
        expected = model.encode_image(images_for(model))
        assert_near(folded.encode_image(levels_for(model)), expected)


@EACH
def test_it_goes_back_to_open_clip(family, folders, tmp_path) -> None:
    folder, theirs = folders(family)
    model, _ = clip_model.load(folder, device="cpu")
    clip_model.save(model, tmp_path / "back", "open_clip")
    clip_model.save(model, tmp_path / "own.safetensors", half=False)
    assert clip_model.load(tmp_path / "own.safetensors", device="cpu")[0].config == model.config
    weights = tmp_path / "back" / "open_clip_model.safetensors"
    again = open_clip.create_model(f"local-dir:{tmp_path / 'back'}").eval()
    before = {name.removeprefix("text."): t for name, t in theirs.state_dict().items()}
    assert before.keys() == again.state_dict().keys()
    assert all(torch.equal(t, before[name]) for name, t in again.state_dict().items())
    how, then = again.visual.preprocess_cfg, theirs.visual.preprocess_cfg
    assert {k: list(v) if isinstance(v, tuple) else v for k, v in how.items()} == {
        k: list(v) if isinstance(v, tuple) else v for k, v in then.items()
    }
    save_file(load_file(weights), weights)  # without what we say in it
    assert clip_model.load(tmp_path / "back", device="cpu")[0].config == model.config
    lone = tmp_path / "lone.safetensors"
    save_file(load_file(weights), lone)
    with pytest.raises(RuntimeError, match="which one, open_clip_config.json beside"):
        clip_model.load(lone, device="cpu", quick_gelu=False)


@EACH
def test_a_step_changes_every_weight_and_only_weights_decay(family, folders) -> None:
    model, _ = clip_model.load(folders(family)[0], device="cpu")
    objective = Contrastive(model.requires_grad_()).train()
    before = {name: tensor.clone() for name, tensor in model.visual.named_parameters()}
    constants = adam_constants(model.config)
    assert constants == VIT_CONSTANTS
    optimizer = make_optimizer(objective, constants, 1e-3, 0.2)
    features = objective(images_for(model), TOKENS[:2])
    logits = F.normalize(features[0], dim=-1) @ F.normalize(features[1], dim=-1).t()
    F.cross_entropy(10 * logits, torch.arange(2)).backward()
    optimizer.step()
    still = [n for n, p in model.visual.named_parameters() if torch.equal(p, before[n])]
    assert not still
    decays = {
        id(p) for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]
    }
    for module in model.visual.modules():
        own = dict(module.named_parameters(recurse=False))
        expected = isinstance(module, nn.Linear | nn.Conv2d)
        gain = not expected and not isinstance(module, LayerScale | LayerScale2d | nn.LayerNorm)
        for name, parameter in own.items():
            if name == "weight" and expected and parameter[0].numel() > 1:
                assert id(parameter) in decays, (module, name)
            elif not gain or "bias" in name or name in ("cls_token", "reg_token", "gamma"):
                assert id(parameter) not in decays, (module, name)


def test_computed_again_in_the_backward_pass_it_is_the_same(folders) -> None:
    model, _ = clip_model.load(folders("ConvNeXt")[0], device="cpu")
    gradients = []
    for again in (False, True):
        model.set_grad_checkpointing(again)
        model.requires_grad_().zero_grad()
        model.train().encode_image(images_for(model)).square().sum().backward()
        gradients.append([p.grad.clone() for p in model.visual.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    mobile, _ = clip_model.load(folders("MobileCLIP")[0], device="cpu")
    with pytest.raises(ValueError, match="BatchNorms of fastvit_t8 each image twice"):
        mobile.set_grad_checkpointing()


def test_captions_are_predicted_by_causal_towers_alone(folders) -> None:
    model, _ = clip_model.load(folders("MobileCLIP")[0], device="cpu")
    with pytest.raises(ValueError, match="takes a causal text transformer"):
        OBJECTIVES["caption"](model)


@pytest.mark.parametrize(("family", "side"), [("ConvNeXt", 96), ("EVA02", 112)])
def test_images_of_another_size(family, side, folders, tmp_path) -> None:
    model, _ = clip_model.load(folders(family)[0], device="cpu")
    larger = resize_positions(model, side)
    assert larger.config == replace(model.config, image_resolution=side)
    assert model.encode_image(images_for(model)).shape == (2, 32)
    clip_model.save(larger, tmp_path / "own.safetensors", half=False)
    again, _ = clip_model.load(tmp_path / "own.safetensors", device="cpu")
    with torch.inference_mode():
        features = larger.encode_image(images_for(larger))
        assert torch.equal(again.encode_image(images_for(again)), features)
        if family == "ConvNeXt":
            clip_model.save(larger, tmp_path / "x", "open_clip")
            theirs = open_clip.create_model(f"local-dir:{tmp_path / 'x'}").eval()
            assert_near(features, theirs.encode_image(images_for(larger)))
            return
        # As open_clip itself does, when it is told another size.
        forced = open_clip.create_model(f"local-dir:{folders(family)[0]}", force_image_size=side)
        assert_near(features, forced.eval().encode_image(images_for(larger)))
    with pytest.raises(ValueError, match="made for, not of 112 pixels"):
        clip_model.save(larger, tmp_path / "x", "open_clip")
    with pytest.raises(ValueError, match="resolution 10: "):
        resize_positions(model, 10)


@pytest.mark.parametrize("family", ["ConvNeXt", "MobileCLIP"])
def test_its_operations_are_counted(family, folders) -> None:
    model, _ = clip_model.load(folders(family)[0], device="cpu")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.encode_image(images_for(model)[:1])
    assert image_flops(model.config) == counter.get_total_flops() > 0
    assert image_flops(model.config, 128) > 3 * image_flops(model.config)
    whole = text_flops(model.config)
    assert (text_flops(model.config, 5) == whole) == (family == "MobileCLIP")


def test_without_timm_it_is_said_what_to_install(folders, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(RuntimeError, match="pip install timm"):
        clip_model.load(folders("ConvNeXt")[0], device="cpu")


def test_formats_without_a_word_for_it_refuse_it(tmp_path) -> None:
    text = TextConfig(64, 1, 1, 20, 300, causal=False)
    model = CLIP(ClipConfig(8, 32, TimmTowerConfig("test_convnext"), text))
    for format in ("openai", "hugging_face"):
        with pytest.raises(ValueError, match="no image towers of timm's, no text towers that are"):
            clip_model.save(model, tmp_path / "x", format)
    with pytest.raises(ValueError, match="tower of timm's has no patches"):
        model.set_patch_dropout(0.5)


# --- the pipelines ------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", ["contrastive", "sigmoid", "bag_of_words", "caption"])
def test_a_training_goes_on_from_it_and_its_model_embeds(objective, folders, tmp_path) -> None:
    family = "ConvNeXt" if objective == "caption" else "MobileCLIP"
    folder, _ = folders(family)
    pairs = list(coloured(24))
    write_dataset(pairs, tmp_path / "0.parquet")
    settings = TrainSettings(
        start_from=str(folder),
        objective=objective,
        epochs=1,
        batch_size=8,
        precision="bf16" if objective == "contrastive" else "fp32",
        resolution=32 if objective == "sigmoid" else None,
        optimizer=OptimizerSettings(learning_rate=1e-4, warmup_steps=1),
        gradient_checkpointing=False,
    )
    trained = run([tmp_path / "0.parquet"], settings, tmp_path / "t")
    assert losses(trained)
    before, _ = clip_model.load(folder, device="cpu")
    if objective != "sigmoid":
        assert trained.model.config == before.config
    moved = zip(trained.model.visual.parameters(), before.visual.parameters(), strict=True)
    assert not any(torch.equal(a, b) for a, b in moved)
    if objective != "contrastive":
        return
    clip_model.save(trained.model, tmp_path / "trained", "open_clip")
    write_images(pairs, tmp_path / "images.parquet")
    embedder = Embedder(EmbedSettings(model=str(tmp_path / "trained"), precision="fp32"))
    tally = embedder.embed_shard(tmp_path / "images.parquet", tmp_path / "e.parquet")["images"]
    assert tally.kept == len(pairs)
    again = settings.model_copy(update={"gradient_checkpointing": True})
    with pytest.raises(NeedsMendingError, match="BatchNorms"):
        run([tmp_path / "0.parquet"], again, tmp_path / "again")
