"""Ranges of Parquet files that are sorted by ``pair_id``: read where they lie, and joined.

A file's row groups say between which pair_ids they are, so of a file that spans many ranges only
the groups of one range are read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from workers.base.copies import readable, version_of
from workers.base.pair_ids import URL_DIGITS

#: Files whose footers are remembered.
_FOOTERS = 20_000


class Range(NamedTuple):
    """From one pair_id to another, both inside."""

    first: str
    last: str

    def overlaps(self, other: Range | None) -> bool:
        return other is not None and self.first <= other.last and other.first <= self.last


def whole_urls(between: Range) -> Range:
    """A range with all captions of the URLs at its ends."""
    first, last = (end[:URL_DIGITS] for end in between)
    return Range(first, f"{last}{'f' * URL_DIGITS}")


#: A range with nothing in it.
NOTHING = Range("1", "0")


@dataclass(frozen=True)
class SortedFile:
    """A Parquet file whose rows are sorted by ``pair_id``."""

    path: Path
    metadata: pq.FileMetaData

    @classmethod
    def open(cls, path: Path) -> SortedFile:
        """Its footer is read once, as long as its size and time stay as they are."""
        return _opened(path, *version_of(path))

    @cached_property
    def groups(self) -> list[tuple[int, Range]]:
        """The row groups that have rows, and between which pair_ids each is."""
        at = self.metadata.schema.to_arrow_schema().get_field_index("pair_id")
        groups = []
        for number in range(self.metadata.num_row_groups):
            ends = self.metadata.row_group(number).column(at).statistics
            if ends is not None and ends.has_min_max:
                groups.append((number, Range(ends.min, ends.max)))
        return groups

    @property
    def range(self) -> Range | None:
        """None where it has no row."""
        return Range(self.groups[0][1].first, self.groups[-1][1].last) if self.groups else None

    @cached_property
    def schema(self) -> pa.Schema:
        return pq.read_schema(readable(self.path))

    def read(self, between: Range, columns: Sequence[str]) -> pa.Table:
        """The rows of a range, with the columns that are named."""
        groups = [number for number, group in self.groups if between.overlaps(group)]
        # A damaged page is noticed where whoever wrote it has left a checksum.
        with pq.ParquetFile(
            readable(self.path), metadata=self.metadata, page_checksum_verification=True
        ) as file:
            table = file.read_row_groups(groups, columns=list(columns))
        if not len(table):
            return table
        ids = table["pair_id"]
        inside = pc.and_(pc.greater_equal(ids, between.first), pc.less_equal(ids, between.last))
        return table.filter(inside)


@lru_cache(maxsize=_FOOTERS)
def _opened(path: Path, _bytes: int, _mtime_ns: int) -> SortedFile:
    return SortedFile(path, pq.read_metadata(readable(path)))


def within(files: Iterable[Path], between: Range) -> list[Path]:
    """The files that have rows in a range."""
    return [path for path in files if between.overlaps(SortedFile.open(path).range)]


def read_range(files: Sequence[Path], between: Range, columns: Sequence[str]) -> pa.Table:
    """The rows of a range out of some files of one schema, sorted by ``pair_id``.

    Args:
        columns: ``pair_id`` among them.
    """
    table, is_sorted = _rows(files, between, columns)
    return table if is_sorted else table.sort_by("pair_id")


def gather_range(files: Sequence[Path], between: Range, columns: Sequence[str]) -> pa.Table:
    """The same in no order."""
    return _rows(files, between, columns)[0]


def _rows(files: Sequence[Path], between: Range, columns: Sequence[str]) -> tuple[pa.Table, bool]:
    tables = [SortedFile.open(path).read(between, columns) for path in within(files, between)]
    if not tables:
        schema = SortedFile.open(files[0]).schema
        return pa.schema([schema.field(name) for name in columns]).empty_table(), True
    return (tables[0], True) if len(tables) == 1 else (pa.concat_tables(tables), False)
