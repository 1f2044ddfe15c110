"""The same weights give the same features in openai-clip, open_clip, transformers and here.

All nine architectures, in float32: random weights copied from here into each of the others, and
from there back again. Names and shapes are compared at full depth, features where at most three
blocks follow each other: the rest are the same. One architecture is in memory at a time, models are
built without memory and share the tensors that they are given.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.baselines import open_clip_model, openai_model, openai_module, transformers_model
from clip_model import ARCHITECTURES, CLIP, ClipConfig, tokenize
from clip_model.config import ModifiedResNetConfig, TextConfig, VisionTransformerConfig
from clip_model.model import convert_weights

TOLERANCE = 1e-5  # of the largest feature
CAPTIONS = ["a diagram", "two dogs and a cat, photographed in 1999", ""]
MOST_BLOCKS = 3
#: What the others keep beside weights.
NUMBERS = {"attn_mask", "input_resolution", "context_length", "vocab_size"}
VITS = [name for name in ARCHITECTURES if name.startswith("ViT")]

Tensors = Mapping[str, Tensor]

# Where transformers' names differ from OpenAI's.
BLOCK_PARTS = {
    "attn.out_proj": "self_attn.out_proj",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
OTHER_NAMES = {
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final": "text_model.final_layer_norm",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1": "vision_model.embeddings.patch_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.ln_pre": "vision_model.pre_layrnorm",
    "visual.ln_post": "vision_model.post_layernorm",
}


def random_weights(shapes: Tensors, seed: int) -> dict[str, Tensor]:
    """Values for tensors on the meta device, such that no layer's output vanishes or explodes."""
    generator = torch.Generator().manual_seed(seed)
    return {name: _random(name, like, generator) for name, like in shapes.items()}


def _random(name: str, like: Tensor, generator: torch.Generator) -> Tensor:
    values = torch.empty(like.shape, dtype=like.dtype)
    if not like.is_floating_point():
        return values.fill_(7)  # batches that a norm has seen
    if "logit_scale" in name:
        return values.fill_(2.5)
    if like.ndim >= 2:
        bound = (3 * like.shape[0] / like.numel()) ** 0.5
        return values.uniform_(-bound, bound, generator=generator)
    if name.endswith("running_var"):
        return values.uniform_(0.5, 1.5, generator=generator)
    is_gain = name.endswith("weight")
    values.uniform_(-0.2, 0.2, generator=generator)
    return values + (0.3 if name.endswith("bn3.weight") else 1.0) if is_gain else values


def with_weights(
    build: Callable[[ClipConfig], nn.Module], config: ClipConfig, weights: Tensors
) -> Any:
    """A model that shares the tensors given; names and shapes must be its own."""
    with torch.device("meta"):
        model: Any = build(config).eval()
    model.load_state_dict(weights, assign=True)
    length = config.text.context_length
    mask = torch.full((length, length), -torch.inf).triu(1)
    for module in model.modules():  # what the others keep beside their weights
        if isinstance(getattr(module, "attn_mask", None), Tensor):
            module.attn_mask = mask
        if isinstance(getattr(module, "position_ids", None), Tensor):
            module.position_ids = torch.arange(module.position_ids.shape[-1])[None]
    return model


def image_features(model: Any, config: ClipConfig) -> Tensor:
    """Of one image, as any of the four models gives them."""
    shape = (1, 3, config.image_resolution, config.image_resolution)
    image = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        if hasattr(model, "get_image_features"):
            return model.get_image_features(image).pooler_output
        return model.encode_image(image)


def text_features(model: Any) -> Tensor:
    text = tokenize(CAPTIONS).long()
    with torch.inference_mode():
        if hasattr(model, "get_text_features"):
            return model.get_text_features(text).pooler_output
        return model.encode_text(text)


def features(model: Any, config: ClipConfig) -> tuple[Tensor, Tensor]:
    return image_features(model, config), text_features(model)


