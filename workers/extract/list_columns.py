"""Which columns of a pair list hold the URL and the caption."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from io import StringIO
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from workers.base.file_systems import base_name, open_file
from workers.base.storage import DAMAGED_PARQUET
from workers.base.text_stream import MAX_LINE_BYTES, LongLineError, TextStream

#: Names of columns, in lower case. LAION: URL, TEXT. COYO and DataComp: url, text.
URL_NAMES = frozenset({"url", "image_url", "img_url", "image_link"})
CAPTION_NAMES = frozenset({"text", "caption", "alt", "alt_text"})

#: The URL and the caption column: of all lists, or by the names or globs of files.
NamedColumns = tuple[str, str] | Mapping[str, tuple[str, str]] | None

#: What parts the fields of CSV and TSV, the usual sign first.
_DELIMITERS = {"csv": ",;\t|", "tsv": "\t,;|"}

#: Bytes that are looked at; of JSON lines without the two columns in them, more.
_SAMPLE_BYTES = 1 << 16
_JSON_SAMPLE_BYTES = MAX_LINE_BYTES

#: What msgspec allows in no name of a field.
_NO_KEY = re.compile(r'["\\\x00-\x1f]')

#: Characters of a list's columns that a message shows.
_SHOWN_CHARS = 500


@dataclass(frozen=True)
class ListColumns:
    """The names of the two columns that are read, as the file spells them.

    Of CSV and TSV also the names of all columns, the sign between their fields, and the lines of
    the header. A list without one, as CC3M's and CC12M's, has two columns, called "0" and "1".
    """

    url: str
    caption: str
    names: tuple[str, ...] = ()
    delimiter: str = ""
    header_lines: int = 0


def named_columns(file: str, named: NamedColumns) -> tuple[str, str] | None:
    """The columns that are named for a file: by the first name or glob that fits it, if any."""
    if not isinstance(named, Mapping):
        return named
    return next((pair for pattern, pair in named.items() if fits(file, pattern)), None)


def fits(file: str, pattern: str) -> bool:
    """Whether a glob is that of a file's name or, with a slash in it, of the end of its path."""
    name = file if "/" in pattern else base_name(file)
    return name == pattern or fnmatchcase(f"/{name}", f"{'*' if '/' in pattern else ''}/{pattern}")


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
            sample = _sample(file, stream)
            if not sample.strip():
                return None
            if kind == "jsonl":
                return _json_columns(file, sample, stream, named)
            return _delimited_columns(file, sample, _DELIMITERS[kind], named)
    except DAMAGED_PARQUET:
        return None


def _sample(file: str, stream: TextStream) -> str:
    """The first lines of a file, an empty text at its end."""
    sample = b""
    try:
        while lines := stream.first_lines(_SAMPLE_BYTES):
            sample += lines
            if sample.strip():
                break
    except LongLineError as error:
        raise ValueError(f"{file}: {error}; one row a line is needed") from error
    return sample.decode()


def _parquet_columns(file: str, named: tuple[str, str] | None) -> ListColumns:
    with open_file(file) as opened:
        schema = pq.read_schema(opened)
    columns = choose(file, schema.names, named)
    for name in (columns.url, columns.caption):
        if not _is_text(schema.field(name).type):
            raise ValueError(f"{file}: column {name} is {schema.field(name).type}, not text")
    return columns


def _is_text(kind: Any) -> bool:
    """Whether a column is text, by its type: also one of nulls alone, or of bytes."""
    if pa.types.is_dictionary(kind):
        return _is_text(kind.value_type)
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view,
             pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view,
             pa.types.is_null)  # fmt: skip
    return any(test(kind) for test in tests)


