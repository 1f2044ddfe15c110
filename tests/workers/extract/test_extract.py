from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import brotli
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from lxml import etree

from tests.workers.packing import zstd
from workers.base.tally import Tally
from workers.crawl.warc_writer import info_record, response_record
from workers.extract import page_images
from workers.extract import pages as pages_module
from workers.extract.candidates import Candidate
from workers.extract.dispatch import extract_pairs
from workers.extract.inputs import Input, InputKind
from workers.extract.page_images import largest_candidate
from workers.extract.pages import MAX_PAGE_BYTES

PAGE_URL = "http://example.org/dir/page.html"
NOW = datetime(2026, 11, 22, tzinfo=UTC)


def record(body: bytes, url: str = PAGE_URL, status: int = 200, **headers: str) -> bytes:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return response_record(url, status, {"Content-Type": "text/html"} | named, body, NOW)


def extract(folder: Path, *records: bytes) -> tuple[list[Candidate], Tally, Tally]:
    return extract_file(folder, b"".join([info_record({"software": "test"}, NOW), *records]))


def extract_file(folder: Path, content: bytes) -> tuple[list[Candidate], Tally, Tally]:
    path = folder / "some.warc"
    path.write_bytes(content)
    pages, images = Tally(), Tally()
    tables = extract_pairs(Input(str(path), InputKind.WARC), pages, images, ("birds-research",))
    candidates = [Candidate(**row) for table in tables for row in table.to_pylist()]
    pages.check()
    images.check()
    assert images.kept == len(candidates)
    return candidates, pages, images


def pairs(folder: Path, html: str) -> list[tuple[str, str]]:
    candidates, _, _ = extract(folder, record(html.encode()))
    return [candidate[:2] for candidate in candidates]


@pytest.mark.parametrize(
    ("html", "url"),
    [
        ("<img src=a.png alt=cat>", "http://example.org/dir/a.png"),
        ("<IMG SRC=/a.png ALT='cat'>", "http://example.org/a.png"),
        ("<img src='//cdn.example.org/a.png' alt=cat>", "http://cdn.example.org/a.png"),
        ("<img src='https://EXAMPLE.org:443/a b.png#top' alt=cat>", "https://example.org/a%20b.png"),
        ("<img src=' ../a.png?x=1&amp;y=2 ' alt=cat>", "http://example.org/a.png?x=1&y=2"),
        ("<img src='é.png' alt=cat>", "http://example.org/dir/%C3%A9.png"),
        ("<base href='/other/'><img src=a.png alt=cat>", "http://example.org/other/a.png"),
        ("<base href='http://['><img src=a.png alt=cat>", "http://example.org/dir/a.png"),
        ("<base href='data:text/html,x'><img src=a.png alt=cat>", "http://example.org/dir/a.png"),
        ("<base href='javascript:0'><img src=a.png alt=cat>", "http://example.org/dir/a.png"),
        ("<base href=''><base href='/no/'><img src=a.png alt=cat>", "http://example.org/dir/a.png"),
        ("<base target=x><base href='/b/'><img src=a.png alt=cat>", "http://example.org/b/a.png"),
        (r"<base href='\other\'><img src='a\b.png' alt=cat>", "http://example.org/other/a/b.png"),
        ("<img src='http://straße.example/a' alt=cat>", "http://xn--strae-oqa.example/a"),
        ("<meta charset=latin1><img src='&eacute;?&eacute;&#8253;' alt=cat>",
         "http://example.org/dir/%C3%A9?%E9%26%238253%3B"),
        ("<img src=s.gif data-src=a.png alt=cat>", "http://example.org/dir/a.png"),
        ("<img src='data:image/gif;base64,R0' data-original=a.png alt=cat>",
         "http://example.org/dir/a.png"),
        ("<img src=s.png srcset='m.png 640w, l.png 1280w, s.png 320w' alt=cat>",
         "http://example.org/dir/l.png"),
        ("<img src=s.png data-srcset='s.png, l.png 2x' alt=cat>", "http://example.org/dir/l.png"),
        ("<picture><source type=image/avif srcset=a.avif>"
         "<source srcset='b.webp 2x' type=image/webp><img src=c.png alt=cat></picture>", "http://example.org/dir/b.webp"),
        ("<noscript><img src=a.png alt=cat></noscript>", "http://example.org/dir/a.png"),
        ("<picture><source srcset=b.png></picture><img src=a.png alt=cat>",
         "http://example.org/dir/a.png"),
        ("<video><source srcset=b.png></video><img src=a.png alt=cat>",
         "http://example.org/dir/a.png"),
    ],
)  # fmt: skip
def test_addresses(tmp_path, html, url):
    assert pairs(tmp_path, html) == [(url, "cat")]


