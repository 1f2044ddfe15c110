"""Reading dumps: formats, what is not an article, and damage."""

import bz2
import gzip
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path

import fsspec
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from query_builder import sources
from query_builder.dump import Page, dump_parts, is_stub, read_pages
from query_builder.markup import plain_text
from query_builder.sources import CHUNK_BYTES, Part, find_dumps, parts
from tests.query_builder.conftest import dump_xml, multistream
from workers.base.tally import Tally


def read(path: Path | str, chosen: Sequence[Part] = ()) -> tuple[list[Page], Tally]:
    tally = Tally()
    pages = [page for part in chosen or [Part(str(path))] for page in read_pages(part, tally)]
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
    for compress in (bz2.compress, gzip.compress, zstandard.ZstdCompressor().compress):
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


def titles_of(numbers: Sequence[int]) -> list[str]:
    return [f"Page {i}" for i in numbers]


def many_pages(n: int = 300) -> str:
    """Pages of random letters, some MB: several bz2 blocks."""
    source = random.Random(1)
    return dump_xml((f"Page {i}", f"{i} {source.randbytes(6_000).hex()}") for i in range(n))


@pytest.mark.parametrize(
    "compress", [bytes, bz2.compress, gzip.compress, zstandard.ZstdCompressor().compress]
)
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
    assert len(stored) / 2 - (1 << 17) < sample["offset"] <= len(stored) / 2
    assert "truncated" in sample["error"]


def test_only_the_damaged_page_of_an_invalid_document_is_lost(write_dump):
    path = write_dump([("A", "one"), ("B", "two"), ("C", "three")])
    path.write_text(path.read_text().replace("<title>B</title>", "<title>B</titel>"))
    pages, tally = read(path)
    assert [page.title for page in pages] == ["A", "C"]
    assert tally.failed == {"damaged_dump": 1}


def test_a_page_without_an_end_takes_no_other_with_it(write_dump):
    path = write_dump([("A", "one"), ("B", "two"), ("C", "three")])
    path.write_text(path.read_text().replace("two</text></revision></page>", "tw"))
    pages, tally = read(path)
    assert [page.title for page in pages] == ["A", "C"]
    assert tally.failed == {"damaged_dump": 1}


def test_what_is_between_and_behind_pages_is_reported(write_dump):
    path = write_dump([("A", "one"), ("B", "two")])
    path.write_text(path.read_text().replace("</page>", "</page>junk"))
    pages, tally = read(path)
    assert [page.title for page in pages] == ["A", "B"]
    assert tally.failed == {"damaged_dump": 1 + 1}


@pytest.mark.parametrize("magic_too", [False, True])
def test_only_the_damaged_bz2_block_is_lost(tmp_path, magic_too):
    """A stream of several blocks, damaged in the middle of one, or where one begins too."""
    xml = many_pages().encode()
    stored = bytearray(bz2.compress(xml, 1))  # blocks of 100 kB
    at = len(stored) // 2
    stored[at] ^= 0xFF
    if magic_too:  # all that the middle of the file holds, several beginnings of blocks
        stored[at : at + 200_000] = bytes(200_000)
    path = tmp_path / "damaged.bz2"
    path.write_bytes(stored)
    whole = bz2.decompress(bz2.compress(xml))
    assert whole == xml
    pages, tally = read(path)
    kept = [int(page.title.split()[1]) for page in pages]
    assert kept == sorted(set(kept))
    lost = sorted(set(range(300)) - set(kept))
    assert lost == list(range(lost[0], lost[-1] + 1))
    # A block is a dozen pages of 12 kB; the page on each side of it is cut.
    assert len(lost) <= (50 if magic_too else 12)
    samples = tally.samples["damaged_dump"].values()
    assert len(samples) == tally.failed["damaged_dump"] <= 2
    assert all(abs(row["offset"] - at) < 150_000 for row in samples)


def test_every_damaged_byte_of_a_bz2_file_costs_its_block_alone(tmp_path):
    xml = many_pages(60).encode()
    whole = bz2.compress(xml, 1)
    path = tmp_path / "damaged.bz2"
    for at in random.Random(2).sample(range(len(whole)), 12):
        stored = bytearray(whole)
        stored[at] ^= 0x10
        path.write_bytes(stored)
        pages, tally = read(path)
        kept = [int(page.title.split()[1]) for page in pages]
        assert kept == sorted(set(kept))
        assert len(kept) >= 60 - 22, at  # a flipped magic costs two blocks at the most
        assert tally.failed


