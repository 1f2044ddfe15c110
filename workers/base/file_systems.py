"""Files on any file system: local paths, and the URLs that fsspec knows (s3://, https://, ...)."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from glob import escape, glob
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import fsspec

from workers.base.credentials import shown
from workers.base.settings import local_path, printable, resolve_path

_WEB = ("http", "https")

#: What no folder or glob means, below it: hidden files, and what Hadoop, Spark and Delta Lake
#: leave beside data (_SUCCESS, _metadata, _temporary/, ...).
_HIDDEN = re.compile(r"(^|/)(\.[^/]*|_temporary|_delta_log)(/|$)|(^|/)_[^/.]*$")

#: What the clients of stores raise beside OSError, by the module that has it once it is loaded.
_CLIENT_ERRORS = {
    "aiohttp": ("ClientError",),
    "botocore.exceptions": ("BotoCoreError", "ClientError"),
    "google.auth.exceptions": ("GoogleAuthError",),
    "gcsfs.retry": ("HttpError",),
    "azure.core.exceptions": ("AzureError",),
}


def open_file(url: str) -> BinaryIO:
    """Open a file for reading; the file can seek. ``url`` is a path or an fsspec URL."""
    with _as_os_error(url):
        system, path = _file_system(url)
        file: BinaryIO = system.open(path, "rb")
    return file


def local_folder(text: str) -> Path:
    """A folder to write to, absolute. Raises OSError, with what to do, where there can be none."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.\-]*:/", text):
        raise OSError(f"{shown(text)}: only a local or mounted path, or s3://, gs://, az://")
    if not text:  # of a variable of the shell that is not set, say
        raise OSError("'': an empty name is no folder's")
    folder = local_path(text).absolute()
    if printable(folder) != str(folder):
        raise OSError(f"{printable(folder)}: a name that is no UTF-8, in which Arrow cannot write")
    try:
        there = next(path for path in (folder, *folder.parents) if _is_there(path))
    except OSError as error:  # a name that is too long, or a folder that may not be looked into
        raise OSError(f"{folder} cannot be a folder: {error.strerror}") from error
    if not there.is_dir():
        raise OSError(f"{folder} cannot be a folder: {there} is a file")
    return folder


