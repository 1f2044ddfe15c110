"""CLIP as open_clip stores it: OpenAI's names, and a configuration in a file of its own.

A folder has `open_clip_config.json`; a lone `.pt` or `.safetensors` says nothing about the
activation, and open_clip takes the exact GELU unless its user names a `-quickgelu` model. Names
and defaults: `factory.py`, `model.py` of open_clip 3.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clip_model.architecture import infer_config
from clip_model.config import (
    CONTEXT_LENGTH,
    HEAD_WIDTH,
    MLP_RATIO,
    VOCAB_SIZE,
    ClipConfig,
    ModifiedResNetConfig,
    TextConfig,
    TimmTowerConfig,
    VisionConfig,
    VisionTransformerConfig,
)
from clip_model.json_file import read_json, read_section, replacing, write_json
from clip_model.known_keys import ANY, check_keys
from clip_model.model_files import OPEN_CLIP_CONFIG, OPEN_CLIP_WEIGHTS
from clip_model.open_clip_keys import check_model, obeyed_preprocessing
from clip_model.tensor_files import write_safetensors
from clip_model.timm_tower import is_size_of_open_clips, tower_flops

SURE_WIDTH = 1024
PICKLED = (".pt", ".pth", ".bin")


def from_open_clip(
    theirs: Mapping[str, Tensor],
    config_path: Path,
    quick_gelu: bool | None,
    heads: tuple[int, int] | None = None,
) -> tuple[dict[str, Tensor], ClipConfig]:
    """Tensors under OpenAI's names, and their architecture.

    Args:
        config_path: where the configuration would be, beside the weights.
        quick_gelu: instead of what the configuration says.
        heads: of the image and the text tower, where there is no configuration.

    Raises:
        RuntimeError: nothing says which activation or how many heads the weights were trained
            with, or they are not a CLIP of this kind.
    """
    # A model with a text tower of its own (`CustomTextCLIP`) has it under this prefix.
    tensors = {name.removeprefix("text."): tensor for name, tensor in theirs.items()}
    if not config_path.is_file():
        return tensors, _lone_config(tensors, quick_gelu, heads)
    fields = read_json(config_path)
    model = read_section(fields, "model_cfg") or fields
    if quick_gelu is None:
        quick_gelu = model.get("quick_gelu", False)  # open_clip's default
        if not isinstance(quick_gelu, bool):
            raise RuntimeError(f"{config_path}: 'quick_gelu' must be true or false")
    vision, text = read_section(model, "vision_cfg"), read_section(model, "text_cfg")
    head_width = vision.get("head_width", HEAD_WIDTH)
    tower = _timm_tower(vision, str(config_path)) if vision.get("timm_model_name") else None
    text_heads = text.get("heads", 8)
    config = infer_config(tensors, quick_gelu, text_heads, head_width=head_width, timm=tower)
    if model is not fields:
        check_keys(fields, {"model_cfg": ANY, "preprocess_cfg": ANY}, str(config_path))
    return tensors, _obeyed(config, fields, str(config_path))


def described(fields: Mapping[str, Any], where: str) -> ClipConfig:
    """The architecture that a configuration of open_clip's describes, for new weights.

    Args:
        fields: of a file of its `model_configs`, or of an `open_clip_config.json`.
        where: the file, for the error.

    Raises:
        RuntimeError: a key is missing, is not known, or asks for what is not done here.
    """
    model = read_section(fields, "model_cfg") or fields
    vision, text = read_section(model, "vision_cfg"), read_section(model, "text_cfg")
    is_timms = bool(vision.get("timm_model_name"))
    try:
        tower, resolution = (
            _timm_tower(vision, where) if is_timms else (_image_tower(vision), vision["image_size"])
        )
        config = ClipConfig(
            model["embed_dim"],
            resolution,
            tower,
            TextConfig(
                text["width"],
                text["layers"],
                text.get("heads", 8),
                text.get("context_length", CONTEXT_LENGTH),
                text.get("vocab_size", VOCAB_SIZE),
            ),
            model.get("quick_gelu", False),
        )
    except KeyError as error:
        raise RuntimeError(f"{where}: {error} is missing") from error
    except (TypeError, ValueError, OverflowError) as error:
        raise RuntimeError(f"{where}: {error}") from error
    config = _obeyed(config, fields, where)
    if isinstance(config.vision, TimmTowerConfig):
        try:
            tower_flops(config.vision, config.image_resolution, config.embed_dim)
        except RuntimeError as error:
            raise RuntimeError(f"{where}: {error}") from error
    elif config.image_resolution < smallest_side(config.vision):
        raise RuntimeError(f"{where}: images of {config.image_resolution} pixels have no patch")
    return config


def smallest_side(vision: VisionConfig) -> int:
    """Pixels of the smallest image that a tower makes anything of."""
    return vision.patch_size if isinstance(vision, VisionTransformerConfig) else 32


def _obeyed(config: ClipConfig, fields: Mapping[str, Any], where: str) -> ClipConfig:
    """With what shapes do not say: the text tower's mask, and the preprocessing.

    Raises:
        RuntimeError: a key is not known, or asks for what is not done here.
    """
    model = read_section(fields, "model_cfg") or fields
    no_mask = read_section(model, "text_cfg").get("no_causal_mask", False)
    config = replace(config, text=replace(config.text, causal=no_mask is not True))
    check_model(model, config, where)
    preprocess = read_section(fields, "preprocess_cfg") if model is not fields else {}
    where = f"{where}, preprocess_cfg"
    try:
        return replace(config, **obeyed_preprocessing(preprocess, config.image_resolution, where))
    except ValueError as error:
        raise RuntimeError(f"{where}: {error}") from error


def _timm_tower(vision: Mapping[str, Any], where: str) -> tuple[TimmTowerConfig, int]:
    """The tower and the size of its images; what is absent is as in open_clip."""
    size = vision.get("image_size", 224)
    if isinstance(size, list) and len(size) == 2 and size[0] == size[1]:
        size = size[0]
    try:
        tower = TimmTowerConfig(
            vision["timm_model_name"],
            vision.get("timm_pool", "avg"),
            vision.get("timm_proj", "linear") or "",
            vision.get("timm_proj_bias", False),
        )
    except (TypeError, ValueError) as error:
        raise RuntimeError(f"{where}, vision_cfg: {error}") from error
    return tower, size


def _image_tower(vision: Mapping[str, Any]) -> VisionTransformerConfig | ModifiedResNetConfig:
    if isinstance(layers := vision["layers"], list):
        return ModifiedResNetConfig(tuple(layers), vision["width"])
    mlp_width = int(vision["width"] * vision.get("mlp_ratio", MLP_RATIO))
    head_width = vision.get("head_width", HEAD_WIDTH)
    return VisionTransformerConfig(
        layers, vision["width"], vision["patch_size"], head_width, mlp_width
    )


def _lone_config(
    tensors: Mapping[str, Tensor], quick_gelu: bool | None, heads: tuple[int, int] | None
) -> ClipConfig:
    """The architecture of weights that nothing is beside of.

    All of open_clip's configurations up to 1,024 wide have heads of 64 channels; the wider ones
    have 64, 72, 80, 88, 104 and 112.
    """
    image_heads, text_heads = heads or (None, None)
    config = infer_config(tensors, True, text_heads, image_heads)  # first of all: is it a CLIP?
    if quick_gelu is None:
        raise RuntimeError(
            "nothing says whether these weights were trained with QuickGELU: say "
            "load(..., quick_gelu=True) for OpenAI's weights, what was fine-tuned from them and "
            "open_clip's '-quickgelu' models, quick_gelu=False for other models of open_clip"
        )
    vision = config.vision
    of_vit = [vision.width] if isinstance(vision, VisionTransformerConfig) else []
    widths = [config.text.width, *of_vit]
    if heads is None and any(width % HEAD_WIDTH or width > SURE_WIDTH for width in widths):
        raise RuntimeError(
            f"nothing says how many heads the attention has in towers {widths[-1]} and "
            f"{widths[0]} wide: say load(..., heads=(image tower's, text tower's)), or put "
            f"{OPEN_CLIP_CONFIG} beside the weights"
        )
    return replace(config, quick_gelu=quick_gelu)


def write_open_clip(
    tensors: Mapping[str, Tensor], config: ClipConfig, path: Path, texts: Mapping[str, str]
) -> None:
    """Write what open_clip takes: a `.pt` or `.safetensors` file, or else a folder.

    Args:
        texts: what the file says besides, where it can.

    Raises:
        ValueError: open_clip cannot build the image tower for images of this size.
    """
    vision, size = config.vision, config.image_resolution
    if isinstance(vision, TimmTowerConfig) and not is_size_of_open_clips(vision, size):
        raise ValueError(
            f"open_clip builds {vision.name} for the images that it was made for, not of {size} "
            "pixels: begin with timm's network of that size, or save in this project's own format"
        )
    if path.suffix == ".safetensors":
        write_safetensors(tensors, path, texts)
    elif path.suffix in PICKLED:
        with replacing(path) as temporary:
            torch.save({"state_dict": dict(tensors), **texts}, temporary)
    else:
        write_safetensors(tensors, path / OPEN_CLIP_WEIGHTS, texts)
        write_json(_their_config(config), path / OPEN_CLIP_CONFIG)


def mlp_ratio(vision: VisionTransformerConfig) -> float:
    """What open_clip, which rounds down, makes the perceptrons' width of."""
    if vision.mlp_width == MLP_RATIO * vision.width:
        return MLP_RATIO
    return (vision.mlp_width + 0.5) / vision.width


