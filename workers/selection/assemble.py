"""Assemble the data set: the selected pairs of a shard with all that training needs of them."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from workers.base.contracts import DATASET
from workers.base.storage import write_table
from workers.base.tally import Tally
from workers.selection.select import EmbeddedShard


def assemble_shard(shard: EmbeddedShard, selection: Path, out: Path) -> dict[str, Tally]:
    """Write ``out``, the selected pairs with the columns of ``contracts.DATASET``.

    Args:
        selection: the verdicts on this shard's pairs, as ``workers.selection.select`` writes them.

    Returns:
        The tally of the selected pairs.
    """
    verdicts = pq.read_table(selection)
    selected = verdicts.filter(pc.is_null(verdicts["reason"]))["pair_id"].combine_chunks()
    table = shard.read([name for name in DATASET.names if name != "labels" or shard.labels])
    table = table.filter(pc.is_in(table["pair_id"], value_set=selected))
    if not shard.labels:
        kind = DATASET.field("labels").type
        table = table.append_column("labels", pa.array([[]] * len(table), kind))
    write_table(table.select(DATASET.names).cast(DATASET), out)
    tally = Tally()
    tally.keep(len(table))
    if len(table) != len(selected):
        raise ValueError(f"{len(selected)} pairs are selected, {len(table)} of them embedded")
    return {"pairs": tally}
