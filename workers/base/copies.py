"""A run that lives in a bucket, as files: each process has a copy of what it needs of it.

A ``CopyPath`` is a path in such a copy. Whoever needs the file calls ``bring`` first; who has
written it calls ``publish``, and who removes it ``discard``. For any other path these do nothing,
or what is done to a file. Sent to another process, a CopyPath becomes one in that process's copy:
no two need share a disk, nor agree on where its folders are.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PosixPath
from typing import Any

from workers.base.bucket import CLOCK, Bucket, Stat
from workers.base.lease import NAME as LEASE
from workers.base.lease import Holder, Lease, holding

#: Objects that are sent or fetched at a time.
CONNECTIONS = 16


class Copy:
    """What a process has of a bucket, in a folder of its own."""

    def __init__(self, bucket: Bucket, may_write: Callable[[], None]) -> None:
        """``may_write`` raises an error where another process may be the bucket's owner."""
        self.bucket, self.may_write = bucket, may_write
        self.holder: Holder | None = None
        self.lease: Lease | None = None
        #: What is known to be there, by name: of the process that holds the lease, all of it.
        self.sizes: dict[str, int] = {}
        #: What the last look has found.
        self.found: dict[str, Stat] = {}
        self._sent: dict[str, tuple[int, int]] = {}
        #: What the last look has brought: what it was there, and is here.
        self._fetched: dict[str, tuple[Stat, tuple[int, int]]] = {}
        name = hashlib.sha256(bucket.url.encode()).hexdigest()[:12]
        self.root = CopyPath(tempfile.gettempdir(), f"copy-{name}-{os.getpid()}")
        self._users, self._lock = 0, threading.Lock()

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Work in its folder. It goes with the last who does, but for the process with the lease:
        Ray ends its workers without a word, so nobody could remove it later.
        """
        with self._lock:
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if not self._users and not self.is_owner:
                    shutil.rmtree(self.root, ignore_errors=True)

    @property
    def is_owner(self) -> bool:
        """Whether this process holds the lease, so that nobody else changes what is there."""
        return self.lease is not None

    def name_of(self, path: Path) -> str:
        """The object that a path stands for."""
        return os.path.relpath(path, self.root)

    def bring(self, path: Path) -> bool:
        """Fetch a file that is not here; False where there is none."""
        if path.exists():
            return True
        try:
            self.bucket.download(self.name_of(path), path)
        except FileNotFoundError:
            return False
        return True

    def size_of(self, name: str) -> int:
        """Bytes of an object; one that this process does not know is asked for."""
        if name not in self.sizes and (stat := self.bucket.stat(name)):
            self.sizes[name] = stat.size
        return self.sizes[name]

    def publish(self, path: Path) -> None:
        """Send a file: whatever the bucket has under its name is written over."""
        self.send(path, self.name_of(path))

    def send(self, path: Path, name: str) -> None:
        """Send a file under any name."""
        stat = self.bucket.send(name, path, self.may_write)
        self.sizes[name] = stat.size

    def discard(self, path: Path) -> None:
        """Remove a file here and there."""
        self.remove([self.name_of(path)])

    def remove(self, names: Iterable[str]) -> None:
        """Remove objects, here and there, in their order."""
        for name in names:
            self.may_write()
            self.bucket.delete([name])
            self.sizes.pop(name, None)
            (self.root / name).unlink(missing_ok=True)

    def look(self, is_wanted: Callable[[str], bool]) -> None:
        """See what is there, and have what is wanted of it here, and nothing else.

        What has not changed since the last look, and was not written here, is not fetched again.
        """
        found = {
            name: stat
            for name, stat in self.bucket.list().items()
            if name != LEASE and not name.startswith(CLOCK)
        }
        fetched, here = self._fetched, self._written(lambda _: True)
        same = {n for n, known in fetched.items() if known == (found.get(n), here.get(n))}
        for name in here.keys() - same:
            (self.root / name).unlink()
        self.found = found
        self.sizes = {name: stat.size for name, stat in found.items()}
        bring(self.root / name for name in self.sizes if is_wanted(name))
        here = self._written(is_wanted)
        self._fetched = {name: (found[name], state) for name, state in here.items()}
        self._sent = here

    def send_changed(self, is_wanted: Callable[[str], bool]) -> None:
        """Send what is wanted and was written here since, and remove what was removed here."""
        written = self._written(is_wanted)
        for name, state in written.items():
            if self._sent.get(name) != state:
                self.publish(self.root / name)
        for name in filter(is_wanted, self._sent.keys() - written.keys()):
            self.discard(self.root / name)
        self._sent = written

    def _written(self, is_wanted: Callable[[str], bool]) -> dict[str, tuple[int, int]]:
        """What changes when a file does: its size and its time."""
        files = ((self.name_of(path), path) for path in self.root.rglob("*") if path.is_file())
        wanted = {name: path.stat() for name, path in files if is_wanted(name)}
        return {name: (status.st_size, status.st_mtime_ns) for name, status in wanted.items()}

    @contextmanager
    def owned(self) -> Iterator[None]:
        """Hold the bucket's lease. Raises HeldError where somebody else does."""
        with holding(self.bucket) as lease:
            self.lease, self.holder, self.may_write = lease, lease.holder, lease.check
            try:
                yield
            finally:
                self.lease, self.holder, self.may_write = None, None, _nobody