@pytest.mark.parametrize(
    "compress", [gzip.compress, zstandard.ZstdCompressor().compress, bz2.compress]
)
def test_streams_behind_a_damaged_one_are_read(tmp_path, compress):
    pages = [dump_xml([(f"Page {i}", random.Random(i).randbytes(9_000).hex())]) for i in range(30)]
    body = [page[page.index("<page>") : page.index("</mediawiki>")] for page in pages]
    streams = [compress(text.encode()) for text in ["<mediawiki>", *body, "</mediawiki>"]]
    streams[11] = streams[11][:4_000] + bytes(100) + streams[11][4_100:]
    path = tmp_path / "damaged"
    path.write_bytes(b"".join(streams))
    found, tally = read(path)
    assert [page.title for page in found] == titles_of([i for i in range(30) if i != 10])
    assert tally.failed == {"damaged_dump": 1}


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.ZstdCompressor().compress])
@pytest.mark.parametrize("cut", [3, 5, 9, 20, 30_000, CHUNK_BYTES - 9, CHUNK_BYTES + 300, 100_000])
def test_a_stream_that_is_cut_off_costs_none_of_those_behind_it(tmp_path, compress, cut):
    """It takes the start of the next one for its own, before and behind the end of a read."""
    pages = [dump_xml([(f"Page {i}", random.Random(i).randbytes(120_000).hex())]) for i in range(6)]
    body = [page[page.index("<page>") : page.index("</mediawiki>")] for page in pages]
    streams = [compress(text.encode()) for text in ["<mediawiki>", *body, "</mediawiki>"]]
    assert len(streams[3]) > cut
    streams[3] = streams[3][:cut]
    path = tmp_path / "damaged"
    path.write_bytes(b"".join(streams))
    found, tally = read(path)
    assert [page.title for page in found] == titles_of([0, 1, 3, 4, 5])
    assert tally.failed.total() >= 1


def test_damage_in_utf16_costs_its_page(tmp_path):
    xml = dump_xml([("A", "one"), ("B", "two"), ("C", "three")])
    stored = f'<?xml version="1.0" encoding="utf-16"?>{xml}'.encode("utf-16")
    at = stored.index("two".encode("utf-16-le"))
    path = tmp_path / "dump.xml"
    path.write_bytes(stored[:at] + b"\x00\xd8" + stored[at + 2 :])  # half of a surrogate pair
    pages, tally = read(path)
    assert [page.title for page in pages] == ["A", "C"]
    assert tally.failed == {"damaged_dump": 1}


@pytest.mark.parametrize(
    ("declared", "stored_as"),
    [
        *((name, "utf-8") for name in ("undefined", "unicode_escape", "punycode", "idna", "rot13")),
        *((name, "utf-8") for name in ("hex", "base64", "zlib", "utf-7", "utf-16", "utf-16be")),
        *((name, "utf-8") for name in ("nonsense", "x-user-defined", "UTF8", "iso-2022-kr")),
        *((name, name) for name in ("windows-1252", "shift_jis", "gb18030", "iso-2022-jp")),
        ("latin1", "windows-1252"),
        *((name, name) for name in ("utf-16", "utf-16-le", "utf-16-be")),
    ],
)
def test_declared_encodings_are_the_webs(tmp_path, declared, stored_as):
    text = "words in ASCII" if "jp" in declared or "jis" in declared else "caf\u00e9"
    xml = dump_xml([("A", text)])
    path = tmp_path / "dump.xml"
    path.write_bytes(f'<?xml version="1.0" encoding="{declared}"?>{xml}'.encode(stored_as))
    pages, tally = read(path)
    assert ([page.text for page in pages], tally.failed.total()) == ([text], 0)


@pytest.mark.parametrize("stored", [b"this is not XML", b"", bytes(3_000_000), b"BZh9 noise"])
def test_a_file_that_is_no_dump_is_reported(tmp_path, stored):
    path = tmp_path / "noise.bz2"
    path.write_bytes(stored)
    pages, tally = read(path)
    assert not pages
    assert tally.failed == {"damaged_dump": 1}


def test_an_indexed_dump_is_read_in_parts(tmp_path, monkeypatch):
    dump = multistream(tmp_path)
    assert parts(str(dump)) == [Part(str(dump))]  # too small to be cut
    monkeypatch.setattr(sources, "PART_BYTES", 300)
    cut = parts(str(dump))
    assert len(cut) > 4
    assert cut[0].start == 0
    assert cut[-1].end is None
    whole, _ = read(dump)
    pages, tally = read(dump, cut)
    assert pages == whole
    assert len(pages) == 40
    assert not tally.failed
    # Every part by itself has its pages.
    assert [len(read(dump, [part])[0]) > 0 for part in cut] == [True] * len(cut)