def _is_there(path: Path) -> bool:
    """Like ``path.exists()``, which from Python 3.14 on takes any error for a no."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def find_files(patterns: Iterable[str]) -> list[Path]:
    """The files that paths and globs (``package:`` ones too) name: absolute, sorted, each once.

    Raises FileNotFoundError for a pattern that names no file.
    """
    found: set[Path] = set()
    for pattern in patterns:
        matches = map(Path, _named_paths(str(resolve_path(pattern).absolute())))
        files = [match for match in matches if match.is_file()]
        if not files:
            raise FileNotFoundError(f"there is no file {pattern}")
        found.update(files)
    return sorted(found)


def list_files(pattern: str) -> tuple[str, list[str]]:
    """The folder and the files that a path, glob, folder or URL names: absolute, sorted.

    A folder gives all files below it and is itself the first item; otherwise that is "". Hidden
    files must be named, or by a glob whose last part begins as they do. URLs of the web name one
    file: they have no folders to list. Raises FileNotFoundError if there is none, and OSError where
    its store cannot be asked.
    """
    with _as_os_error(pattern):
        return _list_files(pattern)


def _list_files(pattern: str) -> tuple[str, list[str]]:
    system, path = _file_system(str(resolve_path(pattern)) if not is_remote(pattern) else pattern)
    if not system.exists(path):
        found, folder = [p for p in _matches(system, path) if system.isfile(p)], ""
        if not base_name(pattern).startswith((".", "_")):
            found = [path for path in found if not _HIDDEN.search(base_name(path))]
    elif _is_web(system) or system.isfile(path):
        found, folder = [path], ""
    else:
        found = [file for file in system.find(path) if not _HIDDEN.search(file[len(path) :])]
        folder = _full_name(system, path)
    if not found:
        raise FileNotFoundError(f"there is no file {shown(pattern)}")
    return folder, sorted(_full_name(system, path) for path in found)


def _matches(system: Any, pattern: str) -> list[str]:
    if "file" in system.protocol:
        return _named_paths(pattern)
    return [] if _is_web(system) else list(system.glob(pattern))


def _named_paths(pattern: str) -> list[str]:
    """The paths that are there and that an absolute path or glob names; `**` is any folders.

    A name that is there is itself, whatever signs are in it: only what follows is a pattern.
    """
    there, rest = Path("/"), list(Path(pattern).parts[1:])
    while rest and (there / rest[0]).exists():
        there /= rest.pop(0)
    return glob(f"{escape(str(there))}/{'/'.join(rest)}", recursive=True) if rest else [str(there)]  # noqa: PTH207


class Stored(NamedTuple):
    """What a store says of a file, in one request."""

    size: int  # bytes, as it is stored; 0 where a server does not tell
    version: str  # changes when the file does: size, time and tag, where known


def stored(url: str) -> Stored:
    """What is known of a file and costs no reading."""
    with _as_os_error(url):
        system, path = _file_system(url)
        info = system.info(path)
    known = ("size", "mtime", "LastModified", "last_modified", "created", "ETag", "etag")
    version = ";".join(f"{key}={info[key]}" for key in known if info.get(key) is not None)
    return Stored(int(info.get("size") or 0), version)


def version_of(url: str) -> str:
    """What changes when a file does and costs no reading."""
    return stored(url).version


def base_name(url: str) -> str:
    """The last part of a path or URL, without the query of a web address."""
    return (
        url.partition("?")[0].rstrip("/").rpartition("/")[2] if is_remote(url) else Path(url).name
    )


def is_remote(url: str) -> bool:
    """Whether it is a URL, and no local path."""
    return "://" in url


def exists(url: str) -> bool:
    """Whether there is such a file."""
    with _as_os_error(url):
        system, path = _file_system(url)
        return bool(system.exists(path))


def size_of(url: str) -> int:
    """Bytes of a file as it is stored; 0 where a server does not tell."""
    return stored(url).size


def _file_system(url: str) -> tuple[Any, str]:
    """Raises OSError, with what to install, where fsspec lacks the file system."""
    try:
        system, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise OSError(f"{shown(url)}: {error}") from error
    return system, path


def is_away(url: str, error: Exception) -> bool:
    """Whether an error of reading a file says that its store did not answer, not that its bytes
    are bad: at another time they may be there."""
    names_a_cause = isinstance(error, OSError) and error.errno is not None
    return is_remote(url) and (names_a_cause or isinstance(error, TimeoutError | FileNotFoundError))


@contextmanager
def _as_os_error(url: str) -> Iterator[None]:
    """What a store's client raises becomes an OSError, as for a file that is here; no secrets."""
    try:
        yield
    except _store_errors() as error:
        text = shown(str(error))
        if isinstance(error, OSError) and text == str(error):
            raise
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else OSError
        shown_error = kind(f"{shown(url)}: {text or type(error).__name__}")
        shown_error.errno = getattr(error, "errno", None)
        raise shown_error from error


def _store_errors() -> tuple[type[Exception], ...]:
    """Evaluated where an exception came up, so the client that raised it is loaded by now."""
    clients = (
        getattr(sys.modules[module], name)
        for module, names in _CLIENT_ERRORS.items()
        if module in sys.modules
        for name in names
    )
    return (OSError, *clients)


def _is_web(system: Any) -> bool:
    return bool(set(_WEB) & {system.protocol, *system.protocol})


def _full_name(system: Any, path: str) -> str:
    if _is_web(system) or "file" in system.protocol:
        return path
    return str(system.unstrip_protocol(path))
