"""What `torch.save` and TorchScript write, read without PyTorch's own reader. Nothing is run.

Both are a zip today: `name/data.pkl` says which tensors there are, `name/data/0`, `1`, ... are
their bytes. Before 2020 `torch.save` wrote one pickle after the other and the bytes behind them.
Every pickle goes through `inert_pickle`. Its tensors are `View`s at first, a few numbers each: only
those that somebody asks for are read, and only if all together are as large as the file says. So
neither a compressed record, nor one storage seen a thousand times, nor a stride of 0 fills the
memory, and an optimizer's state beside the weights costs nothing.

The formats: `torch/serialization.py` of PyTorch 2.13.
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from clip_model.inert_pickle import (
    PICKLE_LIMIT,
    STORAGE_TYPE,
    Name,
    UnsafeCheckpointError,
    read_pickle,
)

ZIP_START = b"PK\x03\x04"
PICKLE_START = b"\x80"
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of files from before 2020
DIRECTORY_LIMIT = 4 << 20  # bytes of a zip's table of records; the largest CLIP's has 150,000
TENSOR_LIMIT = 20_000  # the largest CLIP has 1,600, and thrice as many with its optimizer's
MOST_AXES = 8  # of a tensor
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


@dataclass(frozen=True)
class Storage:
    """Elements somewhere in the file."""

    key: str
    dtype: torch.dtype
    count: int

    @property
    def bytes(self) -> int:
        return self.count * self.dtype.itemsize


@dataclass(frozen=True)
class View:
    """A tensor that has not been read: a part of a storage."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return math.prod(self.size) * self.storage.dtype.itemsize

    @property
    def is_whole(self) -> bool:
        """Whether it is all of its storage, in order."""
        steps = [math.prod(self.size[axis + 1 :]) for axis in range(len(self.size))]
        return list(self.stride) == steps and math.prod(self.size) == self.storage.count


@dataclass(frozen=True)
class TorchFile:
    """An open file: what its pickle describes, and how to read its storages."""

    content: Any
    is_torchscript: bool
    size: int
    read: Callable[[Storage], bytearray]

    def tensors(self, views: Mapping[str, View]) -> dict[str, Tensor]:
        """Read some of the file's tensors.

        Raises:
            UnsafeCheckpointError: they are too many or too large, or are not in the file.
        """
        storages = {view.storage.key: view.storage for view in views.values()}
        in_storages = sum(storage.bytes for storage in storages.values())
        in_views = sum(view.bytes for view in views.values())  # tied weights count twice
        if len(views) > TENSOR_LIMIT or in_storages > self.size or in_views > 2 * self.size:
            raise UnsafeCheckpointError(
                f"{len(views):,} tensors of {max(in_storages, in_views):,} bytes together are not "
                f"read from a file of {self.size:,} bytes ({TENSOR_LIMIT:,} tensors at most)"
            )
        elements: dict[str, Tensor] = {}
        tensors: dict[str, Tensor] = {}
        for name, view in views.items():
            is_first = view.storage.key not in elements
            if is_first:
                elements[view.storage.key] = _elements(self.read(view.storage), view.storage)
            tensor = elements[view.storage.key].as_strided(view.size, view.stride, view.offset)
            # Two tensors of one storage part here: training one must not change the other.
            tensors[name] = tensor if is_first and view.is_whole else _copy(tensor)
        return tensors


def is_torch_file(start: bytes) -> bool:
    """Whether a file that starts so may be PyTorch's. A safetensors file may start with 0x80."""
    return start.startswith((ZIP_START, PICKLE_START)) and start[8:9] != b"{"


@contextmanager
def open_torch_file(path: Path) -> Iterator[TorchFile]:
    """A file of PyTorch's, open for reading its tensors.

    Raises:
        UnsafeCheckpointError: it holds what tensors do not need, or is broken. Nothing of it has
            been run.
    """
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            if file.read(4) != ZIP_START:
                yield _old_file(file, size)
                return
            _check_directory(file, size)
            with zipfile.ZipFile(file) as archive:
                yield _zipped_file(archive, size)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, OSError, struct.error) as error:
        raise UnsafeCheckpointError(
            f"it is broken or cut short ({error}): compare its size with the original's, and fetch "
            "it again"
        ) from error