def test_without_an_index_or_with_another_dumps_it_is_read_as_one(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "PART_BYTES", 300)
    dump = multistream(tmp_path, indexed=False)
    assert parts(str(dump)) == [Part(str(dump))]
    lines = b"".join(b"%d:1:A\n" % offset for offset in range(0, 5000, 301))
    (tmp_path / "xx-pages-articles-multistream-index.txt").write_bytes(lines)
    assert parts(str(dump)) == [Part(str(dump))]


@pytest.mark.parametrize(
    "index",
    [
        b"BZh9 no bz2",
        bz2.compress(b"300:1:A\n" * 1_000)[:-9],
        bz2.compress(b"9" * 5_000 + b":1:A\n\xb2:2:B\n:\n300\n"),
        b"",
    ],
)
def test_a_damaged_index_costs_its_cuts_alone(tmp_path, monkeypatch, index):
    monkeypatch.setattr(sources, "PART_BYTES", 300)
    path = multistream(tmp_path)
    (tmp_path / "xx-pages-articles-multistream-index.txt.bz2").write_bytes(index)
    assert parts(str(path)) == [Part(str(path))]
    assert len(read(path)[0]) == 40


def revision(time: str, text: str) -> str:
    stamp = f"<timestamp>{time}</timestamp>" if time else ""
    return f"<revision><id>1</id>{stamp}<text>{text}</text></revision>"


@pytest.mark.parametrize(
    ("revisions", "newest"),
    [
        ([("2020", "a"), ("2021", "b")], "b"),
        ([("2022", "a"), ("2021", "imported"), ("2020", "too")], "a"),
        ([("2021", "a"), ("2021", "b")], "b"),
        ([("", "a"), ("", "b"), ("", "c")], "c"),
        ([("2021", "a"), ("", "b")], "a"),
        ([("2021", "a"), ("2022", "")], None),
    ],
)
@pytest.mark.parametrize("limit", [None, 250])
def test_of_several_revisions_the_newest_counts(tmp_path, monkeypatch, revisions, newest, limit):
    if limit:
        monkeypatch.setattr("query_builder.dump.MAX_PAGE", limit)
        monkeypatch.setattr(sources, "CHUNK_BYTES", 64)
    body = revision("", "older") * 5 + "".join(revision(*one) for one in revisions)
    path = tmp_path / "dump.xml"
    page = f"<page><title>A</title><ns>0</ns>{body}</page>"
    other = f"<page><title>B</title><ns>0</ns>{revision('2020', 'other')}</page>"
    path.write_text(f"<mediawiki>{page}\n{other}</mediawiki>")
    pages, tally = read(path)
    assert [page.text for page in pages] == [*([newest] if newest else []), "other"]
    assert (tally.rows_in, tally.failed.total()) == (2, 0)


def test_a_page_that_is_none_is_not_held(tmp_path, monkeypatch):
    monkeypatch.setattr("query_builder.dump.MAX_PAGE", 1_000)
    monkeypatch.setattr(sources, "CHUNK_BYTES", 64)
    path = tmp_path / "dump.xml"
    path.write_text(dump_xml([("A", "one"), ("B", "two" * 1_000), ("C", "three")]))
    pages, tally = read(path)
    assert [page.title for page in pages] == ["A", "C"]
    assert tally.failed == {"damaged_dump": 1}
    (sample,) = tally.samples["damaged_dump"].values()
    assert "a page of more than" in sample["error"]


STUB = (
    "<page><title>A</title><ns>0</ns><revision>"
    '<text bytes="93" sha1="x" location="tt:1" id="1" /></revision></page>'
)


@pytest.mark.parametrize(
    ("pages", "stub"),
    [
        (STUB, True),
        (STUB.replace(" /></", "></text></") * 3, True),
        ('<page><revision><text xml:space="preserve" bytes="0" /></revision></page>', False),
        (STUB + "<page><revision><text bytes='9'>full text</text></revision></page>", False),
        ('<page><revision><text deleted="deleted" /></revision></page>', False),
        ("", False),
    ],
)
@pytest.mark.parametrize("compress", [bytes, bz2.compress, gzip.compress])
def test_a_stub_dump_is_known_by_its_first_pages(tmp_path, pages, stub, compress):
    path = tmp_path / "dump"
    path.write_bytes(compress(f"<mediawiki>{pages}</mediawiki>".encode()))
    assert is_stub(str(path)) == stub


def test_texts_that_are_left_out_have_failed(tmp_path):
    path = tmp_path / "dump.xml"
    deleted = STUB.replace("bytes=", 'deleted="deleted" sha=').replace("A<", "B<")
    empty = STUB.replace('"93"', '"0"').replace("A<", "C<")
    talk = STUB.replace("<ns>0<", "<ns>1<")
    path.write_text(f"<mediawiki>{STUB}{deleted}{empty}{talk}</mediawiki>")
    pages, tally = read(path)
    assert not pages
    assert tally.failed == {"text_left_out": 2}
    assert tally.rejected == {"no_text": 1, "not_an_article": 1}
    assert list(tally.samples["text_left_out"]) == ["A", "B"]