def _their_config(config: ClipConfig) -> dict[str, Any]:
    vision, text = config.vision, config.text
    tower: dict[str, Any]
    if isinstance(vision, TimmTowerConfig):
        tower = {
            "timm_model_name": vision.name,
            "timm_model_pretrained": False,
            "timm_pool": vision.pool,
            "timm_proj": vision.proj or None,
            "timm_proj_bias": vision.proj_bias,
        }
    elif isinstance(vision, ModifiedResNetConfig):
        tower = {"layers": list(vision.layers), "width": vision.width, "patch_size": None}
    else:
        assert isinstance(vision, VisionTransformerConfig)  # `save` refuses all others
        tower = {
            "layers": vision.layers,
            "width": vision.width,
            "patch_size": vision.patch_size,
            "head_width": vision.head_width,
            "mlp_ratio": mlp_ratio(vision),
        }
    model = {
        "embed_dim": config.embed_dim,
        "quick_gelu": config.quick_gelu,
        "vision_cfg": {"image_size": config.image_resolution, **tower},
        "text_cfg": {
            "context_length": text.context_length,
            "vocab_size": text.vocab_size,
            "width": text.width,
            "heads": text.heads,
            "layers": text.layers,
            **({} if text.causal else {"no_causal_mask": True}),
        },
    }
    preprocess = {
        "mean": list(config.mean),
        "std": list(config.std),
        "interpolation": config.interpolation,
        "resize_mode": "squash" if config.squash else "shortest",
    }
    return {"model_cfg": model, "preprocess_cfg": preprocess}
