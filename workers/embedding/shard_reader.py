"""Read images and captions out of shards, whoever wrote them: Parquet, or webdataset tars.

`read_shard` gives the rows one by one, in the shard's order, in memory that does not grow with the
shard. `list_chunks` and `read_chunk` give a part of a shard without what stands before it.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from workers.base.storage import DAMAGED_PARQUET
from workers.embedding.samples import (
    ID_COLUMNS,
    IMAGE_COLUMNS,
    TEXT_COLUMNS,
    Sample,
    ShardError,
    as_caption,
    find_name,
)
from workers.embedding.settings import InputSettings
from workers.embedding.tar_reader import (
    TAR_ENDINGS,
    Chunk,
    Tell,
    list_tar_chunks,
    read_tar,
    read_tar_chunk,
)

#: Rows read at once: few, for a row holds a whole image.
BATCH_ROWS = 64
#: Bytes read ahead of each column; without it a row group of 10,000 images is read whole.
BUFFER_BYTES = 1 << 20


def _tell_nobody(share: float) -> None:
    pass


def read_shard(
    path: Path, settings: InputSettings, tell: Tell = _tell_nobody, name: str | None = None
) -> Iterator[Sample]:
    """The rows of a shard, in its order.

    Args:
        tell: is called now and then with the share of the shard that has been read.
        name: begins the identity of rows that have none; the file's without its ending if None.

    Raises:
        ShardError: no column holds what is asked for, or the file is broken.
    """
    if path.name.endswith(TAR_ENDINGS):
        return read_tar(path, settings, tell)
    return _read_parquet(path, settings, tell, name or path.stem)


def list_chunks(path: Path) -> list[Chunk]:
    """The parts of a shard that can be read alone, in its order; every row is in one.

    A row group of Parquet is one, and about 256 rows of a tar, whose headers are read for it. A
    compressed tar can only be read from its beginning: it is one chunk.

    Raises:
        ShardError: the file is broken.
    """
    if path.name.endswith(TAR_ENDINGS):
        return list_tar_chunks(path)
    try:
        return [Chunk(group, group + 1) for group in range(_open(path).metadata.num_row_groups)]
    except DAMAGED_PARQUET as error:
        raise _damaged(path, error) from error


def read_chunk(
    path: Path, chunk: Chunk, settings: InputSettings, others: Collection[str] = ()
) -> Generator[Sample]:
    """The rows of one of ``list_chunks``, as ``read_shard`` gives them, in the chunk's order.

    Args:
        others: names of other values that each row is to bring along, where it has them.

    Raises:
        ShardError: no column holds what is asked for, or the file is broken.
    """
    if path.name.endswith(TAR_ENDINGS):
        yield from read_tar_chunk(path, chunk, settings, others)
        return
    try:
        file = _open(path)
        if chunk.end > file.metadata.num_row_groups:
            raise ShardError(f"{path} has changed since its chunks were listed")
        sizes = [file.metadata.row_group(group).num_rows for group in range(chunk.begin)]
        yield from _parquet_rows(file, [chunk.begin], path, path.stem, sum(sizes), settings, others)
    except DAMAGED_PARQUET as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> ShardError:
    return ShardError(f"{path} cannot be read as Parquet: {error}; write it again, or leave it out")


def _open(path: Path) -> pq.ParquetFile:
    return pq.ParquetFile(path, buffer_size=BUFFER_BYTES, pre_buffer=False)


def _read_parquet(path: Path, settings: InputSettings, tell: Tell, shard: str) -> Iterator[Sample]:
    file = _open(path)
    groups = range(file.metadata.num_row_groups)
    for row, sample in enumerate(_parquet_rows(file, groups, path, shard, 0, settings)):
        if row % BATCH_ROWS == 0:
            tell(min(row + BATCH_ROWS, file.metadata.num_rows) / file.metadata.num_rows)
        yield sample


def _parquet_rows(
    file: pq.ParquetFile,
    groups: Sequence[int],
    path: Path,
    shard: str,
    row: int,
    settings: InputSettings,
    others: Collection[str] = (),
) -> Iterator[Sample]:
    """The rows of row groups, the first of which is called ``row`` where it has no name."""
    names = file.schema_arrow.names
    image_name = settings.images and _column(names, IMAGE_COLUMNS, settings.image_column, path)
    text_name = settings.texts and _column(names, TEXT_COLUMNS, settings.text_column, path)
    id_name = _id_column(names, settings.id_column, path)
    more = [name for name in others if name in names]
    columns = list(dict.fromkeys(name for name in (id_name, image_name, text_name, *more) if name))
    for batch in file.iter_batches(batch_size=BATCH_ROWS, row_groups=groups, columns=columns):
        values = {name: _values(batch.column(name)) for name in columns}
        for index in range(len(batch)):
            identity, cell, caption = (
                values[name][index] if name else None for name in (id_name, image_name, text_name)
            )
            image, image_problem = _bytes(cell)
            text, problem, texts = as_caption(caption)
            rest = {name: values[name][index] for name in more}
            name = _identity(identity, shard, row)
            yield Sample(name, image, text, problem, image_problem, texts, rest)
            row += 1


def _values(column: pa.Array) -> list[Any]:
    """A column's values; if one of them cannot be had in Python, the others can."""
    try:
        return column.to_pylist()
    except (ValueError, OverflowError):
        return [_value(scalar) for scalar in column]


def _value(scalar: pa.Scalar) -> Any:
    """A value; of a text that is not UTF-8 its bytes, of what else cannot be had its type."""
    try:
        return scalar.as_py()
    except (ValueError, OverflowError):  # a text in a list that is not UTF-8, a date of year 10,000
        is_text = isinstance(scalar, pa.StringScalar)
        return scalar.as_buffer().to_pybytes() if is_text else scalar.type


def _column(names: Sequence[str], known: Sequence[str], wanted: str | None, path: Path) -> str:
    if name := find_name(names, (wanted,) if wanted else known):
        return name
    raise ShardError(
        f"{path}: there is no column {wanted or ' or '.join(known)}; it has {', '.join(names)}. "
        "Name the columns, or ask for images or texts only"
    )


def _id_column(names: Sequence[str], wanted: str | None, path: Path) -> str | None:
    if wanted:
        return _column(names, (), wanted, path)
    return find_name(names, ID_COLUMNS)


def _identity(value: Any, shard: str, row: int) -> str:
    """A row's own identity, or the shard's name and the row's number."""
    return f"{shard}/{row:09d}" if value is None else str(value)


def _bytes(value: Any) -> tuple[bytes | None, str | None]:
    """An image's bytes and what is wrong with them.

    Hugging Face's datasets keep them in a struct beside a path.
    """
    if isinstance(value, dict) and "bytes" in value:
        value = value["bytes"]
    if value is None or isinstance(value, bytes):
        return value, None
    return None, f"the image is a {type(value).__name__}, not bytes: {value!r:.100}"