@pytest.mark.parametrize(
    ("source_set", "largest"),
    [
        ("a 1x, b 2x", "b"),
        ("a,b", "a,b"),  # no white space after the comma: it belongs to the URL
        ("a, b", "a"),
        ("a 100w, b 50w", "a"),
        ("a?x=1,2 1x,b,c 3x", "b,c"),
        (" , ,a 1.5x , b 1x", "a"),
        ("a nonsense, b 2x", "b"),
        ("data:image/png;base64,AAAA 9x, b 2x", "b"),
        ("", ""),
        (" , ", ""),
    ],
)
def test_source_sets(source_set, largest):
    found = largest_candidate(source_set)
    assert (found.url if found else "") == largest


@pytest.mark.parametrize(
    ("html", "texts"),
    [
        ("<img src=a alt='  a  cat '>", ["  a  cat "]),
        ("<img src=a alt=cat title=Cat>", ["cat"]),
        ("<img src=a alt=cat title='my cat'>", ["cat", "my cat"]),
        ("<figure><img src=a alt=cat><figcaption>My <b>cat</b></figcaption></figure>",
         ["cat", "My cat"]),
        ("<figure><img src=a><img src=b><figcaption>Two cats</figcaption></figure>", []),
        ("<img src=a alt='&lt;3 &#x1f600;'>", ["<3 \U0001f600"]),
        ("<img src=a aria-label='a cat' title=cat>", ["cat", "a cat"]),
        ("<figure><figure><img src=a></figure><figcaption>Cat</figcaption></figure>", []),
    ],
)  # fmt: skip
def test_texts(tmp_path, html, texts):
    assert [text for _, text in pairs(tmp_path, html)] == texts


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        ("<img src=a.png>", "no_alt"),
        ("<img src=a.png alt=' '>", "no_alt"),
        ("<img alt=cat>", "no_src"),
        ("<img src='data:image/png;base64,AA' alt=cat>", "data_uri"),
        ("<img src='blob:http://example.org/1' alt=cat>", "not_http"),
        ("<img src='file:///etc/passwd' alt=cat>", "local_file"),
        ("<img src='http://user:word@example.org/a.png' alt=cat>", "bad_url"),
        ("<img src='http://example.org:port/a.png' alt=cat>", "bad_url"),
        (f"<img src={'a' * 8000} alt=cat>", "url_too_long"),
        (f"<img src=http://a.example/{'a' * 8000} alt=cat>", "url_too_long"),
    ],
)
def test_images_that_make_no_pair(tmp_path, image, reason):
    candidates, pages, images = extract(tmp_path, record(image.encode()))
    assert candidates == []
    assert pages.kept == 1
    assert images.rejected == {reason: 1}


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        ("<img src=a alt='čaj'>".encode(), "text/html; charset=utf-8"),
        ("<img src=a alt='čaj'>".encode("iso-8859-2"), "text/html; charset=iso-8859-2"),
        ("<meta charset=iso-8859-2><img src=a alt='čaj'>".encode("iso-8859-2"), "text/html"),
        ("\ufeff<img src=a alt='čaj'>".encode("utf-16-le"), "text/html"),
        ("<img src=a alt='čaj'>".encode(), "text/html"),
        (b"<?xml version='1.0' encoding='utf-8'?><html><img src='a' alt='\xc4\x8daj'/></html>",
         "application/xhtml+xml"),
        (b"<p>\0</p><img src=a alt='\xc4\x8daj'>", "text/html"),
    ],
)  # fmt: skip
def test_encodings(tmp_path, body, content_type):
    candidates, _, _ = extract(tmp_path, record(body, Content_Type=content_type))
    assert [candidate.caption for candidate in candidates] == ["čaj"]