def assert_same(ours: Iterable[Tensor], theirs: Iterable[Tensor]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert other.std() > 0.1 * other.abs().mean() > 1e-4  # features that say something
        assert (one - other).abs().max() < TOLERANCE * other.abs().max()


def to_transformers(weights: Tensors) -> dict[str, Tensor]:
    """OpenAI's layout to transformers', written down independently of `clip_model`'s."""
    converted: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if name in ("text_projection", "visual.proj"):
            kind = "text" if name == "text_projection" else "visual"
            converted[f"{kind}_projection.weight"] = tensor.t()
        elif "attn.in_proj" in name:
            parts = zip("qkv", tensor.chunk(3), strict=True)
            for letter, part in parts:
                renamed = name.replace("attn.in_proj_", f"self_attn.{letter}_proj.")
                converted[_renamed(renamed)] = part
        else:
            converted[_renamed(name)] = tensor
    return converted


def _renamed(name: str) -> str:
    block = re.fullmatch(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+)", name)
    if block is None:
        return _replaced(name, OTHER_NAMES)
    tower = "vision" if block[1] else "text"
    return f"{tower}_model.encoder.layers.{block[2]}.{_replaced(block[3], BLOCK_PARTS)}"


def _replaced(name: str, names: Mapping[str, str]) -> str:
    for ours, theirs in names.items():
        if name == ours or name.startswith(f"{ours}."):
            return theirs + name.removeprefix(ours)
    return name


def from_transformers(theirs: Tensors, names: Iterable[str]) -> dict[str, Tensor]:
    """Transformers' layout to OpenAI's: what `to_transformers` would have been given."""
    weights: dict[str, Tensor] = {}
    for name in names:
        if name in ("text_projection", "visual.proj"):
            kind = "text" if name == "text_projection" else "visual"
            weights[name] = theirs[f"{kind}_projection.weight"].t()
        elif "attn.in_proj" in name:
            parts = [
                theirs[_renamed(name.replace("attn.in_proj_", f"self_attn.{letter}_proj."))]
                for letter in "qkv"
            ]
            weights[name] = torch.cat(parts)
        else:
            weights[name] = theirs[_renamed(name)]
    return weights


def shapes_of(build: Callable[[ClipConfig], nn.Module], config: ClipConfig) -> Tensors:
    with torch.device("meta"):
        return build(config).state_dict()


def shallow(config: ClipConfig) -> ClipConfig:
    """The same widths, fewer blocks."""
    vision, text = config.vision, config.text
    if isinstance(vision, VisionTransformerConfig):
        vision = replace(vision, layers=min(vision.layers, MOST_BLOCKS))
    elif isinstance(vision, ModifiedResNetConfig):
        one, two, three, four = (min(blocks, MOST_BLOCKS) for blocks in vision.layers)
        vision = replace(vision, layers=(one, two, three, four))
    return replace(config, vision=vision, text=replace(text, layers=min(text.layers, MOST_BLOCKS)))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_same_names_and_shapes(name: str) -> None:
    config = ARCHITECTURES[name]
    ours = {key: tensor.shape for key, tensor in shapes_of(CLIP, config).items()}
    for build in (openai_model, open_clip_model):
        theirs = shapes_of(build, config)
        assert {key: theirs[key].shape for key in ours} == ours
        assert {key for key in theirs if key not in ours} <= NUMBERS


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_same_weights_same_features(name: str) -> None:
    """There and back: what is copied back is bit-equal, so the features are compared once."""
    config = shallow(ARCHITECTURES[name])
    weights = random_weights(shapes_of(CLIP, config), seed=2)
    ours = features(with_weights(CLIP, config, weights), config)
    for build in (openai_model, open_clip_model):
        theirs = with_weights(build, config, weights)
        assert_same(ours, features(theirs, config))
        assert_copied_back(theirs.state_dict(), config, weights)
    if name in VITS:
        theirs = with_weights(transformers_model, config, to_transformers(weights))
        assert_same(ours, features(theirs, config))
        assert_copied_back(from_transformers(theirs.state_dict(), weights), config, weights)


def assert_copied_back(theirs: Tensors, config: ClipConfig, weights: Tensors) -> None:
    """A model of ours takes their tensors, by name and shape, and then has what it had."""
    model: CLIP = with_weights(CLIP, config, theirs)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, weights[name]), name


@pytest.mark.parametrize("quick_gelu", [True, False])
def test_both_activations(quick_gelu: bool) -> None:
    config = ClipConfig(
        32, 32, VisionTransformerConfig(2, 64, 8), TextConfig(64, 2, 1), quick_gelu=quick_gelu
    )
    weights = random_weights(shapes_of(CLIP, config), seed=4)
    ours = features(with_weights(CLIP, config, weights), config)
    assert_same(ours, features(with_weights(open_clip_model, config, weights), config))
    theirs = with_weights(transformers_model, config, to_transformers(weights))
    assert_same(ours, features(theirs, config))


@pytest.mark.parametrize("name", ["ViT-B/32", "RN50"])
def test_half_precision_is_where_openai_has_it(name: str) -> None:
    with torch.device("meta"):
        ours, theirs = CLIP(ARCHITECTURES[name]), openai_model(ARCHITECTURES[name])
    convert_weights(ours)
    openai_module("model").convert_weights(theirs)
    expected = {key: tensor.dtype for key, tensor in theirs.state_dict().items()}
    assert {key: tensor.dtype for key, tensor in ours.state_dict().items()} == expected
