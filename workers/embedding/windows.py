"""Windows of embedded rows, and the table that each becomes.

What a tower, a label set or a head gives for a row may be no number: a weight may be damaged, a
sum may overflow in half precision. Such a row has no place in the table.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa
import torch
from torch import Tensor

from workers.embedding.image_hash import NO_HASH
from workers.embedding.labels import Label, Labels


@dataclass(frozen=True)
class Row:
    """A row on its way through the towers."""

    id: str
    text: str | None
    image_hash: int = NO_HASH


@dataclass(frozen=True)
class Window:
    """Rows whose images have been encoded, where images are."""

    rows: list[Row]
    images: Tensor | None  # [N, D], unit length
    hidden: Tensor | None = None  # [N, H], before the projection, where it is asked for


class Embedded(NamedTuple):
    """A window's rows: those in its table, and those that are not finite, with what is not."""

    table: pa.Table
    not_finite: list[tuple[Row, str]]


#: How far the length of an embedding may be from 1 before it is none.
UNIT_TOLERANCE = 1e-3


@torch.inference_mode()
def window_table(
    window: Window, texts: Tensor | None, labels: Labels, schema: pa.Schema
) -> Embedded:
    """The rows with their embeddings, similarity, hash, labels and scores, as ``schema`` has them.

    A row is left out of which anything is not finite, or an embedding has not unit length: what
    has overflowed to infinity in a sum of squares becomes 0 when it is divided by it.

    Labels and scores are those of the embedding as it is stored, rounded to float16: so they are
    the same numbers when they are computed from it afterwards.

    Run it in a thread with one of torch's threads: then the last bit of a sum does not depend on
    the number of cores.

    Args:
        texts: [N, D], unit length; None where captions are not encoded.
    """
    columns: list[pa.Array] = [pa.array([row.id for row in window.rows])]
    sound: dict[str, Tensor] = {}  # by what is looked at: [N], of bool
    for name, features in (("image", window.images), ("text", texts)):
        if features is not None:
            length = features.norm(dim=-1)
            sound[f"{name} embedding"] = (length - 1).abs() < UNIT_TOLERANCE  # not so for NaN
    if window.images is not None:
        columns.append(_rows(window.images, schema.field("image_embedding")))
    if window.hidden is not None:
        sound["image features"] = window.hidden.isfinite().all(dim=-1)
        columns.append(_rows(window.hidden, schema.field("image_hidden")))
    if texts is not None:
        columns.append(_rows(texts, schema.field("text_embedding")))
    if window.images is not None and texts is not None:
        columns.append(pa.array((window.images * texts).sum(dim=-1).numpy()))
    if window.images is not None:
        columns.append(pa.array([row.image_hash for row in window.rows], pa.uint64()))
        columns += _label_columns(window.images.half().float(), labels, schema, sound)
    return _sound_rows(window, pa.Table.from_arrays(columns, schema=schema), sound)


@torch.inference_mode()
def label_table(pair_ids: pa.Array, images: Tensor, labels: Labels, schema: pa.Schema) -> Embedded:
    """Rows that have been embedded, with their labels and scores, as ``schema`` has them.

    Args:
        images: [N, D], the stored embeddings.
    """
    sound: dict[str, Tensor] = {"pair_id": torch.ones(len(pair_ids), dtype=torch.bool)}
    columns = [pair_ids, *_label_columns(images, labels, schema, sound)]
    rows = [Row(pair_id, None) for pair_id in pair_ids.to_pylist()]
    return _sound_rows(Window(rows, images), pa.Table.from_arrays(columns, schema=schema), sound)


def _label_columns(
    images: Tensor, labels: Labels, schema: pa.Schema, sound: dict[str, Tensor]
) -> list[pa.Array]:
    """Labels, where the schema has them, and scores; puts into ``sound`` which are finite."""
    columns = []
    if "labels" in schema.names:
        of_images = labels.of_images(images)
        columns.append(pa.array(of_images, type=schema.field("labels").type))
        sound["labels"] = torch.tensor([_are_finite(row) for row in of_images])
    for name, score in labels.scores:
        scores = score.score(images)
        columns.append(pa.array(scores.numpy()))
        sound[f"score_{name}"] = scores.isfinite()
    return columns


def _are_finite(labels: list[Label]) -> bool:
    return all(math.isfinite(label["probability"]) for label in labels)


def _sound_rows(window: Window, table: pa.Table, sound: dict[str, Tensor]) -> Embedded:
    keep = torch.stack(list(sound.values())).all(dim=0)
    if keep.all():
        return Embedded(table, [])
    bad = [
        (row, next(what for what, rows in sound.items() if not rows[number]))
        for number, row in enumerate(window.rows)
        if not keep[number]
    ]
    return Embedded(table.filter(pa.array(keep.numpy())), bad)


def _rows(features: Tensor, column: pa.Field) -> pa.FixedSizeListArray:
    """[N, D] float32 -> N lists of D numbers of the column's type."""
    number = column.type.value_type.to_pandas_dtype()
    values = pa.array(features.numpy().astype(number).ravel())
    return pa.FixedSizeListArray.from_arrays(values, type=column.type)
