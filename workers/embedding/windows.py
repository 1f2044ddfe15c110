"""Windows of embedded rows, and the table that each becomes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from workers.embedding.labels import Labels
from workers.embedding.picture_hash import NO_HASH


@dataclass(frozen=True)
class Row:
    """A row on its way through the towers."""

    id: str
    text: str | None
    picture_hash: int = NO_HASH


@dataclass(frozen=True)
class Window:
    """Rows whose pictures have been encoded, where pictures are."""

    rows: list[Row]
    images: Tensor | None  # [N, D], unit length


@torch.inference_mode()
def window_table(
    window: Window, texts: Tensor | None, labels: Labels, schema: pa.Schema
) -> pa.Table:
    """The rows with their embeddings, similarity, hash, labels and scores, as ``schema`` has them.

    Run it in a thread with one of torch's threads: then the last bit of a sum does not depend on
    the number of cores.

    Args:
        texts: [N, D], unit length; None where captions are not encoded.
    """
    columns: list[pa.Array] = [pa.array([row.id for row in window.rows])]
    if window.images is not None:
        columns.append(_float16_rows(window.images))
    if texts is not None:
        columns.append(_float16_rows(texts))
    if window.images is not None and texts is not None:
        columns.append(pa.array((window.images * texts).sum(dim=-1).numpy()))
    if window.images is not None:
        columns.append(pa.array([row.picture_hash for row in window.rows], pa.uint64()))
        of_pictures = labels.of_pictures(window.images)
        columns.append(pa.array(of_pictures, type=schema.field("labels").type))
        for _, score in labels.scores:
            columns.append(pa.array(score.score(window.images).numpy()))
    return pa.Table.from_arrays(columns, schema=schema)


def _float16_rows(features: Tensor) -> pa.FixedSizeListArray:
    """[N, D] float32 -> N lists of D float16."""
    values = pa.array(features.numpy().astype(np.float16).ravel())
    field = pa.field("item", pa.float16(), nullable=False)
    return pa.FixedSizeListArray.from_arrays(values, type=pa.list_(field, features.shape[1]))
