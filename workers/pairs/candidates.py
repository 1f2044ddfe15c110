"""Candidates: captions that match a query, of a group of inputs or of all, sorted by ``pair_id``.

What is found in a group of inputs is written as files that are sorted each, so that a range of
pair_ids can be read out of those of all groups without reading the rest. Where the pairs of all
groups meet, duplicates do.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from workers.base.contracts import PAIRS
from workers.base.ranges import Range, gather_range
from workers.base.storage import replacing
from workers.base.tally import LostRowsError, Tally
from workers.extract.inputs import Input
from workers.pairs.reader import TALLY_NAMES, PairReader
from workers.pairs.tables import (
    deduplicate,
    limit_captions,
    reject_rows,
    sort_pairs,
    without_ids,
)

#: Rows that are held in memory, and sorted into one file.
RUN_ROWS = 1_000_000
#: Rows that a range is read by: of a file with a part of a thousand ranges, few beside these.
_GROUP_ROWS = 1024


def find_candidates(
    inputs: Iterable[Input], reader: PairReader, out: Path, name: str
) -> dict[str, Tally]:
    """Write what some inputs hold that becomes a pair, in the PAIRS schema, as NAME-000.parquet,
    NAME-001.parquet, ...: each sorted by pair_id, with no more rows than memory holds.

    Returns the tallies "pages", "images", "redacted" (captions in which something was blotted out)
    and "pairs". Raises LostRowsError if a row got lost and OSError for an input that cannot be
    opened.
    """
    tallies = {name: Tally() for name in TALLY_NAMES}
    held: list[pa.Table] = []
    files = 0
    for source in inputs:
        for table in reader.pairs(source, tallies):
            tallies["pairs"].keep(len(table))
            held.append(table)
            if sum(map(len, held)) >= RUN_ROWS:
                _write_run(held, out / f"{name}-{files:03d}.parquet")
                held, files = [], files + 1
    if held or not files:
        _write_run(held, out / f"{name}-{files:03d}.parquet")
    for tally in tallies.values():
        tally.check()
    found, accounted = tallies["images"].kept, tallies["pairs"].rows_in
    if found != accounted:
        raise LostRowsError(f"{found} candidates were extracted, but {accounted} accounted for")
    return tallies


def _write_run(held: Sequence[pa.Table], path: Path) -> None:
    table = sort_pairs(pa.concat_tables([PAIRS.empty_table(), *held]))
    # Written and read once or twice, by ourselves alone: fast to write, and a page that a disk
    # has damaged is noticed where no whole file is compared with its hash.
    with (
        replacing(path) as temporary,
        pq.ParquetWriter(
            temporary,
            PAIRS,
            use_dictionary=False,
            compression="lz4",
            write_page_checksum=True,
        ) as writer,
    ):
        writer.write_table(table, row_group_size=_GROUP_ROWS)


@dataclass(frozen=True)
class Candidates:
    """The candidates of all groups of inputs."""

    files: tuple[Path, ...]  # as find_candidates writes them
    max_captions_per_url: int | None = None
    #: Files of pair_ids, sorted each, that are too many of one caption.
    surplus: tuple[Path, ...] = ()

    def distinct(self, between: Range, columns: Sequence[str]) -> pa.Table:
        """The different pairs of a range that no limit rejects, sorted, with some columns."""
        return self._distinct(between, columns, None)

    def counted(self, between: Range) -> tuple[pa.Table, Tally]:
        """They with all columns; and the tally of the others that were read."""
        tally = Tally()
        return self._distinct(between, PAIRS.names, tally), tally

    def _distinct(self, between: Range, columns: Sequence[str], tally: Tally | None) -> pa.Table:
        def reject(reason: str, rows: pa.Table) -> None:
            if tally is not None:
                reject_rows(tally, reason, rows)

        table, repeated = deduplicate(gather_range(self.files, between, columns))
        reject("duplicate_pair", repeated)
        if self.max_captions_per_url:
            table, surplus = limit_captions(table, self.max_captions_per_url)
            reject("duplicate_url", surplus)
        if self.surplus:
            ids = gather_range(self.surplus, between, ["pair_id"])["pair_id"]
            table, surplus = without_ids(table, ids)
            reject("duplicate_caption", surplus)
        return table
