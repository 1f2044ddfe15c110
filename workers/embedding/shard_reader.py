"""Read images and captions out of shards, whoever wrote them: Parquet, or webdataset tars.

Rows come one by one, in the shard's order, in memory that does not grow with the shard.
"""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from workers.base.failures import NeedsMendingError
from workers.base.settings import printable
from workers.embedding.settings import InputSettings

#: Column names that are recognised, the first that is there; a tar's members by their endings.
ID_COLUMNS = ("pair_id", "key", "__key__", "uid", "id")
IMAGE_COLUMNS = ("jpg", "jpeg", "png", "webp", "image", "image_bytes", "bytes", "content")
TEXT_COLUMNS = ("caption", "txt", "text", "alt_text", "TEXT")

TAR_ENDINGS = (".tar", ".tar.gz", ".tgz")
#: Two blocks of zeros end a tar.
TAR_END_BYTES = 1024

CHUNK_BYTES = 1 << 20

#: Rows read at once: few, for a row holds a whole image.
BATCH_ROWS = 64
#: Bytes read ahead of each column; without it a row group of 10,000 images is read whole.
BUFFER_BYTES = 1 << 20


#: Takes the share of a shard that has been read, from 0 to 1.
Tell = Callable[[float], object]


class ShardError(NeedsMendingError):
    """A shard that cannot be read as images and captions; the message says what to do."""


@dataclass(frozen=True)
class Sample:
    """One row. What it lacks, or what was not asked for, is None."""

    id: str
    image: bytes | None
    text: str | None
    problem: str | None = None  # of a caption that is there and is no text
    image_problem: str | None = None  # of an image that is there and is no bytes


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
        return _read_tar(path, settings, tell)
    return _read_parquet(path, settings, tell, name or path.stem)


def _read_parquet(path: Path, settings: InputSettings, tell: Tell, shard: str) -> Iterator[Sample]:
    file = pq.ParquetFile(path, buffer_size=BUFFER_BYTES, pre_buffer=False)
    names = file.schema_arrow.names
    image_name = settings.images and _column(names, IMAGE_COLUMNS, settings.image_column, path)
    text_name = settings.texts and _column(names, TEXT_COLUMNS, settings.text_column, path)
    id_name = _id_column(names, settings.id_column, path)
    columns = [name for name in (id_name, image_name, text_name) if name]
    row = 0
    for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=columns):
        values = {name: _values(batch.column(name)) for name in columns}
        for index in range(len(batch)):
            identity, cell, caption = (
                values[name][index] if name else None for name in (id_name, image_name, text_name)
            )
            image, image_problem = _bytes(cell)
            yield Sample(_identity(identity, shard, row), image, *_text(caption), image_problem)
            row += 1
        tell(row / file.metadata.num_rows)


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


def _text(value: Any) -> tuple[str | None, str | None]:
    """A caption and what is wrong with it; what is no text has none that could be encoded."""
    if value is None:
        return None, None
    if not isinstance(value, str):
        return None, f"the caption is a {type(value).__name__}, not a text: {value!r:.100}"
    try:
        value.encode()
    except UnicodeEncodeError:
        return None, f"the caption holds half a character: {value!r:.100}"
    return value, None


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


def find_name(names: Collection[str], wanted: Iterable[str]) -> str | None:
    """The first of the wanted names that is among others, else the first but for its case."""
    by_lower_case = {name.lower(): name for name in names}
    wanted = list(wanted)
    exact = next((name for name in wanted if name in names), None)
    return exact or next(
        (by_lower_case[name.lower()] for name in wanted if name.lower() in by_lower_case), None
    )


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


def _read_tar(path: Path, settings: InputSettings, tell: Tell) -> Iterator[Sample]:
    """Members that follow one another and have one name (`_key_and_ending`) are one row.

    Those that do not are several rows, which lack a part: to wait for what else may come, all
    images of the tar would have to be in memory. webdataset's reader does the same.
    """
    try:
        size = path.stat().st_size
        with (
            path.open("rb") as file,
            _tar_stream(path, file) as stream,
            tarfile.open(fileobj=stream, mode="r|") as tar,
        ):
            for sample in _tar_samples(tar, settings):
                tell(file.tell() / size)
                yield sample
            _check_rest(path, tar)
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ShardError(f"{path} is not a whole tar file: {error}") from error


