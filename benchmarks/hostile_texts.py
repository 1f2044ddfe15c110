"""Damaged and hostile files of every kind that text is read from, and what must come of each."""

from __future__ import annotations

import bz2
import gzip
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

import clip_model
from query_builder.dump import read_pages
from query_builder.markup import plain_text
from query_builder.sources import Part
from query_builder.views import read_views
from workers.base.tally import Tally
from workers.base.urls import UrlError, absolute_url
from workers.extract.dispatch import extract_pairs
from workers.extract.inputs import find_inputs
from workers.pairs.captions import CaptionCleaner
from workers.pairs.settings import CaptionSettings
from workers.web.robots import RobotsTxt

#: Bytes of a file that are printed.
_SHOWN = 2_000

#: What is wrong in every format: bytes that are no text, marks of encodings, numbers, lengths.
_ANYWHERE = (
    b"\0", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\xff\xfe", b"\x1f\x8b\x08",
    b"\x28\xb5\x2f\xfd", b"BZh9", b"\r\n\r\n", b"\n", b"\r", b"\t", b'"', b"'", b",", b"\\", b"{",
    b"[", b"<", b">", b"&", b"%", b"%00", b"-1", b"9" * 30, b"NaN", b"\xe2\x80\x8b",
    b"\xf0\x9f\x98", "\u202e\u00ad\ufeff".encode(), b"a" * 5_000, b" " * 3_000,
    b"&#" + b"9" * 5_000 + b";", b"9" * 5_000,
)  # fmt: skip


class FoundError(AssertionError):
    """A file was read otherwise than it should have been."""


@dataclass
class Kind:
    """Files of one format: what they are made of, and what must come of each."""

    name: str
    check: Callable[[bytes, Path], None]  # raises FoundError, or whatever a reader raises
    content: st.SearchStrategy[bytes]
    files: int = 0
    size: int = 0  # bytes
    slowest: float = 0.0  # milliseconds
    found: list[str] = field(default_factory=list)

    def round(self, number: int, files: int, folder: Path) -> str | None:
        """Read some files; what was found, with the seed that finds it again."""

        @seed(number)
        @settings(
            max_examples=files, deadline=None, database=None, print_blob=False,
            suppress_health_check=list(HealthCheck), phases=(Phase.generate, Phase.shrink),
        )  # fmt: skip
        @given(self.content)
        def read(content: bytes) -> None:
            self._last = content
            started = time.perf_counter()
            self.check(content, folder)
            self.slowest = max(self.slowest, 1e3 * (time.perf_counter() - started))
            self.files += 1
            self.size += len(content)

        try:
            read()
        except Exception:  # noqa: BLE001 (whatever it is, it is what was looked for)
            text = f"{self.name}, seed {number}: {self._last[:_SHOWN]!r}\n{traceback.format_exc()}"
            self.found.append(text)
            return text
        return None

    _last: bytes = b""


def damaged(fragments: tuple[bytes, ...]) -> st.SearchStrategy[bytes]:
    """Some bytes between whole rows: pieces of a format in any order, and of none."""
    known = st.sampled_from(fragments)
    piece = st.one_of(
        known,
        known,
        st.sampled_from(_ANYWHERE),
        st.builds(bytes.__mul__, known, st.integers(2, 60)),
        st.builds(lambda text, cut: text[: cut % (len(text) + 1)], known, st.integers(0, 10**4)),
        st.text(max_size=12).map(lambda text: text.encode("utf-8", "surrogatepass")),
        st.binary(max_size=24),
    )
    return st.lists(piece, max_size=16).map(b"".join)


@st.composite
def torn(draw: st.DrawFn, whole: st.SearchStrategy[bytes]) -> bytes:
    """A whole file in which up to five places are cut, doubled, overwritten or filled in."""
    content = draw(whole)
    for _ in range(draw(st.integers(1, 5))):
        at = draw(st.integers(0, len(content)))
        size = draw(st.sampled_from((0, 1, 2, 7, 64, 1000)))
        filling = draw(st.one_of(st.binary(max_size=8), st.sampled_from(_ANYWHERE)))
        again = content[at : at + size] if draw(st.booleans()) else b""
        content = content[:at] + filling + again + content[at + size * draw(st.booleans()) :]
    return content


