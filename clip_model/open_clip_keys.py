"""What stands in open_clip's configurations: every key is obeyed, the same here, or refused.

Names and defaults: `factory.py`, `model.py`, `timm_model.py` and `transform.py` of open_clip 3.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clip_model.config import (
    HEAD_WIDTH,
    MLP_RATIO,
    ClipConfig,
    EfficientNetConfig,
    TimmTowerConfig,
    VisionTransformerConfig,
)
from clip_model.json_file import read_section
from clip_model.known_keys import ANY, check_keys, same
from clip_model.state_dict import shown

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


def check_model(model: Mapping[str, Any], config: ClipConfig, where: str) -> None:
    """Raises RuntimeError: a key of the `model_cfg` asks for what is not done here."""
    no_matter = ("init_logit_scale", "nonscalar_logit_scale", "cast_dtype", "output_dict")
    known = dict.fromkeys(("vision_cfg", "text_cfg", "quick_gelu", *no_matter), ANY)
    known |= {
        "embed_dim": same(config.embed_dim),
        "custom_text": same(True, False, None),  # the same tower under other names
        "init_logit_bias": same(None),
    }
    check_keys(model, known, where)
    _check_vision(read_section(model, "vision_cfg"), config, f"{where}, vision_cfg")
    text = config.text
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
        "no_causal_mask": same(not text.causal, absent=False),  # obeyed
        "pool_type": same("argmax"),
        "proj_bias": same(False),
        "proj_type": same("linear"),
        "hf_model_name": same(None, ""),
    }
    unused = "pad_id eos_id hf_model_pretrained hf_proj_type hf_pooler_type"
    of_text |= dict.fromkeys(unused.split(), ANY)
    of_text["mlp_ratio"] = same(MLP_RATIO)
    check_keys(read_section(model, "text_cfg"), of_text | BLOCKS, f"{where}, text_cfg")


def _check_vision(theirs: Mapping[str, Any], config: ClipConfig, where: str) -> None:
    vision, side = config.vision, config.image_resolution
    of_timm = "timm_model_name timm_pool timm_proj timm_proj_bias"
    # In training alone, or of a pooling that is refused by its own key.
    unused = """patch_dropout attn_pooler_queries attn_pooler_heads timm_model_pretrained timm_drop
        timm_drop_path"""
    of_others = ("layers", "width", "attentional_pool", "no_ln_pre", "pos_embed_type", "pool_type")
    known = dict.fromkeys((*unused.split(), *of_timm.split(), "mlp_ratio"), ANY)
    known["image_size"] = same(side, (side, side))
    if isinstance(vision, TimmTowerConfig):  # its name is all that open_clip looks at
        known |= dict.fromkeys((*of_others, *BLOCKS, "patch_size", "head_width"), ANY)
        check_keys(theirs, known, where)
        return
    assert not isinstance(vision, EfficientNetConfig)  # open_clip describes none
    known |= {
        "layers": same(vision.layers),
        "width": same(vision.width),
        "attentional_pool": same(False, None),
        "no_ln_pre": same(False),
        "pos_embed_type": same("learnable"),
        "pool_type": same("tok"),
    }
    if isinstance(vision, VisionTransformerConfig):
        known |= BLOCKS
        known["head_width"] = ANY  # obeyed
        known["patch_size"] = same(vision.patch_size, (vision.patch_size,) * 2)
        _check_mlp_ratio(theirs.get("mlp_ratio", MLP_RATIO), vision, where)
    else:
        known |= dict.fromkeys((*BLOCKS, "patch_size"), ANY)
        known["head_width"] = same(HEAD_WIDTH)
    check_keys(theirs, known, where)


def _check_mlp_ratio(ratio: Any, vision: VisionTransformerConfig, where: str) -> None:
    """Raises RuntimeError: the perceptrons are not as wide as `mlp_ratio` makes them."""
    is_number = isinstance(ratio, int | float) and not isinstance(ratio, bool)
    if not is_number or not 0 < ratio < MOST_RATIO or int(vision.width * ratio) != vision.mlp_width:
        raise RuntimeError(
            f"{where}: 'mlp_ratio' must make {vision.mlp_width} of a width of "
            f"{vision.width}, as the weights are, not {shown([ratio])}"
        )


def obeyed_preprocessing(fields: Mapping[str, Any], resolution: int, where: str) -> dict[str, Any]:
    """What a `preprocess_cfg` says, as `ClipConfig` has it.

    Raises:
        RuntimeError: it asks for what is not done here, or for other sizes than the model's.
    """
    known = {
        "size": same(resolution, (resolution, resolution)),
        "mode": same("RGB"),
        "mean": ANY,  # obeyed, as are those that have several values
        "std": ANY,
        "interpolation": same("bicubic", "bilinear", "random"),  # random in training alone
        "resize_mode": same("shortest", "squash"),
        "fill_color": ANY,  # of other modes
    }
    check_keys(fields, known, where)
    colours = {name: fields[name] for name in ("mean", "std") if name in fields}
    return {
        "squash": fields.get("resize_mode") == "squash",
        "interpolation": "bilinear" if fields.get("interpolation") == "bilinear" else "bicubic",
        **{name: tuple(v) if isinstance(v, list) else v for name, v in colours.items()},
    }
