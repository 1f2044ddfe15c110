"""Dumps to read: gensim's real ones, and small ones made by the tests."""

import bz2
from collections.abc import Callable, Iterable
from pathlib import Path
from xml.sax.saxutils import escape

import pytest

from workers.base.settings import resolve_path

GENSIM = "package:gensim/test/test_data"
ENWIKI = f"{GENSIM}/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
BGWIKI = f"{GENSIM}/bgwiki-latest-pages-articles-shortened.xml.bz2"


@pytest.fixture(scope="session")
def enwiki() -> Path:
    return resolve_path(ENWIKI)


@pytest.fixture(scope="session")
def bgwiki() -> Path:
    return resolve_path(BGWIKI)


@pytest.fixture(scope="session")
def tables() -> Path:
    return resolve_path(f"{GENSIM}/enwiki-table-markup.xml.bz2")


def dump_xml(pages: Iterable[tuple[str, str]], version: str = "0.11") -> str:
    """A dump of articles (title, wikitext)."""
    bodies = (
        f"<page><title>{escape(title)}</title><ns>0</ns>"
        f"<revision><text>{escape(text)}</text></revision></page>\n"
        for title, text in pages
    )
    schema = f"http://www.mediawiki.org/xml/export-{version}/"
    return f'<mediawiki xmlns="{schema}">\n{"".join(bodies)}</mediawiki>\n'


@pytest.fixture
def write_dump(tmp_path: Path) -> Callable[..., Path]:
    """Write articles (title, wikitext) as a plain dump."""

    def write(pages: Iterable[tuple[str, str]], name: str = "dump.xml", **options: str) -> Path:
        path = tmp_path / name
        path.write_text(dump_xml(pages, **options), encoding="utf-8")
        return path

    return write


def multistream(folder: Path, indexed: bool = True, wiki: str = "xx") -> Path:
    """A dump as Wikimedia cuts them, two pages a stream, with its index."""
    dump = folder / f"{wiki}-pages-articles-multistream.xml.bz2"
    xml = dump_xml((f"Page {i}", f"text {i} of {wiki}") for i in range(40))
    head, *pages = xml.replace("</mediawiki>\n", "").split("<page>")
    bodies = [f"<page>{page}" for page in pages]
    stored, index = bz2.compress(head.encode()), ""
    for i in range(0, 40, 2):
        index += f"{len(stored)}:{i}:Page {i}\n{len(stored)}:{i + 1}:Page: {i + 1}\n"
        stored += bz2.compress("".join(bodies[i : i + 2]).encode())
    dump.write_bytes(stored + bz2.compress(b"</mediawiki>\n"))
    if indexed:
        name = f"{wiki}-pages-articles-multistream-index.txt.bz2"
        (folder / name).write_bytes(bz2.compress(index.encode()))
    return dump