def test_undeclared_bytes_that_are_not_utf8_are_windows_1252(tmp_path):
    candidates, _, _ = extract(tmp_path, record(b"<img src=a alt='caf\xe9 \x96 bar'>"))
    assert candidates[0].caption == "café – bar"


def test_the_source_is_where_the_record_is(tmp_path):
    records = [record(b"<img src=a alt=one>"), record(b"<img src=b alt=two>")]
    candidates, _, _ = extract(tmp_path, *records)
    content = (tmp_path / "some.warc").read_bytes()
    for candidate, expected in zip(candidates, records, strict=True):
        name, _, offset = candidate.source.partition("@")
        assert name == "some.warc"
        assert content[int(offset) :].startswith(expected)
    assert {candidate.page_url for candidate in candidates} == {PAGE_URL}


def test_pages_by_reason(tmp_path):
    image = b"<img src=a alt=cat>"
    _, pages, _ = extract(
        tmp_path,
        record(image),
        record(image, status=404),
        record(image, Content_Type="image/png"),
        record(image, X_Robots_Tag="noai, noimageai"),
        record(b"<meta name=robots content='noindex'>" + image),
        record(b""),
        record(image).replace(PAGE_URL.encode(), PAGE_URL.encode() + b"a" * 8000),
    )
    assert pages.kept == 1
    reasons = {"not_html": 1, "opted_out": 2, "url_too_long": 1, "warcinfo_record": 1}
    assert pages.rejected == reasons
    assert pages.failed == {"http_404": 1, "not_parsable": 1}


@pytest.mark.parametrize(
    ("header", "metas", "kept"),
    [
        ("none", "", 0),
        ("googlebot: noindex\nnoai", "", 0),
        ("googlebot: noindex\nmax-image-preview:none", "", 1),
        ("birds-research: noindex", "", 0),
        ("all", "<meta name=robots content='max-snippet:-1, max-image-preview:none'>", 1),
        ("all", "<meta name=Robots content='unavailable_after: 25 Jun 2026 15:00:00 PST'>", 1),
        ("all", "<meta name=googlebot content=noindex><meta name=bingbot content=none>", 1),
        ("all", "<meta name=googlebot content=all><META NAME=ROBOTS CONTENT=NONE>", 0),
        ("all", "<meta name=robots content=all><meta name=Birds-Research content=noai>", 0),
    ],
)
def test_robots_directives(tmp_path, header, metas, kept):
    page = metas.encode() + b"<img src=a alt=cat>"
    _, pages, _ = extract(tmp_path, record(page, X_Robots_Tag=header))
    assert (pages.kept, pages.rejected["opted_out"]) == (kept, 1 - kept)


@pytest.mark.parametrize(
    ("headers", "metas", "kept"),
    [
        ({"TDM-Reservation": "1", "TDM-Policy": "https://a.example/p"}, "", 0),
        ({}, "<meta name=tdm-reservation content=1>", 0),
        ({"TDM-Reservation": "1"}, "<meta name=TDM-Reservation content=0>", 1),
        ({"Content-Usage": "train-ai=n"}, "", 0),
        ({"Content-Usage": "search=n"}, "<meta name=content-usage content='train-ai=n'>", 1),
        ({"Content-Signal": "ai-train=no"}, "", 0),
    ],
)
def test_reservations_and_preferences(tmp_path, headers, metas, kept):
    page = metas.encode() + b"<img src=a alt=cat>"
    named = {name.replace("-", "_"): value for name, value in headers.items()}
    _, pages, _ = extract(tmp_path, record(page, **named))
    assert (pages.kept, pages.rejected["opted_out"]) == (kept, 1 - kept)


