"""Pictures in arrays: idx files (MNIST and its like), npz files (Keras, MedMNIST)."""

from __future__ import annotations

import gzip
import io
import math
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, ClassVar, cast

import numpy as np
from PIL import Image
from pydantic import Field

from pipelines.evaluation.sources.base import (
    PLACEHOLDER,
    SPLITS,
    Item,
    Numbering,
    Source,
    SourceError,
    are_names,
    check_content,
    existing,
    label_values,
    splits_where,
    texts_in,
)
from workers.base.compressed import GZIP
from workers.base.settings import FileName, Settings

Levels = np.ndarray[Any, Any]

#: The types of an idx file's numbers, by the third byte of its header.
_IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}

#: What a split's arrays are called: Keras' data sets, MedMNIST.
_NPZ_NAMES = (("x_{}", "y_{}"), ("{}_images", "{}_labels"))

_DAMAGED = (OSError, EOFError, ValueError, zlib.error, zipfile.BadZipFile, struct.error)


class IdxSettings(Settings):
    """Two idx files, compressed with gzip or not: bytes [N, H, W] and numbers [N]."""

    images: FileName = Field(description=f"{PLACEHOLDER} in it becomes the split's name")
    labels: FileName = Field(description="likewise")


class NpzSettings(Settings):
    """A npz file with pictures, uint8 [N, H, W] or [N, H, W, 3], and labels, [N] or [N, 1]; or
    [N, classes], 0 or 1 for each class."""

    path: FileName = Field(description=f"the file; {PLACEHOLDER} in a text is the split's name")
    images: str | None = Field(
        default=None, description="array of the pictures; null: x_SPLIT or SPLIT_images"
    )
    labels: str | None = Field(
        default=None, description="array of the labels; null: y_SPLIT or SPLIT_labels"
    )


@dataclass(frozen=True)
class _Stack:
    """An array in a file, which need not be read whole."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    open: Callable[[], IO[bytes]]  # where its first number stands
    by_columns: bool = False  # Fortran's order

    def rows(self) -> Iterator[Levels]:
        """What its first axis counts, one by one. Raises SourceError where the file is damaged."""
        size = math.prod(self.shape[1:]) * self.dtype.itemsize
        with _as_damage(self.name), self.open() as file:
            if self.by_columns:
                yield from self._whole(file)
                return
            for row in range(self.shape[0]):
                content = file.read(size)
                if len(content) < size:
                    raise SourceError(
                        f"{self.name} is cut short: {row} of {self.shape[0]} are there; copy it "
                        "again"
                    )
                yield np.frombuffer(content, self.dtype).reshape(self.shape[1:])
            if file.read(1):  # which looks at what is behind, a checksum, too
                raise SourceError(f"{self.name} holds more than it says: copy it again")

    def _whole(self, file: IO[bytes]) -> Levels:
        return np.frombuffer(file.read(), self.dtype).reshape(self.shape, order="F")

    def array(self) -> Levels:
        """All of it."""
        rows = list(self.rows())
        return np.stack(rows) if rows else np.empty(self.shape, self.dtype)


class _ArraySource(Source):
    """Pictures and labels in two arrays."""

    def _set(self, images: _Stack, labels: _Stack) -> None:
        _check_pictures(images)
        if images.shape[0] != labels.shape[0]:
            raise SourceError(
                f"{images.name} holds {images.shape[0]} pictures and {labels.name} "
                f"{labels.shape[0]} labels: they do not belong together"
            )
        self._images = images
        raw = _labels(labels.array(), labels.name)
        self.task = "multilabel" if raw.ndim == 2 else "classification"
        each = list(raw) if raw.ndim == 2 else raw.tolist()
        named = are_names(texts_in(each), self.classes, labels.name)
        if named and not self.classes:
            self.classes = tuple(sorted(set(texts_in(each))))
        number = Numbering(self.classes)
        values = [label_values(value, named) for value in each]
        if not any(value is not None for value in values):
            raise SourceError(f"{labels.name} holds no label: name another")
        self._labels = [None if v is None else number(v, labels.name) for v in values]

    def items(self) -> Iterator[Item]:
        for row, (levels, labels) in enumerate(zip(self._images.rows(), self._labels, strict=True)):
            name = f"{row:07d}"
            if labels is None:
                yield Item(name, png(levels), reason="no_label", problem="its label is not told")
            else:
                yield Item(name, png(levels), labels)


class IdxSource(_ArraySource):
    """The format: http://yann.lecun.com/exdb/mnist/, at the end of the page."""

    settings_type: ClassVar[type[Settings]] = IdxSettings
    settings: IdxSettings

    def _open(self) -> None:
        files = [existing(name, "file") for name in (self.settings.images, self.settings.labels)]
        check_content(files)
        self.files = sorted(set(files))
        images, labels = map(_open_idx, files)
        self._set(images, labels)

    @classmethod
    def splits(cls, settings_of: Callable[[str], IdxSettings]) -> tuple[str, ...]:
        return splits_where(settings_of, lambda settings: _is_there(settings.images))


