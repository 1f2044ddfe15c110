"""CLIP as Hugging Face's transformers stores it: a folder with `config.json` and safetensors.

Its tensors have other names, queries, keys and values apart, and projections transposed. There
are Vision Transformers only. Names and defaults: `modeling_clip.py`, `configuration_clip.py` of
transformers 5.23.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clip_model.architecture import infer_config
from clip_model.config import MEAN, STD, ClipConfig, VisionTransformerConfig
from clip_model.hugging_face_keys import (
    IMAGE_HEADS,
    LAYER_NORM_EPS,
    TEXT_HEADS,
    check_config,
    check_processors,
)
from clip_model.json_file import read_json, read_section, write_json
from clip_model.model_files import HUGGING_FACE_CONFIG, HUGGING_FACE_WEIGHTS, shard_paths
from clip_model.state_dict import clip_tensors, shown
from clip_model.tensor_files import read_tensor_file, write_safetensors

QUICK_GELU = {"quick_gelu": True, "gelu": False}  # `hidden_act`, and its default:
DEFAULT_ACTIVATION = "quick_gelu"

# OpenAI's names and Hugging Face's.
NAMES = {
    "logit_scale": "logit_scale",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",  # transformers' own spelling
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
}
TRANSPOSED = {
    "text_projection": "text_projection.weight",
    "visual.proj": "visual_projection.weight",
}
BLOCKS = {
    "transformer.resblocks.": "text_model.encoder.layers.",
    "visual.transformer.resblocks.": "vision_model.encoder.layers.",
}
PARTS = {
    "attn.out_proj": "self_attn.out_proj",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
QKV = ("q", "k", "v")

BLOCK = re.compile(r"((?:visual\.)?transformer\.resblocks\.)(\d+)\.(.+)")
THEIR_BLOCK = re.compile(r"((?:text|vision)_model\.encoder\.layers\.)(\d+)\.(.+)")


def has_hugging_face_names(tensors: Mapping[str, Tensor]) -> bool:
    """Whether a table's names are those of transformers' CLIPModel."""
    return any(name.startswith("text_model.") for name in tensors)


def read_shards(index: Path) -> dict[str, Tensor]:
    """The tensors of all files that an index names. Raises RuntimeError as `shard_paths`."""
    tensors: dict[str, Tensor] = {}
    for path in shard_paths(index):
        tensors |= read_tensor_file(path).tensors
    return clip_tensors(tensors)


def from_hugging_face(
    theirs: Mapping[str, Tensor], config_path: Path, quick_gelu: bool | None
) -> tuple[dict[str, Tensor], ClipConfig]:
    """Tensors under OpenAI's names, and the architecture that the configuration describes.

    Args:
        quick_gelu: instead of what the configuration says.

    Raises:
        RuntimeError: there is no configuration, or it asks for what this CLIP cannot compute.
    """
    if not config_path.is_file():
        raise RuntimeError(f"{config_path} is missing: the tensors do not say which activation")
    fields = read_json(config_path)
    model_type = fields.get("model_type", "clip")
    if model_type != "clip":
        raise RuntimeError(f"{config_path}: a model of type {shown([model_type])}, not 'clip'")
    text, vision = _section(fields, "text_config"), _section(fields, "vision_config")
    if quick_gelu is None:
        quick_gelu = _activation(text, vision, config_path)
    tensors = _our_tensors(theirs)
    heads = [
        part.get("num_attention_heads", default)
        for part, default in ((text, TEXT_HEADS), (vision, IMAGE_HEADS))
    ]
    config = infer_config(tensors, quick_gelu, *heads)
    check_config(fields, text, vision, config, str(config_path))
    check_processors(config_path.parent, config.image_resolution)
    return tensors, config


def write_hugging_face(tensors: Mapping[str, Tensor], config: ClipConfig, folder: Path) -> None:
    """Write the folder that `CLIPModel.from_pretrained` takes: weights, then configurations.

    Raises:
        ValueError: the image tower is a ResNet, which transformers does not have.
    """
    if not isinstance(config.vision, VisionTransformerConfig):
        raise ValueError("transformers has no CLIP with a ResNet; use another format")
    write_safetensors(_their_tensors(tensors), folder / HUGGING_FACE_WEIGHTS, {"format": "pt"})
    write_json(_their_config(config, config.vision), folder / HUGGING_FACE_CONFIG)
    write_json(_preprocessing(config.image_resolution), folder / "preprocessor_config.json")


def _section(fields: dict[str, Any], name: str) -> dict[str, Any]:
    # Files of early versions have both, and transformers lets the one with `_dict` win.
    return read_section(fields, f"{name}_dict") or read_section(fields, name)


def _activation(text: dict[str, Any], vision: dict[str, Any], config_path: Path) -> bool:
    both = [section.get("hidden_act", DEFAULT_ACTIVATION) for section in (text, vision)]
    if both[0] != both[1] or not isinstance(both[0], str) or both[0] not in QUICK_GELU:
        raise RuntimeError(
            f"{config_path}: hidden_act must be 'quick_gelu' or 'gelu' in both towers, "
            f"but is {shown(both)}"
        )
    return QUICK_GELU[both[0]]


def _our_tensors(theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    names = {their: our for our, their in NAMES.items()}
    transposed = {their: our for our, their in TRANSPOSED.items()}
    ours: dict[str, Tensor] = {}
    for name, tensor in theirs.items():
        if name in names:
            ours[names[name]] = tensor
        elif name in transposed:
            ours[transposed[name]] = tensor.t().contiguous()
        elif match := THEIR_BLOCK.fullmatch(name):
            ours |= _our_block_tensor(theirs, *match.groups())
        elif not name.endswith("position_ids"):  # 0, 1, 2, ...: old files have them
            raise RuntimeError(f"{name!r} is no part of a Hugging Face CLIP")
    return ours


def _our_block_tensor(
    theirs: Mapping[str, Tensor], prefix: str, number: str, name: str
) -> dict[str, Tensor]:
    our_prefix = {their: our for our, their in BLOCKS.items()}[prefix] + f"{number}."
    part, _, kind = name.rpartition(".")
    our_parts = {their: our for our, their in PARTS.items()}
    if part in our_parts:
        return {f"{our_prefix}{our_parts[part]}.{kind}": theirs[f"{prefix}{number}.{name}"]}
    if part not in {f"self_attn.{letter}_proj" for letter in QKV}:
        raise RuntimeError(f"'{prefix}{number}.{name}' is no part of a Hugging Face CLIP")
    if part != "self_attn.q_proj":
        return {}  # the queries' turn takes all three
    triple = [f"{prefix}{number}.self_attn.{letter}_proj.{kind}" for letter in QKV]
    if missing := [name for name in triple if name not in theirs]:
        raise RuntimeError(f"the tensor {missing[0]!r} is missing")
    return {f"{our_prefix}attn.in_proj_{kind}": torch.cat([theirs[name] for name in triple])}


def _their_tensors(ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    theirs: dict[str, Tensor] = {}
    for name, tensor in ours.items():
        if name in NAMES:
            theirs[NAMES[name]] = tensor
        elif name in TRANSPOSED:
            theirs[TRANSPOSED[name]] = tensor.t().contiguous()
        elif match := BLOCK.fullmatch(name):
            theirs |= _their_block_tensors(tensor, *match.groups())
    return theirs


def _their_block_tensors(tensor: Tensor, prefix: str, number: str, name: str) -> dict[str, Tensor]:
    their_prefix = f"{BLOCKS[prefix]}{number}."
    part, _, kind = name.rpartition(".")
    if part in PARTS:
        return {f"{their_prefix}{PARTS[part]}.{kind}": tensor}
    kind = name.removeprefix("attn.in_proj_")
    return {
        f"{their_prefix}self_attn.{letter}_proj.{kind}": third.contiguous()
        for letter, third in zip(QKV, tensor.chunk(3), strict=True)
    }


def _their_config(config: ClipConfig, vision: VisionTransformerConfig) -> dict[str, Any]:
    text = config.text
    shared = {
        "hidden_act": "quick_gelu" if config.quick_gelu else "gelu",
        "layer_norm_eps": LAYER_NORM_EPS,
        "projection_dim": config.embed_dim,
    }
    text_config = shared | {
        "model_type": "clip_text_model",
        "hidden_size": text.width,
        "intermediate_size": 4 * text.width,
        "num_hidden_layers": text.layers,
        "num_attention_heads": text.heads,
        "max_position_embeddings": text.context_length,
        "vocab_size": text.vocab_size,
        "bos_token_id": text.vocab_size - 2,  # the last two, as in the tokenizer
        "eos_token_id": text.vocab_size - 1,
    }
    vision_config = shared | {
        "model_type": "clip_vision_model",
        "hidden_size": vision.width,
        "intermediate_size": vision.mlp_width,
        "num_hidden_layers": vision.layers,
        "num_attention_heads": vision.heads,
        "image_size": config.image_resolution,
        "patch_size": vision.patch_size,
    }
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": config.embed_dim,
        "text_config": text_config,
        "vision_config": vision_config,
    }


def _preprocessing(resolution: int) -> dict[str, Any]:
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": resolution},
        "resample": 3,  # PIL's bicubic
        "do_center_crop": True,
        "crop_size": {"height": resolution, "width": resolution},
        "do_convert_rgb": True,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(MEAN),
        "image_std": list(STD),
    }
