"""Shards of pictures with labels or captions: what all have in common, and webdataset tars."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from pydantic import Field

from pipelines.evaluation.sources.base import (
    PLACEHOLDER,
    Item,
    Numbering,
    Source,
    SourceError,
    Task,
    are_names,
    as_source_error,
    check_content,
    label_values,
    splits_where,
    texts_in,
)
from workers.base.file_systems import is_remote, list_files
from workers.base.settings import FileName, Settings, printable
from workers.embedding.samples import (
    IMAGE_COLUMNS,
    TEXT_COLUMNS,
    Sample,
    failure_reason,
    find_name,
)
from workers.embedding.settings import InputSettings
from workers.embedding.tar_reader import TAR_ENDINGS, json_row, read_members, tar_sample

#: Names that labels are known by, the first that is there.
LABEL_COLUMNS = ("cls", "label", "labels", "class", "target", "fine_label")

#: Rows of a tar that are looked at to know what is in it.
_FIRST_ROWS = 64


class ShardSettings(Settings):
    """What the readers of shards are told. Where neither `label` nor `caption` is given, known
    names are looked for, those of labels first."""

    path: FileName | tuple[FileName, ...] = Field(
        description=f"files, globs or folders of them; {PLACEHOLDER} in it becomes the split's name"
    )
    image: str | None = Field(default=None, description="what holds the picture; null: known names")
    label: str | None = Field(default=None, description="what holds the label")
    caption: str | None = Field(default=None, description="what holds the caption, or several")


class TarSettings(ShardSettings):
    """webdataset tars: `image`, `label` and `caption` are endings of members, or keys of the JSON.

    A label is a class number, a class name, or in an ending `npy` a 0 or 1 for each class. Where
    labels are names and no `classes` are given, all tars are read once more to know them.
    """


class Names(NamedTuple):
    """What a row's parts are called; None: it is not asked for."""

    image: str | None
    label: str | None
    caption: str | None

    @property
    def input(self) -> InputSettings:
        return InputSettings(
            parts="both" if self.caption else "images",
            image_column=self.image,
            text_column=self.caption,
        )


class ShardSource(Source):
    """What rows of all shards have in common."""

    _names: Names
    _named: bool  # labels are names
    _number: Numbering

    def _item(self, name: str, sample: Sample, raw: Any) -> Item:
        reason, problem = failure_reason(sample, self._names.input, several=True) or (None, None)
        if reason is None and not sample.image:
            reason, problem = "no_image", "its picture has no bytes"
        values: tuple[int | str, ...] | None = ()
        if self._names.label and reason is None:
            try:
                values = label_values(raw, self._named)
            except ValueError as error:
                reason, problem = "bad_label", str(error)
        if values is None:
            reason, problem = "no_label", "the row has no label"
        captions = self._captions(sample)
        if self._names.caption and not captions and reason is None:
            reason, problem = "no_caption", "its caption is empty"
        labels = self._number(values or (), name)
        return Item(name, sample.image or b"", labels, captions, reason, problem)

    def _captions(self, sample: Sample) -> tuple[str, ...]:
        return tuple(text for text in sample.captions if text.strip())