class NpzSource(_ArraySource):
    """Arrays of a zip file, read a picture at a time."""

    settings_type: ClassVar[type[Settings]] = NpzSettings
    settings: NpzSettings

    def _open(self) -> None:
        path = existing(self.settings.path, "file")
        check_content([path])
        self.files = [path]
        there = _arrays_in(path)
        images, labels = _npz_names(self.settings, self.split, there)
        for name in (images, labels):
            if name not in there:
                raise SourceError(
                    f"{path} has no array {name}; it has {', '.join(there)}: name them with "
                    "`images` and `labels`"
                )
        self._set(_open_npz(path, images), _open_npz(path, labels))

    @classmethod
    def splits(cls, settings_of: Callable[[str], NpzSettings]) -> tuple[str, ...]:
        if settings_of("a") != settings_of("b"):
            return splits_where(settings_of, _names_arrays)
        settings = settings_of("a")
        if settings.images:
            return ()
        there = _arrays_in(existing(settings.path, "file"))
        return tuple(
            split for split in SPLITS if set(_npz_names(settings, split, there)) <= set(there)
        )


def _is_there(name: str) -> bool:
    try:
        return existing(name, "file").is_file()
    except SourceError:
        return False


def _names_arrays(settings: NpzSettings) -> bool:
    """Whether the file is there, and has the array of pictures if that is named."""
    if not _is_there(settings.path):
        return False
    return settings.images is None or settings.images in _arrays_in(Path(settings.path))


def _npz_names(settings: NpzSettings, split: str, there: list[str]) -> tuple[str, str]:
    """What the arrays are called: as is said, else as in the first layout whose pictures are
    there."""
    layouts = [(images.format(split), labels.format(split)) for images, labels in _NPZ_NAMES]
    images, labels = next((names for names in layouts if names[0] in there), layouts[0])
    return settings.images or images, settings.labels or labels


def png(levels: Levels) -> bytes:
    """A picture of uint8 [H, W] or [H, W, 1], grey, or [H, W, 3], RGB."""
    buffer = io.BytesIO()
    image = Image.fromarray(levels[..., 0] if levels.shape[2:] == (1,) else levels)
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _check_pictures(images: _Stack) -> None:
    """Raise SourceError for an array that does not hold pictures."""
    shape = images.shape
    fits = len(shape) == 3 or (len(shape) == 4 and shape[3] in (1, 3))
    if not fits or images.dtype != np.uint8:
        raise SourceError(
            f"{images.name} is {images.dtype} {list(shape)}: pictures are uint8 [N, H, W] or "
            "[N, H, W, 3], with levels from 0 to 255"
        )
    if 0 in shape:
        raise SourceError(f"{images.name} is {list(shape)}: it holds no picture")


def _labels(array: Levels, name: str) -> Levels:
    """[N] labels, or [N, C] flags. Raises SourceError for an array of something else."""
    if array.dtype.kind == "S":
        array = np.char.decode(array, "utf-8", "backslashreplace")
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    is_flags = array.ndim == 2 and array.dtype.kind in "biuf" and np.isin(array, (0, 1)).all()
    is_whole = array.dtype.kind != "f" or bool((np.isnan(array) | (array % 1 == 0)).all())
    if not (is_flags or (array.ndim == 1 and array.dtype.kind in "biufU" and is_whole)):
        raise SourceError(
            f"{name} is {array.dtype} {list(array.shape)}: labels are class numbers or names, [N] "
            "or [N, 1]; or [N, classes], 0 or 1 for each class"
        )
    return array


@contextmanager
def _as_damage(name: str) -> Iterator[None]:
    try:
        yield
    except SourceError:
        raise
    except _DAMAGED as error:
        raise SourceError(f"{name} is damaged: {error}; copy it again") from error


def _open_idx(path: Path) -> _Stack:
    """Raises SourceError where the header says something else than the file holds."""
    with path.open("rb") as stored:
        is_packed = stored.read(len(GZIP.magic)) == GZIP.magic

    def content() -> IO[bytes]:
        return cast("IO[bytes]", gzip.open(path)) if is_packed else path.open("rb")

    with _as_damage(str(path)), content() as file:
        zeros, kind, axes = struct.unpack(">HBB", file.read(4))
        if zeros or kind not in _IDX_TYPES or not axes:
            raise SourceError(
                f"{path} is no idx file: it begins with {zeros:04x} {kind:02x} {axes:02x}, not "
                "with 0000, a type and a number of axes"
            )
        shape = struct.unpack(f">{axes}I", file.read(4 * axes))
    header, dtype = 4 + 4 * axes, np.dtype(_IDX_TYPES[kind])
    size = header + math.prod(shape) * dtype.itemsize
    if not is_packed and path.stat().st_size != size:
        raise SourceError(
            f"{path} has {path.stat().st_size} bytes, and {size} by its header: copy it again"
        )

    def behind_header() -> IO[bytes]:
        file = content()
        file.seek(header)
        return file

    return _Stack(str(path), shape, dtype, behind_header)


def _arrays_in(path: Path) -> list[str]:
    with _as_damage(str(path)), zipfile.ZipFile(path) as file:
        return [name.removesuffix(".npy") for name in file.namelist() if name.endswith(".npy")]


def _open_npz(path: Path, name: str) -> _Stack:
    place = f"{path}, {name}"

    def content() -> IO[bytes]:
        with zipfile.ZipFile(path) as file:
            return file.open(f"{name}.npy")  # it keeps the file open

    def behind_header() -> IO[bytes]:
        file = content()
        _npy_header(file)
        return file

    with _as_damage(place), content() as file:
        shape, by_columns, dtype = _npy_header(file)
    if dtype.hasobject:
        raise SourceError(
            f"{place} holds Python objects, which are never loaded: save it as a plain array"
        )
    return _Stack(place, shape, dtype, behind_header, by_columns)


def _npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    return np.lib.format.read_array_header_2_0(file)
