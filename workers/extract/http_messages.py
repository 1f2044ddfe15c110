"""HTTP responses as WARC files hold them: the headers, and the body without its codings.

Many a tool that writes WARC files stores the decoded body and leaves the headers as they came. So a
coding that is declared is tried: a body that does not have it is taken as it is, unless it is no
text, and a body that is cut off is used as far as it goes.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable
from io import BytesIO
from typing import Any

from fastwarc.stream_io import BrotliReader, GzipReader, ZstdReader
from fastwarc.warc import WarcRecord

from workers.base.compressed import GZIP, ZSTD

#: A longer body is cut here: a small one may unpack to a huge one.
MAX_BODY_BYTES = (64 << 20) + 1

#: More than any server applies; each of them costs time.
_MAX_CODINGS = 5

_MAGIC = {"gzip": GZIP.magic, "zstd": ZSTD.magic}
_SAME = {"x-gzip": "gzip", "x-zstd": "zstd"}

_HEAD_END = re.compile(rb"\n\r?\n")

#: The line before a chunk, and the end of the one before that.
_CHUNK = re.compile(rb"(?:\r?\n)?([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\r\n]*+)?\r?\n")
_CUT_CHUNK = re.compile(rb"(?:\r?\n?)(?:[0-9A-Fa-f]{1,8}[^\r\n]*+)?\r?")

#: What no text begins with, by the WHATWG's "MIME Sniffing", and the marks that say it is one.
_BINARY = re.compile(rb"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f]")
_SNIFFED_BYTES = 1445
_TEXT_MARKS = (b"\xfe\xff", b"\xff\xfe", b"\xef\xbb\xbf")

#: What is raised over compressed data that is damaged.
_DAMAGE = (OSError, zlib.error)


class HttpError(ValueError):
    """A block that holds no HTTP response."""


class CodingError(ValueError):
    """A body whose codings cannot be undone."""


def parse_response(block: bytes) -> tuple[Any, bytes]:
    """The headers (fastwarc's, whose ``get`` knows no case) and the body as it is stored.

    Raises HttpError.
    """
    end = _HEAD_END.search(block)
    body_start = end.end() if end else len(block)
    record = WarcRecord()
    record.set_bytes_content(block[:body_start])  # the body would be copied twice
    record.is_http = True
    try:
        record.parse_http(auto_decode="none", quirks_mode=True)
        headers = record.http_headers
    except OSError as error:
        raise HttpError(str(error)) from error
    if headers.status_code is None:
        raise HttpError("no status")
    return headers, block[body_start:]


def decoded(headers: Any, body: bytes) -> bytes:
    """A body without the codings that its headers declare. Raises CodingError."""
    names = ("Content-Encoding", "Transfer-Encoding")
    return undo_codings(body, [line for name in names for line in headers.get_multiple(name)])


def undo_codings(body: bytes, declared: Iterable[str]) -> bytes:
    """A body without its codings: ``declared`` are the headers' lines, that of the last one last.

    Raises CodingError.
    """
    words = (word.strip() for word in ",".join(declared).lower().split(","))
    codings = [word for word in words if word not in ("", "identity")]
    if len(codings) > _MAX_CODINGS:
        raise CodingError(f"{len(codings)} codings")
    absent: list[str] = []
    for coding in reversed(codings):
        plain = _without(coding, body)
        if plain is None:
            absent.append(coding)
        else:
            body = plain
    if body.startswith(_MAGIC["gzip"]):  # the header was left out, or names it once too few
        body = _without("gzip", body) or b""
    if absent and not _is_text(body):
        raise CodingError(f"{', '.join(absent)}: the body is something else, and no text")
    return body


def _without(coding: str, body: bytes) -> bytes | None:
    """A body without a coding, None if it does not have it. Raises CodingError."""
    try:
        return _undo(_SAME.get(coding, coding), body)
    except _DAMAGE as error:
        raise CodingError(f"{coding}: {error}") from error


def _is_text(body: bytes) -> bool:
    return body.startswith(_TEXT_MARKS) or not _BINARY.search(body, 0, _SNIFFED_BYTES)


def _undo(coding: str, body: bytes) -> bytes | None:
    """``_without``; raises what _DAMAGE names."""
    if not body.startswith(_MAGIC.get(coding, b"")):
        return None
    if coding == "chunked":
        return _dechunked(body)
    if coding == "gzip":
        return _gunzipped(body)
    if coding == "deflate":
        return _inflated(body)
    reader = {"br": BrotliReader, "zstd": ZstdReader}.get(coding)
    return _unpacked(reader, body) if reader else None


def _dechunked(body: bytes) -> bytes | None:
    chunks: list[bytes] = []
    at = 0
    while at < len(body):
        line = _CHUNK.match(body, at)
        if line is None:
            return b"".join(chunks) if chunks and _CUT_CHUNK.fullmatch(body, at) else None
        size = int(line[1], 16)
        if not size:
            break
        at = line.end() + size
        chunks.append(body[line.end() : at])
    return b"".join(chunks)


def _gunzipped(body: bytes) -> bytes:
    try:
        return GzipReader(BytesIO(body)).read(MAX_BODY_BYTES)  # cut off: what is there
    except OSError:
        member = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        plain = member.decompress(body, MAX_BODY_BYTES)
        if not member.eof:
            raise
        return plain  # something else stands behind the member


def _inflated(body: bytes) -> bytes | None:
    """As RFC 9110 has it, in zlib's wrapping, or as many a server has it, without."""
    for wbits in (zlib.MAX_WBITS, -zlib.MAX_WBITS):
        stream = zlib.decompressobj(wbits=wbits)
        try:
            plain = stream.decompress(body, MAX_BODY_BYTES)
        except zlib.error:
            continue
        if stream.eof or not _is_text(body):
            return plain
    return None


def _unpacked(reader: Any, body: bytes) -> bytes | None:
    """What can be unpacked: all, or what is before the place where the data ends too soon."""
    try:
        return reader(BytesIO(body)).read(MAX_BODY_BYTES)
    except OSError:
        plain = _before_the_end(reader(BytesIO(body)))
    return plain if plain and not _is_text(body) else None


def _before_the_end(stream: Any) -> bytes:
    parts: list[bytes] = []
    size = 0
    try:
        while size < MAX_BODY_BYTES and (part := stream.read(1 << 12)):
            parts.append(part)
            size += len(part)
    except OSError:
        pass
    return b"".join(parts)
