"""Inputs that are damaged, empty or hostile: what can be read is used, and the rest is said."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import os
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.faults.fault import Fault, Place
from benchmarks.small_sample import free_port
from workers.crawl.warc_writer import info_record, response_record

SECRET = "S3CRET"

_PAGES = "".join(
    f"<page><title>Cat {n}</title><ns>0</ns><id>{n}</id><revision><id>{n}</id>"
    f"<text>a cat and a dog number{n}</text></revision></page>\n"
    for n in range(200)
)
DUMP = (
    '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/"><siteinfo><namespaces>\n'
    f'<namespace key="0" /></namespaces></siteinfo>\n{_PAGES}</mediawiki>\n'
).encode()
CAPTIONS = [(f"http://a.example/{n}.png", f"a cat and a dog, {n}") for n in range(50)]
CSV = "url,caption\n" + "".join(f'{url},"{caption}"\n' for url, caption in CAPTIONS)


_NOW = datetime(2026, 11, 22, tzinfo=UTC)


def compressed_dump() -> bytes:
    """A dump of many bzip2 streams, so that one of them can be damaged."""
    return b"".join(map(bz2.compress, DUMP.splitlines(keepends=True)))


def warc() -> bytes:
    """Twenty pages of fifty images each, a gzip member each."""
    pages = [
        b"".join(b'<img src="/%d-%d.png" alt="a cat, %d">' % (n, k, k) for k in range(50))
        for n in range(20)
    ]
    html = {"Content-Type": "text/html"}
    return b"".join(
        gzip.compress(response_record(f"http://a.example/{n}", 200, html, page, _NOW))
        for n, page in enumerate(pages)
    )


def _lost_pages() -> bytes:
    """Two pages in no encoding that any browser would decode."""
    kind = {"Content-Type": "text/html; charset=iso-2022-kr"}
    return b"".join(
        response_record(f"http://a.example/{n}", 200, kind, b"<p>", _NOW) for n in range(2)
    )


def parquet(columns: Sequence[str] = ("url", "caption")) -> bytes:
    """A list of pairs."""
    rows = [dict(zip(columns, pair, strict=True)) for pair in CAPTIONS]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def text_run(
    place: Place,
    dump: bytes | str = DUMP,
    pairs: bytes | str = CSV.encode(),
    *more: str,
    name: str = "pairs.csv",
    dump_name: str = "dump.xml",
    **sections: Any,
) -> list[str]:
    """The stages of text on a small dump and a list of pairs; a text is where they are."""
    for file, content in ((dump_name, dump), (name, pairs)):
        if isinstance(content, bytes):
            (place.folder / file).write_bytes(content)
    tree = {
        "name": "text",
        "queries": {
            "dumps": [dump if isinstance(dump, str) else str(place.folder / dump_name)],
            "min_count": 2,
            "titles": "none",
        },
        "pairs": {
            "inputs": [pairs if isinstance(pairs, str) else str(place.folder / name)],
            "shards": 1,
        },
        **sections,
    }
    stages = [f"--stage={stage}" for stage in ("queries", "pages", "pairs")]
    return place.configured(tree, *stages, *more)


def flipped(content: bytes, at: float = 0.5) -> bytes:
    """The same with a byte flipped."""
    changed = bytearray(content)
    changed[int(len(changed) * at)] ^= 0xFF
    return bytes(changed)


def _text(*arguments: Any, **options: Any) -> Callable[[Place], list[str]]:
    return lambda place: text_run(place, *arguments, **options)


def _a_long_line(place: Place) -> list[str]:
    row = json.dumps({"url": "http://a.example/1.png", "caption": "a cat"})
    return text_run(place, DUMP, f"[{row * 2_000_000}]".encode(), "--plan", name="pairs.json")


def served(place: Place, content: dict[str, bytes]) -> str:
    """A web server; the host and port where it answers."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = content.get(self.path.partition("?")[0])
            self.send_response(200 if body is not None else 404)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body or b"")

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    place.stack.callback(server.shutdown)
    return f"127.0.0.1:{server.server_port}"


def _with_secrets(list_name: str) -> Callable[[Place], list[str]]:
    def prepare(place: Place) -> list[str]:
        damaged = CSV.encode() + b'"http://a.example/2.png","unclosed'
        host = served(place, {"/dump.bz2": compressed_dump()[:-20], "/pairs.csv": damaged})
        dump = f"http://user:{SECRET}@{host}/dump.bz2?token={SECRET}"
        return text_run(place, dump, f"http://{SECRET}@{host}/{list_name}?sig={SECRET}&sv=1")

    return prepare


def _is_secret(place: Place, output: str) -> str:
    if SECRET in output:
        return "a secret is printed"
    files = [path for path in place.run_dir.rglob("*") if path.is_file()]
    found = [path.name for path in files if SECRET.encode() in path.read_bytes()]
    return f"a secret is in {', '.join(found)}" if found else ""


def _samples_are_small(place: Place, _: str) -> str:
    size = sum(path.stat().st_size for path in place.run_dir.glob("_rejected/*/*"))
    return f"samples of rejected rows have {size:,} bytes" if size > 100_000 else ""


def _crawl(*seeds: str, **pages: Any) -> Callable[[Place], list[str]]:
    """Pages of a site of one page, and of nothing at all at `{closed}`."""

    def prepare(place: Place) -> list[str]:
        host, closed = served(place, {"/": b"<html>"}), f"127.0.0.1:{free_port()}"
        tree = {
            "seeds": [seed.format(host=host, closed=closed) for seed in seeds],
            "allow_private_hosts": [host, closed],
            "retries": 0,
            **pages,
        }
        return text_run(place, DUMP, CSV.encode(), pages=tree)

    return prepare


