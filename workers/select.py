"""Select: which embedded pairs go into the data set, and all that training needs of them."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from workers.contracts import DATASET
from workers.settings import SelectSettings
from workers.storage import write_table
from workers.tally import Tally


def select_shard(
    pairs: Path, images: Path, embeddings: Path, out: Path, settings: SelectSettings
) -> dict[str, Tally]:
    """Keep the pairs that are similar enough and join what the stages know of them.

    Args:
        pairs, images, embeddings: one shard of each stage, of the same pairs.
        out: file to write, with the columns of ``contracts.DATASET``.

    Returns:
        The account of the embedded pairs.
    """
    scores = pq.read_table(embeddings, columns=["pair_id", "similarity", "labels"])
    similar = pc.greater_equal(scores["similarity"], settings.min_similarity)
    tally = Tally()
    chosen = scores.filter(similar)
    tally.keep(chosen.num_rows)
    for row in scores.filter(pc.invert(similar)).to_pylist():
        tally.reject("low_similarity", row["pair_id"], row)
    table = _beside(chosen, images, ["jpg", "caption", "url", "width", "height"])
    table = _beside(table, pairs, ["page_url", "query_ids"])
    write_table(table.select(DATASET.names).cast(DATASET), out)
    return {"pairs": tally}


def _beside(table: pa.Table, path: Path, columns: list[str]) -> pa.Table:
    """``table`` with columns of another shard, row for row of the same ``pair_id``.

    Raises ValueError when a pair is missing there: the shards are not of the same pairs.
    """
    other = pq.read_table(path, columns=["pair_id", *columns])
    rows = pc.index_in(table["pair_id"], value_set=other["pair_id"].combine_chunks())
    if rows.null_count:
        raise ValueError(f"{rows.null_count} embedded pairs are not in {path}")
    for name in columns:
        table = table.append_column(other.schema.field(name), other[name].take(rows))
    return table
