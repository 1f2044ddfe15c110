"""Models in files, and files by name.

Four formats, told apart by what is in a file and never by executing it (`tensor_files.py`):
this project's own, OpenAI's archives, open_clip's files and Hugging Face's folders. In memory
everything has OpenAI's names and is float32.

This project's own file is safetensors: tensors under OpenAI's names, and the architecture as JSON
in the metadata. Matrices are stored as float16 (half the bytes, and less error than training
leaves), vectors and statistics as float32, unless `save` is told otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from clip_model import hugging_face, open_clip
from clip_model.architecture import infer_config, with_quick_gelu
from clip_model.config import (
    HEAD_WIDTH,
    MLP_RATIO,
    ClipConfig,
    EfficientNetConfig,
    TimmTowerConfig,
    VisionTransformerConfig,
)
from clip_model.hugging_face import from_hugging_face, has_hugging_face_names, read_shards
from clip_model.inert_pickle import UnsafeCheckpointError
from clip_model.json_file import parse_json, replacing
from clip_model.model import CLIP, convert_weights, filled
from clip_model.model_files import HUGGING_FACE_CONFIG, OPEN_CLIP_CONFIG, checkpoint_path
from clip_model.open_clip import from_open_clip
from clip_model.preprocess import Preprocess, image_transform
from clip_model.registry import PUBLISHED, SHIPPED, available_models
from clip_model.state_dict import clip_tensors
from clip_model.tensor_files import read_tensor_file, write_safetensors
from clip_model.torchscript_archive import write_torchscript

__all__ = [
    "PUBLISHED",
    "SHIPPED",
    "available_models",
    "load",
    "read_weights",
    "save",
]

CONFIG_KEY = "clip_model.config"
# Numbers that OpenAI keeps beside its weights, as tensors: by them a state dict is known as one.
OPENAI_NUMBERS = frozenset({"input_resolution", "context_length", "vocab_size"})

LONGEST_ERROR = 2000  # characters

Format = Literal["clip_model", "openai", "open_clip", "hugging_face"]


def load(
    name_or_path: str | Path,
    device: str | torch.device | None = None,
    jit: bool = False,
    download_root: str | Path | None = None,
    *,
    quick_gelu: bool | None = None,
    heads: tuple[int, int] | None = None,
    half: bool | None = None,
) -> tuple[CLIP, Preprocess]:
    """A model in evaluation mode, and the transform that makes its input of a PIL image.

    Args:
        name_or_path: as in `checkpoint_path`.
        device: where the model goes; CUDA if there is any, else the CPU.
        jit: not supported; it is here because openai/CLIP's `load` has it.
        download_root: where downloaded files are kept; openai/CLIP's cache if None.
        quick_gelu: whether the weights were trained with QuickGELU, instead of what the file
            says. A file that says nothing, like open_clip's, is loaded with it only.
        heads: attention heads of the image and the text tower, for a file that does not say them
            and is wider than those in which they are sure: see docs/checkpoints.md.
        half: matrices in float16 (`convert_weights`). If None, on CUDA, as openai/CLIP does; say
            False to train there.

    Raises:
        RuntimeError: there is no such name or file, the file is not a CLIP's, a weight is not
            finite, or nothing says which activation it needs.
        UnsafeCheckpointError: the file asks for more than tensors; none of it has been run.
        ValueError: half precision on the CPU; or a weight too large for it.
    """
    if jit:
        raise RuntimeError(
            "jit=True would run the program inside of the file, which this project never does; "
            "load with jit=False and use torch.compile for speed"
        )
    target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if half and target.type == "cpu":
        raise ValueError("half precision is for GPUs; on a CPU the model is float32")
    path = checkpoint_path(name_or_path, download_root)
    try:
        model = _build(*read_weights(path, quick_gelu, heads))
    except UnsafeCheckpointError as error:
        raise UnsafeCheckpointError(f"{path} was not loaded, nor run: {_text(error)}") from error
    except RuntimeError as error:
        raise RuntimeError(f"{path}: {_text(error)}") from error
    if half or (half is None and target.type == "cuda"):
        convert_weights(model)
    return model.eval().to(target), image_transform(model.preprocessing)


def save(
    model: CLIP, path: str | Path, format: Format = "clip_model", *, half: bool | None = None
) -> None:
    """Write a model's weights and architecture, under temporary names first.

    Args:
        path: a file; for "hugging_face" a folder; for "open_clip" a `.safetensors` or `.pt` file,
            or else a folder with open_clip's configuration.
        format: whose programs shall read it.
        half: matrices as float16. If None, in this project's own format only.

    Raises:
        ValueError: the format cannot hold this model, or a weight is not finite; it says why.
    """
    path, config = Path(path), model.config
    if format != "clip_model" and config.text.kind != "transformer":
        raise ValueError(f"only this project's own format holds a {config.text.kind} text encoder")
    if format != "clip_model":
        _check_plain(config, format)
    half = format == "clip_model" if half is None else half
    tensors = {name: _stored(tensor, half) for name, tensor in model.state_dict().items()}
    texts = {CONFIG_KEY: json.dumps(config.to_dict())}
    if format == "clip_model":
        write_safetensors(tensors, path, texts)
    elif format == "openai":
        _write_openai(tensors, config, path)
    elif format == "open_clip":
        open_clip.write_open_clip(tensors, config, path, texts)
    elif format == "hugging_face":
        hugging_face.write_hugging_face(tensors, config, path)
    else:
        raise ValueError(f"unknown format {format!r}")


def read_weights(
    path: Path, quick_gelu: bool | None = None, heads: tuple[int, int] | None = None
) -> tuple[dict[str, Tensor], ClipConfig]:
    """The tensors of a file under OpenAI's names, and their architecture.

    Raises:
        RuntimeError: as in `load`.
    """
    tensors, config = _read_any(path, quick_gelu, heads)
    found = (config.vision.heads, config.text.heads)
    if heads not in (None, found):
        raise RuntimeError(
            f"{heads} heads were asked for, and the towers have {found}: what the file says counts"
        )
    return tensors, config


def _read_any(
    path: Path, quick_gelu: bool | None, heads: tuple[int, int] | None
) -> tuple[dict[str, Tensor], ClipConfig]:
    if path.name.endswith(".index.json"):
        return from_hugging_face(read_shards(path), path.with_name(HUGGING_FACE_CONFIG), quick_gelu)
    file = read_tensor_file(path)
    if CONFIG_KEY in file.texts:
        config = _own_config(file.texts[CONFIG_KEY])
        return file.tensors, with_quick_gelu(config, quick_gelu)
    tensors = clip_tensors(file.tensors)
    if file.is_torchscript or tensors.keys() >= OPENAI_NUMBERS:
        return _from_openai(tensors, quick_gelu)
    if has_hugging_face_names(tensors):
        return from_hugging_face(tensors, path.with_name(HUGGING_FACE_CONFIG), quick_gelu)
    try:
        return from_open_clip(tensors, path.with_name(OPEN_CLIP_CONFIG), quick_gelu, heads)
    except RuntimeError as error:
        raise RuntimeError(f"the file says no architecture, and {error}") from error


def _build(tensors: dict[str, Tensor], config: ClipConfig) -> CLIP:
    if (scale := tensors.get("logit_scale")) is not None and scale.numel() == 1:
        # Some of open_clip's have one element in 1-D.
        tensors = tensors | {"logit_scale": scale.reshape(())}
    model = filled(config, tensors)
    check_finite(model.float().state_dict())
    return model


def check_finite(tensors: Mapping[str, Tensor]) -> None:
    """Weights that are not finite make features that are none; a rank by them would be luck.

    Raises:
        RuntimeError: a weight is NaN or infinite, or the temperature's exponential would be.
    """
    for name, tensor in tensors.items():
        values = tensor.float().exp() if name == "logit_scale" else tensor
        if not values.isfinite().all():
            raise RuntimeError(f"the weights of {name!r} are not finite: the training went wrong")


def _own_config(text: str) -> ClipConfig:
    try:
        return ClipConfig.from_dict(parse_json(text))
    except (ValueError, TypeError, KeyError) as error:
        raise RuntimeError(
            f"the architecture that the file says cannot be read: {error}"
        ) from error


def _from_openai(
    theirs: dict[str, Tensor], quick_gelu: bool | None
) -> tuple[dict[str, Tensor], ClipConfig]:
    """OpenAI's tensors without what only its own program needs: the numbers, the causal mask."""
    tensors = {
        name: tensor
        for name, tensor in theirs.items()
        if name not in OPENAI_NUMBERS and name.rpartition(".")[2] != "attn_mask"
    }
    return tensors, infer_config(tensors, quick_gelu=True if quick_gelu is None else quick_gelu)


