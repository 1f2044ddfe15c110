"""Embed: CLIP over a shard of images and captions.

One pass gives the embeddings of both, the similarity of each pair, and the hash of each image,
with labels and scores where they are asked for. A plain class: no Ray in here, and none is needed
to use it.

    rows ─▶ decoded ─▶ batches ─▶ image tower ─▶ windows ─▶ text tower ─▶ labels ─▶ file

Every arrow is a generator with a little work under way ahead of it (`overlap`), so all go on at
once and none holds more than a few batches: memory does not depend on the shard's size.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa
import torch
from torch import Tensor

import clip_model
from clip_model.image_files import ImageError
from clip_model.preprocess import image_bytes_transform
from workers.base.contracts import embeddings_schema
from workers.base.cores import usable_cores
from workers.base.hardware import fastest_device
from workers.base.storage import ROW_GROUP_ROWS, table_writer
from workers.base.tally import Tally
from workers.embedding.encoders import NO_TEXT, Encoder, load_encoder, one_threaded, precision_on
from workers.embedding.image_hash import image_hash
from workers.embedding.labels import Labels
from workers.embedding.meter import Meter
from workers.embedding.overlap import Handle, in_chunks, overlap
from workers.embedding.samples import Sample, failure_reason
from workers.embedding.settings import EmbedSettings, InputSettings, model_label
from workers.embedding.shard_reader import read_shard
from workers.embedding.windows import Row, Window, window_table

#: Images that a thread decodes at a time: enough to make handing them over cost nothing.
DECODED_AT_ONCE = 8

#: Rows, at least, whose captions are sorted by length before they are encoded, so that a batch
#: is no longer than its captions; and that are labelled and written at once.
WINDOW_ROWS = 4 * ROW_GROUP_ROWS

BOTH_PARTS = InputSettings()


class Embedder:
    """A model that turns shards of images and captions into shards of embeddings.

    A CLIP, a dual encoder of another library (`DualEncoderName`), or a network of another library
    for images alone (`BackboneName`).

    Use it from one thread.

    Args:
        hidden: write images' features before the projection too, ``image_hidden``.

    Raises:
        RuntimeError: the settings name an unknown model.
        PrecisionError: they ask for bf16, which this machine would only emulate.
        LabelError: labels, attributes or heads that the model cannot give.
    """

    def __init__(self, settings: EmbedSettings, *, hidden: bool = False) -> None:
        #: What the file of a shard says of it, to whoever reads its schema.
        self.metadata = {
            "model": model_label(settings.model),
            "precision": precision_on(fastest_device(), settings),
        }
        self.threads = settings.threads or usable_cores()
        self._pool = ThreadPoolExecutor(self.threads, "embed", initializer=one_threaded)
        #: For whoever watches, from any thread.
        self.meter = Meter(self.threads, on_gpu=torch.cuda.is_available())
        self.encoder: Encoder = load_encoder(
            settings, self._pool, self.threads, self.meter, hidden=hidden
        )
        self.model = self.encoder.model
        if not isinstance(self.model, clip_model.CLIP):
            self.metadata["preprocessing"] = self.model.preprocessing.text()
        self._hidden = hidden
        self._decode = image_bytes_transform(self.model.preprocessing)
        self._labels = Labels.of(settings, self.encoder.texts)

    def embed_shard(
        self, shard: Path, out: Path, source: InputSettings = BOTH_PARTS, *, rounded: bool = True
    ) -> dict[str, Tally]:
        """Embed a shard; rows keep their order.

        Args:
            shard: Parquet or webdataset tar with images, captions or both.
            out: file to write, with the columns of ``contracts.embeddings_schema``.
            source: which columns are read, and which towers work.
            rounded: to float16, as all that a run stores; else float32.

        Returns:
            The tally of the rows; one that lacks a part, does not decode, or is not finite when
            it is encoded, is failed.

        Raises:
            ShardError: the shard cannot be read.
            RuntimeError: texts are to be encoded, and the model knows none.
        """
        if source.texts and self.encoder.texts is None:
            raise RuntimeError(NO_TEXT)
        tally = Tally()
        schema = self.schema(source, rounded=rounded)
        samples = read_shard(shard, source, self.meter.read, out.stem)
        windows = self._windows(samples, source, tally)
        with (
            self.meter.shard(),
            table_writer(schema, out) as file,
            ThreadPoolExecutor(1, "write") as writer,
            closing(self.tables(windows, schema, tally)) as tables,
        ):
            write = partial(file.write_table, row_group_size=ROW_GROUP_ROWS)
            for rows, _ in overlap(((len(t), writer.submit(write, t)) for t in tables), 1):
                self.meter.wrote(rows)
        return {"images" if source.images else "texts": tally}

    def schema(self, source: InputSettings = BOTH_PARTS, *, rounded: bool = True) -> pa.Schema:
        """The columns of the embeddings; its metadata say of which model, in which precision."""
        columns = embeddings_schema(
            self.model.embed_dim,
            images=source.images,
            texts=source.texts,
            labels=bool(self._labels.sets),
            scores=[name for name, _ in self._labels.scores],
            rounded=rounded,
            hidden=self.model.hidden_dim if self._hidden else None,
        )
        return columns.with_metadata(self.metadata)

    def _windows(
        self, samples: Iterable[Sample], source: InputSettings, tally: Tally
    ) -> Iterator[Window]:
        whole = _without_gaps(samples, source, tally)
        if source.images:
            return self.encoded(self.decoded(whole, tally))
        rows = (Row(sample.id, sample.text) for sample in whole)
        return (Window(chunk, None) for chunk in in_chunks(rows, WINDOW_ROWS))

    def decoded(self, samples: Iterable[Sample], tally: Tally) -> Iterator[tuple[Row, Tensor]]:
        """The rows whose images decode, with levels: uint8 [3, R, R]."""
        started = (
            (None, self._pool.submit(self._decode_all, chunk))
            for chunk in in_chunks(samples, DECODED_AT_ONCE)
        )
        depth = max(2 * self.threads, 2 * self.encoder.batch_size // DECODED_AT_ONCE)
        for _, images in overlap(started, depth):
            for row, levels in images:
                if isinstance(levels, ImageError):
                    _fail(tally, levels.reason.replace(" ", "_"), row, str(levels))
                else:
                    yield row, levels

    def _decode_all(self, samples: Sequence[Sample]) -> list[tuple[Row, Tensor | ImageError]]:
        with self.meter.decoding():
            images = [(sample, self._decoded_or_not(sample)) for sample in samples]
            return [(_hashed(sample, levels), levels) for sample, levels in images]

    def _decoded_or_not(self, sample: Sample) -> Tensor | ImageError:
        assert sample.image is not None
        try:
            return self._decode(sample.image)
        except ImageError as error:
            return error

    def encoded(self, decoded: Iterable[tuple[Row, Tensor]]) -> Iterator[Window]:
        """Images' levels through the image tower."""
        batches = self._batches(decoded)
        encoded = overlap(self._start_images(batches), self.encoder.depth)
        return _gathered(encoded, self.model.embed_dim)

    def _batches(self, decoded: Iterable[tuple[Row, Tensor]]) -> Iterator[tuple[list[Row], Tensor]]:
        """Rows and their levels in a batch's room, full but for the last: [B, 3, R, R]."""
        for chunk in in_chunks(decoded, self.encoder.batch_size):
            levels = self.encoder.new_batch()
            for slot, (_, image) in zip(levels, chunk, strict=False):
                slot.copy_(image)
            yield [row for row, _ in chunk], levels

    def _start_images(
        self, batches: Iterable[tuple[list[Row], Tensor]]
    ) -> Iterator[tuple[list[Row], Handle[Tensor]]]:
        for rows, levels in batches:
            yield rows, self.encoder.encode_images(levels, len(rows))

    def tables(
        self, windows: Iterable[Window], schema: pa.Schema, tally: Tally
    ) -> Generator[pa.Table]:
        """Captions encoded, labels given: a table a window, in order."""
        started = (
            (None, self._pool.submit(window_table, window, texts, self._labels, schema))
            for window, texts in self._with_texts(windows, "text_embedding" in schema.names)
        )
        for _, (table, not_finite) in overlap(started, 1):
            tally.keep(len(table))
            for row, what in not_finite:
                _fail(tally, "not_finite", row, f"{what}: not finite; model or precision at fault")
            yield table

    def _with_texts(
        self, windows: Iterable[Window], wanted: bool
    ) -> Iterator[tuple[Window, Tensor | None]]:
        if not wanted:
            return ((window, None) for window in windows)
        return overlap(((window, self._start_texts(window)) for window in windows), 1)

    def _start_texts(self, window: Window) -> Handle[Tensor]:
        assert self.encoder.texts is not None
        captions = [row.text or "" for row in window.rows]
        tokens = self.encoder.texts.tokenize(captions, truncate=True)  # [N, L]
        lengths = self.encoder.texts.lengths(tokens)
        order = lengths.argsort(stable=True)
        batches = order.split(self.encoder.batch_size)
        return TextsUnderWay(
            order,
            [self.encoder.encode_texts(tokens[some, : int(lengths[some[-1]])]) for some in batches],
        )


