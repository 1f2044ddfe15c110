"""WAT records in the shape that Common Crawl gives them."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest

from workers.base.tally import Tally
from workers.extract.dispatch import extract_pairs
from workers.extract.inputs import find_inputs

URL = "http://a.example/dir/page"


def wat_record(payload: bytes, url: str = URL) -> bytes:
    return (
        b"WARC/1.0\r\nWARC-Type: metadata\r\nWARC-Target-URI: " + url.encode() + b"\r\n"
        b"WARC-Date: 2026-11-22T00:00:00Z\r\nWARC-Record-ID: <urn:uuid:1>\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(payload)
        + payload + b"\r\n\r\n"
    )  # fmt: skip


def page(links: list[dict[str, Any]], head: Any = None, kind: str = "response", status: str = "200",
         headers: Any = None, html: bool = True, url: str = URL) -> bytes:  # fmt: skip
    response: dict[str, Any] = {
        "Response-Message": {"Version": "HTTP/1.1", "Status": status, "Reason": "OK"},
        "Headers": headers or {"Content-Type": "text/html; charset=utf-8"},
        "Entity-Length": "100",
    }
    if html:
        response["HTML-Metadata"] = {"Head": head or {"Title": "A page"}, "Links": links}
    record = {
        "Container": {
            "Filename": "CC-MAIN-7.warc.gz", "Compressed": True, "Offset": "4321",
            "Gzip-Metadata": {"Deflate-Length": "10"},
        },
        "Envelope": {
            "Format": "WARC",
            "WARC-Header-Metadata": {"WARC-Type": kind, "WARC-Target-URI": url},
            "Payload-Metadata": {
                "Actual-Content-Type": "application/http; msgtype=response",
                "HTTP-Response-Metadata": response,
            },
        },
    }  # fmt: skip
    return wat_record(json.dumps(record).encode())


def image(url: str, **texts: Any) -> dict[str, Any]:
    return {"path": "IMG@/src", "url": url, **texts}


def read(folder, *records: bytes):
    path = folder / "CC-MAIN-7.warc.wat.gz"
    path.write_bytes(b"".join(map(gzip.compress, records)))
    (source,) = find_inputs([str(path)])
    pages, images = Tally(), Tally()
    tables = list(extract_pairs(source, pages, images, ("birds-research",)))
    pages.check()
    images.check()
    rows = [tuple(row.values()) for table in tables for row in table.to_pylist()]
    assert images.kept == len(rows)
    return rows, pages, images


def test_images_and_where_they_are_from(tmp_path):
    links = [
        {"path": "A@/href", "url": "/other", "text": "a link"},
        image("/a.png", alt="cat", title="my cat"),
        image("b.png", alt="Dog", title="dog"),
        image("c.png"),
        image("data:image/gif;base64,R0", alt="x"),
        {"path": "IMG@/background", "url": "d.png", "alt": "no picture"},
    ]
    rows, pages, images = read(tmp_path, page(links))
    source = "CC-MAIN-7.warc.gz@4321"
    assert rows == [
        ("http://a.example/a.png", "cat", URL, source),
        ("http://a.example/a.png", "my cat", URL, source),
        ("http://a.example/dir/b.png", "Dog", URL, source),
    ]
    assert pages.counts() == {"in": 1, "kept": 1, "rejected": {}, "failed": {}}
    assert images.rejected == {"no_alt": 1, "data_uri": 1}


def test_base(tmp_path):
    rows, _, _ = read(tmp_path, page([image("b.png", alt="x")], {"Base": "//b.example/z/"}))
    assert rows[0][0] == "http://b.example/z/b.png"


@pytest.mark.parametrize(
    ("value", "name", "kept"),
    [
        ("noai, noindex", "robots", 0),
        (["all", "noimageai"], "robots", 0),
        (["googlebot: noindex", "none"], "robots", 0),
        (["googlebot: noindex", "max-image-preview:none"], "robots", 1),
        ("birds-research: noai", "robots", 0),
        ("", "ROBOTS", 0),
        ("", "Birds-Research", 0),
        ("", "googlebot", 1),
    ],
)
def test_opt_outs(tmp_path, value, name, kept):
    headers = {"content-type": "text/html", "x-robots-tag": value}
    content = "all" if value else "none"
    head = {"Metas": [{"name": name, "content": content}]}
    _, pages, _ = read(tmp_path, page([image("b.png", alt="x")], head, headers=headers))
    assert (pages.kept, pages.rejected["opted_out"]) == (kept, 1 - kept)


@pytest.mark.parametrize(
    ("headers", "metas", "kept"),
    [
        ({"TDM-Reservation": "1"}, [], 0),
        ({"tdm-reservation": ["0", None, 1]}, [], 0),
        ({"content-usage": "train-ai=n"}, [], 0),
        ({}, [{"name": "TDM-Reservation", "content": "1"}], 0),
        ({"TDM-Reservation": "1"}, [{"name": "tdm-reservation", "content": "0"}], 1),
        ({"content-type": None}, [{"name": None, "content": "1"}, {"name": "tdm-reservation"}], 1),
    ],
)
def test_reservations_and_preferences(tmp_path, headers, metas, kept):
    headers = {"content-type": "text/html"} | headers
    record = page([image("b.png", alt="x")], {"Metas": metas}, headers=headers)
    _, pages, _ = read(tmp_path, record)
    assert (pages.kept, pages.rejected["opted_out"]) == (kept, 1 - kept)


def test_pages_by_reason(tmp_path):
    links = [image("b.png", alt="x")]
    _, pages, images = read(
        tmp_path,
        page([*links, image("a" * 8000, alt="x")]),
        page(links, url=URL + "a" * 8000),
        page(links, {"Metas": [{"name": "Robots", "content": "NOINDEX"}, {"property": "x"}]}),
        page(links, status="404"),
        page(links, headers={"Content-Type": "image/png"}),
        page(links, html=False),
        page(links, kind="request"),
        wat_record(b'{"Envelope": '),
        wat_record(b'{"Envelope": []}'),
        wat_record(b"[" * 100_000),
        wat_record(b'{"Envelope": {"Payload-Metadata": {}}}'),
        page(links),
    )
    assert pages.rejected == {"opted_out": 1, "not_html": 2, "url_too_long": 1, "request_record": 1}
    assert images.rejected == {"url_too_long": 1}
    assert pages.failed == {"http_404": 1, "bad_json": 3, "not_http": 1}
    assert pages.kept == images.kept == 2


def test_a_cut_member_costs_its_own_page_alone(tmp_path):
    path = tmp_path / "a.wat.gz"
    members = [gzip.compress(page([image(f"{n}.png", alt="x")])) for n in range(5)]
    members[2] = members[2][:-30]
    path.write_bytes(b"".join(members))
    pages, images = Tally(), Tally()
    tables = list(extract_pairs(find_inputs([str(path)])[0], pages, images))
    urls = [row["url"][-5:] for table in tables for row in table.to_pylist()]
    assert urls == ["0.png", "1.png", "3.png", "4.png"]
    assert pages.failed == {"damaged_record": 1}
    (sample,) = pages.samples["damaged_record"].values()
    assert sample["source"] == f"a.wat.gz@{len(b''.join(members[:2]))}"


def test_what_other_tools_write(tmp_path):
    """Names in any case, null for what there is not, bytes that are no UTF-8, other records."""
    links = [image("a.png", alt="cat", title=None), {"path": None, "url": None}]
    odd = page(links, {"Base": None, "Metas": None}, headers={"CONTENT-TYPE": "text/html"})
    odd = odd.replace(b"WARC-Target-URI", b"warc-target-uri").replace(b"WARC-Type", b"Warc-Type")
    rows, pages, _ = read(
        tmp_path,
        odd,
        page(links, headers={"Content-Type": "image/png"}),
        page([image("b.png", alt="c@t")]).replace(b"c@t", b"c\xe9t"),
        page(links, kind="revisit"),
        page(links, kind="Warcinfo"),
        page(links, kind="something"),
    )
    assert [row[:3] for row in rows] == [
        ("http://a.example/dir/a.png", "cat", URL),
        ("http://a.example/dir/b.png", "c\ufffdt", URL),
    ]
    assert pages.rejected == {
        "not_html": 1,
        "revisit_record": 1,
        "warcinfo_record": 1,
        "unknown_record": 1,
    }
    assert not pages.failed


@pytest.mark.parametrize(
    ("records", "rejected", "failed"),
    [
        ([], {"no_pages": 1}, {}),
        ([page([], status="404")], {"no_pages": 1}, {"http_404": 1}),
        ([wat_record(b"{")] * 2, {}, {"bad_json": 2, "damaged_file": 1}),
    ],
)
def test_a_file_without_a_page_is_told_of(tmp_path, records, rejected, failed):
    _, pages, _ = read(tmp_path, *records)
    assert (pages.rejected, pages.failed) == (rejected, failed)
