"""Planted noise: embedded pairs of which a known share has somebody else's caption.

Only embeddings are exchanged, so no model runs: what a filter makes of the result says how well
it tells right captions from wrong ones, on the user's own data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from workers.embedding.matrix import embedding_matrix
from workers.sampling import draws
from workers.selection.select import EmbeddedShard
from workers.storage import write_table

Bools = npt.NDArray[np.bool_]


def plant_noise(
    shards: Sequence[EmbeddedShard], share: float, seed: int, out_dir: Path
) -> tuple[list[EmbeddedShard], list[Bools]]:
    """Copies of the embeddings in ``out_dir``, with captions exchanged among a share of the pairs.

    Which pairs, and whose caption each gets, is a hash of the seed and the ``pair_id``. The
    embeddings of all exchanged captions are in memory at once: two bytes a dimension.

    Returns:
        The shards, and for each of them which pairs now have a wrong caption; a pair that got
        the same words from another one has not.
    """
    tables = [pq.read_table(shard.embeddings) for shard in shards]
    captions = [shard.read(["caption"])["caption"].combine_chunks() for shard in shards]
    order = [draws(seed, table["pair_id"].to_pylist()) for table in tables]
    ends = np.cumsum([0, *map(len, tables)])
    ranks = np.concatenate(order)
    chosen = np.flatnonzero(ranks < share)
    chosen = chosen[np.argsort(ranks[chosen], kind="stable")]
    giver = np.arange(ends[-1])
    giver[chosen] = np.roll(chosen, 1)  # a ring: nobody keeps his own

    texts = pa.concat_arrays([t["text_embedding"].combine_chunks() for t in tables])
    words = pa.concat_arrays(captions)
    is_wrong = np.array(words.take(pa.array(giver)).to_pylist()) != np.array(words.to_pylist())
    noisy = []
    for shard, table, start in zip(shards, tables, ends, strict=False):
        mine = slice(start, start + len(table))
        path = out_dir / shard.embeddings.name
        write_table(_with_texts(table, texts.take(pa.array(giver[mine]))), path)
        noisy.append(replace(shard, embeddings=path))
    return noisy, np.split(is_wrong, ends[1:-1])


def _with_texts(table: pa.Table, texts: pa.Array) -> pa.Table:
    """The table with other captions' embeddings, and the similarity that they have."""
    at = table.schema.get_field_index("text_embedding")
    table = table.set_column(at, table.schema.field(at), texts)
    images = embedding_matrix(table["image_embedding"])  # [N, D]
    similarity = (images * embedding_matrix(table["text_embedding"])).sum(axis=1)
    at = table.schema.get_field_index("similarity")
    return table.set_column(at, table.schema.field(at), pa.array(similarity, pa.float32()))
