"""A large file from the web into a cache: whole and genuine, or not there at all.

What arrives stands under a temporary name until its checksum is right; then it is renamed. A
connection that ends early is taken up where it ended, in this call and in later ones.
"""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

ATTEMPTS = 5  # in a row that bring nothing new
CHUNK = 1 << 20  # bytes
TIMEOUT = 60.0  # seconds without a byte


class DownloadError(RuntimeError):
    """A file could not be fetched, or is not the one that was asked for."""


def download(url: str, sha256: str, target: Path) -> Path:
    """Fetch a file unless it is there already; a progress bar goes to standard error.

    Several processes may ask for the same file: one fetches, the others wait for it.

    Args:
        url: where it is published.
        sha256: of the whole file, in hexadecimal.
        target: where it goes; its folder is made.

    Returns:
        `target`.

    Raises:
        DownloadError: the server cannot be reached, or the file is not the one of this checksum.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with _lock(target.with_name(target.name + ".lock")):
        if target.exists():
            _check_cached(target, sha256)
            return target
        partial = target.with_name(target.name + ".partial")
        _fetch(url, partial)
        _check_fetched(partial, sha256, url)
        partial.replace(target)
    return target


def _check_cached(target: Path, sha256: str) -> None:
    if not target.is_file():
        raise DownloadError(f"{target} exists and is not a regular file")
    if (actual := _sha256(target)) != sha256:
        # It may be somebody's own weights: it is not for us to write over them.
        raise DownloadError(
            f"{target} has the SHA256 checksum {actual}, not {sha256}. Delete it to download the "
            "published file again, or move it and load it by its path"
        )


def _check_fetched(partial: Path, sha256: str, url: str) -> None:
    if (actual := _sha256(partial)) != sha256:
        partial.unlink()
        raise DownloadError(
            f"{url} was downloaded, but its SHA256 checksum is {actual}, not {sha256}; it was "
            "deleted. Try again; if it happens again, something on the way changes the file"
        )


def _fetch(url: str, partial: Path) -> None:
    """Append to the file until it is whole."""
    failures = 0
    while failures < ATTEMPTS:
        before = _size(partial)
        try:
            if _fetch_rest(url, partial):
                return
            reason = "the connection ended early"
        except urllib.error.HTTPError as error:
            if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
                raise DownloadError(f"{url}: {error}") from error
            if _size_of_range(error.headers.get("Content-Range", "")) == before:
                return  # nothing is missing
            partial.unlink()
            reason = "the server has a shorter file"
        except (OSError, http.client.HTTPException) as error:
            reason = str(error) or type(error).__name__
        failures = 0 if _size(partial) > before else failures + 1
    raise DownloadError(
        f"{url} could not be downloaded: {reason}. {_size(partial)} bytes are kept in {partial}; "
        "the next call goes on from there"
    )


def _fetch_rest(url: str, partial: Path) -> bool:
    """One request for what is missing; true when the last byte has come."""
    start = _size(partial)
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        if response.status != http.client.PARTIAL_CONTENT:
            start = 0  # the server knows no ranges and sends the whole file
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        with partial.open("ab" if start else "wb") as file:
            for chunk in _chunks(response, partial.name, start, total):
                file.write(chunk)
    return total is None or _size(partial) == total


def _chunks(
    response: http.client.HTTPResponse, label: str, start: int, total: int | None
) -> Iterator[bytes]:
    name = label.removesuffix(".partial")
    with tqdm(desc=name, initial=start, total=total, unit="iB", unit_scale=True) as progress:
        while chunk := response.read(CHUNK):
            progress.update(len(chunk))
            yield chunk


def _size_of_range(content_range: str) -> int | None:
    """The whole file's size in the answer to a range behind its end, "bytes */1234"."""
    size = content_range.rpartition("/")[2]
    return int(size) if size.isdigit() else None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Held by one process at a time; the kernel lets go of it whatever ends the process."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
