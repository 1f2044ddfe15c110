"""What an input is, found out by name or first bytes, on every file system; folders of HTML."""

from __future__ import annotations

import functools
import gzip
import http.server
import json
import threading
from datetime import UTC, datetime
from pathlib import Path

import fsspec
import pytest

from workers.base.tally import Tally
from workers.crawl.warc_writer import response_record
from workers.extract.dispatch import extract_pairs
from workers.extract.inputs import InputKind, find_inputs, kind_of

NOW = datetime(2026, 11, 22, tzinfo=UTC)
WARC = response_record(
    "http://a.example/dir/", 200, {"Content-Type": "text/html"}, b"<img src=a.png alt=cat>", NOW
)
LIST = json.dumps({"url": "http://a.example/b.png", "text": "dog"}).encode() + b"\n"


def pairs(patterns, **options):
    pages, images = Tally(), Tally()
    tables = [
        table
        for source in find_inputs(patterns, **options)
        for table in extract_pairs(source, pages, images)
    ]
    pages.check()
    images.check()
    return [row for table in tables for row in table.to_pylist()], pages, images


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("a.warc", b"", InputKind.WARC),
        ("a.WARC.GZ", b"", InputKind.WARC),
        ("CC-MAIN-1.warc.wat.gz", b"", InputKind.WAT),
        ("a.wat", b"", InputKind.WAT),
        ("a.ndjson", b"", InputKind.JSONL),
        ("part.c000.snappy.parquet", b"", InputKind.PARQUET),
        ("page.HTM", b"", InputKind.HTML),
        ("unnamed", WARC, InputKind.WARC),
        ("unnamed.gz", gzip.compress(WARC, mtime=0), InputKind.WARC),
        ("unnamed", b"WARC/1.0\r\nWARC-Filename: x.wat.gz\r\n\r\n", InputKind.WAT),
        ("unnamed", b"WARC/1.0\r\nwarc-filename: water.warc.gz\r\n\r\n", InputKind.WARC),
        ("unnamed", b"WARC/1.0\r\nsoftware: watir\r\n\r\n", InputKind.WARC),
        ("unnamed", b"\n<!DOCTYPE html><p>", InputKind.HTML),
        ("unnamed", LIST, InputKind.JSONL),
    ],
)  # fmt: skip
def test_kinds(tmp_path, name, content, kind):
    path = tmp_path / name
    path.write_bytes(content)
    assert kind_of(str(path)) is kind


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.warc.wet.gz", "WET files hold the text of pages without their images"),
        ("a.parquet.gz", "a parquet file cannot be read from .gz"),
        ("a.warc.bz2", "a warc file cannot be read from .bz2"),
        ("a.docx", "neither its name nor its first bytes say what it is. WARC"),
    ],
)
def test_what_cannot_be_read_is_an_error_before_the_work(tmp_path, name, message):
    (tmp_path / name).write_bytes(b"PK\3\4")
    with pytest.raises(ValueError, match=message):
        find_inputs([str(tmp_path / name)])


@pytest.mark.parametrize("head", [b"", b"\x1f\x8b", b"\x1f\x8b\x08 and no more", b"\xff" * 99])
def test_first_bytes_that_say_nothing_are_an_error_before_the_work(tmp_path, head):
    (tmp_path / "unnamed").write_bytes(head)
    with pytest.raises(ValueError, match="neither its name nor its first bytes say what it is"):
        find_inputs([str(tmp_path / "unnamed")])


def test_missing_and_empty(tmp_path):
    (tmp_path / "notes.txt").write_text("none")
    (tmp_path / "empty").mkdir()
    for missing in ("x.warc", "*.warc", "empty"):
        with pytest.raises(FileNotFoundError, match="there is no file"):
            find_inputs([str(tmp_path / missing)])
    with pytest.raises(ValueError, match="no file in this folder is of a known kind"):
        find_inputs([str(tmp_path)])