def _zipped_file(archive: zipfile.ZipFile, size: int) -> TorchFile:
    names = archive.namelist()
    pickles = [name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1 or len(set(names)) != len(names):
        raise UnsafeCheckpointError("an archive must have one data.pkl and no name twice")
    folder = pickles[0].rpartition("/")[0]

    def read(name: str) -> bytes:
        try:
            info = archive.getinfo(f"{folder}/{name}")
        except KeyError as error:
            raise UnsafeCheckpointError(f"the archive has no record {name[:100]!r}") from error
        if info.compress_type != zipfile.ZIP_STORED or info.file_size > size:
            raise UnsafeCheckpointError(
                f"the record {name[:100]!r} is compressed, as PyTorch's never are"
            )
        if name.endswith(".pkl") and info.file_size > PICKLE_LIMIT:
            raise UnsafeCheckpointError(f"the record {name!r} has {info.file_size} bytes")
        return archive.read(info)

    if f"{folder}/byteorder" in names and read("byteorder") != b"little":
        raise UnsafeCheckpointError("only little-endian archives can be read")
    content = read_pickle(read("data.pkl"), _Storages().add, _view)
    is_torchscript = any(name.rpartition("/")[2] == "constants.pkl" for name in names)
    return TorchFile(
        content, is_torchscript, size, lambda storage: bytearray(read(f"data/{storage.key}"))
    )


def _check_directory(file: BinaryIO, size: int) -> None:
    """A zip's table of records is read whole when it is opened: not before its size is known.

    Raises:
        UnsafeCheckpointError: it is too large.
        zipfile.BadZipFile: there is none: the file has lost its end.
    """
    start = max(0, size - (1 << 16) - 42)  # a comment of 65,535 bytes, and two records before it
    file.seek(start)
    tail = file.read()
    end = len(tail) - 22 if tail[-22:-18] == b"PK\5\6" else tail.rfind(b"PK\5\6")
    if end < 0:
        raise zipfile.BadZipFile("a zip archive without its end")
    (length,) = struct.unpack_from("<I", tail, end + 12)
    if end >= 20 and tail[end - 20 : end - 16] == b"PK\6\7":  # more than 4 GB: where that is said
        file.seek(min(struct.unpack_from("<Q", tail, end - 12)[0], size))
        (length,) = struct.unpack("<Q", file.read(56)[40:48])
    if length > DIRECTORY_LIMIT:
        raise UnsafeCheckpointError(f"the archive's table of records has {length:,} bytes")
    file.seek(0)


def _old_file(file: BinaryIO, size: int) -> TorchFile:
    """Five pickles: a magic number, a version, the machine, the content, the storages' keys."""
    file.seek(0)
    stream = io.BytesIO(file.read(PICKLE_LIMIT))
    storages = _Storages()
    magic = read_pickle(stream, storages.add, _view)
    if magic != MAGIC or type(magic) is not int:
        raise UnsafeCheckpointError("a pickle that torch.save has not written")
    version, machine, content, keys = (read_pickle(stream, storages.add, _view) for _ in range(4))
    little = type(machine) is dict and machine.get("little_endian") is True
    if type(version) is not int or version != PROTOCOL or not little or type(keys) is not list:
        raise UnsafeCheckpointError("of a version of torch.save that nothing is known of")
    position, places = stream.tell(), dict[str, int]()
    for key in keys:  # their bytes follow in this order, each after its number of elements
        if type(key) is not str or key not in storages.seen:
            raise UnsafeCheckpointError("a storage that no tensor is part of")
        places[key] = position + 8
        position += 8 + storages.seen[key].bytes
    if position > size:
        raise EOFError(f"{position:,} bytes are spoken of, {size:,} are there")

    def read(storage: Storage) -> bytearray:
        file.seek(places.get(storage.key, size))
        return bytearray(file.read(storage.bytes))

    return TorchFile(content, False, size, read)


class _Storages:
    """The storages that a pickle names."""

    def __init__(self) -> None:
        self.seen: dict[str, Storage] = {}

    def add(self, identity: tuple[Any, ...]) -> Storage:
        """From ("storage", type, key, device, elements), and None in old files."""
        if len(identity) not in (5, 6) or not isinstance(identity[1], Name):
            raise UnsafeCheckpointError("a storage is named in a way that PyTorch does not")
        kind, key, count = STORAGE_TYPE.fullmatch(identity[1].text), identity[2], identity[4]
        if kind is None or type(key) is not str or not (key.isascii() and key.isdigit()):
            raise UnsafeCheckpointError("a storage's type or key is none of PyTorch's")
        if not _counts((count,)):
            raise UnsafeCheckpointError(f"storage {key[:100]} has no number of elements")
        storage = Storage(key, DTYPES[kind[1]], count)
        if self.seen.setdefault(key, storage) != storage:
            raise UnsafeCheckpointError(f"storage {key[:100]} is of two types or sizes")
        return storage


def _view(arguments: tuple[Any, ...]) -> View:
    """From the arguments of `torch._utils._rebuild_tensor_v2`."""
    storage, offset, size, stride = arguments[:4]
    if not isinstance(storage, Storage) or not _counts((offset,)):
        raise UnsafeCheckpointError("a tensor without a storage")
    if not _counts(size) or not _counts(stride) or len(size) != len(stride):
        raise UnsafeCheckpointError("a tensor whose shape and strides are not two lists of numbers")
    end = offset + 1 + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    # More elements than the storage has would be a small file that fills the memory.
    elements = math.prod(size)
    if elements > storage.count or (elements and end > storage.count):
        raise UnsafeCheckpointError(f"a tensor of shape {size} is larger than its storage")
    return View(storage, offset, size, stride)


def _counts(values: Any) -> bool:
    """Whether it is a tuple of few numbers, none of them so large that arithmetic overflows."""
    is_shape = type(values) is tuple and len(values) <= MOST_AXES
    return is_shape and all(type(n) is int and 0 <= n < 2**48 for n in values)


def _elements(record: bytearray, storage: Storage) -> Tensor:
    if len(record) != storage.bytes:
        raise UnsafeCheckpointError(
            f"storage {storage.key[:100]} does not have {storage.count} elements of {storage.dtype}"
        )
    if not record:
        return torch.empty(0, dtype=storage.dtype)
    if storage.dtype is torch.bool:  # any other byte than 0 and 1 would be no bool
        return torch.frombuffer(record, dtype=torch.uint8) != 0
    return torch.frombuffer(record, dtype=storage.dtype)


def _copy(tensor: Tensor) -> Tensor:
    return tensor.clone(memory_format=torch.contiguous_format)
