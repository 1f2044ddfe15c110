"""Planted noise: embedded pairs of which a known share has somebody else's caption.

Only embeddings are exchanged, so no model runs: what a filter makes of the result says how well
it tells right captions from wrong ones, on the user's own data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from workers.base.arrays import Bools
from workers.base.sampling import draws
from workers.base.storage import write_table
from workers.embedding.matrix import embedding_matrix
from workers.selection.select import EmbeddedShard


def plant_noise(
    shards: Sequence[EmbeddedShard], share: float, seed: int, out_dir: Path
) -> tuple[list[EmbeddedShard], list[Bools]]:
    """Copies of the embeddings in ``out_dir``, with captions exchanged among a share of the pairs.

    Which pairs, and whose caption each gets, is a hash of the seed and the ``pair_id``. Beside a
    shard, the captions and the embeddings of those exchanged are in memory at once: two bytes a
    dimension.

    Returns:
        The shards, and for each of them which pairs now have a wrong caption; a pair that got
        the same words from another one has not.
    """
    captions = [shard.read(["caption"]) for shard in shards]
    ends = np.cumsum([0, *map(len, captions)])
    ranks = np.concatenate([draws(seed, table["pair_id"]) for table in captions])
    chosen = np.flatnonzero(ranks < share)
    ring = chosen[np.argsort(ranks[chosen], kind="stable")]
    giver = np.arange(ends[-1])
    giver[ring] = np.roll(ring, 1)  # nobody keeps his own

    words = pa.concat_tables(captions)["caption"].cast(pa.large_string())
    is_wrong = pc.not_equal(words.take(pa.array(giver)), words).to_numpy()
    cuts = [slice(start, end) for start, end in pairwise(ends)]
    given = _concat(
        [_texts_of(shard, ranks[mine] < share) for shard, mine in zip(shards, cuts, strict=True)]
    )
    noisy = []
    for shard, mine in zip(shards, cuts, strict=True):
        table = shard.read(shard.embedded_columns)
        changed = ranks[mine] < share
        new = given.take(pa.array(np.searchsorted(chosen, giver[mine][changed])))
        path = out_dir / shard.pairs.name
        write_table(_with_texts(table, changed, new), path)
        noisy.append(replace(shard, embeddings=[path]))
    return noisy, [is_wrong[mine] for mine in cuts]


def _texts_of(shard: EmbeddedShard, rows: Bools) -> pa.ChunkedArray:
    """The embeddings of the captions of some rows."""
    return shard.read(["text_embedding"])["text_embedding"].filter(pa.array(rows))


def _concat(columns: Sequence[pa.ChunkedArray]) -> pa.Array:
    chunks = [chunk for column in columns for chunk in column.chunks]
    return pa.chunked_array(chunks, columns[0].type).combine_chunks()


def _with_texts(table: pa.Table, changed: Bools, new: pa.Array) -> pa.Table:
    """The table with other captions' embeddings in some rows, and the similarity they have."""
    own = _concat([table["text_embedding"]])
    place = np.arange(len(own))
    place[changed] = len(own) + np.arange(len(new))
    texts = pa.concat_arrays([own, new]).take(pa.array(place))
    at = table.schema.get_field_index("text_embedding")
    table = table.set_column(at, table.schema.field(at), texts)
    images = embedding_matrix(table["image_embedding"])  # [N, D]
    similarity = (images * embedding_matrix(table["text_embedding"])).sum(axis=1)
    at = table.schema.get_field_index("similarity")
    return table.set_column(at, table.schema.field(at), pa.array(similarity, pa.float32()))
