"""TorchScript archives, which OpenAI published its weights as: their tensors, not their code.

An archive is a zip: `name/data.pkl` says which tensors the modules hold, `name/data/0`, `1`, ...
are their bytes, `name/code/` is the program. The program is never read here, and `data.pkl` goes
through `inert_pickle`, so opening a file of unknown origin runs nothing of it.
Writing makes an archive of the tensors alone, which `torch.jit.load` and so openai/CLIP take.
"""

from __future__ import annotations

import math
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clip_model.inert_pickle import STORAGE_TYPE, Module, Name, UnsafeCheckpointError, read_pickle

PICKLE_LIMIT = 64 << 20  # bytes; the largest of OpenAI's has less than a megabyte
DTYPES = {
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
}


def is_torchscript(path: Path) -> bool:
    """Whether a file is a zip that holds a TorchScript program's constants, as PyTorch asks."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.rpartition("/")[2] == "constants.pkl" for name in archive.namelist())


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """The tensors of an archive by their dotted names; plain attributes are among them.

    Raises:
        UnsafeCheckpointError: the archive holds what tensors do not need, or is broken. Nothing
            of it has been run.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _named_tensors(_Records(archive).root_module())
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise UnsafeCheckpointError(f"a broken archive: {error}") from error


def write_torchscript(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors as an archive of modules without methods, named as the tensors are."""
    root = nn.Module()
    for name, tensor in tensors.items():
        *parents, leaf = name.split(".")
        module = root
        for parent in parents:
            if parent not in module._modules:
                module.add_module(parent, nn.Module())
            module = module.get_submodule(parent)
        if tensor.is_floating_point():
            module.register_parameter(leaf, nn.Parameter(tensor, requires_grad=False))
        else:
            module.register_buffer(leaf, tensor)
    with warnings.catch_warnings():  # torch.jit is deprecated, and what openai/CLIP reads
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(root).save(str(path))


class _Records:
    """The records of one archive. They are read by name and never written to any disk."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self.archive = archive
        names = archive.namelist()
        pickles = [name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1 or len(set(names)) != len(names):
            raise UnsafeCheckpointError("an archive must have one data.pkl and no name twice")
        self.folder = pickles[0].rpartition("/")[0]
        self.storages: dict[str, Tensor] = {}

    def root_module(self) -> Module:
        order = f"{self.folder}/byteorder"
        if order in self.archive.namelist() and self.read(order) != b"little":
            raise UnsafeCheckpointError("only little-endian archives can be read")
        root = read_pickle(self.read(f"{self.folder}/data.pkl"), self.storage, _tensor)
        if not isinstance(root, Module):
            raise UnsafeCheckpointError("the archive holds no module")
        return root

    def read(self, name: str) -> bytes:
        """Raises UnsafeCheckpointError for a record that could be larger than the file."""
        if name not in self.archive.namelist():
            raise UnsafeCheckpointError(f"the archive has no record {name!r}")
        info = self.archive.getinfo(name)
        if info.compress_type != zipfile.ZIP_STORED:
            raise UnsafeCheckpointError(
                f"the record {name!r} is compressed, as PyTorch's never are"
            )
        if name.endswith(".pkl") and info.file_size > PICKLE_LIMIT:
            raise UnsafeCheckpointError(f"the record {name!r} has {info.file_size} bytes")
        return self.archive.read(info)

    def storage(self, identity: tuple[Any, ...]) -> Tensor:
        """The elements of a storage, [N], from ("storage", type, key, device, N)."""
        if len(identity) != 5 or identity[0] != "storage" or not isinstance(identity[1], Name):
            raise UnsafeCheckpointError("a storage is named in a way that PyTorch does not")
        kind = STORAGE_TYPE.fullmatch(identity[1].text)
        key, count = identity[2], identity[4]
        if kind is None or not isinstance(key, str) or not (key.isascii() and key.isdigit()):
            raise UnsafeCheckpointError(f"{key!r} of type {identity[1].text!r} is no storage")
        dtype = DTYPES[kind[1]]
        if key not in self.storages:
            self.storages[key] = _elements(self.read(f"{self.folder}/data/{key}"), dtype)
        storage = self.storages[key]
        if storage.dtype != dtype or count != len(storage):
            raise UnsafeCheckpointError(f"storage {key} does not have {count} elements of {dtype}")
        return storage


def _elements(record: bytes, dtype: torch.dtype) -> Tensor:
    if not record:
        return torch.empty(0, dtype=dtype)
    if dtype is torch.bool:  # any other byte than 0 and 1 would be no bool
        return torch.frombuffer(bytearray(record), dtype=torch.uint8) != 0
    return torch.frombuffer(bytearray(record), dtype=dtype)


def _tensor(arguments: tuple[Any, ...]) -> Tensor:
    """A copy of a storage's part, of the shape that `torch._utils._rebuild_tensor_v2` is given."""
    storage, offset, size, stride = arguments[:4]
    if not isinstance(storage, Tensor) or storage.ndim != 1 or not _counts((offset,)):
        raise UnsafeCheckpointError("a tensor without a storage")
    if not _counts(size) or not _counts(stride) or len(size) != len(stride):
        raise UnsafeCheckpointError(f"a tensor of shape {size} and strides {stride}")
    end = offset + 1 + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    # More elements than the storage has would be a small file that fills the memory.
    if math.prod(size) > len(storage) or (math.prod(size) and end > len(storage)):
        raise UnsafeCheckpointError(f"a tensor of shape {size} is larger than its storage")
    return storage.as_strided(size, stride, offset).clone(memory_format=torch.contiguous_format)


def _counts(values: Any) -> bool:
    return type(values) is tuple and all(type(n) is int and 0 <= n < 2**48 for n in values)


def _named_tensors(root: Module) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()  # a module under two names could stand for any number of modules
    waiting = [("", root)]
    while waiting:
        prefix, module = waiting.pop()
        if id(module) in seen:
            raise UnsafeCheckpointError(f"the module {prefix!r} is part of the archive twice")
        seen.add(id(module))
        for name, value in module.attributes.items():
            if isinstance(value, Tensor):
                tensors[f"{prefix}{name}"] = value
            elif isinstance(value, Module):
                waiting.append((f"{prefix}{name}.", value))
    return tensors