def _gzip(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


def _zstd(content: bytes) -> bytes:
    return bytes(pa.compress(content, "zstd", asbytes=True))


Pack = Callable[[bytes], bytes]
_PACKS: tuple[Pack, ...] = (bytes, _gzip, _zstd)


@st.composite
def between(
    draw: st.DrawFn,
    before: bytes,
    damage: st.SearchStrategy[bytes],
    after: bytes,
    packs: tuple[Pack, ...] = _PACKS,
    *,
    resumes: bool = True,
) -> bytes:
    """Damage between two whole rows, each packed by itself.

    The damage as well or, in formats whose reading resumes behind damaged compression, not at all.
    """
    pack, amid = draw(st.sampled_from(packs)), draw(damage)
    is_packed = not resumes or draw(st.booleans())
    return pack(before) + (pack(amid) if is_packed else amid) + pack(after)


def _pairs(path: Path) -> list[tuple[str, str]]:
    """The pairs of the inputs in a file or folder, whose tallies are held against them."""
    found: list[tuple[str, str]] = []
    for source in find_inputs([str(path)]):
        pages, images = Tally(), Tally()
        for table in extract_pairs(source, pages, images):
            found += zip(table["url"].to_pylist(), table["caption"].to_pylist(), strict=True)
        pages.check()
        images.check()
        if images.kept != len(found):
            raise FoundError(f"{images.kept} pairs are counted, {len(found)} were given")
    return found


def _written(content: bytes, folder: Path, name: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def keeps(name: str, *wanted: str) -> Callable[[bytes, Path], None]:
    """A file of this name gives pairs, those with these captions among them."""

    def check(content: bytes, folder: Path) -> None:
        captions = [caption for _, caption in _pairs(_written(content, folder, name))]
        if missing := set(wanted) - set(captions):
            raise FoundError(f"{sorted(missing)} is not among {captions[:10]}")

    return check


def any_end(name: str) -> Callable[[bytes, Path], None]:
    """A file of this name is read, or refused as a whole with a message that names it."""

    def check(content: bytes, folder: Path) -> None:
        path = _written(content, folder, name)
        try:
            _pairs(path)
        except (ValueError, OSError) as refusal:
            if name not in str(refusal):
                raise

    return check


# Pages.

_HTML = (
    b"<!doctype html>", b'<img src="/a.jpg" alt="a cat">', b"<img ", b"srcset=", b"<svg>",
    b"</svg>", b"<math>", b"<title>", b"</title>", b"<title/>", b"<script>", b"</script>",
    b"<style>", b"<!--", b"-->", b"--!>", b"<![CDATA[", b"]]>", b"<template>", b"</template>",
    b"<noscript>", b"<figure>", b"<figcaption>", b"</figcaption>", b"<picture>",
    b"<source srcset='b.jpg 2x'>", b"<textarea>", b"<plaintext>", b"<iframe>", b"<foreignObject>",
    b"</p>", b"<base href='//x'>", b"<base href=", b"<meta charset=undefined>",
    b'<meta charset="unicode_escape">', b"<meta charset=utf-16>",
    b"<meta http-equiv=content-type content='text/html; charset=x-user-defined'>",
    b"<meta name=robots content='max-image-preview:none'>",
    b"<meta name=tdm-reservation content=0>", b"<a href='http://[::'>",
    b"&#x110000;", b"&#xd800;", b"&amp", b"&notit;", b"data:image/gif;base64,R0", b"http://\xff/",
    b"//", b"<?xml version='1.0' encoding='idna'?>", b" a=1" * 50, b"<div>" * 50,
)  # fmt: skip
_HEADERS = (
    b"Content-Type: text/html", b"; charset=", b"undefined", b"utf-7", b"utf-16", b"idna", b"\r\n",
    b"content-encoding: ", b"Content-Encoding: gzip", b"deflate", b"br", b"zstd", b"identity, ",
    b"Transfer-Encoding: chunked", b"Content-Length: 5", b"X-Robots-Tag: ", b"noindex", b": ",
    b"TDM-Reservation: 0", b"Content-Usage: ", b"train-ai=", b"y",
    b"unavailable_after: 25 Jun 2026 15:00:00 PST", b"application/xhtml+xml", b"Location: \xff",
    b"5\r\nhello\r\n0\r\n\r\n", b"ffffffffffffffff\r\n",
)  # fmt: skip


def _record(kind: bytes, block: bytes, name: bytes = b"a.example/p") -> bytes:
    return (
        b"WARC/1.0\r\nWARC-Type: %b\r\nWARC-Target-URI: http://%b\r\n"
        b"WARC-Date: 2026-11-22T00:00:00Z\r\nWARC-Record-ID: <urn:uuid:1>\r\n"
        b"Content-Type: application/http; msgtype=response\r\nContent-Length: %d\r\n\r\n%b\r\n\r\n"
    ) % (kind, name, len(block), block)


def _page(caption: bytes) -> bytes:
    html = b'<html><body><img src="/%b.jpg" alt="%b"></body></html>' % (caption, caption)
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n" % len(html)
    return _record(b"response", head + html)


_WARC = (
    b"WARC/1.0\r\n", b"WARC/1.1\r\n", b"WARC/0.18\r\n", b"WARC-Type: response\r\n", b"warc-type: ",
    b"resource", b"revisit", b"Content-Length: 10\r\n", b"Content-Length: 99999999\r\n",
    b"Content-Length: -1\r\n", b"WARC-Target-URI: <http://a/>\r\n", b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 \r\n", b"HTTP/2 200\r\n", b"Content-Type: text/html\r\n", b"\r\n\r\n", b"WARC/",
    *_HTML[:8], _page(b"damaged"), _gzip(_page(b"damaged")),
)  # fmt: skip

_http = st.builds(
    lambda head, body: _record(b"response", b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n" + body),
    damaged(_HEADERS),
    st.one_of(damaged(_HTML), damaged(_HTML).map(_gzip)),
)

_LINKS = b'[{"path": "IMG@/src", "url": "/%b.jpg", "alt": "%b"}]'


def _wat(caption: bytes, links: bytes = _LINKS) -> bytes:
    links = links.replace(b"%b", caption)
    return _record(
        b"metadata",
        b'{"Envelope": {"WARC-Header-Metadata": {"WARC-Type": "response", "WARC-Target-URI": '
        b'"http://a.example/p"}, "Payload-Metadata": {"HTTP-Response-Metadata": {"Response-Message"'
        b': {"Status": "200"}, "Headers": {"Content-Type": "text/html"}, "HTML-Metadata": {"Head": '
        b'{"Title": "A page"}, "Links": ' + links + b"}}}}}",
    )


_JSON = (
    b'{"url": "http://a.example/1.jpg", "caption": "a cat"}', b'{"url":', b'"\\ud800"', b"null",
    b"NaN", b"1e999", b"[" * 200, b"{}", b'"caption": ["a", 1]', b'"url": 5', b"true", b'\\u0000"',
    b'"url": "http://a/"', b": ", b", ", b"}", b"]", b'"', b"\n", b"\r\n",
)  # fmt: skip
_metadata = damaged((*_JSON, b'"path": "IMG@/src"', b'"alt": "x"', b'"Links": ', b'"Head": '))

# Lists of pairs.

_ROWS = (
    b"http://a.example/1.jpg", b'"a cat"', b'a 5" screen', b'"un', b"closed", b'""', b'"a\nb"',
    b"\t", b"\n", b"\r\n", b'"""', b"http://a.example/2.jpg,two,three,four\n", b"ftp://x/", b",,,,",
    b'http://b.example/x.jpg,"many lines', b'",', b'"\n', b"/etc/passwd", b"file:///etc/passwd",
)  # fmt: skip


def _list(separator: bytes) -> st.SearchStrategy[bytes]:
    row = b"http://a.example/%b.jpg" + separator + b"%b\n"
    before = b"url" + separator + b"caption\n" + row.replace(b"%b", b"first")
    return between(
        before,
        damaged((*_ROWS, separator)).map(lambda rows: rows.replace(b"\xff\xfe", b"") + b"\n"),
        row.replace(b"%b", b"last") * 3,
        (bytes,),
    )


_LINE = b'{"url": "http://a.example/%b.jpg", "caption": "%b"}\n'


def _parquet(texts: list[Any]) -> bytes:
    sink = pa.BufferOutputStream()
    urls = pa.array([b"http://a.example/1.jpg"] * len(texts), pa.binary())
    pq.write_table(pa.table({"url": urls, "caption": pa.array(texts, pa.binary())}), sink)
    return sink.getvalue().to_pybytes()


# Wikipedia.

_MARKUP = (
    b"{{", b"}}", b"[[", b"]]", b"{|", b"|}", b"|-", b"[[File:a.jpg|thumb|x]]", b"<ref>",
    b"</ref>", b"<ref name=a/>", b"<!--", b"-->", b"<nowiki>", b"</nowiki>",
    b"-{zh-hans:a;zh-hant:b}-", b"==", b"'''", b"&amp;nbsp;", b"&lt;math&gt;", b"{{{1|{{!}}",
    b"[http://a b]", b"__TOC__", b"#REDIRECT", b"[[Datei:", b"|mini|rechts",
    "\u200b\u00ad".encode(), b"{{" * 100, b"[[" * 100, b"<div " * 60,
)  # fmt: skip
_XML = (
    b"<page>", b"</page>", b"<title>", b"</title>", b"<ns>0</ns>", b"<ns>x</ns>", b"<revision>",
    b"<text>", b"</text>", b"<text bytes='5' />", b"</mediawiki>", b"<redirect title='a' />",
    b"&amp;", b"&lol;", b"&#0;", b"<!DOCTYPE x [<!ENTITY lol 'lol'>]>", b"<![CDATA[", b"]]>",
    b"<?x", *_MARKUP,
)  # fmt: skip


def _article(title: bytes) -> bytes:
    return (
        b"<page><title>%b</title><ns>0</ns><id>1</id><revision><id>1</id>"
        b"<text>some words about %b</text></revision></page>\n"
    ) % (title, title)


_DUMP = b'<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" xml:lang="en">\n'


def _dump(content: bytes, folder: Path) -> None:
    path, tally = _written(content, folder, "wiki.xml"), Tally()
    titles = [page.title for page in read_pages(Part(str(path)), tally)]
    tally.check()
    if not {"First", "Last"} <= set(titles):
        raise FoundError(f"of the pages First and Last, these were read: {titles[:10]}")


def _torn_dump(content: bytes, folder: Path) -> None:
    tally = Tally()
    for page in read_pages(Part(str(_written(content, folder, "torn.xml"))), tally):
        plain_text(page.text)
    tally.check()


def _wikitext(content: bytes, _folder: Path) -> None:
    plain_text(content.decode("utf-8", "replace"))


def _views(content: bytes, folder: Path) -> None:
    path, tally = _written(content, folder, "pageviews"), Tally()
    sums = read_views(path, pa.array(["First", "Last"]), ["en.wikipedia"], tally)
    tally.check()
    if not all(sums):
        raise FoundError(f"the views of First and Last are {list(sums)}")


_VIEWS = (
    b"en Last 3 0\n", b"en.wikipedia ", b"en ", b"desktop", b"A1B2", b" ", b"\n", b"-1", b"%FF%FE",
    b"\\x22", b'"', b"en.wikipedia First 5 desktop 7 A7\n", b"9" * 25,
)  # fmt: skip

# Texts.


def _url(content: bytes, _folder: Path) -> None:
    base, _, reference = content.decode("utf-8", "replace").partition("\0")
    for start in ("", "http://a.example/b/c?d", base):
        try:
            url = absolute_url(reference, start)
        except UrlError:
            continue
        if absolute_url(url) != url:
            raise FoundError(f"{url!r} is not in its own normal form: {absolute_url(url)!r}")


_URLS = (
    b"http:", b"https://", b"//", b"/", b"\\", b"@", b":", b"?", b"#", b"[", b"]", b"[::1]", b"%",
    b"%2e", b"..", b".", b"xn--", "stra\u00dfe.example".encode(), "\uff0e".encode(), b"0x7f.1",
    b"2130706433", b":65536", b":80", b"user:pass@", b"javascript:", b"data:",
    b"file:///etc/passwd", b"\t", b" ", b"a",
)  # fmt: skip


def _robots(content: bytes, _folder: Path) -> None:
    RobotsTxt(content, "ours").allows("http://a.example/%c3%a4?x=*$")
    RobotsTxt(content, "ours", "bot").opts_out("http://a.example/%c3%a4?x=*$")
    robots = RobotsTxt(b"User-agent: ours\nDisallow: /closed\n\n" + content, "ours")
    if robots.allows("http://a.example/closed") and b"llow" not in content:
        raise FoundError("the rule for us is not obeyed")


_ROBOTS = (
    b"User-agent: ", b"user-agent:*", b"bot", b"ours", b"Disallow: /", b"Allow: ", b"/*.jpg$",
    b"*" * 90, b"$", b"#", b"Crawl-delay: ", b"1e9", b"Sitemap: http://a/", b"%2F", b"%", b"\n",
    b"\r", b": ", b"Content-Usage: ", b"Content-Signal: ", b"train-ai=n", b"ai-train=no", b"\t",
)  # fmt: skip

_CLEANER = CaptionCleaner(CaptionSettings())


def _caption(content: bytes, _folder: Path) -> None:
    clip_model.tokenize(content.decode("utf-8", "replace"), truncate=True)
    captions = pa.array([content.decode("utf-8", "replace")], pa.string())
    clean = _CLEANER.clean(captions).captions
    again = _CLEANER.clean(clean).captions
    if again != clean:
        raise FoundError(f"{clean[0]} becomes {again[0]} when it is cleaned once more")


_CAPTIONS = (
    b"a cat", b"&amp;", b"&amp;amp;lt;", "\u00e2\u20ac\u2122".encode(), b"cat@example.org", b"@",
    b".com", b"+1 415 555 2671", "415\u2013555\u20132671".encode(), "\u200d\ufe0f\u00ad".encode(),
    b"2019-2020 ", "\ufb01\u02bc\u0301".encode(), b"[email]", b"[phone]", b" ",
    b"0033 1 42 68 53 00", b"1,000.00 ",
)  # fmt: skip


def kinds() -> list[Kind]:
    """All that is read."""
    junk = damaged(_WARC).map(lambda junk: junk + b"\r\n\r\n")  # else it may begin the next header
    warc = between(_page(b"first"), junk, _page(b"last"))
    http = between(_page(b"first"), _http, _page(b"last"))
    wat = between(
        _wat(b"first"),
        st.one_of(junk, _metadata.map(lambda links: _wat(b"x", links))),
        _wat(b"last"),
    )
    lines = between(
        _LINE.replace(b"%b", b"first"),
        damaged(_JSON).map(lambda junk: junk + b"\n"),
        _LINE.replace(b"%b", b"last"),
        resumes=False,
    )
    dump = between(
        _DUMP + _article(b"First"), damaged(_XML), _article(b"Last") + b"</mediawiki>",
        (*_PACKS, bz2.compress),
    )  # fmt: skip
    views = between(
        b"en First 5 0\n", damaged(_VIEWS).map(lambda v: v + b"\n"), b"en Last 5 0\n" * 2
    )
    texts = st.one_of(st.none(), damaged((*_ROWS, *_CAPTIONS)))
    parquet = st.lists(texts, min_size=1, max_size=8).map(_parquet)
    ends = "first", "last"
    return [
        Kind("HTML folder", keeps("pages/page.html"), damaged(_HTML)),
        Kind("HTTP in WARC", keeps("http.warc", *ends), http),
        Kind("WARC", keeps("between.warc", *ends), warc),
        Kind("WARC, torn", any_end("torn.warc"), torn(warc)),
        Kind("WAT", keeps("between.wat", *ends), wat),
        Kind("WAT, torn", any_end("torn.wat"), torn(wat)),
        Kind("CSV", keeps("list.csv", *ends), _list(b",")),
        Kind("CSV, torn", any_end("torn.csv"), torn(_list(b","))),
        Kind("TSV", keeps("list.tsv", *ends), _list(b"\t")),
        Kind("TSV, torn", any_end("torn.tsv"), torn(_list(b"\t"))),
        Kind("JSON lines", keeps("lines.jsonl", *ends), lines),
        Kind("JSON lines, torn", any_end("torn.jsonl"), torn(lines)),
        Kind("Parquet", keeps("texts.parquet"), parquet),
        Kind("Parquet, torn", any_end("torn.parquet"), torn(parquet)),
        Kind("XML dump", _dump, dump),
        Kind("XML dump, torn", _torn_dump, torn(dump)),
        Kind("wikitext", _wikitext, damaged(_MARKUP)),
        Kind("page views", _views, views),
        Kind("robots.txt", _robots, damaged(_ROBOTS)),
        Kind("URL", _url, damaged(_URLS)),
        Kind("caption", _caption, damaged(_CAPTIONS)),
    ]