def test_what_other_crawlers_are_told_counts_where_they_are_obeyed(tmp_path):
    page = record(b"<meta name=CCBot content=noindex><img src=a alt=cat>")
    (tmp_path / "some.warc").write_bytes(page)
    source = Input(str(tmp_path / "some.warc"), InputKind.WARC)
    for agents, kept in ((("birds-research",), 1), (("birds-research", "ccbot"), 0)):
        pages = Tally()
        list(extract_pairs(source, pages, Tally(), agents))
        assert (pages.kept, pages.rejected["opted_out"]) == (kept, 1 - kept)


def foreign_record(http_headers: bytes, body: bytes) -> bytes:
    """A response as other people's WARC files have it: the body as it came over the wire."""
    block = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n" + http_headers + b"\r\n" + body
    head = (
        "WARC/1.0\r\nWARC-Type: response\r\nWARC-Record-ID: <urn:uuid:1>\r\n"
        f"WARC-Target-URI: <{PAGE_URL}>\r\nWARC-Date: 2026-11-22T00:00:00Z\r\n"
        f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(block)}\r\n\r\n"
    )
    return head.encode() + block + b"\r\n\r\n"


CAT = b"<img src=a alt=cat>"


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (b"Content-Encoding: gzip\r\n", CAT),
        (b"Transfer-Encoding: chunked\r\n", CAT),
        (b"Content-Encoding: gzip\r\n", gzip.compress(CAT, mtime=0)),
        (b"Content-Encoding: br\r\n", brotli.compress(CAT)),
        (b"Content-Encoding: zstd\r\n", zstd(CAT)),
        (b"Content-Encoding: deflate\r\n", zlib.compress(CAT)),
        (b"Transfer-Encoding: chunked\r\n", b"%x\r\n%b\r\n0\r\n\r\n" % (len(CAT), CAT)),
        (b"Content-Length: 99999\r\n", CAT),
        (b"Content-Length: 3\r\n", CAT),
    ],
)
def test_coded_bodies(tmp_path, headers, body):
    candidates, _, _ = extract_file(tmp_path, foreign_record(headers, body))
    assert [candidate[:3] for candidate in candidates] == [
        ("http://example.org/dir/a", "cat", PAGE_URL)
    ]


def test_a_body_that_cannot_be_decoded_fails_alone(tmp_path):
    broken = foreign_record(b"Content-Encoding: gzip\r\n", b"\x1f\x8b\x08 not gzip")
    candidates, pages, _ = extract_file(tmp_path, broken + record(CAT))
    assert len(candidates) == 1
    assert pages.kept == 1
    assert pages.failed == {"bad_encoding": 1}


LOST = foreign_record(b"Content-Encoding: gzip\r\n", b"\x1f\x8b\x08 not gzip")


@pytest.mark.parametrize(
    ("records", "rejected", "failed"),
    [
        ([], {"no_pages": 1}, {}),
        ([record(CAT, status=404)], {"no_pages": 1}, {"http_404": 1}),
        ([record(CAT, Content_Type="image/png")], {"no_pages": 1, "not_html": 1}, {}),
        ([LOST, LOST], {}, {"bad_encoding": 2, "damaged_file": 1}),
        (
            [LOST, record(CAT, status=404)],
            {},
            {"bad_encoding": 1, "damaged_file": 1, "http_404": 1},
        ),
        ([LOST, record(CAT)], {}, {"bad_encoding": 1}),
        (
            [record(CAT, Content_Type="text/html; charset=iso-2022-kr")],
            {},
            {"bad_encoding": 1, "damaged_file": 1},
        ),
    ],
)
def test_a_file_without_a_page_is_told_of(tmp_path, records, rejected, failed):
    _, pages, _ = extract_file(tmp_path, b"".join(records))
    assert (pages.rejected, pages.failed) == (rejected, failed)
    for reason in {"no_pages", "damaged_file"} & {*rejected, *failed}:
        (sample,) = pages.samples[reason].values()
        assert sample["source"] == str(tmp_path / "some.warc")


