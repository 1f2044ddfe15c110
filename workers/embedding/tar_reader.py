"""Rows of webdataset tars: members that follow one another and have one name are one row."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any

from workers.base.settings import printable
from workers.embedding.samples import (
    IMAGE_COLUMNS,
    TEXT_COLUMNS,
    Sample,
    ShardError,
    as_caption,
    find_name,
)
from workers.embedding.settings import InputSettings

TAR_ENDINGS = (".tar", ".tar.gz", ".tgz")
#: Two blocks of zeros end a tar.
TAR_END_BYTES = 1024

READ_BYTES = 1 << 20

#: A chunk ends with the row that reaches one of these.
CHUNK_ROWS, CHUNK_BYTES = 256, 32 << 20

_BROKEN = (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile)

#: Takes the share of a shard that has been read, from 0 to 1.
Tell = Callable[[float], object]


@dataclass(frozen=True)
class Chunk:
    """A part of a shard that can be read alone: row groups of Parquet, or bytes of a tar."""

    begin: int
    end: int
    #: Identities of a tar's rows that are not their members' name, by their number in the chunk.
    names: Mapping[int, str] = field(default_factory=dict)


def read_tar(path: Path, settings: InputSettings, tell: Tell) -> Iterator[Sample]:
    """Members that follow one another and have one name (`_key_and_ending`) are one row.

    Those that do not are several rows, which lack a part: to wait for what else may come, all
    images of the tar would have to be in memory. webdataset's reader does the same.
    """
    for sample, share in _read_stream(path, settings, ()):
        tell(share)
        yield sample


def _read_stream(
    path: Path, settings: InputSettings, others: Collection[str]
) -> Iterator[tuple[Sample, float]]:
    """The rows of a whole tar, and the share of it that has been read."""
    for name, members, share in read_members(path):
        yield tar_sample(name, members, settings, others), share


def read_members(path: Path) -> Iterator[tuple[str, dict[str, bytes], float]]:
    """Of each row of a tar its identity, its members by ending, and the share that has been read.

    Raises:
        ShardError: the tar is broken.
    """
    try:
        size = path.stat().st_size
        with (
            path.open("rb") as file,
            _tar_stream(path, file) as stream,
            tarfile.open(fileobj=stream, mode="r|") as tar,
        ):
            names = Names()
            for key, members in _rows(tar):
                yield names.one_more(key), members, file.tell() / size
            _check_rest(path, tar)
    except _BROKEN as error:
        raise _broken(path, error) from error


def _broken(path: Path, error: Exception) -> ShardError:
    return ShardError(f"{path} is not a whole tar file: {error}")


def list_tar_chunks(path: Path) -> list[Chunk]:
    """Chunks of a tar that is not compressed; of one that is, itself.

    Raises:
        ShardError: it is not whole.
    """
    size = path.stat().st_size
    if path.suffix != ".tar":
        return [Chunk(0, size)]
    try:
        with path.open("rb") as file:
            _check_end(path, file)
            with tarfile.open(fileobj=file, mode="r:") as tar:
                chunks = list(_chunks(tar, size))
                _check_rest(path, tar)
    except _BROKEN as error:
        raise _broken(path, error) from error
    return chunks


def _chunks(tar: tarfile.TarFile, size: int) -> Iterator[Chunk]:
    """Of a tar of ``size`` bytes; only its headers are read."""
    names, begin = Names(), 0
    row, named = -1, dict[int, str]()
    for member, key, _, is_new in _members(tar):
        if not is_new:
            continue
        row += 1
        if row >= CHUNK_ROWS or (row and member.offset - begin >= CHUNK_BYTES):
            yield Chunk(begin, member.offset, named)
            begin, row, named = member.offset, 0, {}
        if (name := names.one_more(key)) != printable(key):
            named[row] = name
    if row >= 0:
        yield Chunk(begin, size, named)


def read_tar_chunk(
    path: Path, chunk: Chunk, settings: InputSettings, others: Collection[str]
) -> Iterator[Sample]:
    """The rows of a chunk. Raises ShardError where it is broken."""
    if path.suffix != ".tar":
        yield from (sample for sample, _ in _read_stream(path, settings, others))
        return
    try:
        with path.open("rb") as file:
            file.seek(chunk.begin)
            window = io.BufferedReader(_Window(file, chunk.end - chunk.begin), READ_BYTES)
            with tarfile.open(fileobj=window, mode="r|") as tar:
                for row, (key, members) in enumerate(_rows(tar)):
                    name = chunk.names.get(row) or printable(key)
                    yield tar_sample(name, members, settings, others)
    except _BROKEN as error:
        raise _broken(path, error) from error


class _Window(io.RawIOBase):
    """So many bytes of a file from where it is."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self._left = file, size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(min(len(buffer), self._left))
        self._left -= len(data)
        buffer[: len(data)] = data
        return len(data)


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
    while block := tar.fileobj.read(READ_BYTES):
        if block.strip(b"\0"):
            raise ShardError(
                f"{path}: a damaged member, or the end of an archive, with more behind it: mend "
                "the file; of several archives in one, make a file each"
            )


