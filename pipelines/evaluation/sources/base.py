"""What every reader of a labelled data set gives, and what the formats share."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from clip_model.templates import ClassName
from workers.base.file_systems import is_remote
from workers.base.settings import Settings, resolve_path
from workers.embedding.samples import ShardError

#: What a data set's pictures have: one class, any number of classes, or captions.
Task = Literal["classification", "multilabel", "retrieval"]

#: Names of the parts of data sets, as they are looked for; the first are those to judge on.
SPLITS = ("test", "t10k", "val", "validation", "valid", "train")
PLACEHOLDER = "{split}"

#: Hugging Face's number for a label that is not told.
_HIDDEN = -1

_LFS_POINTER = b"version https://git-lfs"


class SourceError(ValueError):
    """A data set that cannot be read; the text says what to do."""


@dataclass(frozen=True)
class Item:
    """A picture of a data set, with its labels or captions.

    A row that lacks its picture, label or captions, or has one that cannot be read, is an item too:
    one with a ``reason``, so that it is counted as failed. Nothing else of it is to be used.
    """

    id: str  # unique in its split; the same wherever the data lies
    image: bytes  # an encoded file as it stands; of arrays a PNG; b"" where there is none
    labels: tuple[int, ...] = ()  # class numbers from 0; of "multilabel" none, too, may be right
    captions: tuple[str, ...] = ()
    reason: str | None = None  # of docs/reasons.md
    problem: str | None = None  # the reason in words


class Source(ABC):
    """A split of a data set, opened: what can be wrong with it has been looked at, as far as that
    costs no reading of the pictures.

    Args:
        settings: of the type ``settings_type``.
        split: the part that is read; where the data has no parts, all of it is.
        classes: names of the classes by their number, in the place of the data's own.

    Raises:
        SourceError: the data is not there, or does not fit together.
    """

    settings_type: ClassVar[type[Settings]]

    task: Task = "classification"
    #: As who opened it says, or the data itself; None where neither does.
    classes: tuple[ClassName, ...] | None
    #: The data set's own prompts, with {} where the name goes.
    templates: tuple[str, ...] | None = None
    #: All that is read, sorted.
    files: list[Path]

    def __init__(
        self, settings: Any, split: str, classes: tuple[ClassName, ...] | None = None
    ) -> None:
        self.settings = settings
        self.split = split
        self.classes = classes
        self._open()

    @abstractmethod
    def _open(self) -> None:
        """Set the other attributes. Raises SourceError."""

    @abstractmethod
    def items(self) -> Iterator[Item]:
        """Every picture, in an order that is always the same, in memory that does not grow.

        Raises:
            SourceError: a file is damaged, or a label is none of the classes.
        """

    @classmethod
    @abstractmethod
    def splits(cls, settings_of: Callable[[str], Any]) -> tuple[str, ...]:
        """Those of ``SPLITS`` that are there; none where the data has no parts.

        Args:
            settings_of: the settings with which a split is opened.
        """


class Numbering:
    """Labels to class numbers: of numbers themselves, of names their place among the classes."""

    def __init__(self, classes: tuple[ClassName, ...] | None) -> None:
        self._classes = classes
        self._numbers: dict[str, int] = {}
        self._twice: set[str] = set()
        for number, name in enumerate(classes or ()):
            for text in set(spellings(name)):
                if text in self._numbers:
                    self._twice.add(text)
                self._numbers[text] = number

    def __call__(self, labels: Iterable[int | str], place: object) -> tuple[int, ...]:
        """Sorted, each once. Raises SourceError, with the place, for what is none of the classes"""
        return tuple(sorted({self._number(label, place) for label in labels}))

    def _number(self, label: int | str, place: object) -> int:
        if isinstance(label, int):
            if label >= 0 and (self._classes is None or label < len(self._classes)):
                return label
            count = "" if self._classes is None else f" {len(self._classes)}"
            raise SourceError(
                f"{place}: the label {label} is none of the{count} classes, which are numbered "
                "from 0: give a name for every class, or mend the labels"
            )
        if label in self._twice:
            raise SourceError(
                f"{place}: two classes are called {label!r}: give each a name of its own"
            )
        if label not in self._numbers:
            raise SourceError(
                f"{place}: the label {label!r} is none of the {len(self._numbers)} class names: "
                "give `classes` that have them all"
            )
        return self._numbers[label]


def spellings(name: ClassName) -> tuple[str, ...]:
    """The names of a class."""
    return (name,) if isinstance(name, str) else name


def label_values(raw: Any, named: bool) -> tuple[int | str, ...] | None:
    """The labels in a cell or member: numbers, or names if ``named``; None where it has none.

    An array says of each class whether it is there, 0 or 1; a list holds labels.

    Raises:
        ValueError: it holds something else.
    """
    if isinstance(raw, np.ndarray):
        return _switched_on(raw)
    if isinstance(raw, list | tuple):
        inside = [label_values(each, named) for each in raw]
        if None in inside:
            raise ValueError(f"a label of several is empty: {raw!r:.100}")
        return tuple(label for labels in inside for label in labels or ())
    if isinstance(raw, bytes):
        raw = raw.decode()
    if isinstance(raw, float) and (math.isnan(raw) or raw.is_integer()):
        raw = None if math.isnan(raw) else int(raw)
    if raw is None or raw in ("", _HIDDEN, str(_HIDDEN)):
        return None
    if named and isinstance(raw, str | int):
        return (str(raw),)
    if isinstance(raw, int) or (isinstance(raw, str) and _is_number(raw)):
        return (int(raw),)
    raise ValueError(f"the label is no class number: {raw!r:.100}")


def are_names(texts: Iterable[str], classes: tuple[ClassName, ...] | None, place: object) -> bool:
    """Whether labels that are text are names of classes, and not their numbers.

    Raises:
        SourceError: they are both, and there are no class names that would tell.
    """
    texts = sorted(set(texts))
    names = [text for text in texts if not _is_number(text)]
    if classes:
        return not {text for name in classes for text in spellings(name)}.isdisjoint(names)
    if names and len(names) < len(texts):
        number = next(text for text in texts if text not in names)
        raise SourceError(
            f"{place}: some labels are numbers ({number!r}) and some are not ({names[0]!r}): give "
            "`classes`, the class names, or mend the labels"
        )
    return bool(names)


def _is_number(text: str) -> bool:
    return text.isascii() and text.removeprefix("-").isdigit()


def texts_in(raw: Any) -> Iterator[str]:
    """The labels in a cell or member that are text."""
    if isinstance(raw, list | tuple):
        for each in raw:
            yield from texts_in(each)
    elif isinstance(raw, str) and raw:
        yield raw


def _switched_on(flags: np.ndarray[Any, Any]) -> tuple[int, ...]:
    if flags.ndim != 1 or not np.isin(flags, (0, 1)).all():
        raise ValueError(f"an array of labels must hold a 0 or 1 for each class: {flags!r:.100}")
    return tuple(np.flatnonzero(flags).tolist())


def existing(text: str, kind: Literal["file", "folder"]) -> Path:
    """A file or folder that settings name. Raises SourceError where there is none."""
    if is_remote(text):
        raise SourceError(f"{text}: only what lies on this machine is read: copy it here first")
    try:
        path = resolve_path(text).absolute()
    except FileNotFoundError as error:
        raise SourceError(str(error)) from error
    if not (path.is_dir() if kind == "folder" else path.is_file()):
        raise SourceError(f"there is no {kind} {path}")
    return path


def check_content(files: Sequence[Path]) -> None:
    """Raise SourceError for a file that cannot be opened, or that Git LFS has not brought here."""
    for path in files:
        try:
            with path.open("rb") as file:
                head = file.read(len(_LFS_POINTER))
        except OSError as error:
            raise SourceError(f"cannot read {path}: {error.strerror}") from error
        if head == _LFS_POINTER:
            raise SourceError(f"{path} is a pointer of Git LFS: run `git lfs pull` where it lies")


def splits_where(
    settings_of: Callable[[str], Any], is_there: Callable[[Any], bool]
) -> tuple[str, ...]:
    """Those of ``SPLITS`` whose settings name what is there; none if all settings are the same.

    Raises:
        SourceError: they differ, and nothing is there.
    """
    if settings_of("a") == settings_of("b"):
        return ()
    if found := tuple(name for name in SPLITS if is_there(settings_of(name))):
        return found
    raise SourceError(
        f"there is no file for any of the splits {', '.join(SPLITS)} in the place of "
        f"{PLACEHOLDER}: mend the paths, or name the split"
    )


@contextmanager
def as_source_error() -> Iterator[None]:
    """A shard that cannot be read is a data set that cannot be read."""
    try:
        yield
    except ShardError as error:
        raise SourceError(str(error)) from error
