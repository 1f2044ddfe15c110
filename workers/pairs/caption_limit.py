"""At most so many images with one caption: which pairs are too many, in two passes.

Every range of pairs says which captions its pairs have (``write_captions``); then for a part of all
captions those that are there too often give up the pairs with the largest ids (``write_surplus``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from workers.base.copies import readable
from workers.base.ranges import Range
from workers.base.storage import write_table
from workers.pairs.candidates import Candidates
from workers.pairs.tables import limit_urls

#: A caption by its hash, in the columns that are limited by it.
_CAPTIONS = pa.schema([("caption", pa.string()), ("pair_id", pa.string())])
_GROUP_ROWS = 1 << 14


def write_captions(candidates: Candidates, between: Range, path: Path) -> None:
    """Write the captions of a range's pairs, capitals aside, as hashes, sorted."""
    table = candidates.distinct(between, ["pair_id", "caption"])
    captions = pc.utf8_lower(table["caption"].combine_chunks())
    hashes = [
        hashlib.blake2b(text, digest_size=16).hexdigest()
        for text in captions.cast(pa.binary()).to_pylist()
    ]
    found = pa.Table.from_arrays([pa.array(hashes), table["pair_id"]], schema=_CAPTIONS)
    write_table(found.sort_by("caption"), path, _GROUP_ROWS)


def write_surplus(files: Sequence[Path], most: int, some: Range, path: Path) -> None:
    """Write the ids of the pairs that are too many of a caption, sorted.

    Args:
        files: of ``write_captions``, for all ranges.
        some: between which hashes the captions are that are looked at.
    """
    filters = [("caption", ">=", some.first), ("caption", "<=", some.last)]
    parts = [pq.read_table(readable(file), filters=filters) for file in files]
    _, dropped = limit_urls(pa.concat_tables(parts), most)
    write_table(dropped.select(["pair_id"]).sort_by("pair_id"), path, _GROUP_ROWS)
