"""Files on any file system: local paths, and the URLs that fsspec knows (s3://, https://, ...)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

import fsspec

from workers.settings import resolve_path

_WEB = ("http", "https")


def open_file(url: str) -> BinaryIO:
    """Open a file for reading; the file can seek. ``url`` is a path or an fsspec URL."""
    system, path = _file_system(url)
    file: BinaryIO = system.open(path, "rb")
    return file


def list_files(pattern: str) -> tuple[str, list[str]]:
    """The folder and the files that a path, glob, folder or URL names: absolute, sorted.

    A folder gives all files below it and is itself the first item; otherwise that is "". URLs of
    the web name one file: they have no folders to list. Raises FileNotFoundError if there is none.
    """
    system, path = _file_system(str(resolve_path(pattern)) if not is_remote(pattern) else pattern)
    if not system.exists(path):
        found = [] if _is_web(system) else [p for p in system.glob(path) if system.isfile(p)]
        folder = ""
    elif _is_web(system) or system.isfile(path):
        found, folder = [path], ""
    else:
        found, folder = system.find(path), _full_name(system, path)
    if not found:
        raise FileNotFoundError(f"there is no file {pattern}")
    return folder, sorted(_full_name(system, path) for path in found)


def version_of(url: str) -> str:
    """What changes when a file does and costs no reading: size, time and tag, where known."""
    system, path = _file_system(url)
    info = system.info(path)
    known = ("size", "mtime", "LastModified", "last_modified", "created", "ETag", "etag")
    return ";".join(f"{key}={info[key]}" for key in known if info.get(key) is not None)


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
    system, path = _file_system(url)
    return bool(system.exists(path))


def size_of(url: str) -> int:
    """Bytes of a file as it is stored; 0 where a server does not tell."""
    system, path = _file_system(url)
    return int(system.size(path) or 0)


def _file_system(url: str) -> tuple[Any, str]:
    """Raises OSError, with what to install, where fsspec lacks the file system."""
    try:
        system, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise OSError(f"{url}: {error}") from error
    return system, path


def _is_web(system: Any) -> bool:
    return bool(set(_WEB) & {system.protocol, *system.protocol})


def _full_name(system: Any, path: str) -> str:
    if _is_web(system) or "file" in system.protocol:
        return path
    return str(system.unstrip_protocol(path))