def _tar_stream(path: Path, file: IO[bytes]) -> IO[bytes] | gzip.GzipFile:
    """The tar in a file. Where one is cut off at a header, `tarfile` would take it for its end."""
    if path.suffix != ".tar":
        return gzip.GzipFile(fileobj=file)
    _check_end(path, file)
    return file


def _check_end(path: Path, file: IO[bytes]) -> None:
    """Raise ShardError unless the tar ends with two empty blocks."""
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - TAR_END_BYTES))
    if file.read() != bytes(TAR_END_BYTES):
        raise ShardError(f"{path} is not a whole tar file: it lacks the empty blocks of its end")
    file.seek(0)


def _check_rest(path: Path, tar: tarfile.TarFile) -> None:
    """Raise ShardError where something follows what `tarfile` takes for the end of a tar.

    It stops at the end of the first of several archives in one file, and at a damaged header.
    """
    assert tar.fileobj is not None
    while block := tar.fileobj.read(CHUNK_BYTES):
        if block.strip(b"\0"):
            raise ShardError(
                f"{path}: a damaged member, or the end of an archive, with more behind it: mend "
                "the file; of several archives in one, make a file each"
            )


def _tar_samples(tar: tarfile.TarFile, settings: InputSettings) -> Iterator[Sample]:
    key, members = None, dict[str, bytes]()
    names = Names()
    for member in tar:
        if member.isdir():
            continue
        name, ending = _key_and_ending(member.name)
        if name != key or ending in members:  # the same file again is of another row
            if key is not None:
                yield _tar_sample(names.one_more(key), members, settings)
            key, members = name, {}
        # A link has no content: the row is there, and lacks a part.
        content = tar.extractfile(member) if member.isfile() else None
        if content is not None:
            members[ending] = content.read()
    if key is not None:
        yield _tar_sample(names.one_more(key), members, settings)


class Names:
    """What the rows of a tar are called: the second of one name is NAME#2.

    It remembers the names, about 100 bytes a row.
    """

    def __init__(self) -> None:
        self._times: dict[str, int] = {}

    def one_more(self, key: str) -> str:
        """A row's identity, which no row before it has."""
        key = name = printable(key)
        while name in self._times:
            self._times[key] += 1
            name = f"{key}#{self._times[key]}"
        self._times[name] = 1
        return name


def _key_and_ending(member: str) -> tuple[str, str]:
    """A member's row and what it is of it: a/22.05.seg.PNG is seg.png of a/22.05.

    Behind the first dot begins the ending, but a number there is a part of the key.
    """
    path = PurePosixPath(member)
    key, *parts = path.name.split(".")
    while len(parts) > 1 and parts[0][:1].isdigit():
        key = f"{key}.{parts.pop(0)}"
    return str(path.parent / key), ".".join(parts).lower()  # "." / key is key


def _tar_sample(identity: str, members: dict[str, bytes], settings: InputSettings) -> Sample:
    ending = find_name(members, [settings.image_column] if settings.image_column else IMAGE_COLUMNS)
    return Sample(
        identity,
        members[ending] if ending and settings.images else None,
        *_text(_tar_text(members, settings.text_column) if settings.texts else None),
    )


def _tar_text(members: dict[str, bytes], wanted: str | None) -> str | None:
    """The caption: a member of its own, or a key of the row's JSON."""
    names = (wanted,) if wanted else TEXT_COLUMNS
    if ending := find_name(members, names):
        return members[ending].decode("utf-8", errors="replace")
    try:
        row = json.loads(members.get("json", b"{}"))
    except ValueError:
        return None
    texts = (
        {name: text for name, text in row.items() if isinstance(text, str)}
        if isinstance(row, dict)
        else {}
    )
    found = find_name(texts, names)
    return texts[found] if found else None
