"""Select: a verdict on every embedded pair, step by step, and why.

A step sees what the steps before it have left. Only the columns that it reads are loaded, a
shard at a time; what stays in memory is one byte a pair, and what a filter learns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from workers.base.arrays import UInt8s
from workers.base.contracts import SELECTION
from workers.base.opt_outs import OptOuts
from workers.base.ranges import NOTHING, Range, SortedFile, read_range
from workers.base.storage import write_table
from workers.base.tally import SAMPLES_PER_REASON, Tally
from workers.selection.base_filter import Filter
from workers.selection.settings import SelectionSettings

#: What a list may have of a pair.
_LISTED = ("url", "page_url", "final_url", "sha256", "image_hash")

#: What is shown of a rejected pair.
_SHOWN = ("url", "caption", "similarity")


@dataclass
class EmbeddedShard:
    """The pairs of one shard that are embedded, and the verdicts on them.

    A shard of pairs is a range of pair_id. Images and embeddings lie where they came to lie on
    the nights on which they were fetched, each shard of them sorted by pair_id.
    """

    pairs: Path
    embeddings: Sequence[Path]  # at least one; some of the pairs may be in each
    images: Sequence[Path]
    #: None where nothing is said of images; else a pair that is not in there is left out.
    labels: Sequence[Path] = ()
    #: For each embedded pair the number of the step that rejected it, from 1; 0: it is left.
    verdicts: UInt8s = field(init=False)

    def __post_init__(self) -> None:
        self.verdicts = np.zeros(len(self.read([])), np.uint8)

    @cached_property
    def range(self) -> Range:
        """An empty one where there are no pairs."""
        return SortedFile.open(self.pairs).range or NOTHING

    @cached_property
    def embedded_columns(self) -> list[str]:
        """Those of the embeddings."""
        return SortedFile.open(self.embeddings[0]).schema.names

    def read(self, columns: Sequence[str]) -> pa.Table:
        """The embedded pairs with pair_id and the columns named, from where they stand.

        Raises ValueError when a pair is missing in another stage or no stage has a column.
        """
        wanted = [name for name in dict.fromkeys(columns) if name != "pair_id"]
        there = pq.read_table(self.pairs, columns=["pair_id"])["pair_id"].combine_chunks()
        first, *others = filter(None, (self.labels, self.embeddings, [self.pairs], self.images))
        own = [name for name in wanted if name in SortedFile.open(first[0]).schema.names]
        table = read_range(first, self.range, ["pair_id", *own])
        # What has been embedded once may be wanted no more.
        table = table.filter(pc.is_in(table["pair_id"], value_set=there))
        # A pair's URL is that of today, not of the night on which its image came.
        for files in others:
            known = SortedFile.open(files[0]).schema.names
            missing = [name for name in wanted if name not in table.column_names and name in known]
            table = self._beside(table, files, missing) if missing else table
        absent = set(wanted) - set(table.column_names)
        if absent:
            raise ValueError(f"{self.pairs.name}: no stage has the columns {sorted(absent)}")
        return table

    def _beside(self, table: pa.Table, files: Sequence[Path], columns: Sequence[str]) -> pa.Table:
        """``table`` with columns of other files, row for row of the same ``pair_id``."""
        other = read_range(files, self.range, ["pair_id", *columns])
        rows = pc.index_in(table["pair_id"], value_set=other["pair_id"].combine_chunks())
        if rows.null_count:
            where = files[0].parent.name
            raise ValueError(f"{rows.null_count} embedded pairs are not in {where}/")
        for name in columns:
            table = table.append_column(other.schema.field(name), other[name].take(rows))
        return table

    def left(self, columns: Sequence[str]) -> pa.Table:
        """Those that no step has rejected so far."""
        return self.read(columns).filter(pa.array(self.verdicts == 0))


def select(
    shards: Sequence[EmbeddedShard],
    out_dir: Path,
    settings: SelectionSettings,
    seed: int,
    opt_outs: Sequence[OptOuts] = (),
) -> dict[str, Tally]:
    """Write for each shard the verdict on each of its pairs (``contracts.SELECTION``).

    Returns the tally of the embedded pairs; a rejected pair is counted under the name of the
    step that rejected it first. The result does not depend on the order of the shards; where
    equals cannot all stay, draws of the ``seed`` decide. No step sees pairs that stand on a list of
    ``opt_outs``.
    """
    shards = sorted(shards, key=lambda shard: shard.pairs.name)
    reasons = [listed.reason for listed in opt_outs]
    for number, listed in enumerate(opt_outs, start=1):
        _reject_listed(listed, number, shards)
    for number, step in enumerate(settings.steps, start=1 + len(opt_outs)):
        _apply(step, number, shards, seed)
        reasons.append(step.name or step.reason)
    tallies = [_write(shard, reasons, out_dir / shard.pairs.name) for shard in shards]
    return {"pairs": Tally.total(tallies)}


def _reject_listed(listed: OptOuts, number: int, shards: Sequence[EmbeddedShard]) -> None:
    for shard in shards:
        left = np.flatnonzero(shard.verdicts == 0)
        shard.verdicts[left[listed.has_rows(shard.left(_LISTED))]] = number


def _apply(step: Filter, number: int, shards: Sequence[EmbeddedShard], seed: int) -> None:
    def survivors(columns: Sequence[str]) -> Iterator[pa.Table]:
        return (shard.left(columns) for shard in shards)

    keeps = step.fit(survivors, seed)
    for shard in shards:
        left = np.flatnonzero(shard.verdicts == 0)
        shard.verdicts[left[~keeps(shard.left(step.reads()))]] = number


def _write(shard: EmbeddedShard, reasons: Sequence[str], path: Path) -> Tally:
    rows = shard.read(_SHOWN)
    verdicts = pa.array([None, *reasons], pa.string()).take(pa.array(shard.verdicts))
    table = pa.table([rows["pair_id"], verdicts], schema=SELECTION)
    write_table(table, path)
    tally = Tally()
    tally.keep(verdicts.null_count)
    for reason in dict.fromkeys(reasons):
        _reject(tally, reason, rows.filter(pc.equal(verdicts, reason)))
    return tally


def _reject(tally: Tally, reason: str, rows: pa.Table) -> None:
    if len(rows):
        sample = rows.sort_by("pair_id").slice(0, SAMPLES_PER_REASON).to_pylist()
        tally.reject_many(reason, len(rows), ((row["pair_id"], row) for row in sample))
