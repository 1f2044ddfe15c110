"""Pair lists that others made: Parquet, CSV, TSV or JSON lines with URLs and captions.

A list is read a batch of rows at a time, in Arrow. A row becomes a candidate or is counted with
one reason; where a list is damaged, the rows that could be read are kept.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from workers.credentials import shown
from workers.extract.candidates import CANDIDATES, TABLE_ROWS
from workers.extract.inputs import Input, InputKind
from workers.extract.list_columns import DELIMITERS
from workers.file_systems import is_away, open_file
from workers.tally import Tally
from workers.text_stream import LONG_LINE, MAX_LINE_BYTES, NOT_TEXT, TextStream
from workers.urls import MAX_URL_CHARS, NORMAL_URL, UrlError, absolute_url

#: Bytes of text that are read at a time: a row has no more.
_BLOCK_BYTES = MAX_LINE_BYTES + (1 << 16)

#: (number of the first row, URLs, captions)
_Batch = tuple[int, Any, Any]


def read_pair_list(source: Input, images: Tally) -> Iterator[pa.Table]:
    """The candidates of a pair list, in CANDIDATES, in the list's order.

    Counts every row into ``images``: kept, or rejected or failed with a reason. Raises OSError
    where the store of a list does not answer.
    """
    try:
        with open_file(source.url) as file:
            for first, urls, captions in _reader(source)(file, source, images):
                yield _candidates(first, urls, captions, source, images)
    except (OSError, pa.ArrowException) as error:
        if is_away(source.url, error):  # the work ends here, and a rerun tries it again
            raise
        images.fail(
            "damaged_file", source.name, {"source": shown(source.url), "error": shown(str(error))}
        )


def _reader(source: Input) -> Callable[[BinaryIO, Input, Tally], Iterator[_Batch]]:
    if source.kind is InputKind.PARQUET:
        return _read_parquet
    return _read_json if source.kind is InputKind.JSONL else _read_delimited


def _candidates(first: int, urls: Any, captions: Any, source: Input, images: Tally) -> pa.Table:
    """The rows of a batch that are candidates; the others are counted."""
    rows = pa.array(range(first, first + len(urls)), pa.int64()).cast(pa.string())
    sources = pc.binary_join_element_wise(source.name, rows, "@")
    (urls, bad_url), (captions, bad_caption) = _texts(urls), _texts(captions)
    normal, reasons = normal_urls(urls)
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
    return texts, pc.match_substring(texts, NOT_TEXT)


def normal_urls(urls: Any) -> tuple[Any, Any]:
    """Each URL as ``absolute_url`` gives it, and the reason why it refuses one, or null.

    Most URLs of a list are normal already: only the others are looked at one by one.
    """
    long = pc.greater(pc.binary_length(urls), MAX_URL_CHARS)
    odd = pc.or_(long, pc.invert(pc.match_substring_regex(urls, NORMAL_URL)))
    results = [_normal(url) for url in urls.filter(odd).to_pylist()]
    normal = pa.array([url for url, _ in results], pa.string())
    reasons = pa.array([reason for _, reason in results], pa.string())
    return (
        pc.replace_with_mask(urls, odd, normal),
        pc.replace_with_mask(pa.nulls(len(urls), pa.string()), odd, reasons),
    )


def _normal(url: str) -> tuple[str, str | None]:
    if not url.strip():
        return "", "no_url"
    try:
        return absolute_url(url), None
    except UrlError as error:
        return "", error.reason


def _read_parquet(file: BinaryIO, source: Input, images: Tally) -> Iterator[_Batch]:
    """Row group after row group; of one that is damaged, the rows that follow are failed."""
    columns = _columns(source)
    parquet = pq.ParquetFile(file)
    first = 0
    for group in range(parquet.num_row_groups):
        end = first + parquet.metadata.row_group(group).num_rows
        try:
            for batch in parquet.iter_batches(TABLE_ROWS, [group], columns):
                yield first, *(batch.column(name) for name in columns)
                first += len(batch)
        except (OSError, pa.ArrowException) as error:
            for row in range(first, end):
                _fail("damaged_row_group", row, str(error), source, images)
        first = end


def _read_delimited(file: BinaryIO, source: Input, images: Tally) -> Iterator[_Batch]:
    """CSV with quotes, or TSV without; rows with too few or too many columns are failed."""
    if source.columns is None:
        return
    columns = _columns(source)
    stream = TextStream(file)
    first, bad_rows = 0, list[str]()

    def skip(row: Any) -> str:
        bad_rows.append(row.text)
        return "skip"

    tabs = source.kind is InputKind.TSV
    reader = pyarrow.csv.open_csv(
        stream,
        pyarrow.csv.ReadOptions(
            use_threads=False,
            block_size=_BLOCK_BYTES,
            column_names=None if source.columns.header else ["0", "1"],
        ),
        pyarrow.csv.ParseOptions(
            delimiter=DELIMITERS[source.kind],
            quote_char=False if tabs else '"',
            newlines_in_values=not tabs,
            invalid_row_handler=skip,
        ),
        pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(columns, pa.binary()), include_columns=columns
        ),
    )
    for batch in reader:
        yield first, *(batch.column(name) for name in columns)
        first += len(batch)
    for number, text in enumerate(bad_rows):
        _fail(_reason(text), first + number, text, source, images)
    _check_end(stream, first, source, images)


def _read_json(file: BinaryIO, source: Input, images: Tally) -> Iterator[_Batch]:
    """JSON lines, a block of lines at a time; one with an odd line is read line by line."""
    if source.columns is None:
        return
    columns = _columns(source)
    schema = pa.schema([pa.field(name, pa.string()) for name in columns])
    options = pyarrow.json.ParseOptions(schema, unexpected_field_behavior="ignore")
    stream = TextStream(file)
    first = 0
    while block := stream.read_lines(_BLOCK_BYTES):
        reading = pyarrow.json.ReadOptions(use_threads=False, block_size=len(block) + 1)
        try:
            table = pyarrow.json.read_json(BytesIO(block), reading, options)
        except pa.ArrowInvalid:
            table = _read_lines(block, first, source, images)
        for batch in table.combine_chunks().to_batches(TABLE_ROWS):
            yield first, *(batch.column(name) for name in columns)
            first += len(batch)
    _check_end(stream, first, source, images)


def _read_lines(block: bytes, first: int, source: Input, images: Tally) -> pa.Table:
    """The rows of the lines that hold the two columns as text or null; the others are failed."""
    columns = _columns(source)
    rows: list[list[str | None]] = []
    for number, line in enumerate(filter(str.strip, block.decode().split("\n"))):
        try:
            row = json.loads(line)
            values = [row.get(name) for name in columns]
            if not all(value is None or isinstance(value, str) for value in values):
                raise ValueError("a value of the two columns is not text")
            pa.array(values, pa.string())  # a lone surrogate is no text
        except (ValueError, AttributeError, RecursionError) as error:
            _fail(_reason(line), first + number, str(error), source, images)
        else:
            rows.append(values)
    arrays = [pa.array([row[n] for row in rows], pa.string()) for n in range(2)]
    return pa.Table.from_arrays(arrays, names=columns)


def _reason(line: str) -> str:
    """Why a line is no row."""
    return "row_too_long" if line.startswith(LONG_LINE) else "bad_row"


def _columns(source: Input) -> list[str]:
    if source.columns is None:
        raise OSError("its columns could not be read")
    return [source.columns.url, source.columns.caption]


def _check_end(stream: TextStream, row: int, source: Input, images: Tally) -> None:
    if stream.error:
        _fail("damaged_file", row, stream.error, source, images)


def _fail(reason: str, row: int, error: str, source: Input, images: Tally) -> None:
    place = f"{source.name}@{row}"
    images.fail(reason, place, {"source": place, "error": error})
