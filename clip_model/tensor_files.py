"""Tables of named tensors in files, whoever wrote them. No file is executed.

What a file is, its first bytes say, not its name: safetensors, or what PyTorch writes: a
TorchScript archive or `torch.save`'s (`torch_file.py`).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor

from clip_model.inert_pickle import Module
from clip_model.json_file import replacing
from clip_model.state_dict import state_views
from clip_model.torch_file import TENSOR_LIMIT, is_torch_file, open_torch_file
from clip_model.torchscript_archive import module_views

HEADER_LIMIT = 16 << 20  # bytes of a safetensors file's header; the largest CLIP's has 200,000
STARTS = 1024  # bytes that a file is known by
OTHER_FILES = (  # what is often found under a model's name: by its start, and what to do
    (rb"version https://git-lfs", "is a pointer of Git LFS, not the model: run git lfs pull"),
    (
        rb"\s*(<!doctype|<html|<head|<\?xml|<!--)",
        "is a web page, not a model: what it was fetched from asks for a login, or is elsewhere",
    ),
    (rb"\s*[{\[]", "is JSON, not a model: give the folder, or the weights beside it"),
    (rb"(\x1f\x8b|7z\xbc|\xfd7zXZ|BZh|\x28\xb5\x2f\xfd)", "is compressed: unpack it first"),
    (rb".{257}ustar", "is a tar archive: unpack it first"),
    (rb"GGUF|\x89HDF|.{4}TFL3|\x08.\x12", "is a model of another framework"),
)


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
        RuntimeError: it is of no kind that can be read; it says what it is.
    """
    with path.open("rb") as file:
        start = file.read(STARTS)
    return _read_torch_file(path) if is_torch_file(start) else _read_safetensors(path, start)


def write_safetensors(
    tensors: Mapping[str, Tensor], path: Path, texts: Mapping[str, str] | None = None
) -> None:
    """Write tensors and texts."""
    with replacing(path) as temporary:
        temporary.write_bytes(serialize(dict(tensors), dict(texts or {})))


def _read_safetensors(path: Path, start: bytes) -> TensorFile:
    _check_header(path, start)
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            if len(names) > TENSOR_LIMIT:
                raise RuntimeError(f"the file holds {len(names):,} tensors, which no CLIP has")
            tensors = {name: file.get_tensor(name) for name in names}
            return TensorFile(tensors, file.metadata() or {})
    except SafetensorError as error:
        raise RuntimeError(
            f"not a safetensors file ({error}), nor one that PyTorch wrote; if it has been "
            "fetched, compare its size with the original's"
        ) from error


def _check_header(path: Path, start: bytes) -> None:
    """Eight bytes say how long the header is, and it is a table: else it is another file."""
    size = path.stat().st_size
    (length,) = struct.unpack("<Q", start[:8].ljust(8, b"\0"))
    if start[8:9] == b"{" and length <= size - 8:
        if length > HEADER_LIMIT:
            raise RuntimeError(f"the safetensors header has {length:,} bytes, which no CLIP needs")
        return
    if not size:
        raise RuntimeError("the file is empty")
    for pattern, what in OTHER_FILES:
        if re.match(pattern, start, re.IGNORECASE | re.DOTALL):
            raise RuntimeError(f"the file {what}")
    raise RuntimeError("not a safetensors file, or one cut short, nor one that PyTorch wrote")


def _read_torch_file(path: Path) -> TensorFile:
    with open_torch_file(path) as file:
        if file.is_torchscript and isinstance(file.content, Module):
            return TensorFile(file.tensors(module_views(file.content)), is_torchscript=True)
        texts = {
            name: text
            for name, text in (file.content.items() if isinstance(file.content, dict) else ())
            if isinstance(name, str) and isinstance(text, str)
        }
        return TensorFile(file.tensors(state_views(file.content)), texts)
