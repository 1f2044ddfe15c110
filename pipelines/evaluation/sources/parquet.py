"""Parquet with a column of pictures, Hugging Face's among them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clip_model.templates import ClassName
from pipelines.evaluation.sources.base import (
    Item,
    Numbering,
    SourceError,
    are_names,
    as_source_error,
    label_values,
    texts_in,
)
from pipelines.evaluation.sources.shards import (
    ShardSettings,
    ShardSource,
    and_more,
    choose,
    names_of,
    shard_files,
    splits_by_files,
    task_of,
)
from workers.base.settings import Settings
from workers.base.storage import DAMAGED_PARQUET
from workers.embedding.shard_reader import list_chunks, read_chunk

ENDINGS = (".parquet",)


class ParquetSettings(ShardSettings):
    """Parquet: `image`, `label` and `caption` are columns; pictures are bytes, or Hugging Face's
    struct of bytes and path. A label is a class number, a class name, or a list of these."""


class ParquetSource(ShardSource):
    """Rows of Parquet files, in the order of the files and in theirs."""

    settings_type: ClassVar[type[Settings]] = ParquetSettings
    settings: ParquetSettings

    def _open(self) -> None:
        self.files = shard_files(self.settings.path, ENDINGS)
        schemas = [_schema(path) for path in self.files]
        chosen = [
            choose(self.settings, set(schema.names), set(schema.names), str(path))
            for schema, path in zip(schemas, self.files, strict=True)
        ]
        self._names = chosen[0]
        if other := next((n for n, names in enumerate(chosen) if names != chosen[0]), None):
            raise SourceError(
                f"{self.files[other]} has other columns than {self.files[0]}: name the columns "
                "with `image`, `label` and `caption`"
            )
        self._named = False
        label = self._names.label
        self.task = task_of(self._names, bool(label) and _is_list(schemas[0].field(label).type))
        self._number = Numbering(self.classes)
        if label:
            self._look_at_labels(label, self.classes or _hugging_face_names(schemas[0], label))

    def _look_at_labels(self, label: str, classes: tuple[ClassName, ...] | None) -> None:
        """Whether they are names, and of which classes; each is looked up."""
        values = _distinct(self.files, label)
        texts = set(texts_in(values))
        self._named = are_names(texts, classes, f"{self.files[0]}, {label}")
        self.classes = classes or (tuple(sorted(texts)) if self._named else None)
        self._number = Numbering(self.classes)
        good = [each for each in map(self._good_label, values) if each]
        if not good:
            raise SourceError(f"{self.files[0]}: the column {label} holds no label: name another")
        for each in good:
            self._number(each, f"{self.files[0]}{and_more(self.files)}")

    def _good_label(self, value: Any) -> tuple[int | str, ...] | None:
        try:
            return label_values(value, self._named)
        except ValueError:
            return None  # of the row, when it is read

    def items(self) -> Iterator[Item]:
        label = self._names.label
        for name, path in zip(names_of(self.files), self.files, strict=True):
            row = 0
            with as_source_error():
                for chunk in list_chunks(path):
                    others = [label] if label else []
                    for sample in read_chunk(path, chunk, self._names.input, others):
                        raw = sample.others.get(label) if label else None
                        yield self._item(f"{name}/{row:09d}", sample, raw)
                        row += 1

    @classmethod
    def splits(cls, settings_of: Callable[[str], ParquetSettings]) -> tuple[str, ...]:
        return splits_by_files(settings_of, ENDINGS)


def _schema(path: Path) -> pa.Schema:
    try:
        return pq.read_schema(path)
    except DAMAGED_PARQUET as error:
        raise SourceError(f"{path} cannot be read as Parquet: {error}; write it again") from error


def _distinct(files: list[Path], column: str) -> list[Any]:
    """The labels in a column, of lists what is in them, each once."""
    found: dict[Any, None] = {}
    for path in files:
        try:
            values = pq.read_table(path, columns=[column]).column(column)
        except DAMAGED_PARQUET as error:
            raise SourceError(
                f"{path}: {column} cannot be read: {error}; write it again"
            ) from error
        if _is_list(values.type):
            values = pc.list_flatten(values)
        if pa.types.is_nested(values.type):
            raise SourceError(
                f"{path}: the column {column} is of {values.type}: a label is a class number, a "
                "class name, or a list of these; name its column with `label`"
            )
        found.update(dict.fromkeys(values.unique().to_pylist()))
    return list(found)


def _is_list(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def _hugging_face_names(schema: pa.Schema, column: str) -> tuple[str, ...] | None:
    """The names that `datasets` keeps in the schema of a column of its ClassLabel.

    Its form: `Features.from_arrow_schema` of https://github.com/huggingface/datasets.
    """
    try:
        feature = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"][column]
    except (KeyError, TypeError, ValueError):
        return None
    if isinstance(feature, list):  # of older releases, for a list of labels
        feature = feature[0]
    feature = feature.get("feature", feature)
    names = feature.get("names")
    return tuple(map(str, names)) if names else None
