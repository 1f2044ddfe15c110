"""Candidate pairs: a picture's URL and a text that may describe it, as an input has them.

They travel in Arrow tables, so that a list of a million rows is never a million Python objects.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple

import pyarrow as pa

CANDIDATES = pa.schema(
    [
        pa.field("url", pa.string(), nullable=False),  # absolute and in normal form
        pa.field("caption", pa.string(), nullable=False),  # as it was found
        pa.field("page_url", pa.string()),
        pa.field("source", pa.string(), nullable=False),  # "FILE@OFFSET" or, of a list, "FILE@ROW"
    ]
)

#: Rows of a table of candidates, at most.
TABLE_ROWS = 10_000


class Candidate(NamedTuple):
    """A row of CANDIDATES."""

    url: str
    caption: str
    page_url: str | None
    source: str


def candidate_tables(candidates: Iterable[Candidate]) -> Iterator[pa.Table]:
    """Candidates as tables in the CANDIDATES schema."""
    rows = iter(candidates)
    while some := list(islice(rows, TABLE_ROWS)):
        columns = zip(*some, strict=True)
        arrays = [pa.array(c, field.type) for c, field in zip(columns, CANDIDATES, strict=True)]
        yield pa.Table.from_arrays(arrays, schema=CANDIDATES)