def test_a_file_without_a_page_is_told_of_beside_others(tmp_path):
    pages = Tally()
    for name, content in (("a", record(CAT)), ("b", LOST), ("c", record(CAT) + LOST)):
        path = tmp_path / f"{name}.warc"
        path.write_bytes(content)
        list(extract_pairs(Input(str(path), InputKind.WARC), pages, Tally()))
    assert pages.failed == {"bad_encoding": 2, "damaged_file": 1}


@pytest.mark.parametrize(
    "error", [ValueError, LookupError, RecursionError, TypeError, OverflowError]
)
@pytest.mark.parametrize("place", ["parse_page", "images_of", "different"])
def test_whatever_a_page_raises_costs_that_page_alone(tmp_path, monkeypatch, error, place):
    """A fault that nobody has found yet is put where one was found before."""
    module = page_images if place == "different" else pages_module
    real = getattr(module, place)

    def odd(given, *more):
        if b"odd" in (given if place == "parse_page" else getattr(given, "html", b"")) or (
            place == "different" and "odd" in given
        ):
            raise error("odd")
        return real(given, *more)

    monkeypatch.setattr(module, place, odd)
    bodies = (b"<img src=a alt=cat>", b"<img src=b alt=odd>", b"<img src=c alt=dog>")
    candidates, pages, images = extract(tmp_path, *map(record, bodies))
    assert [candidate.caption for candidate in candidates] == ["cat", "dog"]
    assert pages.failed + images.failed == {"page_error": 1}
    ((_, sample),) = (pages.samples | images.samples)["page_error"].items()
    assert sample["error"] == f"{error.__name__}: odd"
    assert sample["source"].startswith("some.warc@")


def other_record(kind: str, content_type: str, block: bytes, url: str = PAGE_URL) -> bytes:
    address = f"WARC-Target-URI: {url}\r\n" if url else ""
    head = (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Record-ID: <urn:uuid:1>\r\n{address}"
        f"WARC-Date: 2026-11-22T00:00:00Z\r\n"
        f"Content-Type: {content_type}\r\nContent-Length: {len(block)}\r\n\r\n"
    )
    return head.encode() + block + b"\r\n\r\n"


HTTP = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n" + CAT


@pytest.mark.parametrize(
    ("kind", "content_type", "block"),
    [
        ("resource", "text/html", CAT),
        ("Resource", "Text/HTML; charset=utf-8", CAT),
        ("resource", "application/http; msgtype=response", HTTP),
        ("conversion", "application/xhtml+xml", b"<img src='a' alt='cat'/>"),
        ("response", "text/html", CAT),
        ("response", "Application/HTTP;msgtype=response", HTTP),
        ("response", "", HTTP),
    ],
)
def test_kinds_of_records_that_hold_a_page(tmp_path, kind, content_type, block):
    candidates, pages, _ = extract_file(tmp_path, other_record(kind, content_type, block))
    assert [candidate[:3] for candidate in candidates] == [
        ("http://example.org/dir/a", "cat", PAGE_URL)
    ]
    assert pages.counts() == {"in": 1, "kept": 1, "rejected": {}, "failed": {}}


def test_a_resource_is_in_its_own_encoding(tmp_path):
    body = "<img src=a alt='čaj'>".encode("iso-8859-2")
    content = other_record("resource", "text/html; charset=iso-8859-2", body)
    candidates, _, _ = extract_file(tmp_path, content)
    assert [candidate.caption for candidate in candidates] == ["čaj"]


@pytest.mark.parametrize("url", ["", "file:///home/me/page.html", "example.org/dir/page.html"])
def test_a_page_without_an_address_of_the_web_is_placed_as_a_file_is(tmp_path, url):
    link = b"<link rel=canonical href=http://b.example/x/>"
    records = [other_record("resource", "text/html", body, url) for body in (link + CAT, CAT)]
    candidates, pages, images = extract_file(tmp_path, b"".join(records))
    assert [candidate[:3] for candidate in candidates] == [
        ("http://b.example/x/a", "cat", "http://b.example/x/")
    ]
    assert pages.kept == 2
    assert images.rejected == {"no_page_url": 1}


