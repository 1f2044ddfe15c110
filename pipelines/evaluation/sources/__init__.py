"""Readers of labelled data sets: a format each, the same items from all.

    source = open_source("folder", {"path": "pets"}, "test")
    for item in source.items(): ...

A format's settings are its class's ``settings_type``. To add one, subclass `Source` and put it into
`FORMATS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from clip_model.templates import ClassName
from pipelines.evaluation.sources.arrays import IdxSource, NpzSource
from pipelines.evaluation.sources.base import PLACEHOLDER, SPLITS, Item, Source, SourceError, Task
from pipelines.evaluation.sources.clip_benchmark import ClipBenchmarkSource
from pipelines.evaluation.sources.folders import FolderSource
from pipelines.evaluation.sources.parquet import ParquetSource
from pipelines.evaluation.sources.shards import TarSource
from pipelines.evaluation.sources.torchvision_sets import TorchvisionSource
from pipelines.run.config import ConfigError, build_settings

__all__ = [
    "FORMATS",
    "SPLITS",
    "Item",
    "Source",
    "SourceError",
    "Task",
    "find_splits",
    "open_source",
]

FORMATS: dict[str, type[Source]] = {
    "folder": FolderSource,
    "tar": TarSource,
    "parquet": ParquetSource,
    "idx": IdxSource,
    "npz": NpzSource,
    "torchvision": TorchvisionSource,
    "clip_benchmark": ClipBenchmarkSource,
}


def open_source(
    format: str,
    options: Mapping[str, Any],
    split: str,
    *,
    classes: Sequence[ClassName] | None = None,
    folder: Path | None = None,
) -> Source:
    """A split of a data set, opened.

    Args:
        format: a key of ``FORMATS``.
        options: the settings of the format; "{split}" in a text becomes the split's name.
        split: one of ``find_splits``, or any name where the data has no parts.
        classes: names by class number, in the place of the data's own. Give those of the split that
            was opened first where the labels are names: a split may lack a class.
        folder: what relative paths are relative to; the working directory if None.

    Raises:
        SourceError: there is no such format or option, or the data cannot be read.
    """
    kind = _kind(format)
    settings = _settings_of(format, kind, options, folder)(split)
    return kind(settings, split, tuple(classes) if classes else None)


def find_splits(
    format: str, options: Mapping[str, Any], *, folder: Path | None = None
) -> tuple[str, ...]:
    """The splits that are there, in the order of ``SPLITS``: those to judge on first, `train` last.

    None where the data has no parts: whatever split is asked for, all of it is read.

    Raises:
        SourceError: as ``open_source``.
    """
    kind = _kind(format)
    return kind.splits(_settings_of(format, kind, options, folder))


def _kind(format: str) -> type[Source]:
    if format not in FORMATS:
        raise SourceError(f"there is no format {format!r}: there are {', '.join(FORMATS)}")
    return FORMATS[format]


def _settings_of(
    format: str, kind: type[Source], options: Mapping[str, Any], folder: Path | None
) -> Callable[[str], Any]:
    def settings(split: str) -> Any:
        tree = _filled(dict(options), split)
        try:
            return build_settings(kind.settings_type, tree, (), f"the format {format}", folder)
        except ConfigError as error:
            raise SourceError(" ".join(str(error).split())) from error

    return settings


def _filled(value: Any, split: str) -> Any:
    """Plain data with the split's name in its place."""
    if isinstance(value, str):
        return type(value)(value.replace(PLACEHOLDER, split))
    if isinstance(value, Mapping):
        return {key: _filled(each, split) for key, each in value.items()}
    return [_filled(each, split) for each in value] if isinstance(value, list | tuple) else value
