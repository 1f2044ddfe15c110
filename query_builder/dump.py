"""Pages out of a MediaWiki XML dump, streamed: memory is that of the largest page.

Reads every schema version that has ``<page>`` elements (export-0.10 and 0.11 are the current
ones). Only the first revision of a page is read; the dumps of articles have one. Each page is a
document of its own to the parser: a bracket of markup can only stand for itself in XML, so
``<page>`` and ``</page>`` are found as bytes, and one that is damaged takes no other with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from lxml import etree

from query_builder.compressed import Chunk, read_xml
from query_builder.sources import Part
from workers.credentials import shown
from workers.tally import Tally

#: More bytes than this without a page are no part of a dump; they need not be held.
MAX_BETWEEN = 1 << 20

_OPENING, _CLOSING = b"<page>", b"</page>"
_ROOT, _ROOT_END = b"<mediawiki", b"</mediawiki>"


@dataclass(frozen=True, slots=True)
class Page:
    """An article: its title and its wikitext."""

    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Damage:
    """Something that could not be read, and where in the file as it is stored."""

    offset: int
    reason: str


def read_pages(part: Part, tally: Tally) -> Iterator[Page]:
    """Yield the articles of a part of a dump; account for every page in ``tally``.

    Redirects, pages of other namespaces and pages without text are rejected. Every damaged
    place is counted as failed, with the file and the offset; the pages before and after it are
    yielded. Raises OSError if the file cannot be opened.
    """
    # huge_tree: a page of more than 10 MB is no reason to stop.
    parser = etree.XMLParser(huge_tree=True, resolve_entities=False, encoding="utf-8")
    for found in _frames(part):
        if isinstance(found, Damage):
            _fail(part, found, tally)
            continue
        offset, xml = found
        try:
            page = etree.fromstring(xml, parser)
        except etree.XMLSyntaxError as invalid:
            _fail(part, Damage(offset, f"invalid XML: {invalid.msg}"), tally)
            continue
        title = page.findtext("{*}title") or ""
        text = page.findtext("{*}revision/{*}text") or ""
        reason = _rejection(page, text)
        if reason:
            tally.reject(reason, title, {"title": title, "file": shown(part.file)})
            continue
        tally.keep()
        yield Page(title, text)


def _fail(part: Part, damage: Damage, tally: Tally) -> None:
    error = f"{damage.reason} (at byte {damage.offset} of the file)"
    file = shown(part.file)
    row = {"file": file, "offset": damage.offset, "error": error}
    tally.fail("damaged_dump", f"{file}@{damage.offset:015d}", row)


def _rejection(page: Any, text: str) -> str | None:
    """Why a page is not an article, or None if it is one."""
    if page.findtext("{*}ns", "0").strip() != "0":
        return "not_an_article"
    if page.find("{*}redirect") is not None:
        return "redirect"
    if not text.strip():
        return "no_text"
    return None


def _frames(part: Part) -> Iterator[tuple[int, bytes] | Damage]:
    """The pages as XML, with the offset up to which the file was read, and what is damaged."""
    with closing(read_xml(part)) as chunks:
        framer = _Framer(has_head=part.start == 0, has_end=part.end is None)
        for chunk in _read_ahead(chunks):
            yield from framer.add(chunk)
        yield from framer.end()


class _Framer:
    """Cuts a stream of XML at its ``<page>`` elements."""

    def __init__(self, *, has_head: bool, has_end: bool) -> None:
        self._buffer = bytearray()
        self._searched = 0  # so far no tag that is waited for is in the buffer
        self._in_page = False
        self._head = has_head  # before the first page
        self._lost = False  # after damage: anything may come before the next page
        self._has_end = has_end
        self._offset = 0

    def add(self, chunk: Chunk) -> Iterator[tuple[int, bytes] | Damage]:
        self._offset = chunk.offset
        if chunk.damage:
            yield Damage(chunk.offset, chunk.damage)
            self._buffer.clear()
            self._searched, self._in_page, self._head, self._lost = 0, False, False, True
            return
        self._buffer += chunk.xml
        start = 0  # what is before has been dealt with
        while True:
            tag = _CLOSING if self._in_page else _OPENING
            at = self._buffer.find(tag, max(start, self._searched))
            if at < 0:
                break
            if self._in_page:
                yield from self._page(start, at + len(_CLOSING))
                start = at + len(_CLOSING)
            else:
                yield from self._between(bytes(self._buffer[start:at]))
                start = at
            self._in_page = not self._in_page
            self._searched = start
        del self._buffer[:start]
        if not self._in_page and len(self._buffer) > MAX_BETWEEN:
            yield from self._between(bytes(self._buffer))
            del self._buffer[: -len(_OPENING)]
            self._lost = True
        self._searched = max(0, len(self._buffer) - len(_CLOSING))

    def _page(self, start: int, end: int) -> Iterator[tuple[int, bytes] | Damage]:
        """A page; those that another one starts in have lost their end."""
        while (following := self._buffer.find(_OPENING, start + 1, end)) >= 0:
            yield Damage(self._offset, "a page has no end")
            start = following
        yield self._offset, bytes(self._buffer[start:end])

    def _between(self, text: bytes) -> Iterator[Damage]:
        """What stands before a page."""
        if self._head and _ROOT not in text:
            yield Damage(self._offset, "this is no MediaWiki XML dump")
        elif not self._head and not self._lost and text.strip():
            yield Damage(self._offset, f"between pages: {text.strip()[:80]!r}")
        self._head = self._lost = False

    def end(self) -> Iterator[Damage]:
        """What is wrong with the end of the part."""
        text = bytes(self._buffer)
        if self._in_page:
            yield Damage(self._offset, "truncated: the last page has no end")
        elif self._lost:
            return
        elif self._head and _ROOT not in text:
            yield Damage(self._offset, "this is no MediaWiki XML dump")
        elif self._has_end and _ROOT_END not in text:
            yield Damage(self._offset, "truncated: the document has no end")
        elif not self._head and text.replace(_ROOT_END, b"", 1).strip():
            yield Damage(self._offset, f"behind the pages: {text.strip()[:80]!r}")


def _read_ahead(chunks: Iterator[Chunk]) -> Iterator[Chunk]:
    """The same chunks, each one prepared in a thread while the one before is worked on.

    Decompression releases the interpreter's lock, so it costs no time on a second core.
    """
    with ThreadPoolExecutor(max_workers=1) as pool:
        ahead = pool.submit(next, chunks, None)
        while (chunk := ahead.result()) is not None:
            ahead = pool.submit(next, chunks, None)
            yield chunk