def test_other_records_are_counted_by_their_type(tmp_path):
    fields = "application/warc-fields"
    _, pages, _ = extract_file(
        tmp_path,
        b"".join(
            [
                other_record("warcinfo", fields, b"software: x\r\n", ""),
                other_record("request", "application/http; msgtype=request", b"GET / HTTP/1.1\r\n"),
                other_record("Metadata", fields, b"via: y\r\n"),
                other_record("revisit", "application/http; msgtype=response", HTTP),
                other_record("continuation", "", b"<p>"),
                other_record("screenshot", "image/png", b"\x89PNG"),
                other_record("response", "text/dns", b"1.2.3.4", "dns:example.org"),
                other_record("resource", "image/png", b"\x89PNG"),
                other_record("conversion", "text/plain", b"text"),
                other_record("response", "application/http", b"GET / HTTP/1.1\r\n\r\n"),
                other_record("", "text/html", CAT),
            ]
        ),
    )
    assert pages.rejected == {
        "warcinfo_record": 1,
        "request_record": 1,
        "metadata_record": 1,
        "revisit_record": 1,
        "continuation_record": 1,
        "unknown_record": 2,
        "not_html": 3,
    }
    assert pages.failed == {"not_http": 1, "damaged_file": 1}


def gzipped(records: Sequence[bytes]) -> bytes:
    return b"".join(map(gzip.compress, records))


@pytest.mark.parametrize("compress", [b"".join, gzipped])
def test_a_file_cut_short_gives_what_is_before_the_cut(tmp_path, compress):
    whole = [record(b"<img src=a alt='cat number %d'>" % n + b"<p>filler" * 50) for n in range(5)]
    content = compress(whole)
    candidates, pages, _ = extract_file(tmp_path, content[: len(content) - 100])
    assert [c.caption for c in candidates][:4] == [f"cat number {n}" for n in range(4)]
    assert pages.failed.total() == 1


def test_a_deeply_nested_image_is_found(tmp_path):
    assert pairs(tmp_path, "<div>" * 100_000 + "<img src=/a alt=cat>") == [
        ("http://example.org/a", "cat")
    ]


def test_a_noscript_copy_of_a_lazy_image_is_not_counted_twice(tmp_path):
    html = b"<img data-src=a alt=cat><noscript><img src=a alt=cat><img src=b alt=dog></noscript>"
    candidates, _, images = extract(tmp_path, record(html))
    assert [candidate.caption for candidate in candidates] == ["cat", "dog"]
    assert images.rejected == {"noscript_copy": 1}


def test_a_page_of_50_megabytes(tmp_path):
    body = b"<p>some text of a page <a href=x>links</a></p>\n" * 1_100_000
    candidates, pages, _ = extract(tmp_path, record(body + CAT), record(CAT))
    assert len(candidates) == pages.kept == 2


def test_a_page_above_the_limit_is_refused(tmp_path):
    bomb = gzip.compress(bytes(MAX_PAGE_BYTES + 1), 1)
    coded = foreign_record(b"Content-Encoding: gzip\r\n", bomb)
    _, pages, _ = extract_file(tmp_path, coded + record(CAT))
    assert pages.kept == 1
    assert pages.failed == {"too_large": 1}


@settings(max_examples=50, deadline=None)
@given(st.lists(st.binary(max_size=200), max_size=5))
def test_any_bytes_are_accounted_for(tmp_path_factory, bodies):
    folder = tmp_path_factory.mktemp("any")
    _, pages, _ = extract(folder, *map(record, bodies))
    assert pages.rejected == {"warcinfo_record": 1, **({} if pages.kept else {"no_pages": 1})}
    assert pages.rows_in - pages.rejected.total() == len(bodies)


@settings(max_examples=50, deadline=None)
@example("<=")
@given(st.text(alphabet=st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1))
def test_any_text_in_alt_comes_out_as_it_was(tmp_path_factory, text):
    image = etree.tostring(etree.Element("img", src="a", alt=text), encoding="utf-8")
    folder = tmp_path_factory.mktemp("any")
    candidates, _, images = extract(folder, record(b"<meta charset=utf-8>" + image))
    assert [candidate.caption for candidate in candidates] == ([text] if text.strip() else [])
    assert images.rows_in == 1