class TarSource(ShardSource):
    """Rows of tars, in the order of the files and in theirs."""

    settings_type: ClassVar[type[Settings]] = TarSettings
    settings: Any  # TarSettings; a subclass has its own

    def _open(self) -> None:
        self._open_tars(shard_files(self.settings.path, TAR_ENDINGS), self.settings)

    def _open_tars(self, files: list[Path], settings: ShardSettings) -> None:
        self.files = files
        with as_source_error():
            first = list(islice(self._rows(), _FIRST_ROWS))
        if not first:
            raise SourceError(f"{files[0]}{and_more(files)} has no rows: name the right files")
        images = {name for _, members in first for name in members}
        others = {name for _, members in first for name in json_row(members)}
        self._names = choose(settings, images, images | others, f"the first rows of {files[0]}")
        labels = [self._label(members) for _, members in first]
        self._named = are_names(texts_in(labels), self.classes, files[0])
        self.task = task_of(self._names, any(isinstance(it, list | np.ndarray) for it in labels))
        if self._named and not self.classes:
            with as_source_error():
                texts = {text for _, row in self._rows() for text in texts_in(self._label(row))}
            self.classes = tuple(sorted(texts))
        self._number = Numbering(self.classes)

    def items(self) -> Iterator[Item]:
        with as_source_error():
            for name, members in self._rows():
                sample = tar_sample(name, members, self._names.input, ())
                yield self._item(name, sample, self._label(members))

    def _rows(self) -> Iterator[tuple[str, dict[str, bytes]]]:
        for name, path in zip(names_of(self.files), self.files, strict=True):
            for key, members, _ in read_members(path):
                yield f"{name}/{key}", members

    def _label(self, members: dict[str, bytes]) -> Any:
        """A row's label as it stands; text without the spaces around it."""
        name = self._names.label
        if name is None or name not in members:
            return json_row(members).get(name) if name else None
        content = members[name]
        if name.endswith("npy"):
            return _array(content)
        return content.decode(errors="backslashreplace").strip()

    @classmethod
    def splits(cls, settings_of: Callable[[str], Any]) -> tuple[str, ...]:
        return splits_by_files(settings_of, TAR_ENDINGS)


def shard_files(path: str | tuple[str, ...], endings: tuple[str, ...]) -> list[Path]:
    """The files that a setting names, sorted. Raises SourceError for a part that names none."""
    found: set[Path] = set()
    for pattern in [path] if isinstance(path, str) else path:
        if is_remote(pattern):
            raise SourceError(f"{pattern}: only what lies on this machine is read: copy it here")
        try:
            folder, names = list_files(pattern)
        except OSError as error:
            raise SourceError(str(error)) from error
        files = [Path(name) for name in names if not folder or name.endswith(endings)]
        if not files:
            raise SourceError(f"{folder} holds no file that ends with {' or '.join(endings)}")
        found.update(files)
    check_content(files := sorted(found))
    return files


def splits_by_files(settings_of: Callable[[str], Any], endings: tuple[str, ...]) -> tuple[str, ...]:
    """As ``Source.splits``: those whose files are there."""

    def is_there(settings: ShardSettings) -> bool:
        try:
            return bool(shard_files(settings.path, endings))
        except SourceError:
            return False

    return splits_where(settings_of, is_there)


def names_of(files: Sequence[Path]) -> list[str]:
    """What files are called from the folder that all lie in."""
    folder = os.path.commonpath([path.parent for path in files])
    return [printable(path.relative_to(folder)) for path in files]


def and_more(files: Sequence[Path]) -> str:
    """Says that what is wrong with the first file may be so of another."""
    return f" or one of the {len(files) - 1} other files" if len(files) > 1 else ""


def choose(settings: ShardSettings, images: set[str], names: set[str], place: str) -> Names:
    """What is read of what is there. Raises SourceError, with the place, where it does not do."""
    _find(settings.image, IMAGE_COLUMNS, images, place)
    is_labelled = bool(settings.label) or (
        not settings.caption and find_name(names, LABEL_COLUMNS) is not None
    )
    label = caption = None
    if is_labelled:
        label = _find(settings.label, LABEL_COLUMNS, names, place)
    if settings.caption or not is_labelled:
        caption = _find(settings.caption, TEXT_COLUMNS, names, place)
    return Names(settings.image, label, caption)


def _find(wanted: str | None, known: Sequence[str], names: set[str], place: str) -> str:
    if found := find_name(names, [wanted] if wanted else known):
        return found
    raise SourceError(
        f"{place}: there is no {wanted or ' or '.join(known)}; there are "
        f"{', '.join(sorted(names))}: name what is read with `image`, `label` and `caption`"
    )


def task_of(names: Names, several: bool) -> Task:
    """What a set is for that has such parts, with ``several`` labels a picture or one."""
    if not names.label:
        return "retrieval"
    return "multilabel" if several else "classification"


def _array(content: bytes) -> np.ndarray[Any, Any] | bytes:
    """numpy's array in a member; the bytes where they are none."""
    try:
        return np.atleast_1d(np.load(io.BytesIO(content), allow_pickle=False))
    except (ValueError, OSError, EOFError):
        return content
