"""Pages out of a MediaWiki XML dump, streamed: memory is that of the largest page.

Reads every schema version that has ``<page>`` elements (export-0.10 and 0.11 are the current
ones). Of a page with several revisions the newest counts; the dumps of articles have one. Each
page is a document of its own to the parser: a bracket of markup can only stand for itself in XML,
so ``<page>`` and ``</page>`` are found as bytes, and one that is damaged takes no other with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from lxml import etree

from query_builder.dump_xml import first_xml, read_xml
from query_builder.sources import Part, parts
from query_builder.wikis import Wiki, read_wiki
from workers.base.compressed import Chunk
from workers.base.credentials import shown
from workers.base.tally import Tally

#: More bytes than this without a page are no part of a dump; they need not be held.
MAX_BETWEEN = 1 << 20

#: More of a page than this, without its older revisions, is no page: MediaWiki allows 2 MB of
#: text.
MAX_PAGE = 1 << 26

#: XML at the start of a dump in which its head is, and some pages: a stub is known by them.
HEAD_BYTES = 1 << 16

_OPENING, _CLOSING = b"<page>", b"</page>"
_REVISION, _REVISION_END = b"<revision>", b"</revision>"
_TIMESTAMP = re.compile(rb"<timestamp>([^<]*)</timestamp>")
_TEXT = re.compile(rb"<text\b([^>]*)>(.)", re.DOTALL)
_LEFT_OUT = re.compile(rb"""\bbytes\s*=\s*["'][1-9]""")
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


def dump_parts(dump: str) -> list[Part]:
    """The parts of a dump, with what its head says of the wiki. Raises OSError if there is none."""
    wiki = read_wiki(first_xml(dump, HEAD_BYTES))
    return [replace(part, wiki=wiki) for part in parts(dump)]


def is_stub(dump: str) -> bool:
    """Whether a dump leaves its pages' texts out, by the first of them. Raises OSError."""
    texts = _TEXT.findall(first_xml(dump, HEAD_BYTES))
    has_text = any(first != b"<" and not tag.endswith(b"/") for tag, first in texts)
    return not has_text and any(_LEFT_OUT.search(tag) for tag, _ in texts)


def read_pages(part: Part, tally: Tally) -> Iterator[Page]:
    """Yield the articles of a part of a dump; count every page in ``tally``.

    Redirects, pages of other namespaces and pages without text are rejected; an article whose
    text the dump leaves out has failed. Every damaged place is counted as failed, with the file
    and the offset; the pages before and after it are yielded. Raises OSError if the file cannot
    be opened.
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
            if page.find("{*}revision[2]") is not None:
                page = etree.fromstring(_with_newest(xml), parser)
        except etree.XMLSyntaxError as invalid:
            _fail(part, Damage(offset, f"invalid XML: {invalid.msg}"), tally)
            continue
        title = page.findtext("{*}title") or ""
        text = page.findtext("{*}revision/{*}text") or ""
        row = {"title": title, "file": shown(part.file)}
        if reason := _rejection(page, title, text, part.wiki):
            tally.reject(reason, title, row)
        elif text.strip():
            tally.keep()
            yield Page(title, text)
        else:
            tally.fail("text_left_out", title, row)


def _fail(part: Part, damage: Damage, tally: Tally) -> None:
    error = f"{damage.reason} (at byte {damage.offset} of the file)"
    file = shown(part.file)
    row = {"file": file, "offset": damage.offset, "error": error}
    tally.fail("damaged_dump", f"{file}@{damage.offset:015d}", row)


def _rejection(page: Any, title: str, text: str, wiki: Wiki) -> str | None:
    """Why a page is not an article, or None if it is one."""
    namespace = page.findtext("{*}ns")
    # Dumps before export 0.6 only tell it by the title.
    if namespace.strip() != "0" if namespace is not None else wiki.is_elsewhere(title):
        return "not_an_article"
    if page.find("{*}redirect") is not None:
        return "redirect"
    if text.strip() or _is_left_out(page.find("{*}revision/{*}text")):
        return None
    return "no_text"


def _is_left_out(element: Any) -> bool:
    """Whether a page has a text that the dump does not have, as in a stub dump."""
    if element is None or element.text:
        return False
    return element.get("bytes", "0") != "0" or element.get("deleted") is not None


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
        self._buffer += chunk.data
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
        if self._in_page and len(self._buffer) > MAX_PAGE:
            yield from self._shorten()
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

    def _shorten(self) -> Iterator[Damage]:
        """Forget the older revisions of a page that is still read, or all of one too large."""
        self._buffer[:] = _with_newest(bytes(self._buffer))
        if len(self._buffer) > MAX_PAGE:
            yield Damage(self._offset, f"a page of more than {MAX_PAGE >> 20} MB")
            self._buffer.clear()
            self._in_page, self._lost = False, True

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


def _with_newest(page: bytes) -> bytes:
    """A page, or as much as was read of one, with the newest of its whole revisions alone.

    Imported revisions may stand behind newer ones; of two of one time the last counts.
    """
    first = end = page.find(_REVISION)
    newest, found = b"", b""
    while (start := page.find(_REVISION, end)) >= 0:
        if (close := page.find(_REVISION_END, start)) < 0:
            break
        end = close + len(_REVISION_END)
        if page.find(_REVISION, end) < 0 and not found:
            return page  # the only one
        time = _TIMESTAMP.search(page, start, end)
        stamp = time[1] if time else b""
        if stamp >= newest:
            newest, found = stamp, page[start:end]
    return page[:first] + found + page[end:] if found else page
