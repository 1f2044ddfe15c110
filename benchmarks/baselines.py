"""Other people's CLIP at our architectures, for the tests to equal and the benchmarks to outrun.

Each builder gives a model without memory (`with torch.device("meta")` around it) or with random
weights, in evaluation mode. Packages are imported when first asked for: a benchmark on a machine
that lacks one leaves its rows out.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from clip_model.config import (
    ClipConfig,
    EfficientNetConfig,
    TimmTowerConfig,
    VisionTransformerConfig,
)
from clip_model.open_clip import mlp_ratio


@cache
def openai_module(name: str) -> ModuleType:
    """`model` or `simple_tokenizer` of openai-clip, as a file of its own.

    The package's `__init__` imports `pkg_resources`, which newer setuptools lack.

    Raises:
        ImportError: openai-clip is not installed.
    """
    package = importlib.util.find_spec("clip")
    if package is None or package.origin is None:
        raise ImportError("openai-clip is not installed", name="clip")
    path = Path(package.origin).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(f"openai_clip_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def openai_model(config: ClipConfig) -> nn.Module:
    """The model of openai/CLIP (openai-clip 1.0.1)."""
    vision, text = config.vision, config.text
    assert not isinstance(vision, TimmTowerConfig | EfficientNetConfig)
    model: nn.Module = openai_module("model").CLIP(
        config.embed_dim,
        config.image_resolution,
        vision.layers,
        vision.width,
        vision.patch_size if isinstance(vision, VisionTransformerConfig) else None,
        text.context_length,
        text.vocab_size,
        text.width,
        text.heads,
        text.layers,
    )
    return model.eval()


def open_clip_model(config: ClipConfig) -> nn.Module:
    """The model of open_clip (open-clip-torch 3.3.0)."""
    from clip_model import _torchvision  # noqa: F401, I001
    from open_clip import CLIP, CLIPTextCfg, CLIPVisionCfg

    vision, text = config.vision, config.text
    assert not isinstance(vision, TimmTowerConfig | EfficientNetConfig)
    tower: dict[str, Any] = {
        "layers": vision.layers,
        "width": vision.width,
        "image_size": config.image_resolution,
    }
    if isinstance(vision, VisionTransformerConfig):
        tower |= {"patch_size": vision.patch_size, "head_width": vision.head_width}
        tower["mlp_ratio"] = mlp_ratio(vision)
    text_tower = CLIPTextCfg(
        context_length=text.context_length,
        vocab_size=text.vocab_size,
        width=text.width,
        heads=text.heads,
        layers=text.layers,
    )
    model: nn.Module = CLIP(
        config.embed_dim, CLIPVisionCfg(**tower), text_tower, quick_gelu=config.quick_gelu
    )
    return model.eval()


def transformers_model(config: ClipConfig) -> nn.Module:
    """The model of transformers (5.23.0), which has no ResNets.

    Raises:
        ValueError: the architecture is a ResNet.
    """
    from clip_model import _torchvision  # noqa: F401, I001
    from transformers import CLIPConfig, CLIPModel

    vision, text = config.vision, config.text
    if not isinstance(vision, VisionTransformerConfig):
        raise ValueError("transformers has no ResNet of CLIP's")
    activation = {"hidden_act": "quick_gelu" if config.quick_gelu else "gelu"}
    vision_config = {
        "hidden_size": vision.width,
        "intermediate_size": vision.mlp_width,
        "num_hidden_layers": vision.layers,
        "num_attention_heads": vision.heads,
        "image_size": config.image_resolution,
        "patch_size": vision.patch_size,
    }
    text_config = {
        "hidden_size": text.width,
        "intermediate_size": 4 * text.width,
        "num_hidden_layers": text.layers,
        "num_attention_heads": text.heads,
        "max_position_embeddings": text.context_length,
        "vocab_size": text.vocab_size,
    }
    whole = CLIPConfig(
        text_config=text_config | activation,
        vision_config=vision_config | activation,
        projection_dim=config.embed_dim,
    )
    model: nn.Module = CLIPModel(whole)
    return model.eval()
