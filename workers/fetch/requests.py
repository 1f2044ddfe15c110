"""Which images are asked for: the pairs that nobody has asked for, and those to try once more.

What an image's server has said once is not asked again: a pair whose image is there, or has
failed for good, or is on a list that waits, is left alone, whatever has become of the pair
meanwhile. A new caption of an image that is there is on a list, which says where it is. Lists are
cut from what is left, and named by it.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from workers.base.contracts import ANSWERS, REQUESTS
from workers.base.pair_ids import url_digits
from workers.base.ranges import Range, SortedFile, read_range, whole_urls, within
from workers.base.storage import write_table
from workers.base.tally import Tally

#: Hexadecimal digits of a list's name.
_NAME_DIGITS = 16
_PAIR = ("pair_id", "url", "caption")


@dataclass(frozen=True)
class AnsweredShard:
    """A shard of images that is there."""

    name: str
    images: Path
    answers: Path
    next_attempt: int  # that a further try at its pairs would be
    retry: frozenset[str] = frozenset()  # the reasons to try pairs again now


def write_requests(
    pairs: Sequence[Path],
    answered: Sequence[AnsweredShard],
    waiting: Sequence[Path],
    out: Path,
    pairs_per_list: int,
) -> dict[str, Tally]:
    """Write lists (``contracts.REQUESTS``) of the pairs that are to be asked for.

    Args:
        pairs: the shards of pairs, each a range of pair_id.
        answered: what has been asked for.
        waiting: lists that have not been worked on.
        out: folder for the lists, named HASH-ATTEMPT.parquet by what is in them.

    Returns:
        The tally of the pairs on the new lists.
    """
    lists = _Lists(out, pairs_per_list)
    for path in pairs:
        between = SortedFile.open(path).range
        if between is None:
            continue
        table = SortedFile.open(path).read(between, _PAIR)
        waits = [_ids(path, between) for path in waiting]
        have = [_ids(shard.images, whole_urls(between)) for shard in answered]
        latest = _last_failures(answered, between)
        open_pairs = table.filter(pc.invert(_among(table["pair_id"], [*waits, *have])))
        image_in = _image_in(open_pairs["pair_id"], have, [shard.name for shard in answered])
        open_pairs = open_pairs.append_column("image_in", image_in)
        is_new = pc.invert(_among(open_pairs["pair_id"], [latest["pair_id"]]))
        lists.add(1, _first_requests(open_pairs.filter(is_new)))
        for attempt, rows in _retries(open_pairs, latest, answered):
            lists.add(attempt, rows)
    tally = Tally()
    tally.keep(lists.finish())
    return {"pairs": tally}


def read_requests(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """A list, or some columns of it. Those that an earlier version did not write are null."""
    return pq.read_table(path, columns=columns, schema=REQUESTS)


def _ids(path: Path, between: Range) -> pa.ChunkedArray:
    return read_range([path], between, ["pair_id"])["pair_id"]


def _among(ids: pa.ChunkedArray, some: Sequence[pa.ChunkedArray]) -> pa.ChunkedArray:
    """Which ids are among others."""
    chunks = [chunk for column in some for chunk in column.chunks]
    return pc.is_in(ids, value_set=pa.chunked_array(chunks, pa.string()).combine_chunks())


def _image_in(
    ids: pa.ChunkedArray, have: Sequence[pa.ChunkedArray], names: Sequence[str]
) -> pa.Array:
    """The name of the shard that has the image of each pair's URL; null where none has.

    Args:
        have: the pair_ids of each shard's images.
        names: of the shards.
    """
    urls = [chunk for column in have for chunk in url_digits(column).chunks]
    places = pc.index_in(url_digits(ids), value_set=pa.chunked_array(urls, pa.string()))
    shards = np.repeat(np.arange(len(names)), [len(column) for column in have])
    return pa.array(names, pa.string()).take(pa.array(shards).take(places.combine_chunks()))


def _first_requests(pairs: pa.Table) -> pa.Table:
    rows = len(pairs)
    none = {"failed_in": pa.nulls(rows, pa.string()), "failed_for": pa.nulls(rows, pa.string())}
    columns = {name: pairs[name] for name in pairs.column_names}
    return pa.table({**columns, "tries": pa.array([0] * rows, pa.int32()), **none}, schema=REQUESTS)


def _last_failures(answered: Sequence[AnsweredShard], between: Range) -> pa.Table:
    """The last answer of each pair without an image: pair_id, tries, reason, shard."""
    columns = ["pair_id", "tries", "reason"]
    tables = [ANSWERS.empty_table().select(columns).append_column("shard", [[]])]
    for number, shard in enumerate(answered):
        for path in within([shard.answers], between):
            rows = SortedFile.open(path).read(between, columns)
            rows = rows.filter(pc.is_valid(rows["reason"]))
            tables.append(rows.append_column("shard", [[number] * len(rows)]))
    schema = tables[0].schema.set(3, pa.field("shard", pa.int64()))
    table = pa.concat_tables([some.cast(schema) for some in tables])
    table = table.sort_by([("pair_id", "ascending"), ("tries", "ascending")]).combine_chunks()
    ids = table["pair_id"].combine_chunks()
    if len(ids) < 2:
        return table
    is_last = pa.concat_arrays([pc.not_equal(ids[:-1], ids[1:]), pa.array([True])])
    return table.filter(is_last)


def _retries(
    open_pairs: pa.Table, latest: pa.Table, answered: Sequence[AnsweredShard]
) -> Iterator[tuple[int, pa.Table]]:
    """The requests for pairs that are to be tried once more, by the attempt that it will be."""
    by_attempt = defaultdict(list)
    wanted = latest.filter(_is_due(latest, answered))
    places = pc.index_in(wanted["pair_id"], value_set=open_pairs["pair_id"].combine_chunks())
    for last, place in zip(wanted.to_pylist(), places.to_pylist(), strict=True):
        if place is not None:  # else the pair is wanted no more, or has its image
            shard = answered[last["shard"]]
            row = open_pairs.slice(place, 1).to_pylist()[0] | {
                "tries": last["tries"] + 1,
                "failed_in": shard.name,
                "failed_for": last["reason"],
            }
            by_attempt[shard.next_attempt].append(row)
    for attempt, rows in sorted(by_attempt.items()):
        yield attempt, pa.Table.from_pylist(rows, REQUESTS)


def _is_due(latest: pa.Table, answered: Sequence[AnsweredShard]) -> pa.Array:
    columns = (latest[name].to_pylist() for name in ("shard", "reason"))
    due = [reason in answered[shard].retry for shard, reason in zip(*columns, strict=True)]
    return pa.array(due, pa.bool_())


class _Lists:
    """Cuts what is to be asked for into lists of about one size, those of one attempt together.

    All captions of a URL are on one list, so that it is asked for once.
    """

    def __init__(self, out: Path, pairs_per_list: int) -> None:
        self._out, self._size = out, pairs_per_list
        self._open: dict[int, pa.Table] = {}
        self._rows = 0

    def add(self, attempt: int, rows: pa.Table) -> None:
        before = self._open.get(attempt, REQUESTS.empty_table())
        table = pa.concat_tables([before, rows])
        # What stays is cut in half at the end, at most; a URL of many captions may go on.
        while len(table) >= 2 * self._size and (at := _cut(table, self._size)) < len(table):
            self._write(attempt, table.slice(0, at))
            table = table.slice(at)
        self._open[attempt] = table

    def finish(self) -> int:
        """Write what is left. Returns the rows of all lists."""
        for attempt, table in sorted(self._open.items()):
            while len(table):
                at = len(table)
                if at > self._size:
                    at = _cut(table, min(self._size, -(-at // 2)))
                self._write(attempt, table.slice(0, at))
                table = table.slice(at)
        return self._rows

    def _write(self, attempt: int, table: pa.Table) -> None:
        self._rows += len(table)
        write_table(table, self._out / f"{list_name(table, attempt)}.parquet")


def _cut(table: pa.Table, at: int) -> int:
    """Where to cut before a row: where the captions of another URL begin, but for the first.

    Where there is no such place before it, it is the first behind it, or the table's end.
    """
    urls = url_digits(table["pair_id"]).to_numpy(zero_copy_only=False)
    starts = np.flatnonzero(urls[1:] != urls[:-1]) + 1
    before = starts[starts <= at]
    if len(before):
        return int(before[-1])
    return int(starts[0]) if len(starts) else len(table)


def list_name(table: pa.Table, attempt: int) -> str:
    """What a list is called: by the pairs on it, how often each was asked for, and the attempt."""
    digest = hashlib.sha256()
    columns = (table[name].to_pylist() for name in ("pair_id", "tries"))
    for pair_id, tries in zip(*columns, strict=True):
        digest.update(f"{pair_id} {tries}\n".encode())
    return f"{digest.hexdigest()[:_NAME_DIGITS]}-{attempt}"


def attempt_of(name: str) -> int:
    """The attempt that a list is for its pairs."""
    return int(name.rpartition("-")[2])
