"""Small models of other libraries with random weights, saved as those libraries save them.

Each has the parts of a published architecture (its kind of tower, pooling, text mask, tokens,
preprocessing), small enough for a test.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from clip_model.registry import DualEncoderName

SIDE, PATCH = 32, 16

#: For tokenizers that are not CLIP's: a word is a token.
WORDS = (
    *("a", "photo", "of", "the", "cat", "dog", "red", "green", "blue", "colour"),
    *("in", "on", "and", "with", "sky", "tree"),
)

_CLIP_TEXT = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2}
_SIGLIP_TEXT = {
    "context_length": 24,
    "vocab_size": 32,
    "hf_tokenizer_name": "beside it",
    "tokenizer_kwargs": {"clean": "canonicalize"},
    "width": 64,
    "heads": 2,
    "layers": 2,
    "no_causal_mask": True,
    "proj_bias": True,
    "pool_type": "last",
    "norm_kwargs": {"eps": 1e-6},
}
_SIGLIP = {"mean": [0.5] * 3, "std": [0.5] * 3, "resize_mode": "squash"}
_MOBILE = {"mean": [0.0] * 3, "std": [1.0] * 3, "interpolation": "bilinear"}


def named(text: str) -> DualEncoderName:
    """The parts of a name."""
    which = DualEncoderName.of(text)
    assert which, text
    return which


def _timm(name: str, pool: str, proj: str | None, side: int) -> dict[str, Any]:
    return {
        "timm_model_name": name,
        "timm_model_pretrained": False,
        "timm_pool": pool,
        "timm_proj": proj,
        "image_size": side,
    }


#: By the published architecture: open_clip's configuration, and the preprocessing of its weights.
OPEN_CLIP: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "ViT-B-16-SigLIP": (
        {
            "embed_dim": 64,
            "init_logit_bias": -10,
            "custom_text": True,
            "vision_cfg": _timm("test_vit3", "map", "linear", 160),
            "text_cfg": _SIGLIP_TEXT,
        },
        _SIGLIP,
    ),
    "ViT-B-16-SigLIP2": (
        {
            "embed_dim": 64,
            "init_logit_bias": -10,
            "custom_text": True,
            "vision_cfg": _timm("test_vit3", "map", "linear", 160),
            "text_cfg": _SIGLIP_TEXT | {"act_kwargs": {"approximate": "tanh"}},
        },
        _SIGLIP,
    ),
    "MobileCLIP-S1": (
        {
            "embed_dim": 64,
            "custom_text": True,
            "vision_cfg": _timm("fastvit_t8", "avg", None, 64),
            "text_cfg": _CLIP_TEXT | {"no_causal_mask": True},
        },
        _MOBILE,
    ),
    "convnext_base": (
        {
            "embed_dim": 64,
            "vision_cfg": _timm("test_convnext", "", "linear", 64),
            "text_cfg": _CLIP_TEXT,
        },
        {},
    ),
    "ViTamin-S": (
        {
            "embed_dim": 64,
            "custom_text": True,
            "vision_cfg": _timm("vitamin_small_224", "", "linear", 224),
            "text_cfg": _CLIP_TEXT,
        },
        {},
    ),
    "EVA02-B-16": (
        {
            "embed_dim": 64,
            "custom_text": True,
            "vision_cfg": _timm("eva02_tiny_patch14_224", "token", None, 224),
            "text_cfg": _CLIP_TEXT,
        },
        {},
    ),
    "coca_ViT-B-32": (
        {
            "embed_dim": 64,
            "custom_text": True,
            "vision_cfg": {
                "image_size": SIDE,
                "layers": 1,
                "width": 64,
                "patch_size": PATCH,
                "attentional_pool": True,
                "attn_pooler_heads": 2,
                "output_tokens": True,
            },
            "text_cfg": _CLIP_TEXT
            | {"context_length": 76, "embed_cls": True, "output_tokens": True},
            "multimodal_cfg": _CLIP_TEXT | {"context_length": 76, "attn_pooler_heads": 2},
        },
        {},
    ),
    "ViT-L-14-worldwide": (  # MetaCLIP 2
        {
            "embed_dim": 64,
            "vision_cfg": {"image_size": SIDE, "layers": 1, "width": 64, "patch_size": PATCH},
            "text_cfg": _CLIP_TEXT
            | {
                "vocab_size": 32,
                "hf_tokenizer_name": "beside it",
                "tokenizer_kwargs": {"clean": "canonicalize"},
                "pool_type": "eos",
                "eos_id": 1,
            },
        },
        {},
    ),
    "ViT-B-32": (
        {
            "embed_dim": 64,
            "vision_cfg": {"image_size": SIDE, "layers": 1, "width": 64, "patch_size": PATCH},
            "text_cfg": _CLIP_TEXT,
        },
        {},
    ),
    "RN50": (
        {
            "embed_dim": 64,
            "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16},
            "text_cfg": _CLIP_TEXT,
        },
        {},
    ),
}


def save_open_clip(name: str, folder: Path, seed: int = 0) -> str:
    """As open_clip saves a model; returns its name in settings."""
    import clip_model._torchvision  # noqa: F401, I001
    import open_clip
    from safetensors.torch import save_file

    config, preprocess = OPEN_CLIP[name]
    folder.mkdir(parents=True)
    text = {"model_cfg": config, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(text))
    if "hf_tokenizer_name" in config["text_cfg"]:
        _save_tokenizer(folder)
    torch.manual_seed(seed)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    # What open_clip leaves as it was in memory (CoCa's decoder) may be anything.
    weights = {key: value.nan_to_num(0.0, 0.0, 0.0) for key, value in model.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    return f"open_clip:{folder}"


TRANSFORMERS = ("siglip", "metaclip_2", "chinese_clip", "clip")


def save_transformers(name: str, folder: Path, seed: int = 0) -> str:
    """As transformers saves a model with its processor; returns its name in settings."""
    import clip_model._torchvision  # noqa: F401, I001
    import transformers as hf

    small = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    vision = small | {"image_size": SIDE, "patch_size": PATCH}
    text = small | {
        "vocab_size": 32,
        "max_position_embeddings": 24,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": 2,
    }
    of_name = {
        "siglip": (hf.SiglipConfig, {}),
        "metaclip_2": (hf.MetaClip2Config, {"projection_dim": 16}),
        "chinese_clip": (hf.ChineseCLIPConfig, {"projection_dim": 16}),
        "clip": (hf.CLIPConfig, {"projection_dim": 16}),
    }
    kind, more = of_name[name]
    torch.manual_seed(seed)
    model = hf.AutoModel.from_config(kind(text_config=text, vision_config=vision, **more))
    model.save_pretrained(folder)
    if name == "siglip":
        processor = hf.SiglipImageProcessor(size={"height": SIDE, "width": SIDE})
    else:
        processor = hf.CLIPImageProcessor(size={"shortest_edge": 36}, crop_size=SIDE)
    processor.save_pretrained(folder)
    # A CLIP's tokens end as they are filled, with its end token.
    _save_tokenizer(folder, masks=name != "siglip", pad="</s>" if name == "clip" else "<pad>")
    return f"hf:{folder}"


def _save_tokenizer(folder: Path, masks: bool = True, pad: str = "<pad>") -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: row for row, word in enumerate(["<pad>", "</s>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=pad,
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=24,
        model_input_names=["input_ids", "attention_mask"] if masks else ["input_ids"],
    ).save_pretrained(folder)
