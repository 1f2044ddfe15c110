"""Label: what stored embeddings say of images, without a look at a pixel."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from workers.base.contracts import labels_schema
from workers.base.cores import usable_cores
from workers.base.storage import ROW_GROUP_ROWS, table_writer
from workers.base.tally import Tally
from workers.embedding.embedder import WINDOW_ROWS
from workers.embedding.encoders import load_encoder, one_threaded
from workers.embedding.labels import Labels
from workers.embedding.matrix import embedding_matrix
from workers.embedding.meter import Meter
from workers.embedding.overlap import overlap
from workers.embedding.settings import EmbedSettings
from workers.embedding.windows import Embedded, label_table


class Labeller:
    """A model's label sets, attributes and heads, for shards of embeddings that it has made.

    The prompts are encoded once, in the embeddings' own precision.

    Raises:
        As `Embedder`.
    """

    def __init__(self, settings: EmbedSettings) -> None:
        threads = settings.threads or usable_cores()
        self._pool = ThreadPoolExecutor(threads, "label", initializer=one_threaded)
        self._depth = 2 * threads
        self.meter = Meter(threads, on_gpu=torch.cuda.is_available())
        encoder = load_encoder(settings, self._pool, threads, self.meter)
        self._labels = Labels.of(settings, encoder.texts)
        self._schema = labels_schema([name for name, _ in self._labels.scores])

    def label_shard(self, shard: Path, out: Path) -> dict[str, Tally]:
        """Write ``out``, the labels and scores of a shard of embeddings (``labels_schema``).

        Returns the tally of the rows; one of which anything is not finite is failed.
        """
        tally = Tally()
        with self.meter.shard(), table_writer(self._schema, out) as file:
            for _, (table, not_finite) in overlap(self._started(shard), self._depth):
                tally.keep(len(table))
                for row, what in not_finite:
                    error = f"{what}: not finite; a head or the model is at fault"
                    tally.fail("not_finite", row.id, {"pair_id": row.id, "error": error})
                file.write_table(table, row_group_size=ROW_GROUP_ROWS)
                self.meter.wrote(len(table))
        return {"images": tally}

    def _started(self, shard: Path) -> Iterator[tuple[None, Future[Embedded]]]:
        columns = ["pair_id", "image_embedding"]
        for batch in pq.ParquetFile(shard).iter_batches(WINDOW_ROWS, columns=columns):
            yield None, self._pool.submit(self._labelled, pa.Table.from_batches([batch]))

    def _labelled(self, rows: pa.Table) -> Embedded:
        images = torch.from_numpy(embedding_matrix(rows["image_embedding"]))
        return label_table(rows["pair_id"].combine_chunks(), images, self._labels, self._schema)