def test_kinds_mix_and_a_file_named_twice_is_read_once(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a[1].warc").write_bytes(WARC)
    (tmp_path / "in" / "b.jsonl").write_bytes(LIST)
    (tmp_path / "in" / "style.css").write_text("p {}")
    found, _, _ = pairs([str(tmp_path / "in"), str(tmp_path / "in" / "a[1].warc"),
                         str(tmp_path / "in" / "*.jsonl")])  # fmt: skip
    assert [(row["url"], row["caption"], row["source"]) for row in found] == [
        ("http://a.example/dir/a.png", "cat", "a[1].warc@0"),
        ("http://a.example/b.png", "dog", "b.jsonl@0"),
    ]


def test_what_is_passed_over_in_a_folder_is_said(tmp_path, caplog):
    names = ["a.css", "b.css", "part-0.tmp", "README", "._list.csv", "_SUCCESS"]
    for name in names:
        (tmp_path / name).write_text("x")
    (tmp_path / "list.jsonl").write_bytes(LIST)
    with caplog.at_level("INFO"):
        assert len(find_inputs([str(tmp_path)])) == 1
    (line,) = caplog.messages
    assert line == (
        f"{tmp_path}: 4 files of other kinds are passed over (2 .css, 1 without one, 1 .tmp)"
    )


def test_memory_and_other_fsspec_file_systems():
    files = {"/one/a.warc.gz": gzip.compress(WARC), "/one/b.jsonl": LIST, "/one/c/d.txt": b""}
    memory = fsspec.filesystem("memory")
    for name, content in files.items():
        memory.pipe(name, content)
    expected = ["a.warc.gz@0", "b.jsonl@0"]
    for patterns in (["memory://one"], ["memory://one/*.gz", "memory://one/b.jsonl"]):
        assert [row["source"] for row in pairs(patterns)[0]] == expected


@pytest.fixture
def web(tmp_path):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format, *args):
            pass

    handler = functools.partial(Quiet, directory=str(tmp_path))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_web_addresses(tmp_path, web):
    (tmp_path / "a.warc.gz").write_bytes(gzip.compress(WARC))
    (tmp_path / "b.jsonl").write_bytes(LIST)
    found, _, _ = pairs([f"{web}/a.warc.gz", f"{web}/b.jsonl?version=1"])
    assert [row["source"] for row in found] == ["a.warc.gz@0", "b.jsonl@0"]
    with pytest.raises(FileNotFoundError):
        find_inputs([f"{web}/missing.warc"])


def write(folder: Path, name: str, html: str) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(html)


@pytest.mark.parametrize(
    ("head", "root", "page", "image"),
    [
        ("<link rel=canonical href=http://b.example/x/y>", "", "http://b.example/x/y",
         "http://b.example/x/a.png"),
        ("<meta property=og:url content=http://b.example/x/y>", "", "http://b.example/x/y",
         "http://b.example/x/a.png"),
        ("<base href=http://c.example/z/>", "", "http://c.example/z/", "http://c.example/z/a.png"),
        ("", "http://d.example/root/", "http://d.example/root/sub%20dir/p.html",
         "http://d.example/root/sub%20dir/a.png"),
        ("<link rel=canonical href=http://b.example/x/y>", "http://d.example",
         "http://b.example/x/y", "http://d.example/sub%20dir/a.png"),
        ("<link rel=canonical href=/x>", "", None, None),
    ],
)  # fmt: skip
def test_the_address_of_a_page_in_a_folder(tmp_path, head, root, page, image):
    absolute = "<img src=http://e.example/b.png alt=dog>"
    write(tmp_path, "sub dir/p.html", f"{head}<img src=a.png alt=cat>{absolute}")
    found, pages, images = pairs([str(tmp_path)], root_url=root)
    source = "sub dir/p.html@0"
    expected = [] if image is None else [(image, "cat", page, source)]
    expected.append(("http://e.example/b.png", "dog", page, source))
    assert [tuple(row.values()) for row in found] == expected
    assert pages.kept == 1
    assert images.rejected == ({} if image else {"no_page_url": 1})


def test_many_pages_are_several_inputs_and_none_is_lost(tmp_path):
    for number in range(1_100):
        (tmp_path / f"{number}.html").write_text(f"<img src=http://a.example/{number} alt=cat>")
    inputs = find_inputs([str(tmp_path)])
    assert [len(source.files) for source in inputs] == [500, 500, 100]
    found, pages, _ = pairs([str(tmp_path)])
    assert len({row["url"] for row in found}) == pages.kept == 1_100
