"""A folder with a folder a class."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from clip_model.templates import ClassName
from pipelines.evaluation.sources.base import (
    SPLITS,
    Item,
    Numbering,
    Source,
    SourceError,
    existing,
    spellings,
)
from workers.base.settings import FileName, Settings, printable

#: Of the formats that `clip_model.image_files` reads.
IMAGE_ENDINGS = frozenset(
    (
        *(".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".ppm"),
        *(".tif", ".tiff", ".webp"),
    )
)


class FolderSettings(Settings):
    """Pictures in folders that are named after their classes, at any depth below these."""

    path: FileName = Field(
        description="the folder; where it holds two of train/, test/ and val/ with folders in "
        "them, these are its splits"
    )


class FolderSource(Source):
    """The folder of a class holds its pictures, at any depth; the classes are sorted by name.

    Their numbers are the same in all splits: those that are in one of them count. Given class names
    are taken in this order, or for what the folders are called, if all of them are among them.
    A picture beside the folders has no label.
    """

    settings_type: ClassVar[type[Settings]] = FolderSettings
    settings: FolderSettings

    def _open(self) -> None:
        root = existing(self.settings.path, "folder")
        splits = _splits(root)
        if splits and self.split not in splits:
            raise SourceError(f"{root} has no split {self.split!r}: it has {', '.join(splits)}")
        self._root = root / self.split if splits else root
        folders = sorted(_class_names([root / name for name in splits] or [root]))
        if not folders:
            raise SourceError(_no_classes(self._root))
        self.classes = self.classes or tuple(map(printable, folders))
        self._number = _numbers(folders, self.classes, root)
        self.files = sorted(_pictures(self._root), key=os.fsencode)
        if not self.files:
            raise SourceError(_no_classes(self._root))

    def items(self) -> Iterator[Item]:
        for path in self.files:
            inside = path.relative_to(self._root)
            name = printable(inside)
            if len(inside.parts) == 1:
                problem = "it lies in no folder of a class"
                yield Item(name, b"", reason="no_label", problem=problem)
                continue
            try:
                image = path.read_bytes()
            except OSError as error:
                yield Item(name, b"", reason="no_image", problem=f"cannot read it: {error}")
                continue
            if image:
                yield Item(name, image, (self._number[inside.parts[0]],))
            else:
                yield Item(name, b"", reason="no_image", problem="the file is empty")

    @classmethod
    def splits(cls, settings_of: Callable[[str], FolderSettings]) -> tuple[str, ...]:
        return _splits(existing(settings_of(SPLITS[0]).path, "folder"))


def _splits(root: Path) -> tuple[str, ...]:
    """Two folders or more of such names with folders in them, or one and nothing else. Otherwise
    a folder that is called so is a class."""
    folders = [path.name for path in root.iterdir() if path.is_dir() and path.name[0] != "."]
    found = tuple(name for name in SPLITS if _holds_folders(root / name))
    return found if len(found) > 1 or len(found) == len(folders) else ()


def _holds_folders(folder: Path) -> bool:
    return folder.is_dir() and any(path.is_dir() for path in folder.iterdir())


def _class_names(roots: list[Path]) -> set[str]:
    """Names of the folders in which there is a picture."""
    return {
        folder.name
        for root in roots
        for folder in root.iterdir()
        if folder.is_dir() and not folder.name.startswith(".") and any(_pictures(folder))
    }


def _pictures(folder: Path) -> Iterator[Path]:
    """The pictures in a folder and those below it, without what is hidden."""
    for parent, folders, names in os.walk(folder, followlinks=True):
        here = Path(parent).resolve()
        folders[:] = [
            name
            for name in folders
            # A link to a folder that it lies in has no end.
            if not (name.startswith(".") or here.is_relative_to((here / name).resolve()))
        ]
        for name in names:
            if Path(name).suffix.lower() in IMAGE_ENDINGS and not name.startswith("."):
                yield Path(parent, name)


def _numbers(folders: list[str], classes: tuple[ClassName, ...], root: Path) -> dict[str, int]:
    """The class number of each folder, by name if all are class names, else by order."""
    names = list(map(printable, folders))
    if set(names) <= {text for name in classes for text in spellings(name)}:
        number = Numbering(classes)
        return {folder: number([printable(folder)], root)[0] for folder in folders}
    if len(classes) != len(folders):
        raise SourceError(
            f"{root} has folders of {len(folders)} classes, and {len(classes)} class names are "
            "given: give one for each folder, in the order of their names"
        )
    return {folder: number for number, folder in enumerate(folders)}


def _no_classes(root: Path) -> str:
    """Why a folder cannot be used."""
    first = next((path for path in sorted(root.rglob("*")) if path.is_file()), None)
    there = f"it has files such as {printable(first.relative_to(root))}" if first else "it is empty"
    return (
        f"{root} has no folders of classes with pictures in them ({there}): make a folder for "
        f"each class; pictures end with {', '.join(sorted(IMAGE_ENDINGS))}"
    )
