"""Models in files, and files by name.

A file is safetensors: tensors under OpenAI's names and the architecture as JSON in the metadata.
Reading one runs no code from it. Matrices are stored as float16 (half the bytes, and less error
than training leaves), vectors and statistics as float32; in memory everything is float32.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from safetensors.torch import save as serialize

from clip_model.config import ClipConfig
from clip_model.model import CLIP
from clip_model.preprocess import Preprocess, image_transform

CONFIG_KEY = "clip_model.config"
SHIPPED = {"starter": Path(__file__).parent / "starter" / "model.safetensors"}


def available_models() -> list[str]:
    """Names that `load` takes."""
    return list(SHIPPED)


def checkpoint_path(name_or_path: str | Path) -> Path:
    """The file of a known model, or the path itself.

    Raises:
        RuntimeError: there is no such name or file.
    """
    path = SHIPPED.get(str(name_or_path), Path(name_or_path))
    if not path.is_file():
        raise RuntimeError(
            f"Model {name_or_path} not found; available models = {available_models()}. "
            "Give one of these names, or the path of a .safetensors file written by "
            "clip_model.save."
        )
    return path


def load(
    name_or_path: str | Path, device: str | torch.device | None = None
) -> tuple[CLIP, Preprocess]:
    """A model in evaluation mode, and the transform that makes its input of a PIL image.

    Args:
        name_or_path: one of `available_models()`, or a file that `save` wrote.
        device: where the model goes; CUDA if there is any, else the CPU.

    Raises:
        RuntimeError: there is no such name or file, or the file is not one of `save`'s.
    """
    path = checkpoint_path(name_or_path)
    config = read_config(path)
    with torch.device("meta"):  # no memory and no random numbers for weights about to be replaced
        model = CLIP(config)
    tensors = {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in load_file(path).items()
    }
    model.load_state_dict(tensors, assign=True)
    target = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return model.eval().to(target), image_transform(config.image_resolution)


def save(model: CLIP, path: str | Path) -> None:
    """Write a model's weights and architecture, under a temporary name first."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: _stored(tensor) for name, tensor in model.state_dict().items()}
    temporary = path.with_name(path.name + ".partial")
    metadata = {CONFIG_KEY: json.dumps(model.config.to_dict())}
    temporary.write_bytes(serialize(tensors, metadata))
    temporary.replace(path)


def read_config(path: str | Path) -> ClipConfig:
    """The architecture that a file says it holds.

    Raises:
        RuntimeError: the file is not safetensors, or holds no architecture.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise RuntimeError(f"{path} is not a safetensors file: {error}") from error
    if CONFIG_KEY not in metadata:
        raise RuntimeError(f"{path} says no architecture; write it with clip_model.save")
    return ClipConfig.from_dict(json.loads(metadata[CONFIG_KEY]))


def _stored(tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.detach().cpu().contiguous()
    return tensor.half() if tensor.is_floating_point() and tensor.ndim >= 2 else tensor
