"""Pair lists that others made: Parquet, CSV, TSV or JSON lines with URLs and captions.

A list is read a batch of rows at a time, in Arrow. A row becomes a candidate or is counted with
one reason; where a list is damaged, the rows that could be read are kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from workers.base.credentials import shown
from workers.base.file_systems import is_away, open_file
from workers.base.line_span import LineSpan
from workers.base.storage import DAMAGED_PARQUET
from workers.base.tally import Tally
from workers.base.text_stream import NOT_TEXT
from workers.base.urls import normal_urls
from workers.extract.candidates import CANDIDATES, TABLE_ROWS
from workers.extract.inputs import Input, InputKind
from workers.extract.list_columns import ListColumns
from workers.extract.text_lists import Batch, read_text_list
from workers.fetch.local_images import local_urls


def read_pair_list(source: Input, images: Tally) -> Iterator[pa.Table]:
    """The candidates of a pair list, in CANDIDATES, in the list's order.

    Counts every row into ``images``: kept, or rejected or failed with a reason. Raises OSError
    where the store of a list does not answer.
    """
    try:
        with open_file(source.url) as file:
            for first, urls, captions in _batches(file, source, images):
                yield _candidates(first, urls, captions, source, images)
    except DAMAGED_PARQUET as error:
        if is_away(source.url, error):  # the work ends here, and a rerun tries it again
            raise
        images.fail(
            "damaged_file", source.name, {"source": shown(source.url), "error": shown(str(error))}
        )


def _batches(file: BinaryIO, source: Input, images: Tally) -> Iterator[Batch]:
    if source.kind is not InputKind.PARQUET:
        name = source.name
        if source.span:
            file = cast("BinaryIO", LineSpan(file, *source.span))
            name = f"{name}@{source.span[0]}"  # lines count from there
        return read_text_list(file, name, source.columns, images)
    if source.columns is None:
        raise OSError("its columns could not be read")
    return _read_parquet(file, source, source.columns, images)


def _candidates(first: int, urls: Any, captions: Any, source: Input, images: Tally) -> pa.Table:
    """The rows of a batch that are candidates; the others are counted."""
    rows = pa.array(np.arange(first, first + len(urls))).cast(pa.string())
    # Of a part of a text, nobody knows how many rows are before it.
    place = f"{source.name}@{source.span[0]}+" if source.span else f"{source.name}@"
    sources = pc.binary_join_element_wise(place, rows, "")
    (urls, bad_url), (captions, bad_caption) = _texts(urls), _texts(captions)
    normal, reasons = local_urls(urls, *normal_urls(urls), source.folder)
    blank = pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(captions)), 0)
    reasons = pc.if_else(blank, "no_caption", reasons)
    reasons = pc.if_else(pc.or_(bad_url, bad_caption), "not_utf8", reasons)
    bad = pc.is_valid(reasons)
    for url, caption, row, reason in zip(
        *(column.filter(bad).to_pylist() for column in (urls, captions, sources, reasons)),
        strict=True,
    ):
        count = images.fail if reason == "not_utf8" else images.reject
        count(reason, row, {"url": url, "caption": caption, "source": row})
    pages = pa.nulls(len(normal), pa.string())
    table = pa.Table.from_arrays([normal, captions, pages, sources], schema=CANDIDATES)
    table = table.filter(pc.invert(bad))
    images.keep(len(table))
    return table


def _texts(column: Any) -> tuple[Any, Any]:
    """A column of a batch as strings, "" for null; and which values are not UTF-8."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    column = pc.fill_null(column.cast(pa.binary()), b"")  # what says it is text may not be
    try:
        texts = column.cast(pa.string())
    except pa.ArrowInvalid:
        decoded = [value.decode(errors="not_text") for value in column.to_pylist()]
        texts = pa.array(decoded, pa.string())
    return texts, pc.match_substring_regex(texts, NOT_TEXT)  # twice as fast as match_substring


def _read_parquet(
    file: BinaryIO, source: Input, columns: ListColumns, images: Tally
) -> Iterator[Batch]:
    """Row group after row group; of one that is damaged, the rows that follow are failed."""
    wanted = [columns.url, columns.caption]
    # Else Arrow, which casts them to the writer's, refuses them all for one that is no UTF-8.
    parquet = pq.ParquetFile(file, read_dictionary=_dictionaries(file, wanted))
    rows = [parquet.metadata.row_group(n).num_rows for n in range(parquet.num_row_groups)]
    begin, last = source.row_groups or (0, len(rows))
    first = sum(rows[:begin])
    for group in range(begin, last):
        end = first + rows[group]
        try:
            for batch in parquet.iter_batches(TABLE_ROWS, [group], wanted):
                yield first, batch.column(columns.url), batch.column(columns.caption)
                first += len(batch)
        except DAMAGED_PARQUET as error:
            for row in range(first, end):
                place = f"{source.name}@{row}"
                images.fail("damaged_row_group", place, {"source": place, "error": str(error)})
        first = end


def _dictionaries(file: BinaryIO, names: list[str]) -> list[str]:
    """Those of some columns that the writer of a Parquet file had as dictionaries."""
    schema = pq.read_schema(file)
    return [name for name in names if pa.types.is_dictionary(schema.field(name).type)]
