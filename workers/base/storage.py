"""Files that appear whole or not at all: written under a temporary name, synced, renamed."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

log = logging.getLogger(__name__)

#: What reading a damaged Parquet file raises; the names of its columns may be no UTF-8.
DAMAGED_PARQUET = (OSError, pa.ArrowException, UnicodeDecodeError)

#: Parquet readers skip names that begin with a dot, so a leftover is never read as data.
TEMPORARY_PREFIX = ".tmp-"

#: Rows in a row group: small enough for random access, large enough to read at full speed.
ROW_GROUP_ROWS = 256


_SURROGATE = re.compile("[\ud800-\udfff]")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; on success sync it and rename it into place.

    On an exception the temporary file is removed and ``path`` stays as it was. Its name is this
    writer's alone: of two writers of ``path`` the last one wins, with a whole file. A killed
    process leaves its temporary file, for ``remove_leftovers``. A folder in the place of ``path``
    makes way (``make_way``).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unique = f"{os.getpid()}-{secrets.token_hex(4)}"
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{unique}{path.suffix}")
    try:
        yield temporary
        sync(temporary)
        make_way(path)
        temporary.replace(path)
        sync(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files that killed writers left in a folder; no other may write there."""
    for path in folder.glob(f"{TEMPORARY_PREFIX}*"):
        if path.is_file():
            path.unlink(missing_ok=True)


def make_way(path: Path) -> None:
    """Free the place of a file from a folder that stands there.

    An empty one is removed. Another may hold what somebody wants: it is renamed, and this said.
    """
    if not path.is_dir():
        return
    try:
        path.rmdir()
    except OSError:
        aside = path.with_name(f"{path.name}.aside-{secrets.token_hex(4)}")
        path.rename(aside)
        log.warning("%s is a folder where a file belongs; it is now %s", path, aside.name)


def sync(path: Path) -> None:
    """Force a file or folder to the disk, so that a rename after it survives a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def schema_with(file: Path, columns: Sequence[str]) -> pa.Schema:
    """A file's columns. Raises ValueError where it is no Parquet or lacks one of ``columns``."""
    try:
        schema = pq.read_schema(file)
    except DAMAGED_PARQUET as error:
        raise ValueError(f"{file} cannot be read as Parquet: {error}") from error
    if missing := [name for name in columns if name not in schema.names]:
        has = ", ".join(schema.names)
        raise ValueError(f"{file} has no column {', '.join(missing)}; it has {has}")
    return schema


def write_table(table: pa.Table, path: Path, row_group_size: int = ROW_GROUP_ROWS) -> None:
    """Write a table as one Parquet shard. The same table always gives the same bytes."""
    with table_writer(table.schema, path) as writer:
        writer.write_table(table, row_group_size=row_group_size)


@contextmanager
def table_writer(schema: pa.Schema, path: Path) -> Iterator[pq.ParquetWriter]:
    """Write a Parquet shard table by table, in memory that does not grow with it.

    Give ``row_group_size=ROW_GROUP_ROWS`` with each; tables of a multiple of it leave no small
    row groups.
    """
    with (
        replacing(path) as temporary,
        # Within 256 rows zstd finds what repeats; dictionaries beside it cost time and bytes. A
        # page that a disk has damaged is noticed where no whole file is compared with its hash.
        pq.ParquetWriter(
            temporary,
            schema,
            use_dictionary=False,
            compression=dict(_leaf_compression(schema)),
            write_page_checksum=True,
        ) as writer,
    ):
        yield writer


def _leaf_compression(fields: Iterable[pa.Field], parent: str = "") -> Iterator[tuple[str, str]]:
    """The codec of every Parquet column, by the path under which Parquet knows it."""
    for field in fields:
        path = f"{parent}{field.name}"
        kind = field.type
        if pa.types.is_struct(kind):
            yield from _leaf_compression(kind.fields, f"{path}.")
        elif pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
            element = kind.value_field.with_name("element")
            yield from _leaf_compression([element], f"{path}.list.")
        else:
            yield path, _codec(kind)


def _codec(kind: pa.DataType) -> str:
    # JPEG and float16 embeddings do not get smaller; zstd would only cost time.
    return "none" if pa.types.is_binary(kind) or pa.types.is_float16(kind) else "zstd"


def write_text(text: str, path: Path) -> None:
    """Write a file of text, unless it holds that already: a full disk ends no finished run."""
    if path.is_file() and path.read_bytes() == text.encode():
        return
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(value: Any, path: Path) -> None:
    """Write JSON that people read too: indented, keys in the order they were given.

    What is no UTF-8 in a text, such as a file name of other bytes, becomes `\\udcNN` in letters: an
    escape of JSON for it is one that few readers take.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False)
    write_text(_SURROGATE.sub(lambda match: f"\\\\u{ord(match[0]):04x}", text) + "\n", path)


def file_hash(path: Path) -> str:
    """The sha256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
