"""Pages as the web has them, made from a seed, in WARC and WAT files as Common Crawl lays them out.

A page has 30 to 100 kB: a head with scripts and styles, menus, paragraphs with links, and images
in the ways that pages show them (lazy loading, source sets, figures, relative addresses).
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from datetime import UTC, datetime
from html import escape
from itertools import accumulate
from pathlib import Path
from random import Random
from typing import Any

from workers.crawl.warc_writer import response_record

_NOW = datetime(2026, 11, 22, tzinfo=UTC)
_HEADERS = {"Content-Type": "text/html; charset=utf-8"}
_LETTERS = "etaoinshrdlucmfwypvbgkjqxz"

#: Pages of about so many bytes that take some parsers long, by what they are made of.
HOSTILE: dict[str, Callable[[int], str]] = {
    "nested elements": lambda size: "<div>" * (size // 5),
    "end tags of nothing": lambda size: "<div>" * (size // 10) + "</i>" * (size // 8),
    "attributes of one tag": lambda size: f"<img {' '.join(f'a{n}=1' for n in range(size // 8))}>",
    "formatting elements": lambda size: "".join(f"<b x={n}>" for n in range(size // 10)),
    "nested tables": lambda size: "<table><tr><td>" * (size // 15),
    "nested SVG": lambda size: "<svg><g>" * (size // 16) + "</x>" * (size // 8),
    "scripts without an end": lambda size: "<script><!--<script" + "</script" * (size // 8),
    "comments without an end": lambda size: "<!-- <!" * (size // 7),
}


class PageMaker:
    """Makes pages one after the other; the same seed makes the same pages."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)
        self._words = ["".join(self._random.choices(_LETTERS, k=3 + n % 9)) for n in range(20_000)]
        self._words += ["café", "naïve", "Zürich", "日本", "&", "<3", '"so"', "it's"]
        self._weights = list(accumulate(1 / (n + 10) for n in range(len(self._words))))

    def words(self, count: int) -> str:
        return " ".join(self._random.choices(self._words, cum_weights=self._weights, k=count))

    def page(self, number: int) -> tuple[str, bytes, list[dict[str, str]]]:
        """The URL of a page, its HTML, and its links as a WAT file has them."""
        url = f"https://site{number % 97}.example/{self._random.choice('abc')}/page-{number}.html"
        links: list[dict[str, str]] = []
        parts = [self._head()]
        parts += [self._link(links) for _ in range(self._random.randint(30, 120))]
        for _ in range(self._random.randint(15, 45)):
            text = escape(self.words(self._random.randint(30, 160)))
            parts.append(
                f'<div class="row col-{len(parts)}"><p>{text} {self._link(links)}</p></div>'
            )
            if self._random.random() < 0.5:
                parts.append(self._image(links))
        parts.append("<footer><ul><li>" + "<li>".join(self._link(links) for _ in range(20)))
        return url, "\n".join(parts).encode(), links

    def _head(self) -> str:
        script = f"var a={{'k':'{self.words(300)}'}};if(a.length<3&&a>2){{document.write('<img>')}}"
        style = ".c{margin:0;padding:1px}\n" * self._random.randint(20, 300)
        return (
            f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{self.words(6)}'
            f'</title><meta name="description" content="{escape(self.words(20))}"><style>{style}'
            f"</style><script>{script}</script></head><body><!-- {self.words(5)} -->"
        )

    def _link(self, links: list[dict[str, str]]) -> str:
        href, text = f"/{self._random.randrange(10**6)}/x.html?a=1&b=2", self.words(3)
        links.append({"path": "A@/href", "url": href, "text": text})
        return f'<a class="link" href="{escape(href)}" title="">{escape(text)}</a>'

    def _image(self, links: list[dict[str, str]]) -> str:
        number = self._random.randrange(10**7)
        kind = self._random.randrange(10)
        src = [f"/img/{number}.jpg", f"photos/{number}.png", f"https://cdn.example/{number}.webp"][
            number % 3
        ]
        alt = "" if kind == 0 else self.words(self._random.randint(1, 14))
        links.append({"path": "IMG@/src", "url": src, "alt": alt})
        tag = f'<img class="c" src="{src}" alt="{escape(alt)}" width="640" height="480">'
        if kind == 1:
            sets = f"{src}?w=320 320w, {src}?w=1280 1280w"
            return tag.replace("<img", f'<img srcset="{sets}" sizes="100vw"')
        if kind == 2:
            return tag.replace("<img", f'<img data-src="{src}?full"')
        if kind == 3:
            return f"<figure>{tag}<figcaption>{escape(self.words(8))}</figcaption></figure>"
        return tag


def write_files(folder: Path, pages: int, seed: int) -> tuple[Path, Path, int]:
    """A WARC and a WAT file of the same pages, a gzip member a record; and the bytes of HTML."""
    maker, size = PageMaker(seed), 0
    warc, wat = folder / "pages.warc.gz", folder / "pages.warc.wat.gz"
    with warc.open("wb") as warc_file, wat.open("wb") as wat_file:
        for number in range(pages):
            url, body, links = maker.page(number)
            size += len(body)
            offset = warc_file.tell()
            warc_file.write(gzip.compress(_record("request", url, b"GET / HTTP/1.1\r\n\r\n"), 6))
            warc_file.write(gzip.compress(response_record(url, 200, _HEADERS, body, _NOW), 6))
            payload = json.dumps(_wat(url, links, offset)).encode()
            wat_file.write(gzip.compress(_record("metadata", url, payload), 6))
    return warc, wat, size


def _record(kind: str, url: str, block: bytes) -> bytes:
    head = (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: {url}\r\n"
        "WARC-Date: 2026-11-22T00:00:00Z\r\nWARC-Record-ID: <urn:uuid:1>\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(block)}\r\n\r\n"
    )
    return head.encode() + block + b"\r\n\r\n"


def _wat(url: str, links: list[dict[str, str]], offset: int) -> dict[str, Any]:
    response = {
        "Response-Message": {"Version": "HTTP/1.1", "Status": "200", "Reason": "OK"},
        "Headers": _HEADERS | {"Server": "nginx", "Connection": "close", "Vary": "Accept"},
        "HTML-Metadata": {"Head": {"Title": "A page", "Metas": []}, "Links": links},
    }
    return {
        "Container": {"Filename": "pages.warc.gz", "Offset": str(offset)},
        "Envelope": {
            "WARC-Header-Metadata": {"WARC-Type": "response", "WARC-Target-URI": url},
            "Payload-Metadata": {"HTTP-Response-Metadata": response},
        },
    }
