"""Pages out of a MediaWiki XML dump, streamed: memory is that of the largest page.

Reads bz2 (also multistream), gzip (also several members) and plain XML of any schema version
that has ``<page>`` elements (export-0.10 and 0.11 are the current ones), in any encoding that
the file declares. Only the first revision of a page is read; the dumps of articles have one.
"""

from __future__ import annotations

import bz2
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from lxml import etree

from query_builder import progress
from workers.tally import Tally

#: Bytes read from the file at a time. What a damaged file still holds is lost from the start
#: of the piece in which the damage is, so pieces are about as large as one bz2 block.
CHUNK_BYTES = 1 << 16

BZ2_MAGIC = b"BZh"
GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True, slots=True)
class Page:
    """An article: its title and its wikitext."""

    title: str
    text: str


class DamagedDumpError(Exception):
    """The dump cannot be read beyond ``offset``, in bytes of XML after decompression."""

    def __init__(self, offset: int, reason: str) -> None:
        super().__init__(f"{reason} (after {offset} bytes of XML)")
        self.offset = offset


def read_pages(path: Path, tally: Tally) -> Iterator[Page]:
    """Yield the articles of a dump; account for every page in ``tally``.

    Redirects, pages of other namespaces and pages without text are rejected. If the file is
    truncated or damaged, the pages before the damage are yielded and the one that it cuts off
    is counted as failed, with the file and the offset. Raises OSError if it cannot be opened.
    """
    try:
        for element in _page_elements(path):
            title = element.findtext("{*}title") or ""
            text = element.findtext("{*}revision/{*}text") or ""
            reason = _rejection(element, text)
            if reason:
                tally.reject(reason, title, {"title": title, "file": str(path)})
                continue
            tally.keep()
            yield Page(title, text)
    except DamagedDumpError as error:
        row = {"file": str(path), "offset": error.offset, "error": str(error)}
        tally.fail("damaged_dump", f"{path}@{error.offset}", row)


def _rejection(page: Any, text: str) -> str | None:
    """Why a page is not an article, or None if it is one."""
    if page.findtext("{*}ns", "0").strip() != "0":
        return "not_an_article"
    if page.find("{*}redirect") is not None:
        return "redirect"
    if not text.strip():
        return "no_text"
    return None


def _page_elements(path: Path) -> Iterator[Any]:
    """Yield the ``<page>`` elements, each valid until the next one is asked for."""
    # huge_tree: a page of more than 10 MB is no reason to stop.
    parser = etree.XMLPullParser(
        events=("end",), tag="{*}page", huge_tree=True, resolve_entities=False
    )
    offset = 0
    for chunk in _read_ahead(decompressed(path)):
        error = _feed(parser, chunk)
        yield from _drain(parser)
        if error:
            raise DamagedDumpError(offset, error)
        offset += len(chunk)
    try:
        parser.close()
    except etree.XMLSyntaxError as invalid:
        raise DamagedDumpError(offset, f"invalid XML: {invalid}") from invalid


def _feed(parser: Any, chunk: bytes) -> str | None:
    """Parse a piece of XML. What is wrong with it is returned: the pages before come first."""
    try:
        parser.feed(chunk)
    except etree.XMLSyntaxError as invalid:
        return f"invalid XML: {invalid}"
    return None


def _drain(parser: Any) -> Iterator[Any]:
    for _, element in parser.read_events():
        yield element
        element.clear()
        while element.getprevious() is not None:  # the root would keep a stub of every page
            del element.getparent()[0]


def _read_ahead(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The same chunks, each one prepared in a thread while the one before is worked on.

    Decompression releases the interpreter's lock, so it costs no time on a second core.
    """
    with ThreadPoolExecutor(max_workers=1) as pool:
        ahead = pool.submit(next, chunks, None)
        while (chunk := ahead.result()) is not None:
            ahead = pool.submit(next, chunks, None)
            yield chunk


def decompressed(path: Path) -> Iterator[bytes]:
    """The content of a file, piece by piece. The format is told by the first bytes."""
    with path.open("rb") as file:
        magic = file.read(3)
        file.seek(0)
        if magic.startswith(BZ2_MAGIC):
            yield from _decompress(file, bz2.BZ2Decompressor)
        elif magic.startswith(GZIP_MAGIC):
            yield from _decompress(file, lambda: zlib.decompressobj(wbits=31))
        else:
            yield from _compressed_chunks(file)


def _compressed_chunks(file: BinaryIO) -> Iterator[bytes]:
    while chunk := file.read(CHUNK_BYTES):
        progress.advance(len(chunk))
        yield chunk


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /) -> bytes: ...


def _decompress(file: BinaryIO, new: Callable[[], _Decompressor]) -> Iterator[bytes]:
    """Decompress one stream after the other until the file ends."""
    # Not bz2.open: its buffered reads throw away good data that precedes the damage.
    offset, decompressor = 0, new()
    for chunk in _compressed_chunks(file):
        data = chunk
        while data:
            if decompressor.eof:
                decompressor = new()
            try:
                xml = decompressor.decompress(data)
            except (OSError, zlib.error) as error:
                raise DamagedDumpError(offset, f"damaged compression: {error}") from error
            offset += len(xml)
            yield xml
            data = decompressor.unused_data if decompressor.eof else b""
    if not decompressor.eof:
        raise DamagedDumpError(offset, "truncated: the compressed stream has no end")