def _json_columns(
    file: str, sample: str, stream: TextStream, named: tuple[str, str] | None
) -> ListColumns:
    """The columns among the keys of the first rows that have both of them."""
    if sample.lstrip().startswith("["):
        raise ValueError(
            f"{file}: this is one JSON array, not one JSON object a line; "
            "`jq -c '.[]' FILE > FILE.jsonl` makes lines of it"
        )
    keys: dict[str, None] = {}
    problem = ValueError(f"{file}: no line is a JSON object; one JSON object a line is needed")
    for row in _json_rows(file, sample, stream):
        if row.keys() <= keys.keys():
            continue
        keys |= dict.fromkeys(row)
        try:
            columns = choose(file, list(keys), named)
        except ValueError as error:
            problem = error
            continue
        if _NO_KEY.search(columns.url + columns.caption):
            problem = ValueError(f"{file}: a key with a quote or a backslash cannot be read")
            break
        return columns
    raise problem


def _json_rows(file: str, sample: str, stream: TextStream) -> Iterator[dict[str, Any]]:
    """The objects of the first lines; what is none fails when the rows are read."""
    bytes_left = _JSON_SAMPLE_BYTES
    while sample and bytes_left > 0:
        for line in sample.split("\n"):
            with suppress(ValueError, RecursionError):
                row = json.loads(line, parse_int=float)
                if isinstance(row, dict):
                    yield row
        bytes_left -= len(sample)
        sample = _sample(file, stream)


def _delimited_columns(
    file: str, sample: str, delimiters: str, named: tuple[str, str] | None
) -> ListColumns:
    """By the usual delimiter, else by another that makes a header with the two columns of it."""
    problems = []
    is_parted = False
    for delimiter in delimiters:
        row, lines = _first_row(sample, delimiter)
        names = [name.strip() for name in row]
        urls = [n for n, value in enumerate(names) if _is_address(value)]
        if named is None and len(names) == 2 and len(urls) == 1 and not is_parted:
            return ListColumns(str(urls[0]), str(1 - urls[0]), ("0", "1"), delimiter)
        is_parted |= len(names) > 1  # by a sign that an address may hold: no second guess
        try:
            columns = choose(file, names, named)
        except ValueError as error:
            problems.append(error)
        else:
            return ListColumns(columns.url, columns.caption, tuple(names), delimiter, lines)
    raise problems[0]


def _first_row(text: str, delimiter: str) -> tuple[list[str], int]:
    """The fields of the first row, and its last line's number; if its quotes are not closed, those
    of its first line alone."""
    csv.field_size_limit(MAX_LINE_BYTES)
    reader = csv.reader(
        StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True
    )
    try:
        row = next((row for row in reader if any(map(str.strip, row))), [])
    except csv.Error:
        lines = list(StringIO(text, newline=""))
        first = next(n for n, line in enumerate(lines) if line.strip())
        return next(csv.reader([lines[first]], delimiter=delimiter)), first + 1
    return row, reader.line_num


def _is_address(value: str) -> bool:
    return value.strip().lower().startswith(("http://", "https://", "//"))


def choose(file: str, names: Sequence[str], named: tuple[str, str] | None) -> ListColumns:
    """The URL and the caption column among the names of a list's columns. Raises ValueError."""
    url_names, caption_names = ([n.strip().lower()] for n in named) if named else _recognised()
    url = _only(file, names, url_names, "URL")
    caption = _only(file, names, caption_names, "caption")
    if url == caption:
        raise ValueError(f"{file}: column {url} cannot be both the URL and the caption")
    return ListColumns(url, caption)


def _recognised() -> tuple[list[str], list[str]]:
    return sorted(URL_NAMES), sorted(CAPTION_NAMES)


def _only(file: str, names: Sequence[str], wanted: Sequence[str], what: str) -> str:
    found = [name for name in names if name.strip().lower() in wanted]
    if len(found) == 1:
        return found[0]
    problem = f"more than one {what} column ({', '.join(found)})" if found else f"no {what} column"
    columns = ", ".join(names)
    if len(columns) > _SHOWN_CHARS:
        columns = f"{columns[:_SHOWN_CHARS]}..."
    raise ValueError(
        f"{file}: {problem}; expected one of {', '.join(wanted)}. Its columns are {columns}: name "
        "the two to read in pairs.list_columns"
    )
