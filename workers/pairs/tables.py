"""Tables of pairs: cut into shards, each pair once, not too many of one image or caption.

A pair's shard is a range of its pair_id, so duplicates meet in one shard, shards have even sizes,
and the shards in the order of their names are sorted by pair_id throughout.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from workers.base.arrays import Bools, Float64s, Int64s
from workers.base.sampling import draws
from workers.base.tally import SAMPLES_PER_REASON, Tally
from workers.base.urls import url_keys
from workers.extract.candidates import CANDIDATES
from workers.pairs.settings import PairSettings

#: Hexadecimal digits of a hash that say which range it is in.
_DIGITS = 8


class ShardTable(NamedTuple):
    """Pairs of one output shard, in the PAIRS schema."""

    shard: int
    table: pa.Table


@dataclass(frozen=True)
class Limit:
    """At most so many different pairs with one key: of one image, or with one caption."""

    key: Callable[[pa.Table], pa.StringArray]
    most: int
    reason: str  # of the pairs above


def limits_of(settings: PairSettings) -> list[Limit]:
    """The limits that are set, in the order in which they are applied."""
    limits = (
        Limit(url_key, settings.max_captions_per_url or 0, reason="duplicate_url"),
        Limit(caption_key, settings.max_urls_per_caption or 0, reason="duplicate_caption"),
    )
    return [limit for limit in limits if limit.most]


def url_key(table: pa.Table) -> pa.StringArray:
    """The images' URLs: tracking parameters make no other."""
    return url_keys(table["url"].combine_chunks())


def caption_key(table: pa.Table) -> pa.StringArray:
    """The captions: capitals make no other."""
    return pc.utf8_lower(table["caption"].combine_chunks())


def split(table: pa.Table, limit: Limit | None, shards: int) -> Iterator[ShardTable]:
    """The pairs in ``shards`` parts: those of one key of a limit together, or by pair_id."""
    return split_by_key(table, limit.key, shards) if limit else split_by_pair(table, shards)


def split_by_pair(table: pa.Table, shards: int) -> Iterator[ShardTable]:
    """The pairs of each shard: the hash space of pair_id cut into ranges of equal length."""
    return _split(table, _ranges(table["pair_id"].to_pylist(), shards))


def split_by_key(
    table: pa.Table, key: Callable[[pa.Table], pa.StringArray], parts: int
) -> Iterator[ShardTable]:
    """The pairs by a hash of their keys: those of one stay together."""
    hashes = [
        hashlib.blake2b(text.encode(), digest_size=_DIGITS // 2).hexdigest()
        for text in key(table).to_pylist()
    ]
    return _split(table, _ranges(hashes, parts))


def _ranges(hashes: list[str], ranges: int) -> Int64s:
    """The range that each hexadecimal hash falls into."""
    firsts = [int(text[:_DIGITS], 16) for text in hashes]
    return np.array(firsts, np.int64) * ranges >> 4 * _DIGITS


def _split(table: pa.Table, shard: Int64s) -> Iterator[ShardTable]:
    order = np.argsort(shard, kind="stable")
    numbers, starts = np.unique(shard[order], return_index=True)
    for number, rows in zip(numbers, np.split(order, starts[1:]), strict=True):
        # Taken, not sliced: a slice would be sent with the whole table behind it.
        yield ShardTable(int(number), table.take(rows).combine_chunks())


def deduplicate(table: pa.Table) -> tuple[pa.Table, Tally]:
    """One row for each pair_id, sorted: the one with the smallest (page_url, url, source).

    What file it was read from comes last: the same pairs in other files are the same.
    """
    keys = [(name, "ascending") for name in ("pair_id", "page_url", "url", "source")]
    table = table.sort_by(keys).combine_chunks()
    first = _differs_from_last(table["pair_id"])
    return _keep(table, first, "duplicate_pair")


def limit_pairs(table: pa.Table, limit: Limit) -> tuple[pa.Table, Tally]:
    """At most ``limit.most`` rows for each key, those with the smallest pair_id; sorted by the two.

    The rows are different pairs.
    """
    table = table.append_column("key", limit.key(table))
    table = table.sort_by([("key", "ascending"), ("pair_id", "ascending")]).combine_chunks()
    starts = _differs_from_last(table["key"])
    row = np.arange(len(table))
    rank = row - np.maximum.accumulate(np.where(starts, row, 0))
    return _keep(table.drop_columns(["key"]), rank < limit.most, limit.reason)


def _differs_from_last(column: pa.ChunkedArray) -> Bools:
    """For each value of a sorted column whether it is the first of its kind."""
    differs = np.ones(len(column), bool)
    if len(column) > 1:
        changes = pc.not_equal(column.slice(1), column.slice(0, len(column) - 1))
        differs[1:] = changes.to_numpy()
    return differs


def _keep(table: pa.Table, rows: Bools, reason: str) -> tuple[pa.Table, Tally]:
    """The rows to keep; the others are counted."""
    tally = Tally()
    reject_rows(tally, reason, table.filter(pa.array(~rows)))
    return table.filter(pa.array(rows)).combine_chunks(), tally


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
    result[rows] = draws(seed, table["pair_id"].filter(pa.array(rows)).to_pylist())
    return result
