"""Which columns of a pair list hold the URL and the caption."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from workers.file_systems import open_file
from workers.text_stream import LongLineError, TextStream

#: Names of columns, in lower case. LAION: URL, TEXT. COYO and DataComp: url, text.
URL_NAMES = frozenset({"url", "image_url", "img_url", "image_link"})
CAPTION_NAMES = frozenset({"text", "caption", "alt", "alt_text"})

DELIMITERS = {"csv": ",", "tsv": "\t"}

_SAMPLE_BYTES = 1 << 16


@dataclass(frozen=True)
class ListColumns:
    """The names of the two columns that are read, as the file spells them.

    A list without a header (``header`` false), as CC3M's and CC12M's, has two columns, which are
    called "0" and "1".
    """

    url: str
    caption: str
    header: bool = True


def find_columns(file: str, kind: str, named: tuple[str, str] | None) -> ListColumns | None:
    """The columns of a Parquet, CSV, TSV or JSONL file; None if it is empty or unreadable.

    An unreadable file is no reason to stop here: reading it is counted as a failure.
    ``named`` gives the two columns, whatever they are called; their case does not matter.

    Raises:
        ValueError: the columns are missing or ambiguous; lists those that were found.
    """
    try:
        if kind == "parquet":
            return _parquet_columns(file, named)
        with open_file(file) as opened, TextStream(opened) as stream:
            lines = _first_lines(file, stream)
    except (OSError, pa.ArrowInvalid):
        return None
    if not lines:
        return None
    if kind == "jsonl":
        return _json_columns(file, lines[0], named)
    return _delimited_columns(file, lines, DELIMITERS[kind], named)


def _first_lines(file: str, stream: TextStream) -> list[str]:
    try:
        sample = stream.first_lines(_SAMPLE_BYTES)
    except LongLineError as error:
        raise ValueError(f"{file}: {error}; one row a line is needed") from error
    return [line for line in sample.decode().split("\n") if line.strip()]


def _parquet_columns(file: str, named: tuple[str, str] | None) -> ListColumns:
    with open_file(file) as opened:
        schema = pq.read_schema(opened)
    columns = choose(file, schema.names, named)
    for name in (columns.url, columns.caption):
        if not _is_text(schema.field(name).type):
            raise ValueError(f"{file}: column {name} is {schema.field(name).type}, not text")
    return columns


def _is_text(kind: Any) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_text(kind.value_type)
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view,
             pa.types.is_binary, pa.types.is_large_binary)  # fmt: skip
    return any(test(kind) for test in tests)


def _json_columns(file: str, line: str, named: tuple[str, str] | None) -> ListColumns:
    try:
        row = json.loads(line)
    except ValueError as error:
        advice = "one JSON object a line is needed"
        raise ValueError(f"{file}: the first line is no JSON object; {advice}") from error
    if not isinstance(row, dict):
        raise ValueError(f"{file}: the first line is {type(row).__name__}, not a JSON object")
    return choose(file, list(row), named)


def _delimited_columns(
    file: str, lines: Sequence[str], delimiter: str, named: tuple[str, str] | None
) -> ListColumns:
    # A caption may hold line feeds, so the reader gets more than the first line.
    text = StringIO("\n".join(lines), newline="")
    try:
        if delimiter == "\t":
            first = next(csv.reader(text, delimiter=delimiter, quoting=csv.QUOTE_NONE))
        else:
            first = next(csv.reader(text, delimiter=delimiter))
    except csv.Error as error:
        raise ValueError(f"{file}: the first row cannot be read: {error}") from error
    names = [name.strip("\ufeff") for name in first]
    urls = [n for n, value in enumerate(names) if _is_address(value)]
    if named is None and len(names) == 2 and len(urls) == 1:
        return ListColumns(str(urls[0]), str(1 - urls[0]), header=False)
    return choose(file, names, named)


def _is_address(value: str) -> bool:
    return value.strip().lower().startswith(("http://", "https://", "//"))


def choose(file: str, names: Sequence[str], named: tuple[str, str] | None) -> ListColumns:
    """The URL and the caption column among the names of a list's columns. Raises ValueError."""
    url_names, caption_names = ([n.lower()] for n in named) if named else _recognised()
    return ListColumns(
        _only(file, names, url_names, "URL"), _only(file, names, caption_names, "caption")
    )


def _recognised() -> tuple[list[str], list[str]]:
    return sorted(URL_NAMES), sorted(CAPTION_NAMES)


def _only(file: str, names: Sequence[str], wanted: Sequence[str], what: str) -> str:
    found = [name for name in names if name.lower() in wanted]
    if len(found) == 1:
        return found[0]
    problem = f"more than one {what} column ({', '.join(found)})" if found else f"no {what} column"
    raise ValueError(
        f"{file}: {problem}; expected one of {', '.join(wanted)}. Its columns are "
        f"{', '.join(names)}: name the two to read in pairs.list_columns"
    )