@dataclass(frozen=True)
class TextsUnderWay:
    """A window's captions in batches of like length: a handle of [N, D] in the rows' order."""

    order: Tensor  # [N], the row of each encoded caption
    batches: list[Handle[Tensor]]

    def result(self) -> Tensor:
        encoded = torch.cat([batch.result() for batch in self.batches])
        features = torch.empty_like(encoded)
        features[self.order] = encoded
        return features

    def cancel(self) -> None:
        for batch in self.batches:
            batch.cancel()


def _hashed(sample: Sample, levels: Tensor | ImageError) -> Row:
    """The row, with its image's hash where there is one."""
    if isinstance(levels, ImageError):
        return Row(sample.id, sample.text)
    return Row(sample.id, sample.text, image_hash(levels.numpy()))


def _without_gaps(
    samples: Iterable[Sample], source: InputSettings, tally: Tally
) -> Iterator[Sample]:
    """The rows that have what is asked for."""
    for sample in samples:
        if failure := failure_reason(sample, source):
            reason, error = failure
            caption = sample.text if reason in ("bad_image", "no_image") else None
            _fail(tally, reason, Row(sample.id, caption), error)
        else:
            yield sample


def _fail(tally: Tally, reason: str, row: Row, error: str) -> None:
    tally.fail(reason, row.id, {"pair_id": row.id, "caption": row.text, "error": error})


def _gathered(encoded: Iterable[tuple[list[Row], Tensor]], dim: int) -> Iterator[Window]:
    """Whole batches, until they make a window; of their features the first ``dim`` are joint."""
    rows: list[Row] = []
    features: list[Tensor] = []
    for some, image_features in encoded:
        rows += some
        features.append(image_features)
        if len(rows) >= WINDOW_ROWS:
            yield _window(rows, torch.cat(features), dim)
            rows, features = [], []
    if rows:
        yield _window(rows, torch.cat(features), dim)


def _window(rows: list[Row], features: Tensor, dim: int) -> Window:
    hidden = features[:, dim:] if features.shape[1] > dim else None
    return Window(rows, features[:, :dim], hidden)
