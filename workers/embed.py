"""Embed: CLIP over a shard of pictures and captions.

One pass gives the embeddings of both, the similarity of each pair and the zero-shot labels of
each picture. A plain class: no Ray in here, and none is needed to use it.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional as F

import clip_model
from workers.contracts import embeddings_schema
from workers.settings import EmbedSettings
from workers.storage import write_table
from workers.tally import Tally

#: What Pillow raises for bytes that are not a whole, sane picture.
UNDECODABLE = (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError)


#: A row of ``contracts.LABEL``.
Label = dict[str, str | float]


@dataclass(frozen=True)
class LabelClassifier:
    """A label set, ready to be applied: one text feature a class."""

    name: str
    classes: tuple[str, ...]
    features: Tensor  # [C, D], unit length
    top_k: int

    def label(self, image_features: Tensor, logit_scale: Tensor) -> list[list[Label]]:
        """The most probable classes of each picture: [N, D] -> N lists."""
        probabilities, indices = clip_model.classify(
            image_features, self.features, logit_scale, self.top_k
        )  # [N, K]
        return [
            [
                {"set": self.name, "label": self.classes[index], "probability": probability}
                for probability, index in zip(*picture, strict=True)
            ]
            for picture in zip(probabilities.tolist(), indices.tolist(), strict=True)
        ]


class Embedder:
    """A CLIP model that turns shards of pictures into shards of embeddings.

    Raises RuntimeError when the settings name an unknown model.
    """

    def __init__(self, settings: EmbedSettings) -> None:
        self.settings = settings
        self.model, self.preprocess = clip_model.load(settings.model)
        self.device = self.model.logit_scale.device
        # Convolutions of a ResNet are a quarter faster with the channels innermost.
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.label_sets = [
            LabelClassifier(
                name,
                labels.classes,
                clip_model.zero_shot_classifier(self.model, labels.classes, labels.templates),
                labels.top_k,
            )
            for name, labels in sorted(settings.label_sets.items())
        ]

    @torch.inference_mode()
    def embed_shard(self, images: Path, out: Path) -> dict[str, Tally]:
        """Embed a shard; rows keep their order.

        Args:
            images: Parquet file with the columns of ``contracts.IMAGES``.
            out: file to write, with the columns of ``contracts.embeddings_schema``.

        Returns:
            The account of the pictures; one that does not decode is failed.
        """
        tally = Tally()
        schema = embeddings_schema(self.model.config.embed_dim)
        batches = [self._embed_batch(rows, schema) for rows in self._decoded(images, tally)]
        write_table(pa.Table.from_batches(batches, schema), out)
        return {"images": tally}

    def _decoded(self, images: Path, tally: Tally) -> Iterator[list[tuple[str, str, Tensor]]]:
        """Batches of (pair_id, caption, pixels [3, R, R]) of the pictures that decode."""
        columns = ["pair_id", "caption", "jpg"]
        with ThreadPoolExecutor(self.settings.decode_threads) as threads:
            file = pq.ParquetFile(images)
            for batch in file.iter_batches(batch_size=self.settings.batch_size, columns=columns):
                pair_ids, captions, jpgs = (batch[name].to_pylist() for name in columns)
                rows = []
                for pair_id, caption, pixels in zip(
                    pair_ids, captions, threads.map(self._decode, jpgs), strict=True
                ):
                    if pixels is None:
                        tally.fail("undecodable", pair_id, {"pair_id": pair_id, "caption": caption})
                    else:
                        tally.keep()
                        rows.append((pair_id, caption, pixels))
                if rows:
                    yield rows

    def _decode(self, jpg: bytes) -> Tensor | None:
        try:
            with Image.open(io.BytesIO(jpg)) as image:
                return self.preprocess(image)
        except UNDECODABLE:
            return None

    def _embed_batch(
        self, rows: list[tuple[str, str, Tensor]], schema: pa.Schema
    ) -> pa.RecordBatch:
        pair_ids, captions, pixels = zip(*rows, strict=True)
        images = torch.stack(pixels).to(self.device)  # [N, 3, R, R]
        images = images.contiguous(memory_format=torch.channels_last)
        tokens = clip_model.tokenize(list(captions), truncate=True).to(self.device)  # [N, L]
        image = F.normalize(self.model.encode_image(images).float(), dim=-1)  # [N, D]
        text = F.normalize(self.model.encode_text(tokens).float(), dim=-1)  # [N, D]
        labels = [classes.label(image, self.model.logit_scale) for classes in self.label_sets]
        return pa.RecordBatch.from_arrays(
            [
                pa.array(pair_ids),
                _float16_rows(image),
                _float16_rows(text),
                pa.array((image * text).sum(dim=-1).cpu().numpy()),
                pa.array(
                    [
                        [row for picture in sets for row in picture]
                        for sets in _by_row(labels, rows)
                    ],
                    type=schema.field("labels").type,
                ),
            ],
            schema=schema,
        )


def _by_row(labels: list[list[list[Label]]], rows: list[Any]) -> Iterator[tuple[list[Label], ...]]:
    """Labels by label set, then by picture, turned round: by picture, then by label set."""
    return zip(*labels, strict=True) if labels else iter([()] * len(rows))


def _float16_rows(features: Tensor) -> pa.FixedSizeListArray:
    """[N, D] float32 -> N lists of D float16."""
    values = pa.array(features.cpu().numpy().astype(np.float16).ravel())
    field = pa.field("item", pa.float16(), nullable=False)
    return pa.FixedSizeListArray.from_arrays(values, type=pa.list_(field, features.shape[1]))