def test_index_names_follow_wikimedias(tmp_path):
    for dump, index in [
        (
            "enwiki-20260101-pages-articles-multistream.xml.bz2",
            "enwiki-20260101-pages-articles-multistream-index.txt.bz2",
        ),
        (
            "enwiki-20260101-pages-articles-multistream1.xml-p1p41242.bz2",
            "enwiki-20260101-pages-articles-multistream-index1.txt-p1p41242.bz2",
        ),
    ]:
        (tmp_path / index).touch()
        assert sources.index_of(str(tmp_path / dump)) == str(tmp_path / index)


def test_globs_packages_and_urls_are_found(write_dump, tmp_path):
    first, second = write_dump([], name="1.xml"), write_dump([], name="2.xml")
    assert find_dumps([str(tmp_path / "*.xml"), str(second)]) == [str(first), str(second)]
    assert find_dumps(["package:gensim/test/test_data/bgwiki*"])[0].endswith(".bz2")
    for pattern in (str(tmp_path / "*.bz2"), "memory://none.xml", "memory://none*"):
        with pytest.raises(FileNotFoundError, match="there is no"):
            find_dumps([pattern])
    with pytest.raises(OSError, match="nosuch"):
        find_dumps(["nosuch://bucket/dump.xml"])


def test_a_dump_in_an_object_store(monkeypatch):
    monkeypatch.setattr(sources, "PART_BYTES", 300)
    store = fsspec.filesystem("memory")
    dump = "memory://dumps/xx-pages-articles-multistream.xml.bz2"
    with tempfile.TemporaryDirectory() as folder:
        multistream(Path(folder))
        for file in Path(folder).iterdir():
            store.pipe(f"/dumps/{file.name}", file.read_bytes())
    (found,) = find_dumps(["memory://dumps/*"])  # the index is none
    assert found in (dump, dump.replace("://", ":///"))
    cut = parts(found)
    assert len(cut) > 4
    assert len(read(found, cut)[0]) == 40
    store.rm("/dumps", recursive=True)


def test_page_larger_than_libxml2s_default_limit(write_dump):
    (page,), _ = read(write_dump([("Large", "word " * 2_500_000)]))
    assert len(page.text) == 12_500_000


#: What hurts when it stands where it should not.
HOSTILE = (
    *(b"<page>", b"</page>", b"<text>", b"</revision>", b"</mediawiki>", b"<![CDATA[", b"<!--"),
    *(b"&#0;", b"&#xD800;", b"&none;", b"\0", b"\x0b", b"\xff", b"\xed\xa0\x80", b"<", b"&", b'"'),
    *(b"&#" + b"9" * 5_000 + b";", b"<!DOCTYPE x [<!ENTITY a 'b'>]>", b'<namespace key="6">'),
    *(b'<?xml encoding="undefined"?>', b'<?xml encoding="hex"?>', b"BZh9", b"\x1f\x8b\x08"),
)


@settings(deadline=None, max_examples=60)
@given(
    harm=st.lists(st.tuples(st.floats(0, 1), st.sampled_from(HOSTILE)), max_size=5),
    later=st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=9)), max_size=3),
    compress=st.sampled_from([bytes, bz2.compress, gzip.compress]),
)
def test_no_harm_to_a_dump_ends_its_reading(harm, later, compress):
    """Whatever is done to the XML, and to the file later on."""
    siteinfo = '<siteinfo><namespaces><namespace key="6">Datei</namespace></namespaces></siteinfo>'
    xml = dump_xml((f"Page {i}", f"text {i} [[Datei:a.jpg|mini|b]]") for i in range(9))
    stored = f'<?xml version="1.0"?>{xml}'.replace("<page>", f"{siteinfo}<page>", 1).encode()
    stored = changed(compress(changed(stored, harm)), later)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "xx-multistream.xml.bz2"
        path.write_bytes(stored)
        path.with_name("xx-multistream-index.txt.bz2").write_bytes(changed(stored, later))
        is_stub(str(path))
        tally = Tally()
        for part in dump_parts(str(path)):
            for page in read_pages(part, tally):
                plain_text(page.text, part.wiki)
    tally.check()
    for sample in tally.samples.get("damaged_dump", {}).values():
        assert (sample["file"], sample["offset"] <= len(stored)) == (str(path), True)


def changed(data: bytes, pieces: Sequence[tuple[float, bytes]]) -> bytes:
    """With the pieces written over what is there, at these shares of its length."""
    for share, piece in pieces:
        at = int(share * len(data))
        data = data[:at] + piece + data[at + 1 :]
    return data