_COPIES: dict[str, Copy] = {}


class CopyPath(PosixPath):
    """A path in this process's copy of a bucket."""

    def __reduce__(self) -> tuple[Any, ...]:
        copy = copy_of(self)
        if copy is None:
            return Path, (str(self),)
        return _here, (copy.bucket, copy.holder, copy.name_of(self))


def _here(bucket: Bucket, holder: Holder | None, name: str) -> Path:
    """The path of an object in the copy of this process."""
    for copy in _COPIES.values():
        if copy.bucket == bucket and copy.holder == holder:
            return copy.root / name
    copy = Copy(bucket, holder.check if holder else _nobody)
    copy.holder = holder
    return _register(copy).root / name


def _nobody() -> None:
    raise PermissionError("a process that holds no lease writes nothing")


def open_copy(url: str) -> Copy:
    """A copy of a bucket that nobody holds yet. Raises ValueError for a URL that is none."""
    copy = _register(Copy(Bucket(url), _nobody))
    copy.root.mkdir(parents=True, exist_ok=True)
    return copy


def _register(copy: Copy) -> Copy:
    _COPIES[str(copy.root)] = copy
    return copy


def copy_of(path: Path) -> Copy | None:
    """The copy that a path is in; None for any other path."""
    if not _COPIES:
        return None
    text = str(path)
    return next((copy for root, copy in _COPIES.items() if _is_in(text, root)), None)


def _is_in(path: str, root: str) -> bool:
    return path == root or path.startswith(f"{root}{os.sep}")


def as_urls(text: str) -> str:
    """A text with the names of objects for the paths of what is here of them."""
    for root, copy in _COPIES.items():
        text = text.replace(root, copy.bucket.url.rstrip("/"))
    return text


def bring(paths: Iterable[Path]) -> None:
    """Fetch the files of a bucket that are not here; those that are not there stay away."""
    wanted = [(copy, path) for path in paths if (copy := copy_of(path)) and not path.exists()]
    if wanted:
        with ThreadPoolExecutor(min(len(wanted), CONNECTIONS)) as pool:
            list(pool.map(lambda pair: pair[0].bring(pair[1]), wanted))


def readable(path: Path) -> Any:
    """What a reader of Parquet takes for a file, of which it may read a little: fetched or not."""
    copy = copy_of(path)
    return path if copy is None or path.exists() else copy.bucket.reader(copy.name_of(path))


def version_of(path: Path) -> tuple[int, int]:
    """The size and the time of a file, fetched or not; of one in a bucket, no time."""
    if (copy := copy_of(path)) and not path.exists():
        return copy.size_of(copy.name_of(path)), 0
    status = path.stat()
    return status.st_size, 0 if copy_of(path) else status.st_mtime_ns


def bring_all(folder: Path) -> None:
    """Fetch every file that is known to be in a folder, or in the whole bucket."""
    if copy := copy_of(folder):
        paths = (copy.root / name for name in copy.sizes)
        bring(path for path in paths if folder in path.parents)


def listed(folder: Path) -> set[Path]:
    """What stands in a folder: files and folders, fetched or not."""
    here = set(folder.glob("*"))
    if copy := copy_of(folder):
        above = "" if folder == copy.root else f"{copy.name_of(folder)}/"
        names = (name for name in copy.sizes if name.startswith(above))
        here |= {folder / name[len(above) :].partition("/")[0] for name in names}
    return here


def publish(path: Path) -> None:
    """Send a file that was written to the bucket whose copy it is in."""
    if copy := copy_of(path):
        copy.publish(path)


def drop(path: Path) -> None:
    """Remove what is here of a file that its bucket has; a file of no bucket stays."""
    if copy_of(path):
        path.unlink(missing_ok=True)


def discard(path: Path) -> None:
    """Remove a file, from the bucket whose copy it is in, too."""
    if copy := copy_of(path):
        copy.discard(path)
    else:
        path.unlink(missing_ok=True)
