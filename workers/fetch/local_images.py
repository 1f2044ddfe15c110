"""Images that are files of this machine: in folders that the configuration names, and no others.

``images.local_roots`` gives each such folder a name. An image in it has the URL ``file://NAME/PATH``,
with the path below the folder: so a pair has the same pair_id wherever the folder lies. Only lists
and pages that lie in such a folder themselves may refer to one; nothing from the web can.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote_to_bytes, urljoin, urlsplit

import pyarrow as pa
import pyarrow.compute as pc

from workers.base.failures import FetchError
from workers.base.settings import resolve_path
from workers.base.urls import MAX_URL_CHARS, Base, UrlError, absolute_url

_SCHEME = re.compile(r"\s*([A-Za-z][A-Za-z0-9+.\-]*):")


@dataclass(frozen=True)
class Folder:
    """A folder of lists or pages inside a root: what their relative references count from."""

    root: str  # the name
    path: str  # of the root, absolute, without links
    inside: str  # the folder's path below the root, "" for the root itself

    @classmethod
    def of(cls, folder: str, roots: Mapping[str, str]) -> Folder | None:
        """The place of a folder in the innermost root that it lies in, None in none."""
        real = os.path.realpath(folder)
        for name, root in sorted(roots.items(), key=lambda item: (-len(item[1]), item[0])):
            path = os.path.realpath(resolve_path(root))
            if os.path.commonpath([path, real]) == path:
                inside = os.path.relpath(real, path)
                return cls(name, path, "" if inside == "." else inside)
        return None

    def url_of_path(self, path: str) -> str:
        """The URL of a file: a path from this folder, or an absolute one.

        Raises UrlError (local_file) for one outside of the root, bad_url for what is no path.
        """
        full = os.path.normpath(Path(self.path) / self.inside / path)
        if not full.startswith(f"{self.path.rstrip('/')}/"):
            raise UrlError("local_file")
        try:
            url = f"file://{self.root}/{quote(os.fsencode(os.path.relpath(full, self.path)))}"
        except UnicodeEncodeError as error:
            raise UrlError("bad_url") from error
        if "\0" in path:
            raise UrlError("bad_url")
        if len(url) > MAX_URL_CHARS:
            raise UrlError("url_too_long")
        return url

    def url_of(self, reference: str, page: str = "") -> str:
        """The URL that a reference means on a page of the folder, or in a URL of a list.

        A path that begins with a slash counts from the root. Raises UrlError as ``url_of_path``.
        """
        text = reference.strip()
        try:
            if not _SCHEME.match(text):
                here = quote(os.fsencode(f"{self.inside}/{page}".lstrip("/")))
                text = urljoin(f"file://{self.root}/{here}", text)
            parts = urlsplit(text)
            path = os.fsdecode(unquote_to_bytes(parts.path))
        except ValueError as error:  # of brackets in it, or text that cannot be encoded
            raise UrlError("bad_url") from error
        if parts.netloc == self.root:
            return self.url_of_path(f"{self.path}/{path.lstrip('/')}")
        if parts.netloc in ("", "localhost"):
            return self.url_of_path(path)
        raise UrlError("local_file")


class LocalBase(Base):
    """What the references of a page in such a folder are relative to."""

    def __init__(self, folder: Folder, page: str) -> None:
        super().__init__("")
        self._place, self._page = folder, page

    def absolute_url(self, reference: str) -> str:
        scheme = _SCHEME.match(reference)
        if scheme and scheme[1].lower() != "file":
            return absolute_url(reference)
        return self._place.url_of(reference, self._page)


def refusal(reference: str, reason: str) -> str:
    """Why a reference is refused: one to a file of this machine has a reason of its own."""
    scheme = _SCHEME.match(reference)
    return "local_file" if scheme and scheme[1].lower() == "file" else reason


def local_urls(urls: Any, normal: Any, reasons: Any, folder: Folder | None) -> tuple[Any, Any]:
    """The URLs of a list and why they are refused, with those of local images looked at again.

    ``urls`` as they are written, ``normal`` and ``reasons`` (null for those that are good) of them.
    """
    odd = pc.fill_null(pc.equal(reasons, "not_http"), False)
    if not pc.any(odd).as_py():
        return normal, reasons
    found = [_local(url, folder) for url in urls.filter(odd).to_pylist()]
    replaced = (pa.array(values, pa.string()) for values in zip(*found, strict=True))
    return tuple(
        pc.replace_with_mask(old, odd, new)
        for old, new in zip((normal, reasons), replaced, strict=True)
    )


def _local(text: str, folder: Folder | None) -> tuple[str, str | None]:
    is_url = _SCHEME.match(text) is not None
    if folder is None or refusal(text, "") != ("local_file" if is_url else ""):
        return "", refusal(text, "not_http")
    try:
        return folder.url_of(text) if is_url else folder.url_of_path(text), None
    except UrlError as error:
        return "", error.reason


class LocalImages:
    """Reads ``file://NAME/PATH``, below the root of that name and nowhere else."""

    def __init__(self, roots: Mapping[str, str], max_bytes: int) -> None:
        self._roots = {name: os.path.realpath(resolve_path(root)) for name, root in roots.items()}
        self._max_bytes = max_bytes

    def read(self, url: str) -> bytes:
        """The file's content. Raises FetchError."""
        try:
            parts = urlsplit(url)
        except ValueError as error:  # of brackets in it
            raise FetchError("local_file") from error
        if parts.netloc not in self._roots:
            raise FetchError("local_file")
        path = os.fsdecode(unquote_to_bytes(parts.path)).lstrip("/")
        return _read(self._roots[parts.netloc], path, self._max_bytes)


def _read(root: str, path: str, max_bytes: int) -> bytes:
    """The content of a file below a root, wherever links lead. Raises FetchError."""
    try:
        real = Path(f"{root}/{path}").resolve(strict=True)
        if not real.is_relative_to(root):
            raise FetchError("local_file")
        if not real.is_file():  # a folder, a pipe or a device, which may be read without end
            raise FetchError("not_a_file")
        # Should it have become a pipe or a link since, nothing is waited for nor followed.
        descriptor = os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise FetchError("not_a_file")
            content = file.read(max_bytes + 1)
    except FetchError:
        raise
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: links in a circle
        raise FetchError("no_such_file") from error
    if len(content) > max_bytes:
        raise FetchError("too_large")
    return content
