"""Reading dumps: formats, what is not an article, and damage."""

import bz2
import gzip
from pathlib import Path

import pytest

from query_builder.dump import Page, read_pages
from workers.tally import Tally


def read(path: Path) -> tuple[list[Page], Tally]:
    tally = Tally()
    pages = list(read_pages(path, tally))
    tally.check()
    assert tally.kept == len(pages)
    return pages, tally


def test_real_dump_gives_its_articles(enwiki):
    pages, tally = read(enwiki)
    assert len(pages) == 106
    assert tally.rejected == {"redirect": 99, "not_an_article": 1}
    assert not tally.failed
    assert pages[0].title == "Anarchism"
    assert pages[0].text.startswith("{{Redirect2|Anarchist|")


def test_utf16_dump(bgwiki):
    pages, tally = read(bgwiki)
    assert tally.rejected == {"not_an_article": 2}
    assert [page.title for page in pages] == ["Григориански календар"]
    assert pages[0].text.endswith("[[Категория:Календари]]")


@pytest.mark.parametrize("version", ["0.10", "0.11"])
def test_plain_dump_of_each_schema(write_dump, version):
    pages, _ = read(write_dump([("A", "one"), ("B", "two")], version=version))
    assert [(page.title, page.text) for page in pages] == [("A", "one"), ("B", "two")]


def test_multistream_bz2_and_gzip_members(write_dump, tmp_path):
    xml = write_dump([("A", "one"), ("B", "two")]).read_bytes()
    middle = xml.index(b"<page><title>B")
    for compress in (bz2.compress, gzip.compress):
        path = tmp_path / "dump"
        path.write_bytes(compress(xml[:middle]) + compress(xml[middle:]))
        assert [page.title for page in read(path)[0]] == ["A", "B"]


def test_pages_that_are_no_articles_are_counted(tmp_path):
    path = tmp_path / "dump.xml"
    path.write_text(
        "<mediawiki>"
        "<page><title>Talk:A</title><ns>1</ns><revision><text>x</text></revision></page>"
        '<page><title>B</title><ns>0</ns><redirect title="A"/>'
        "<revision><text>#REDIRECT [[A]]</text></revision></page>"
        "<page><title>C</title><ns>0</ns><revision><text/></revision></page>"
        "<page><title>D</title><revision><text>no ns is an article</text></revision></page>"
        "</mediawiki>"
    )
    pages, tally = read(path)
    assert [page.title for page in pages] == ["D"]
    assert tally.rejected == {"not_an_article": 1, "redirect": 1, "no_text": 1}
    assert list(tally.samples["redirect"]) == ["B"]


@pytest.mark.parametrize("compress", [bytes, bz2.compress, gzip.compress])
def test_truncated_dump_keeps_what_can_be_read(enwiki, tmp_path, compress):
    stored = compress(bz2.decompress(enwiki.read_bytes()))
    path = tmp_path / "cut"
    path.write_bytes(stored[: len(stored) // 2])
    whole, _ = read(enwiki)
    pages, tally = read(path)
    assert pages == whole[: len(pages)]
    assert len(pages) > 20
    assert tally.failed == {"damaged_dump": 1}
    (sample,) = tally.samples["damaged_dump"].values()
    assert sample["file"] == str(path)
    # Half of the file is about half of the XML, to a bz2 block of 0.9 MB.
    assert 2_000_000 < sample["offset"] < 4_000_000


def test_invalid_xml_keeps_the_pages_before(write_dump):
    path = write_dump([("A", "one"), ("B", "two")])
    path.write_text(path.read_text().replace("<title>B</title>", "<title>B</titel>"))
    pages, tally = read(path)
    assert [page.title for page in pages] == ["A"]
    assert tally.failed == {"damaged_dump": 1}


def test_corrupt_bz2_block_is_reported(enwiki, tmp_path):
    stored = bytearray(enwiki.read_bytes())
    stored[len(stored) // 2] ^= 0xFF
    path = tmp_path / "flipped.bz2"
    path.write_bytes(stored)
    pages, tally = read(path)
    assert len(pages) > 20
    assert tally.failed == {"damaged_dump": 1}


def test_a_file_that_is_no_dump_is_reported(tmp_path):
    path = tmp_path / "noise.bz2"
    path.write_bytes(b"this is not XML")
    pages, tally = read(path)
    assert not pages
    assert tally.failed == {"damaged_dump": 1}


def test_page_larger_than_libxml2s_default_limit(write_dump):
    (page,), _ = read(write_dump([("Large", "word " * 2_500_000)]))
    assert len(page.text) == 12_500_000
