"""Candidate pairs: an image's URL and a text that may describe it, as an input has them.

They travel in Arrow tables, so that a list of a million rows is never a million Python objects.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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
    columns: tuple[list[str | None], ...] = tuple([] for _ in CANDIDATES)
    urls, captions, page_urls, sources = columns
    for url, caption, page_url, source in candidates:
        # Texts alone are kept: ten thousand tuples would set the garbage collector to work.
        urls.append(url)
        captions.append(caption)
        page_urls.append(page_url)
        sources.append(source)
        if len(urls) == TABLE_ROWS:
            yield _table(columns)
            for column in columns:
                column.clear()
    if urls:
        yield _table(columns)


def _table(columns: tuple[list[str | None], ...]) -> pa.Table:
    arrays = [pa.array(c, field.type) for c, field in zip(columns, CANDIDATES, strict=True)]
    return pa.Table.from_arrays(arrays, schema=CANDIDATES)
