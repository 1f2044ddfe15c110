"""Tables of named tensors in files, whoever wrote them. No file is executed.

What a file is, its first bytes say, not its name: safetensors, a TorchScript archive
(`torchscript_archive.py`), or what `torch.save` writes, which is read with `weights_only=True`
and in no other way.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor

from clip_model.inert_pickle import UnsafeCheckpointError
from clip_model.torchscript_archive import is_torchscript, read_torchscript

ZIP_START = b"PK\x03\x04"
PICKLE_START = b"\x80"  # of torch.save before it wrote zip archives


@dataclass(frozen=True)
class TensorFile:
    """What a file holds: tensors by name, short texts by name, and what kind of file it is."""

    tensors: dict[str, Tensor]
    texts: dict[str, str] = field(default_factory=dict)
    is_torchscript: bool = False


def read_tensor_file(path: Path) -> TensorFile:
    """The tensors of a file, of whatever kind.

    Raises:
        UnsafeCheckpointError: the file asks for more than tensors. Nothing of it has been run.
        RuntimeError: it is of no kind that can be read.
    """
    with path.open("rb") as file:
        start = file.read(9)
    if start.startswith(ZIP_START) and is_torchscript(path):
        return TensorFile(read_torchscript(path), is_torchscript=True)
    if start.startswith((ZIP_START, PICKLE_START)) and start[8:] != b"{":
        return _read_torch_save(path)
    return _read_safetensors(path)


def write_safetensors(
    tensors: Mapping[str, Tensor], path: Path, texts: Mapping[str, str] | None = None
) -> None:
    """Write tensors and texts, under a temporary name first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".partial")
    temporary.write_bytes(serialize(dict(tensors), dict(texts or {})))
    temporary.replace(path)


def _read_safetensors(path: Path) -> TensorFile:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return TensorFile(tensors, file.metadata() or {})
    except SafetensorError as error:
        raise RuntimeError(
            f"not a safetensors file ({error}), nor one that PyTorch wrote"
        ) from error


def _read_torch_save(path: Path) -> TensorFile:
    try:
        with path.open("rb") as file:  # a path would be judged by its ending
            content = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError) as error:
        raise UnsafeCheckpointError(
            "the file is broken or holds more than tensors: torch.load(weights_only=True), the "
            f"only way that such files are read in, refuses it ({error})"
        ) from error
    if not isinstance(content, dict):
        raise RuntimeError(f"the file holds a {type(content).__name__}, not a table of tensors")
    texts = {name: text for name, text in content.items() if isinstance(text, str)}
    return TensorFile(_named_tensors(content.get("state_dict", content)), texts)


def _named_tensors(content: Any) -> dict[str, Tensor]:
    """The tensors of a state dict, without the prefix that data-parallel training leaves."""
    if not isinstance(content, dict):
        raise RuntimeError(f"the file's 'state_dict' is a {type(content).__name__}")
    tensors = {name: value.detach() for name, value in content.items() if _is_plain(name, value)}
    if tensors and all(name.startswith("module.") for name in tensors):
        return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    return tensors


def _is_plain(name: Any, value: Any) -> bool:
    return isinstance(name, str) and isinstance(value, Tensor) and value.layout is torch.strided
