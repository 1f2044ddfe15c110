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
    VisionTransformerConfig,
)
from clip_model.json_file import read_json, read_section, replacing, write_json
from clip_model.known_keys import ANY, check_keys, same
from clip_model.preprocess import MEAN, STD
from clip_model.state_dict import shown
from clip_model.tensor_files import write_safetensors

CONFIG = "open_clip_config.json"
WEIGHTS = "open_clip_model.safetensors"
WEIGHTS_IN_FOLDER = (WEIGHTS, "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")
SURE_WIDTH = 1024
MOST_RATIO = 1000  # of the widths of a perceptron and its tower
# Of the blocks of both towers.
BLOCKS = {
    "ls_init_value": same(None),
    "final_ln_after_pool": ANY,  # the norm of the one token that is pooled, before or after
    "output_tokens": same(False),
    "act_kwargs": same(None),
    "norm_kwargs": same(None, {}),
    "block_type": same(None),
} | dict.fromkeys(
    (
        "qk_norm",
        "scaled_cosine_attn",
        "scale_heads",
        "scale_attn_inner",
        "scale_attn",
        "scale_fc",
    ),
    same(False),
)
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
    config = infer_config(tensors, quick_gelu, text.get("heads", 8), head_width=head_width)
    if model is not fields:
        check_keys(fields, {"model_cfg": ANY, "preprocess_cfg": ANY}, str(config_path))
    _check_model(model, config, str(config_path))
    preprocess = read_section(fields, "preprocess_cfg") if model is not fields else {}
    _check_preprocess(preprocess, config.image_resolution, f"{config_path}, preprocess_cfg")
    return tensors, config


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
    if vision.get("timm_model_name"):
        raise RuntimeError(f"{where}: an image tower of timm's is not made here")
    try:
        config = ClipConfig(
            model["embed_dim"],
            vision["image_size"],
            _image_tower(vision),
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
    _check_model(model, config, where)
    if config.image_resolution < smallest_side(config.vision):
        raise RuntimeError(f"{where}: images of {config.image_resolution} pixels have no patch")
    return config


def smallest_side(vision: VisionTransformerConfig | ModifiedResNetConfig) -> int:
    """Pixels of the smallest image that a tower makes anything of."""
    return vision.patch_size if isinstance(vision, VisionTransformerConfig) else 32


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
    is_vit = not isinstance(config.vision, ModifiedResNetConfig)
    widths = [config.text.width, *([config.vision.width] if is_vit else [])]
    if heads is None and any(width % HEAD_WIDTH or width > SURE_WIDTH for width in widths):
        raise RuntimeError(
            f"nothing says how many heads the attention has in towers {widths[-1]} and "
            f"{widths[0]} wide: say load(..., heads=(image tower's, text tower's)), or put "
            f"{CONFIG} beside the weights"
        )
    return replace(config, quick_gelu=quick_gelu)


def write_open_clip(
    tensors: Mapping[str, Tensor], config: ClipConfig, path: Path, texts: Mapping[str, str]
) -> None:
    """Write what open_clip takes: a `.pt` or `.safetensors` file, or else a folder.

    Args:
        texts: what the file says besides, where it can.
    """
    if path.suffix == ".safetensors":
        write_safetensors(tensors, path, texts)
    elif path.suffix in PICKLED:
        with replacing(path) as temporary:
            torch.save({"state_dict": dict(tensors), **texts}, temporary)
    else:
        write_safetensors(tensors, path / WEIGHTS, texts)
        write_json(_their_config(config), path / CONFIG)


def _check_model(model: Mapping[str, Any], config: ClipConfig, where: str) -> None:
    """Raises RuntimeError: a key of the `model_cfg` asks for what is not done here."""
    no_matter = ("init_logit_scale", "nonscalar_logit_scale", "cast_dtype", "output_dict")
    known = dict.fromkeys(("vision_cfg", "text_cfg", "quick_gelu", *no_matter), ANY)
    known |= {
        "embed_dim": same(config.embed_dim),
        "custom_text": same(True, False, None),  # the same tower under other names
        "init_logit_bias": same(None),
    }
    check_keys(model, known, where)
    vision, text = config.vision, config.text
    of_vision = {
        "layers": same(vision.layers),
        "width": same(vision.width),
        "image_size": same(config.image_resolution, (config.image_resolution,) * 2),
        "attentional_pool": same(False, None),
        "no_ln_pre": same(False),
        "pos_embed_type": same("learnable"),
        "pool_type": same("tok"),
        "timm_model_name": same(None, ""),
    }
    # In training alone, or of a pooling or a tower that is refused by its own key.
    unused = """patch_dropout attn_pooler_queries attn_pooler_heads timm_model_pretrained timm_pool
        timm_proj timm_proj_bias timm_drop timm_drop_path"""
    of_vision |= dict.fromkeys(unused.split(), ANY)
    theirs = read_section(model, "vision_cfg")
    if isinstance(vision, VisionTransformerConfig):
        of_vision |= BLOCKS
        of_vision["head_width"] = ANY  # obeyed
        of_vision["patch_size"] = same(vision.patch_size, (vision.patch_size,) * 2)
        _check_mlp_ratio(theirs.get("mlp_ratio", MLP_RATIO), vision, where)
    else:
        of_vision |= dict.fromkeys((*BLOCKS, "patch_size"), ANY)
        of_vision["head_width"] = same(HEAD_WIDTH)
    check_keys(theirs, of_vision | {"mlp_ratio": ANY}, f"{where}, vision_cfg")
    of_text = {
        "context_length": same(text.context_length),
        "vocab_size": same(text.vocab_size),
        "width": same(text.width),
        "heads": same(text.heads, absent=8),  # obeyed
        "layers": same(text.layers),
        "hf_tokenizer_name": same(None, ""),
        "tokenizer_mode": same(None),
        "tokenizer_kwargs": same(None, {}),
        "embed_cls": same(False),
        "no_causal_mask": same(False),
        "pool_type": same("argmax"),
        "proj_bias": same(False),
        "proj_type": same("linear"),
        "hf_model_name": same(None, ""),
    }
    unused = "pad_id eos_id hf_model_pretrained hf_proj_type hf_pooler_type"
    of_text |= dict.fromkeys(unused.split(), ANY)
    of_text["mlp_ratio"] = same(MLP_RATIO)
    check_keys(read_section(model, "text_cfg"), of_text | BLOCKS, f"{where}, text_cfg")


def _check_mlp_ratio(ratio: Any, vision: VisionTransformerConfig, where: str) -> None:
    """Raises RuntimeError: the perceptrons are not as wide as `mlp_ratio` makes them."""
    is_number = isinstance(ratio, int | float) and not isinstance(ratio, bool)
    if not is_number or not 0 < ratio < MOST_RATIO or int(vision.width * ratio) != vision.mlp_width:
        raise RuntimeError(
            f"{where}, vision_cfg: 'mlp_ratio' must make {vision.mlp_width} of a width of "
            f"{vision.width}, as the weights are, not {shown([ratio])}"
        )


def mlp_ratio(vision: VisionTransformerConfig) -> float:
    """What open_clip, which rounds down, makes the perceptrons' width of."""
    if vision.mlp_width == MLP_RATIO * vision.width:
        return MLP_RATIO
    return (vision.mlp_width + 0.5) / vision.width


def _check_preprocess(fields: Mapping[str, Any], resolution: int, where: str) -> None:
    """Raises RuntimeError: the `preprocess_cfg` is not what `image_transform` does."""
    known = {
        "size": same(resolution, (resolution, resolution)),
        "mode": same("RGB"),
        "mean": same(MEAN),
        "std": same(STD),
        "interpolation": same("bicubic", "random"),  # random in training alone
        "resize_mode": same("shortest"),
        "fill_color": ANY,  # of other modes
    }
    check_keys(fields, known, where)


def _their_config(config: ClipConfig) -> dict[str, Any]:
    vision, text = config.vision, config.text
    tower: dict[str, Any]
    if isinstance(vision, ModifiedResNetConfig):
        tower = {"layers": list(vision.layers), "width": vision.width, "patch_size": None}
    else:
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
        },
    }
    return {"model_cfg": model, "preprocess_cfg": {"mean": list(MEAN), "std": list(STD)}}
