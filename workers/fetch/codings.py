"""Codings that nobody asked for: an image that comes in gzip, brotli or zstd all the same."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Callable, Iterable
from typing import Any

from fastwarc.stream_io import BrotliReader, ZstdReader

from workers.base.failures import FetchError

#: A coding's first bytes; what only says that it is coded is as it came. Brotli has none.
_MAGIC = {"gzip": b"\x1f\x8b", "zstd": b"\x28\xb5\x2f\xfd", "br": b""}
_READERS: dict[str, Callable[[io.BytesIO], Any]] = {
    "gzip": lambda file: gzip.GzipFile(fileobj=file),
    "br": BrotliReader,
    "zstd": ZstdReader,
}
#: More of them, one in the other, are nobody's image.
_MOST = 3
_DAMAGE = (EOFError, OSError, zlib.error)


def without_codings(body: bytes, declared: Iterable[str], limit: int) -> bytes:
    """A body without its codings, no larger than ``limit`` bytes at any time.

    Args:
        declared: the values of its Content-Encoding headers, that of the last coding last.

    Raises:
        FetchError: content_encoding, of a coding that is not known, too many, or data that are
            damaged; too_large.
    """
    words = (word.strip().lower() for word in ",".join(declared).split(","))
    codings = [word for word in words if word not in ("", "identity")]
    if len(codings) > _MOST:
        raise FetchError("content_encoding")
    for coding in reversed(codings):
        body = _without("gzip" if coding == "x-gzip" else coding, body, limit)
    return body


def _without(coding: str, body: bytes, limit: int) -> bytes:
    if coding not in _READERS:
        raise FetchError("content_encoding")
    if not body.startswith(_MAGIC[coding]):
        return body
    try:
        plain: bytes = _READERS[coding](io.BytesIO(body)).read(limit + 1)
    except _DAMAGE as error:
        raise FetchError("content_encoding") from error
    if len(plain) > limit:
        raise FetchError("too_large")
    return plain
