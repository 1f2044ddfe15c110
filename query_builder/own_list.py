"""A list of queries of one's own, in the place of dumps, page views and WordNet."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from io import StringIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from query_builder.names import query_of
from query_builder.settings import QuerySettings
from workers.base.contracts import QUERIES
from workers.base.settings import read_text
from workers.base.storage import write_table
from workers.base.tally import Tally

#: The kind of these queries, and the column of a table that has them.
KIND, COLUMN = "list", "query"

_DELIMITERS = {".csv": ",", ".tsv": "\t"}


def build_list(paths: Sequence[Path], out_dir: Path, settings: QuerySettings) -> dict[str, Tally]:
    """Write ``out_dir/00000.parquet`` (schema ``QUERIES``); return the tally of the work.

    The tally ``terms`` counts the rows of the files. The first ``max_queries`` different ones are
    kept, sorted as the query builder sorts its own. Raises OSError or ValueError (``read_list``).
    """
    terms, queries = Tally(), dict[str, None]()
    for number, (place, text) in enumerate(_rows(paths)):
        query = query_of(text, settings)
        row = {"kind": KIND, "query": text, "place": place}
        key = f"{number:09d}"
        if query is None:
            terms.reject("list_without_word", key, row)
        elif query in queries:
            terms.reject(f"{KIND}_already_{KIND}", key, row)
        elif len(queries) == settings.max_queries:
            terms.reject(f"{KIND}_over_max_queries", key, row)
        else:
            terms.keep()
            queries[query] = None
    names = sorted(queries, key=str.encode)
    rows = [{"query_id": n, "query": name, "kind": KIND} for n, name in enumerate(names)]
    write_table(pa.Table.from_pylist(rows, schema=QUERIES), out_dir / "00000.parquet")
    return {"terms": terms}


def check_list(paths: Sequence[Path], settings: QuerySettings) -> None:
    """Raise OSError or ValueError for a list that cannot be read or has no query."""
    if not sum(query_of(text, settings) is not None for _, text in _rows(paths)):
        names = ", ".join(map(str, paths))
        raise ValueError(f"{names}: there is no query: no row holds a letter or a digit")


def _rows(paths: Sequence[Path]) -> Iterator[tuple[str, str]]:
    return ((f"{path.name} {place}", text) for path in paths for place, text in read_list(path))


def read_list(path: Path) -> Iterator[tuple[str, str]]:
    """(its place in the file, text) of each row of a list; blank lines are none.

    Raises OSError, and ValueError, saying where and what to do.
    """
    try:
        if path.suffix.lower() == ".parquet":
            yield from _read_parquet(path)
        elif path.suffix.lower() in _DELIMITERS:
            yield from _read_delimited(path)
        else:
            lines = enumerate(re.split(r"\r\n|\r|\n", read_text(path)), 1)
            yield from ((f"line {number}", line) for number, line in lines if line.strip())
    except (csv.Error, pa.ArrowException, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def _read_delimited(path: Path) -> Iterator[tuple[str, str]]:
    text = StringIO(read_text(path), newline="")
    reader = csv.DictReader(text, delimiter=_DELIMITERS[path.suffix.lower()], strict=True)
    _check_columns(reader.fieldnames or ())
    for row in reader:
        yield f"line {reader.line_num}", row[COLUMN] or ""


def _read_parquet(path: Path) -> Iterator[tuple[str, str]]:
    _check_columns(pq.read_schema(path).names)
    column = pq.read_table(path, columns=[COLUMN])[COLUMN]
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        raise ValueError(f"column {COLUMN!r} holds {column.type}, not text")
    column = column.cast(pa.large_binary())
    for number, value in enumerate(column.to_pylist()):
        try:
            yield f"row {number}", (value or b"").decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"row {number}: this is no text in UTF-8") from error


def _check_columns(names: Sequence[str]) -> None:
    if COLUMN not in names:
        raise ValueError(f"there is no column {COLUMN!r}; there are {', '.join(names)}")
