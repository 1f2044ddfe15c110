"""Pair lists in text: CSV, TSV and JSON lines, in blocks of whole lines.

What is no row of a list fails alone, by the file and the line where it begins.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Iterator
from io import BytesIO
from typing import Any, BinaryIO

import msgspec
import pyarrow as pa
import pyarrow.csv

from workers.base.tally import Tally
from workers.base.text_stream import LONG_LINE, MAX_LINE_BYTES, TextStream
from workers.extract.list_columns import ListColumns
from workers.extract.row_scanner import split_rows

#: (number of the first row, URLs, captions)
Batch = tuple[int, Any, Any]

#: Bytes of text that are read at a time: a row has no more.
_BLOCK_BYTES = MAX_LINE_BYTES + (1 << 16)

_LINE = re.compile(rb"[^\r\n]*(?:\r\n|\r|\n|$)")


def read_text_list(
    file: BinaryIO, name: str, columns: ListColumns | None, images: Tally
) -> Iterator[Batch]:
    """The rows of a list that is called ``name``; what is none is counted into ``images``.

    ``columns`` is None for a list that has ended before its first row. Raises OSError where it has
    not.
    """
    stream = TextStream(file)
    if columns is None:
        batches = _read_nothing(stream)
    elif columns.delimiter:
        batches = _read_delimited(stream, name, columns, images)
    else:
        batches = _read_json(stream, name, columns, images)
    line = yield from batches
    if stream.error:
        _fail("damaged_file", name, line, stream.error, images)


def _fail(reason: str, name: str, line: int, error: str, images: Tally) -> None:
    place = f"{name}:{line}"
    images.fail(reason, place, {"source": place, "error": error})


def _read_nothing(stream: TextStream) -> Generator[Batch, None, int]:
    yield from ()
    while lines := stream.read_lines(_BLOCK_BYTES):
        if lines.strip():
            raise OSError("its columns could not be read")
    return 1


def _read_delimited(
    stream: TextStream, name: str, columns: ListColumns, images: Tally
) -> Generator[Batch, None, int]:
    """CSV or TSV; what is no row of the header's width fails. The number of the line that follows
    is what the generator returns."""
    fields = len(columns.names)
    wanted = [columns.names.index(column) for column in (columns.url, columns.caption)]
    text, is_end = stream.read_lines(_BLOCK_BYTES), False
    first, line = 0, 1 + columns.header_lines
    text = text[_begin_of_line(text, columns.header_lines) :]
    while text:
        rows = split_rows(text, columns.delimiter, fields, is_end=is_end)
        for bad in rows.bad:
            _fail(bad.reason, name, line + bad.line, bad.error, images)
        if rows.good.strip(b"\r\n"):
            table = parsed_rows(rows.good, columns.delimiter, fields, wanted)
            for batch in table.combine_chunks().to_batches():
                yield first, *batch.columns
                first += len(batch)
        line += rows.lines
        block = stream.read_lines(_BLOCK_BYTES)
        text, is_end = rows.rest + block, not block
    return line


def parsed_rows(rows: bytes, delimiter: str, fields: int, wanted: list[int]) -> pa.Table:
    """The columns that are wanted, by number, of whole rows of CSV or TSV: as bytes."""
    names = [str(n) for n in range(fields)]
    wanted_names = [names[n] for n in wanted]
    return pyarrow.csv.read_csv(
        BytesIO(rows),
        pyarrow.csv.ReadOptions(use_threads=False, block_size=len(rows) + 1, column_names=names),
        pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(wanted_names, pa.binary()), include_columns=wanted_names
        ),
    )


def _begin_of_line(text: bytes, number: int) -> int:
    """The place where a line of a text begins, from 0."""
    at = 0
    for _ in range(number):
        at = _LINE.match(text, at).end()  # type: ignore[union-attr]
    return at


def _read_json(
    stream: TextStream, name: str, columns: ListColumns, images: Tally
) -> Generator[Batch, None, int]:
    """JSON lines; a block with an odd line is read line by line."""
    decoder = _decoder(columns.url, columns.caption)
    first, line = 0, 1
    while block := stream.read_lines(_BLOCK_BYTES):
        block = block.replace(b"\r\n", b"\n").replace(b"\r", b"\n")  # no text of JSON holds one
        lines = block.count(b"\n")
        rows = _decoded(decoder, block)
        if rows is None:
            rows = list(_read_lines(decoder, block, name, line, images))
        urls = pa.array([row.url for row in rows], pa.string())
        yield first, urls, pa.array([row.caption for row in rows], pa.string())
        first += len(rows)
        line += lines
    return line


def _decoder(url: str, caption: str) -> msgspec.json.Decoder[Any]:
    """Of the two columns of a JSON object, as attributes ``url`` and ``caption``."""
    # Arrow's reader of JSON crashes where the first line is `null`.
    fields = [(name, str | None, None) for name in ("url", "caption")]
    names = {"url": url, "caption": caption}
    return msgspec.json.Decoder(msgspec.defstruct("Row", fields, rename=names, gc=False))


def _decoded(decoder: msgspec.json.Decoder[Any], block: bytes) -> list[Any] | None:
    """The rows of some lines, if each that is not blank has one."""
    try:
        rows = decoder.decode_lines(block)
    except (ValueError, RecursionError):
        return None
    lines = block.count(b"\n") + (not block.endswith(b"\n"))
    blank = block.count(b"\n\n") + block.startswith(b"\n")
    return rows if len(rows) == lines - blank else None


def _read_lines(
    decoder: msgspec.json.Decoder[Any], block: bytes, name: str, first: int, images: Tally
) -> Iterator[Any]:
    """The rows of the lines that hold the two columns as text or null; the others are failed."""
    for number, line in enumerate(block.split(b"\n"), first):
        if not line.strip():
            continue
        try:
            yield _row_of_line(decoder, line)
        except (ValueError, RecursionError) as error:
            text = line.decode()
            reason = "not_utf8" if isinstance(error, UnicodeEncodeError) else "bad_row"
            if text.startswith(LONG_LINE):
                reason = "row_too_long"
            _fail(reason, name, number, f"{error}: {text}", images)


def _row_of_line(decoder: msgspec.json.Decoder[Any], line: bytes) -> Any:
    """Raises ValueError or RecursionError."""
    try:
        return decoder.decode(line)
    except (ValueError, RecursionError):
        # Python also knows NaN, and halves of pairs of UTF-16: only in the two columns they matter.
        value = json.loads(line, parse_int=float)
        row = msgspec.convert(value, decoder.type)
        for text in (row.url, row.caption):
            (text or "").encode()
        return row
