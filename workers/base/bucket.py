"""Objects of a store below a prefix: ``s3://BUCKET/PREFIX``, ``gs://``, ``az://``.

Nothing is renamed, and no object is written over that somebody else has changed meanwhile: whoever
writes says which version he has seen. How a store is reached, ``workers.base.stores`` knows.
"""

from __future__ import annotations

import errno
import io
import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, cast
from urllib.parse import urlsplit

from workers.base.credentials import shown
from workers.base.stores import connected

if TYPE_CHECKING:
    from obstore.store import ObjectStore

SCHEMES = ("s3", "gs", "az")

#: A request is repeated for so long where the store is busy, answers 5xx or breaks off. The pauses
#: are chosen by chance below a limit that grows, so their number says little of the time.
RETRY: Any = {
    "max_retries": 60,
    "retry_timeout": timedelta(seconds=120),
    "backoff": {
        "init_backoff": timedelta(milliseconds=200),
        "max_backoff": timedelta(seconds=5),
        "base": 2,
    },
}

#: Objects that are there for a moment: when they are written tells what time it is.
CLOCK = "_clock/"

#: What is larger is sent in parts of so many bytes or more, each of them asked for again by itself:
#: memory is that of the parts that are under way. A store takes 10,000 parts.
PART = 128 << 20
PARTS_AT_A_TIME = 2
_MOST_PARTS = 10_000

#: The largest object that a store copies in one request.
LARGEST_COPY = 5 << 30

#: How often an object is written over that has just been changed once more.
TRIES = 10

#: How often a command's first request is repeated.
FIRST_RETRIES = 3

_REFUSED = re.compile(r"status code: 40[13]\b")
_SAID = re.compile(r"<Message>([^<]+)</Message>")


def is_bucket(text: str) -> bool:
    """Whether a place to write to is meant for a bucket."""
    return text.startswith(tuple(f"{scheme}://" for scheme in SCHEMES))


class ChangedError(RuntimeError):
    """An object is not the version that was to be written over."""


class Stat(NamedTuple):
    """What a store tells of an object without giving it."""

    size: int
    written: datetime  # by the store's own clock
    #: What changes whenever the content does, as the store has it: a tag, a generation, or both.
    tag: str | None
    generation: str | None