def _name_of_any_bytes(place: Place) -> list[str]:
    (place.folder / os.fsdecode(b"\xff\xfe.xml")).write_bytes(DUMP)
    return text_run(place, str(place.folder / "*.xml"))


def _into(folder: str) -> Callable[[Place], list[str]]:
    """A folder whose name looks like a pattern."""

    def prepare(place: Place) -> list[str]:
        (place.folder / folder).mkdir()
        return text_run(place, dump_name=f"{folder}/dump.xml")

    return prepare


def _crawled_again(place: Place) -> list[str]:
    place.copy("pages")
    return place.build("--stage=pages", "--stage=pairs")


_ROW = "http://a.example/{n}.png,{caption}\n"
_LONG_CAPTIONS = "url,caption\n" + "".join(
    _ROW.format(n=n, caption="x" * 1_000_000) for n in range(5)
)
_PAIRS_DAMAGED = "pairs: coverage is partial"

FAULTS = [
    Fault("a dump that breaks off", _text(compressed_dump()[:-2000], dump_name="d.bz2"),
          "queries: coverage is partial: damaged_dump (1)", (3,), again=(3, "nothing to do")),
    Fault("a byte of a dump flipped", _text(flipped(compressed_dump()), dump_name="d.bz2"),
          "queries: coverage is partial: damaged_dump", (3,)),
    Fault("a dump that is none", _text(b"no dump\n"), "queries: ", (3, 4)),
    Fault("an empty dump", _text(b""), "queries: ", (3, 4)),
    Fault("a dump that gives no query", _text(DUMP, CSV.encode(), "--set", "queries.min_count=999"),
          "queries: the gate is not met: 0 of", (4,), again=(4, "the gate is not met")),
    Fault("a WARC that breaks off", _text(DUMP, warc()[:-900], name="x.warc.gz"),
          f"{_PAIRS_DAMAGED}: damaged_record (1)", (3,)),
    Fault("a byte of a WARC flipped", _text(DUMP, flipped(warc(), 0.52), name="x.warc.gz"),
          f"{_PAIRS_DAMAGED}: damaged_record", (3,)),
    Fault("a WARC of which no page can be read",
          _text(DUMP, _lost_pages(), name="x.warc"),
          f"{_PAIRS_DAMAGED}: damaged_file (1) in", (4,)),
    Fault("a WARC without a page", _text(DUMP, info_record({}, _NOW), name="x.warc"),
          "no_pages 1", (4,)),
    Fault("a gzipped list that breaks off",
          _text(DUMP, gzip.compress(CSV.encode() * 50)[:-50], name="pairs.csv.gz"),
          f"{_PAIRS_DAMAGED}: damaged_", (3,)),
    Fault("a list of Parquet without its end", _text(DUMP, parquet()[:-9], name="pairs.parquet"),
          "damaged_file 1", (4,)),
    Fault("a byte of a list of Parquet flipped",
          _text(DUMP, flipped(parquet(), 0.2), name="pairs.parquet"),
          "pairs: 50 images in, 49 kept; not_utf8 1", (0,)),
    Fault("a list without the columns", _text(DUMP, parquet(("a", "b")), name="pairs.parquet"),
          "pairs.parquet", (2,)),
    Fault("an empty list", _text(DUMP, b""), "pairs: the gate is not met: 0 of", (4,)),
    Fault("a list without a row", _text(DUMP, b"url,caption\n"),
          "pairs: the gate is not met: 0 of", (4,), again=(4, "the gate is not met")),
    Fault("a list of which nothing can be used", _text(DUMP, b"url,caption\nx,y\n"),
          "pairs: the gate is not met: 0 of", (4,)),
    Fault("an ending that nothing is known of", _text(DUMP, b"x", name="pairs.docx"), "pairs.docx"),
    Fault("a JSON of 100 MB in one line under --plan", _a_long_line, "more than 8,388,608 bytes"),
    Fault("captions of a megabyte", _text(DUMP, (CSV + _LONG_CAPTIONS[12:]).encode()),
          "pairs: 55 pairs in", (0,), check=_samples_are_small),
    Fault("a name that is no UTF-8", _name_of_any_bytes, "pairs: 50 pairs in", (0,),
          again=(0, "nothing to do")),
    Fault("a folder named like a pattern", _into("shards[1]"), "pairs: 50 pairs in", (0,)),
    Fault("secrets in the URLs of damaged inputs", _with_secrets("pairs.csv"),
          "coverage is partial: damaged_dump", (3,), check=_is_secret),
    Fault("secrets in the URL of what is absent", _with_secrets("absent.csv"),
          "/absent.csv", (2,), check=_is_secret),
    Fault("a store that does not answer", _text(f"http://127.0.0.1:{free_port()}/dump.xml"),
          "queries.dumps: ", (2,)),
    Fault("a host that is away", _crawl("http://{closed}/"),
          "could not be reached", (3,), again=(3, "could not be reached")),
    Fault("pages that are all missing", _crawl("http://{host}/absent"),
          "pages: the gate is not met: 0 of 1", (4,)),
    Fault("one host in three spellings, --plan",
          lambda place: [*_crawl("http://{host}/", "HTTP://{host}/", "http://{host}/a")(place),
                         "--plan"], "pages       1 shards to do", (0,)),
    Fault("the same pages crawled again", _crawled_again,
          "pairs: complete, nothing to do", (0,)),
]  # fmt: skip
