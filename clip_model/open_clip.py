"""CLIP as open_clip stores it: OpenAI's names, and a configuration in a file of its own.

A folder has `open_clip_config.json`; a lone `.pt` or `.safetensors` says nothing about the
activation, and open_clip takes the exact GELU unless its user names a `-quickgelu` model. Names
and defaults: `factory.py`, `model.py` of open_clip 3.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clip_model.architecture import infer_config
from clip_model.config import HEAD_WIDTH, ClipConfig, ModifiedResNetConfig
from clip_model.json_file import read_json, read_section, write_json
from clip_model.preprocess import MEAN, STD
from clip_model.tensor_files import write_safetensors

CONFIG = "open_clip_config.json"
WEIGHTS = "open_clip_model.safetensors"
WEIGHTS_IN_FOLDER = (WEIGHTS, "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")
PICKLED = (".pt", ".pth", ".bin")


def from_open_clip(
    theirs: Mapping[str, Tensor], config_path: Path, quick_gelu: bool | None
) -> tuple[dict[str, Tensor], ClipConfig]:
    """Tensors under OpenAI's names, and their architecture.

    Args:
        config_path: where the configuration would be, beside the weights.
        quick_gelu: instead of what the configuration says.

    Raises:
        RuntimeError: nothing says which activation the weights were trained with, or they are
            not a CLIP of this kind.
    """
    # A model with a text tower of its own (`CustomTextCLIP`) has it under this prefix.
    tensors = {name.removeprefix("text."): tensor for name, tensor in theirs.items()}
    fields = _read_config(config_path) if config_path.is_file() else None
    if fields is None and quick_gelu is None:
        infer_config(tensors, quick_gelu=True)  # first of all: is it a CLIP?
        raise RuntimeError(
            "nothing says whether these weights were trained with QuickGELU: say "
            "load(..., quick_gelu=True) for OpenAI's weights, what was fine-tuned from them and "
            "open_clip's '-quickgelu' models, quick_gelu=False for other models of open_clip"
        )
    fields = fields or {}
    if quick_gelu is None:
        quick_gelu = bool(fields.get("quick_gelu", False))  # open_clip's default
    heads = read_section(fields, "text_cfg").get("heads")
    return tensors, infer_config(tensors, quick_gelu, heads)


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
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".partial")
        torch.save({"state_dict": dict(tensors), **texts}, temporary)
        temporary.replace(path)
    else:
        write_safetensors(tensors, path / WEIGHTS, texts)
        write_json(_their_config(config), path / CONFIG)


def _read_config(path: Path) -> dict[str, Any]:
    """The `model_cfg`, which must be of a model that this CLIP can compute."""
    fields = read_json(path)
    model = read_section(fields, "model_cfg") or fields
    preprocess = read_section(fields, "preprocess_cfg")
    normalisation = preprocess.get("mean", MEAN), preprocess.get("std", STD)
    if tuple(map(tuple, normalisation)) != (MEAN, STD):
        raise RuntimeError(f"{path}: pictures are normalised in another way than OpenAI's models'")
    if read_section(model, "vision_cfg").get("head_width", HEAD_WIDTH) != HEAD_WIDTH:
        raise RuntimeError(f"{path}: the image tower's heads are not {HEAD_WIDTH} wide")
    return model


def _their_config(config: ClipConfig) -> dict[str, Any]:
    vision, text = config.vision, config.text
    tower: dict[str, Any]
    if isinstance(vision, ModifiedResNetConfig):
        tower = {"layers": list(vision.layers), "width": vision.width, "patch_size": None}
    else:
        tower = asdict(vision)
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
