"""torchvision's data sets, from files that are here: nothing is downloaded."""

from __future__ import annotations

import inspect
import io
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image
from pydantic import Field

from clip_model.image_files import ImageError, as_image_error
from clip_model.templates import ClassName
from pipelines.evaluation.sources.base import (
    SPLITS,
    Item,
    Numbering,
    Source,
    SourceError,
    existing,
    label_values,
)
from workers.base.settings import FileName, Settings

#: What torchvision's classes raise where their files are not there, not whole, or need a package.
_ERRORS = (
    *(RuntimeError, OSError, ValueError, LookupError, TypeError, AssertionError),
    *(ImportError, EOFError, pickle.UnpicklingError),
)

#: Arguments that no option says.
_OURS = ("transform", "target_transform", "transforms", "download", "loader")

#: Modes that a PNG keeps as they are.
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA")

#: What the classes call the folder that is theirs.
_FOLDERS = ("raw_folder", "_base_folder", "base_folder", "_data_dir", "root")


class TorchvisionSettings(Settings):
    """A class of `torchvision.datasets` whose files are here."""

    dataset: str = Field(description="the class's name, such as FashionMNIST")
    root: FileName = Field(description="its `root`, where its files are")
    options: dict[str, Any] = Field(
        default_factory=dict, description="its other arguments; train or split is said by itself"
    )


class TorchvisionSource(Source):
    """Items are numbered as the class numbers them. Where it takes a loader of files, the pictures
    are the files as they stand, else PNGs of what it gives."""

    settings_type: ClassVar[type[Settings]] = TorchvisionSettings
    settings: TorchvisionSettings

    def _open(self) -> None:
        root, kind = existing(self.settings.root, "folder"), _kind(self.settings.dataset)
        arguments = _arguments(kind, self.settings, self.split)
        self._name = f"torchvision's {self.settings.dataset}"
        try:
            self._data = kind(str(root), **arguments)
            count = len(self._data)
        except _ERRORS as error:
            raise SourceError(
                f"{self._name} cannot be read from {root}: "
                f"{' '.join(str(error).split())}; nothing is downloaded here: put its files there"
            ) from error
        if not count:
            raise SourceError(f"{self._name} in {root} is empty")
        self.files = _files(self._data, root)
        self.classes = self.classes or _class_names(self._data)
        self._number = Numbering(self.classes)
        self.task = "multilabel" if self._has_flags() else "classification"

    def _has_flags(self) -> bool:
        """Whether the first label is an array. Raises SourceError where it is no label."""
        try:
            with as_image_error():
                _, target = self._data[0]
        except ImageError:
            return False  # of one picture, when it is read
        target = _plain(target)
        try:
            label_values(target, named=False)
        except ValueError as error:
            raise SourceError(
                f"{self._name} gives targets that are no classes ({error}): see its `options`"
            ) from error
        return isinstance(target, np.ndarray)

    def items(self) -> Iterator[Item]:
        for row in range(len(self._data)):
            name = f"{row:07d}"
            try:
                with as_image_error():
                    image, target = self._data[row]
                    content = image if isinstance(image, bytes) else _encoded(image)
            except ImageError as error:
                reason = error.reason.replace(" ", "_")
                yield Item(name, b"", reason=reason, problem=str(error))
                continue
            labels = label_values(_plain(target), named=False)
            if labels is None:
                yield Item(name, content, reason="no_label", problem="its label is not told")
            else:
                yield Item(name, content, self._number(labels, f"{self._name}, {name}"))

    @classmethod
    def splits(cls, settings_of: Callable[[str], TorchvisionSettings]) -> tuple[str, ...]:
        settings = settings_of(SPLITS[0])
        parameters = _parameters(_kind(settings.dataset))
        if "train" in parameters and "train" not in settings.options:
            return ("test", "train")
        if "split" not in parameters or "split" in settings.options:
            return ()
        return tuple(split for split in SPLITS if _opens(settings_of(split), split))


def _opens(settings: TorchvisionSettings, split: str) -> bool:
    try:
        TorchvisionSource(settings, split)
    except SourceError:
        return False
    return True


def _kind(name: str) -> Any:
    """The class of this name. Raises SourceError where there is none."""
    from clip_model import _torchvision  # noqa: F401, I001
    from torchvision import datasets

    if name not in datasets.__all__:
        known = ", ".join(datasets.__all__)
        raise SourceError(f"torchvision has no data set {name!r}: there are {known}")
    return getattr(datasets, name)


def _parameters(kind: Any) -> set[str]:
    """What a class takes, what it hands on to MNIST or ImageFolder included."""
    parameters = inspect.signature(kind).parameters
    names = set(parameters)
    if "kwargs" in names:
        for base in kind.__mro__[1:]:
            names |= set(inspect.signature(base).parameters) if base is not object else set()
    return names - {"args", "kwargs", "root"}


def _arguments(kind: Any, settings: TorchvisionSettings, split: str) -> dict[str, Any]:
    names, options = _parameters(kind), dict(settings.options)
    if unknown := sorted(options.keys() - (names - set(_OURS))):
        raise SourceError(
            f"torchvision's {settings.dataset} takes no option {', '.join(unknown)} here: there "
            f"are {', '.join(sorted(names - set(_OURS))) or 'none'}"
        )
    if "train" in names:
        if split not in ("train", "test") and "train" not in options:
            raise SourceError(
                f"torchvision's {settings.dataset} has no split {split!r}: it has test, train"
            )
        options.setdefault("train", split == "train")
    elif "split" in names:
        options.setdefault("split", split)
    if "download" in names:
        options["download"] = False
    if "loader" in names:
        options["loader"] = _read_file
    return options


def _read_file(path: str | Path) -> bytes:
    return Path(path).read_bytes()


def _class_names(data: Any) -> tuple[ClassName, ...] | None:
    """As the classes have them: a list, Caltech101's categories, or a number for each name."""
    names = next(
        (
            names
            for attribute in ("classes", "categories", "attr_names")
            if (names := getattr(data, attribute, None))
        ),
        None,
    )
    if names is None and (numbers := getattr(data, "class_to_idx", None)):
        names = sorted(numbers, key=numbers.get)
    if names is None:
        return None
    names = [name for name in names if name]  # CelebA's end with an empty one
    return tuple(tuple(name) if isinstance(name, list | tuple) else str(name) for name in names)


def _plain(target: Any) -> Any:
    """A target without torch: a number or an array."""
    import torch  # torchvision has taken it by now

    if isinstance(target, torch.Tensor):
        target = target.numpy()
    is_number = isinstance(target, np.generic | np.ndarray) and target.ndim == 0
    return target.item() if is_number else target


def _encoded(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    kept = image if image.mode in _PNG_MODES else image.convert("RGB")
    kept.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _files(data: Any, root: Path) -> list[Path]:
    """The files in the folder that is the class's own, else in all of its root."""
    for attribute in _FOLDERS:
        text = getattr(data, attribute, None)
        folder = root / text if isinstance(text, str | Path) else root
        if text and folder.is_dir():
            return sorted(path for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in root.rglob("*") if path.is_file())
