"""Tables of pairs: sorted, each pair once, not too many of one image or caption.

Where pairs are worked on in parts, a part is a range of pair_id: duplicates meet in one part, parts
have even sizes, and in the order of their names they are sorted by pair_id throughout. As a pair_id
begins with its URL's hash, all captions of a URL meet in one part, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from workers.base.arrays import Bools, Float64s, Int64s, UInt64s
from workers.base.pair_ids import url_digits
from workers.base.ranges import Range
from workers.base.sampling import draws
from workers.base.tally import SAMPLES_PER_REASON, Tally
from workers.extract.candidates import CANDIDATES

#: Hexadecimal digits of a pair_id, and those of them that say which range it is in.
_ID_DIGITS = 32
_DIGITS = 8

#: Of rows with one pair_id the first in this order stays. What file it was read from comes last:
#: the same pairs in other files are the same.
_ORDER = [(name, "ascending") for name in ("pair_id", "page_url", "url", "source")]


class Cut(NamedTuple):
    """A table's rows, in two."""

    kept: pa.Table
    dropped: pa.Table


def id_ranges(ranges: int) -> list[Range]:
    """The hash space of pair_id, cut into ranges of equal length."""
    size = 1 << 4 * _DIGITS
    bounds = [-(-number * size // ranges) for number in range(ranges + 1)]
    rest = _ID_DIGITS - _DIGITS
    return [
        Range(f"{first:0{_DIGITS}x}{'0' * rest}", f"{last - 1:0{_DIGITS}x}{'f' * rest}")
        for first, last in pairwise(bounds)
    ]


def sort_pairs(table: pa.Table) -> pa.Table:
    """Sorted by (pair_id, page_url, url, source), or by those of them that the table has."""
    high, low = _id_numbers(table["pair_id"])
    order = np.lexsort((low, high))
    same = (np.diff(high[order]) == 0) & (np.diff(low[order]) == 0)
    # Few pairs are there twice: to compare texts takes longer than to compare numbers.
    tied = np.flatnonzero(np.append(same, [False]) | np.append([False], same))
    keys = [key for key in _ORDER if key[0] in table.column_names]
    if len(tied) and len(keys) > 1:
        some = order[tied]
        among = pc.sort_indices(table.select([name for name, _ in keys]).take(some), keys)
        order[tied] = some[among.to_numpy()]
    return table.take(order)


def _id_numbers(ids: pa.ChunkedArray) -> tuple[UInt64s, UInt64s]:
    """The halves of each pair_id as numbers, in the same order."""
    column = ids.combine_chunks()
    _, _, letters = column.buffers()
    first = column.offset * _ID_DIGITS
    text = memoryview(letters or b"")[first : first + len(column) * _ID_DIGITS]
    numbers = np.frombuffer(bytes.fromhex(str(text, "ascii")), ">u8").astype(np.uint64)
    return numbers[::2], numbers[1::2]


def deduplicate(table: pa.Table) -> Cut:
    """One row for each pair_id, sorted: the first of each in the order of ``sort_pairs``."""
    table = sort_pairs(table)
    return _cut(table, ~_repeats(table["pair_id"]))


def limit_captions(table: pa.Table, most: int) -> Cut:
    """At most ``most`` rows for each URL, those with the smallest pair_id.

    The rows are different pairs, sorted. Tracking parameters make no other URL.
    """
    of_url = url_digits(table["pair_id"])
    return _cut(table, _ranks(_repeats(of_url)) < most)


def limit_urls(table: pa.Table, most: int) -> Cut:
    """At most ``most`` rows for each text of the column ``caption``, those with the smallest
    pair_id; sorted by the two. The rows are different pairs.
    """
    table = table.sort_by([("caption", "ascending"), ("pair_id", "ascending")]).combine_chunks()
    return _cut(table, _ranks(_repeats(table["caption"])) < most)


def without_ids(table: pa.Table, ids: pa.ChunkedArray) -> Cut:
    """The rows whose pair_ids are not listed."""
    return _cut(table, ~pc.is_in(table["pair_id"], value_set=ids.combine_chunks()).to_numpy())


def _ranks(repeats: Bools) -> Int64s:
    """How many rows of its kind stand before each, where rows of a kind follow each other."""
    row = np.arange(len(repeats))
    return row - np.maximum.accumulate(np.where(repeats, 0, row))


def _repeats(column: pa.ChunkedArray) -> Bools:
    """For each value whether it is that of the row before it."""
    repeats = np.zeros(len(column), bool)
    if len(column) > 1:
        same = pc.equal(column.slice(1), column.slice(0, len(column) - 1))
        repeats[1:] = same.to_numpy()
    return repeats


def _cut(table: pa.Table, rows: Bools) -> Cut:
    if rows.all():
        return Cut(table, table.slice(0, 0))
    return Cut(table.filter(pa.array(rows)), table.filter(pa.array(~rows)))


def reject_rows(
    tally: Tally, reason: str, rows: pa.Table, as_shown: Callable[[str], str] = str
) -> None:
    """Count a table of rejected pairs; the sample has those with the smallest pair_ids.

    ``as_shown`` says how a caption stands in the sample.
    """
    if not len(rows):
        return
    keys = pc.binary_join_element_wise(rows["pair_id"], rows["source"], " ")
    different = pc.unique(keys)
    last = pc.max(different.take(pc.bottom_k_unstable(different, SAMPLES_PER_REASON)))
    shown = rows.select(CANDIDATES.names).append_column("key", keys)
    first = shown.filter(pc.less_equal(keys, last))
    sample = first.group_by(first.column_names, use_threads=False).aggregate([]).to_pylist()
    for row in sample:
        row["caption"] = as_shown(row["caption"])
    tally.reject_many(reason, len(rows), ((row.pop("key"), row) for row in sample))


def matches_of(table: pa.Table) -> tuple[Int64s, Int64s]:
    """One entry for each (pair, query that it matches): row, query_id."""
    lists = table["query_ids"].combine_chunks()
    rows = pc.list_parent_indices(lists).to_numpy().astype(np.int64)
    return rows, pc.list_flatten(lists).to_numpy().astype(np.int64)


def draws_of(table: pa.Table, rows: Bools, seed: int) -> Float64s:
    """The draw of each pair in some rows, 0 in the others: a hash a row."""
    result = np.zeros(len(table))
    result[rows] = draws(seed, table["pair_id"].filter(pa.array(rows)))
    return result


def even_parts(name: str, table: pa.Table, max_rows: int) -> Iterator[tuple[str, pa.Table]]:
    """A table cut into as few parts as ``max_rows`` allows, whose sizes differ by one at most.

    An only part has the table's name, others NAME-000, NAME-001, ...
    """
    parts = max(1, -(-len(table) // max_rows))
    bounds = [len(table) * number // parts for number in range(parts + 1)]
    for number in range(parts):
        part = table.slice(bounds[number], bounds[number + 1] - bounds[number])
        yield (name if parts == 1 else f"{name}-{number:03d}"), part