def _members(tar: tarfile.TarFile) -> Iterator[tuple[tarfile.TarInfo, str, str, bool]]:
    """The members of a tar, each with its row's key, its ending, and whether a row begins."""
    key, endings = None, set[str]()
    while member := tar.next():
        tar.members.clear()  # type: ignore[attr-defined]  # it remembers all it has seen
        if member.isdir():
            continue
        name, ending = _key_and_ending(member.name)
        is_new = name != key or ending in endings  # the same file again is of another row
        if is_new:
            key, endings = name, set()
        if member.isfile():
            endings.add(ending)
        yield member, name, ending, is_new


def _rows(tar: tarfile.TarFile) -> Iterator[tuple[str, dict[str, bytes]]]:
    """The keys of a tar's rows, and their members by ending."""
    key, contents = None, dict[str, bytes]()
    for member, name, ending, is_new in _members(tar):
        if is_new:
            if key is not None:
                yield key, contents
            key, contents = name, {}
        # A link has no content: the row is there, and lacks a part.
        content = tar.extractfile(member) if member.isfile() else None
        if content is not None:
            contents[ending] = content.read()
    if key is not None:
        yield key, contents


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


def tar_sample(
    identity: str, members: dict[str, bytes], settings: InputSettings, others: Collection[str]
) -> Sample:
    """A row of a tar, and those of the values of its JSON that are asked for."""
    ending = find_name(members, [settings.image_column] if settings.image_column else IMAGE_COLUMNS)
    text, problem, texts = as_caption(
        _tar_text(members, settings.text_column) if settings.texts else None
    )
    row = json_row(members) if others else {}
    return Sample(
        identity,
        members[ending] if ending and settings.images else None,
        text,
        problem,
        texts=texts,
        others={name: row[name] for name in others if name in row},
    )


def json_row(members: dict[str, bytes]) -> dict[str, Any]:
    """What a row's JSON says of it; nothing where there is none, or it is damaged."""
    try:
        row = json.loads(members.get("json", b"{}"))
    except ValueError:
        return {}
    return row if isinstance(row, dict) else {}


def _tar_text(members: dict[str, bytes], wanted: str | None) -> Any:
    """The caption: a member of its own, or a key of the row's JSON."""
    names = (wanted,) if wanted else TEXT_COLUMNS
    if ending := find_name(members, names):
        return members[ending].decode("utf-8", errors="replace")
    texts = {name: value for name, value in json_row(members).items() if _is_text(value)}
    found = find_name(texts, names)
    return texts[found] if found else None


def _is_text(value: Any) -> bool:
    """Whether it is a caption, or several."""
    some = value if isinstance(value, list) and value else [value]
    return all(isinstance(text, str) for text in some)