def _check_plain(config: ClipConfig, format: str) -> None:
    """Raises ValueError: the model is made of what this format has no word for."""
    lacks = {"EfficientNets with two ways": isinstance(config.vision, EfficientNetConfig)}
    if format != "open_clip":
        lacks |= {
            "image towers of timm's": isinstance(config.vision, TimmTowerConfig),
            "text towers that are not causal": not config.text.causal,
            "preprocessing other than OpenAI's": not config.has_openai_preprocessing,
        }
    if absent := [what for what, is_needed in lacks.items() if is_needed]:
        raise ValueError(f"the format {format} has no {', no '.join(absent)}")


def _write_openai(tensors: dict[str, Tensor], config: ClipConfig, path: Path) -> None:
    text = config.text
    if not config.quick_gelu:
        raise ValueError("OpenAI's format means QuickGELU, and this model has the exact GELU")
    if text.heads != max(1, text.width // HEAD_WIDTH):
        raise ValueError(
            f"OpenAI's format means text heads {HEAD_WIDTH} wide, not {text.heads} heads"
        )
    vision = config.vision
    if isinstance(vision, VisionTransformerConfig) and (
        vision.heads != vision.width // HEAD_WIDTH or vision.mlp_width != MLP_RATIO * vision.width
    ):
        raise ValueError(
            f"OpenAI's format means image heads {HEAD_WIDTH} wide and perceptrons {MLP_RATIO} "
            f"times the tower's width, not {vision.heads} heads and {vision.mlp_width:,} in a "
            f"tower {vision.width:,} wide"
        )
    numbers = {
        "input_resolution": torch.tensor(config.image_resolution),
        "context_length": torch.tensor(text.context_length),
        "vocab_size": torch.tensor(text.vocab_size),
    }
    with replacing(path) as temporary:
        write_torchscript(tensors | numbers, temporary)


def _text(error: Exception) -> str:
    """What an error says, without end: a hostile file may have put a megabyte into it."""
    text = str(error)
    return text if len(text) <= LONGEST_ERROR else f"{text[:LONGEST_ERROR]} ..."


def _stored(tensor: Tensor, half: bool) -> Tensor:
    """Raises ValueError: a weight is not finite, or not as float16."""
    tensor = tensor.detach().cpu().contiguous()
    if not tensor.is_floating_point():
        return tensor
    stored = tensor.half() if half and tensor.ndim >= 2 else tensor.float()
    if not stored.isfinite().all():
        raise ValueError(
            "a weight is not finite"
            if not tensor.isfinite().all()
            else "a weight is too large for float16: save it with half=False"
        )
    return stored