@dataclass(frozen=True)
class Bucket:
    """The objects below a URL. Names are relative to it.

    Every error but ChangedError is an OSError with the URL as its file's name: FileNotFoundError,
    PermissionError where access is refused, else EIO, for a store that is away.
    """

    url: str

    def __post_init__(self) -> None:
        """Raises ValueError, with what to do, for a URL that cannot be one of a run."""
        parts = urlsplit(self.url)
        if parts.scheme not in SCHEMES or not parts.netloc:
            raise ValueError(f"{shown(self.url)}: not {', '.join(f'{s}://' for s in SCHEMES)}")
        if "@" in parts.netloc or parts.query or parts.fragment:
            raise ValueError(
                f"{shown(self.url)}: a URL with a user, a query or a signature; credentials come "
                "from the environment"
            )

    def __str__(self) -> str:
        return self.url

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url}  # each process connects by itself

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)

    @cached_property
    def _store(self) -> ObjectStore:
        return self._connected(RETRY)

    def _connected(self, retry: Any) -> ObjectStore:
        try:
            return connected(self.url, retry)
        except OSError:
            raise
        except Exception as error:
            raise self._os_error(error, "") from error

    def check(self) -> bool:
        """Whether anything is there. Raises OSError soon, as nothing is lost by that."""
        import obstore

        with self._as_os_error(""):
            store = self._connected({**RETRY, "max_retries": FIRST_RETRIES})
            return bool(next(iter(obstore.list(store, chunk_size=1)), None))

    def stat(self, name: str) -> Stat | None:
        """What is known of an object; None where there is none."""
        import obstore

        with self._as_os_error(name):
            try:
                return _stat_of(obstore.head(self._store, name))
            except FileNotFoundError:
                return None

    def read(self, name: str) -> tuple[bytes, Stat]:
        """An object's content and what is known of just that version."""
        import obstore

        with self._as_os_error(name):
            answer = obstore.get(self._store, name)
            stat, content = _stat_of(answer.meta), bytes(answer.bytes())
        self._check_size(name, len(content), stat.size)
        return content, stat

    def download(self, name: str, path: Path) -> None:
        """Write an object to a file, which appears when it is whole."""
        import obstore

        from workers.base.storage import replacing  # with PyArrow, which no --help needs

        with replacing(path) as temporary, temporary.open("wb") as file:
            with self._as_os_error(name):
                answer = obstore.get(self._store, name)
                size = answer.meta["size"]
                for chunk in answer.stream(min_chunk_size=8 << 20):
                    file.write(chunk)
            self._check_size(name, file.tell(), size)

    def reader(self, name: str) -> BinaryIO:
        """An object as a file that can seek: what is not read does not come."""
        import obstore

        with self._as_os_error(name):
            return cast(BinaryIO, _Reader(obstore.open_reader(self._store, name)))

    def write(self, name: str, content: bytes, seen: Stat | None) -> Stat:
        """Write an object in one request; what is cut off on its way never counts.

        Args:
            seen: the version that is written over; None: there must be none.

        Raises:
            ChangedError: there is another one.
        """
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        mode: Any = "create"
        if seen:
            version = {"e_tag": seen.tag, "version": seen.generation}
            mode = {key: value for key, value in version.items() if value}
        with self._as_os_error(name):
            try:
                obstore.put(self._store, name, content, mode=mode)
            except (AlreadyExistsError, PreconditionError, FileNotFoundError) as error:
                # A repeated request meets what the first one wrote, whose answer was lost.
                if _is_no_bucket(error):
                    raise
                if not self._holds(name, content):
                    raise ChangedError(f"{self._shown(name)} was changed meanwhile") from error
        return self._checked(name, len(content))

    def write_over(self, name: str, content: bytes, may: Callable[[], None]) -> Stat:
        """Write an object over whatever is there, as long as one may.

        Args:
            may: raises an error where one may not any more; called after the version was seen.
        """
        for _ in range(TRIES - 1):
            # By one whose request was under way when he lost the right to it.
            with suppress(ChangedError):
                return self._write_seen(name, content, may)
        return self._write_seen(name, content, may)

    def _write_seen(self, name: str, content: bytes, may: Callable[[], None]) -> Stat:
        before = self.stat(name)
        may()
        return self.write(name, content, before)

    def send(self, name: str, path: Path, may: Callable[[], None]) -> Stat:
        """Write a file over whatever is there, as ``write_over`` does; a large one in parts.

        Of parts nothing shows before all are there and one may still write. No store compares
        versions then: only an old owner who is cut off in the very last request could write over
        what a new one has written.
        """
        size = path.stat().st_size
        if size <= PART:
            return self.write_over(name, path.read_bytes(), may)
        part = max(PART, -(-size // _MOST_PARTS))
        with path.open("rb") as file:
            return self._write_parts(name, iter(partial(file.read, part), b""), size, may)

    def _write_parts(
        self, name: str, parts: Iterator[Any], size: int, may: Callable[[], None]
    ) -> Stat:
        import obstore

        def with_leave() -> Iterator[Any]:
            may()
            yield from parts
            may()  # an error ends the upload

        with self._as_os_error(name):
            obstore.put(
                self._store,
                name,
                _in_thread(with_leave()),
                use_multipart=True,
                chunk_size=max(PART, -(-size // _MOST_PARTS)),
                max_concurrency=PARTS_AT_A_TIME,
            )
        return self._checked(name, size)

    def _checked(self, name: str, size: int) -> Stat:
        """What the store says of an object that was written. Raises OSError for another size."""
        stat = self.stat(name)
        self._check_size(name, stat.size if stat else 0, size)
        assert stat
        return stat

    def copy(self, name: str, place: str, size: int) -> None:
        """Write an object's content over another one, within the store where it takes that size."""
        import obstore

        with self._as_os_error(name):
            if size <= LARGEST_COPY:
                obstore.copy(self._store, name, place)
                return
            parts = obstore.get(self._store, name).stream(min_chunk_size=PART)
            self._write_parts(place, iter(parts), size, lambda: None)

    def delete(self, names: Iterable[str]) -> None:
        """Remove objects; those that are not there are removed already."""
        import obstore

        for name in names:
            with self._as_os_error(name):
                try:
                    obstore.delete(self._store, name)
                except FileNotFoundError:
                    continue

    def list(self, prefix: str = "") -> dict[str, Stat]:
        """The objects whose names begin with ``prefix``, whole parts of a path."""
        import obstore

        with self._as_os_error(prefix):
            pages = obstore.list(self._store, prefix or None, chunk_size=1000)
            return {meta["path"]: _stat_of(meta) for page in pages for meta in page}

    def time(self) -> datetime:
        """What time it is by the store's clock. Shows that it can be written to, too."""
        name = f"{CLOCK}{secrets.token_hex(8)}"
        stat = self.write(name, b"what time is it?", None)
        self.delete([name])
        return stat.written

    def _holds(self, name: str, content: bytes) -> bool:
        stat = self.stat(name)
        return bool(stat) and self.read(name)[0] == content

    def _check_size(self, name: str, size: int, wanted: int) -> None:
        if size != wanted:
            text = f"{size:,} bytes, not {wanted:,}"
            raise OSError(errno.EIO, text, self._shown(name))

    def _shown(self, name: str) -> str:
        return f"{self.url.rstrip('/')}/{name}"

    @contextmanager
    def _as_os_error(self, name: str) -> Iterator[None]:
        from obstore.exceptions import BaseError

        try:
            yield
        except (BaseError, FileNotFoundError) as error:
            raise self._os_error(error, name) from error

    def _os_error(self, error: Exception, name: str) -> OSError:
        text, where = _text_of(error), self._shown(name)
        if isinstance(error, FileNotFoundError) and not _is_no_bucket(error):
            return FileNotFoundError(errno.ENOENT, text, where)
        if _REFUSED.search(str(error)):  # of a list, the library has no class of its own
            return PermissionError(errno.EACCES, text, where)
        return OSError(errno.EIO, text, where)


class _Reader(io.RawIOBase):
    """An object as Python's readers know files."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return bytes(self._file.read(size) if size >= 0 else self._file.read())

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())


def _in_thread(items: Iterator[Any]) -> Iterator[Any]:
    """The items, made in a thread of their own: within a request the library can make no other."""
    with ThreadPoolExecutor(1) as pool:
        while (item := pool.submit(next, items, None).result()) is not None:
            yield item


def _text_of(error: Exception) -> str:
    """What an error says in a line: the store's own words, where it has some."""
    said = _SAID.search(str(error))
    text = said[1] if said else str(error).strip().partition("\n")[0]
    return shown(text or type(error).__name__)


def _is_no_bucket(error: Exception) -> bool:
    return "NoSuchBucket" in str(error)


def _stat_of(meta: Any) -> Stat:
    return Stat(meta["size"], meta["last_modified"], meta["e_tag"], meta["version"])
