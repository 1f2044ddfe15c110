"""What short scripts make of WARC and WAT files with what people use: pairs of image and text.

The rules are those of ``extract_pairs``, as far as a short script has them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

from bs4 import BeautifulSoup
from fastwarc.warc import ArchiveIterator as FastIterator
from fastwarc.warc import WarcRecordType
from resiliparse.parse.html import HTMLTree
from selectolax.lexbor import LexborHTMLParser
from warcio.archiveiterator import ArchiveIterator

Pairs = Counter[tuple[str, str]]

_NAMES = ("alt", "title", "src", "srcset", "data-src")


def warcio_and_soup(path: Path) -> Pairs:
    pairs: Pairs = Counter()
    with path.open("rb") as file:
        for record in ArchiveIterator(file):
            if record.rec_type == "response":
                url = record.rec_headers.get_header("WARC-Target-URI")
                soup = BeautifulSoup(record.content_stream().read(), "html.parser")
                base = soup.find("base", href=True)
                pairs.update(
                    _pairs(_soup_images(soup), urljoin(url, base["href"]) if base else url)
                )
    return pairs


def fastwarc_and_lexbor(path: Path) -> Pairs:
    pairs: Pairs = Counter()
    for url, body in _fast_pages(path):
        tree = LexborHTMLParser(body)
        base = tree.css_first("base[href]")
        address = urljoin(url, base.attributes["href"] or "") if base else url
        pairs.update(_pairs(_lexbor_images(tree), address))
    return pairs


def fastwarc_and_resiliparse(path: Path) -> Pairs:
    pairs: Pairs = Counter()
    for url, body in _fast_pages(path):
        document: Any = HTMLTree.parse_from_bytes(body, "utf-8").document
        base = document.query_selector("base[href]")
        address = urljoin(url, base.getattr("href")) if base else url
        pairs.update(_pairs(_resiliparse_images(document), address))
    return pairs


def warcio_and_json(path: Path) -> Pairs:
    """The same of a WAT file."""
    pairs: Pairs = Counter()
    with path.open("rb") as file:
        for record in ArchiveIterator(file):
            if record.rec_type == "metadata":
                envelope = json.loads(record.content_stream().read())["Envelope"]
                url = envelope["WARC-Header-Metadata"]["WARC-Target-URI"]
                response = envelope["Payload-Metadata"]["HTTP-Response-Metadata"]
                for link in response["HTML-Metadata"]["Links"]:
                    if link["path"] == "IMG@/src" and link.get("alt", "").strip():
                        pairs[urljoin(url, link["url"]), link["alt"]] += 1
    return pairs


def _fast_pages(path: Path) -> Iterator[tuple[str, bytes]]:
    with path.open("rb") as file:
        for record in FastIterator(file, record_types=WarcRecordType.response):
            yield record.headers["WARC-Target-URI"], record.reader.read()


#: An image's attributes, and its figure's caption.
Images = Iterable[tuple[Mapping[str, str | None], str | None]]


def _soup_images(soup: Any) -> Images:
    for image in soup.find_all("img"):
        figure = image.find_parent("figure")
        caption = figure.find("figcaption") if figure else None
        yield image.attrs, caption.get_text() if caption else None


def _lexbor_images(tree: Any) -> Images:
    captions = {
        image.mem_id: caption.text()
        for figure in tree.css("figure")
        if (caption := figure.css_first("figcaption"))
        for image in figure.css("img")
    }
    for image in tree.css("img"):
        yield image.attributes, captions.get(image.mem_id)


def _resiliparse_images(document: Any) -> Images:
    for image in document.get_elements_by_tag_name("img"):
        figure = image.parent
        caption = figure.query_selector("figcaption") if figure.tag == "figure" else None
        attributes = {name: image.getattr(name) for name in _NAMES}
        yield attributes, caption.text if caption else None


def _pairs(images: Images, base: str) -> Iterator[tuple[str, str]]:
    for attributes, caption in images:
        reference = _reference(attributes)
        texts = [attributes.get("alt"), caption, attributes.get("title")]
        for text in dict.fromkeys(filter(None, texts)):
            if reference and text.strip():
                yield urljoin(base, reference), text


def _reference(attributes: Mapping[str, str | None]) -> str:
    if source_set := attributes.get("srcset"):
        candidates = [entry.split() for entry in source_set.split(",")]
        return max(candidates, key=lambda entry: float(entry[-1][:-1]))[0]
    return attributes.get("data-src") or attributes.get("src") or ""


def lexbor_images(html: bytes) -> int:
    return len(LexborHTMLParser(html).css("img"))


def resiliparse_images(html: bytes) -> int:
    document: Any = HTMLTree.parse_from_bytes(html, "utf-8").document
    return len(document.query_selector_all("img"))
