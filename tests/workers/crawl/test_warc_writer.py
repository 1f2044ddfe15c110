from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest
from fastwarc.warc import ArchiveIterator

from workers.crawl.warc_writer import WarcWriter, content_hash, response_record

NOW = datetime(2026, 11, 22, tzinfo=UTC)
HTML = {"Content-Type": "text/html"}


def test_pages_come_out_sorted_and_whole(tmp_path):
    bodies = {f"http://example.org/{n}": bytes([n]) * n for n in (3, 0, 2, 1)}
    with WarcWriter(tmp_path / "a.warc", {"software": "test"}) as writer:
        for url, body in bodies.items():
            writer.add(url, 200, HTML, body)
        writer.finish()
    records = list(ArchiveIterator(str(tmp_path / "a.warc"), parse_http=False))
    found = [record.headers.get("WARC-Target-URI") for record in records]
    assert found == [None, *sorted(bodies)]
    assert list(tmp_path.iterdir()) == [tmp_path / "a.warc"]


def test_nothing_is_left_of_a_crawl_that_broke(tmp_path):
    def broken_crawl() -> None:
        with WarcWriter(tmp_path / "a.warc", {}) as writer:
            writer.add("http://example.org/", 200, HTML, b"page")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        broken_crawl()
    assert list(tmp_path.iterdir()) == []


def test_only_the_date_depends_on_the_visit():
    visits = [
        response_record(
            "http://example.org/",
            200,
            {**HTML, "Date": str(day), "Set-Cookie": str(day), "ETag": "x" * day},
            b"page",
            NOW + timedelta(days=day),
        )
        for day in range(2)
    ]
    one, two = (visit.splitlines() for visit in visits)
    assert [a for a, b in zip(one, two, strict=True) if a != b] == [
        b"WARC-Date: 2026-11-22T00:00:00Z"
    ]


def write(path, bodies, about="test"):
    with WarcWriter(path, {"software": about}) as writer:
        for url, body in bodies.items():
            writer.add(url, 200, HTML, body)
        writer.finish()
    return path


def test_the_content_of_a_file_changes_with_its_pages_and_not_with_its_dates(tmp_path):
    pages = {"http://a/": b"a page\r\n\r\nWARC-Date: 1\r\n", "http://b/": b"b" * 100_000}
    first = write(tmp_path / "first.warc", pages)
    later = tmp_path / "later.warc"
    dates = re.compile(rb"(WARC-Date: )[0-9TZ:-]{20}")
    later.write_bytes(dates.sub(rb"\g<1>2001-01-01T00:00:00Z", first.read_bytes()))
    assert first.read_bytes() != later.read_bytes()
    assert content_hash(first) == content_hash(later)
    others = [
        write(tmp_path / "body.warc", pages | {"http://a/": b"a page\r\n\r\nWARC-Date: 2\r\n"}),
        write(tmp_path / "url.warc", {url.upper(): body for url, body in pages.items()}),
        write(tmp_path / "fewer.warc", {"http://a/": pages["http://a/"]}),
        write(tmp_path / "about.warc", pages, about="another"),
    ]
    hashes = {content_hash(path) for path in [first, *others]}
    assert len(hashes) == 5


def test_ids_differ_with_url_and_content():
    def record_id(url: str, body: bytes) -> bytes:
        record = response_record(url, 200, HTML, body, NOW)
        return next(line for line in record.splitlines() if line.startswith(b"WARC-Record-ID"))

    ids = {record_id(url, body) for url in ("http://a/", "http://b/") for body in (b"1", b"2")}
    assert len(ids) == 4


def test_a_header_cannot_begin_another_one():
    record = response_record("http://a/", 200, {"Content-Type": "text/html\r\nX: y"}, b"", NOW)
    assert b"\r\nX:" not in record


def test_a_header_that_came_twice_is_there_twice():
    lines = "googlebot: noindex\nnoai"
    record = response_record("http://a/", 200, {**HTML, "X-Robots-Tag": lines}, b"", NOW)
    assert b"\r\nX-Robots-Tag: googlebot: noindex\r\nX-Robots-Tag: noai\r\n" in record
