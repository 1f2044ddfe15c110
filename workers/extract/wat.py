"""WAT files: what Common Crawl says of each page of a WARC file, links and pictures included.

Each response has a metadata record with a JSON object, whose pictures are links with the path
"IMG@/src". There are no figure captions, source sets or lazy-loading attributes in it. Only the
fields below are decoded. See "Web Archive Transformation (WAT) Specification".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import urljoin

import msgspec
from fastwarc.warc import WarcRecordType

from workers.extract.candidates import Candidate
from workers.extract.inputs import Input
from workers.extract.page import is_for, is_html
from workers.extract.page_images import different
from workers.extract.pages import FoundImage, NotAPageError, image_pairs, refuse_long
from workers.extract.warc_pages import whole_records
from workers.extract.warc_records import RawRecord
from workers.robots_directives import is_opted_out
from workers.tally import Tally


class Link(msgspec.Struct):
    path: str = ""
    url: str = ""
    alt: str = ""
    title: str = ""


class Meta(msgspec.Struct):
    name: str = ""
    content: str = ""


class Head(msgspec.Struct, rename={"base": "Base", "metas": "Metas"}):
    base: str = ""
    metas: list[Meta] = []


class Html(msgspec.Struct, rename={"head": "Head", "links": "Links"}):
    head: Head = msgspec.field(default_factory=Head)
    links: list[Link] = []


class Message(msgspec.Struct, rename={"status": "Status"}):
    status: str | int = ""


class Response(
    msgspec.Struct,
    rename={"message": "Response-Message", "headers": "Headers", "html": "HTML-Metadata"},
):
    message: Message = msgspec.field(default_factory=Message)
    headers: dict[str, Any] = {}
    html: Html | None = None


class Payload(msgspec.Struct, rename={"response": "HTTP-Response-Metadata"}):
    response: Response | None = None


class WarcHeader(msgspec.Struct, rename={"kind": "WARC-Type", "url": "WARC-Target-URI"}):
    kind: str = ""
    url: str = ""


class Envelope(
    msgspec.Struct, rename={"payload": "Payload-Metadata", "warc": "WARC-Header-Metadata"}
):
    payload: Payload = msgspec.field(default_factory=Payload)
    warc: WarcHeader = msgspec.field(default_factory=WarcHeader)


class Container(msgspec.Struct, rename={"filename": "Filename", "offset": "Offset"}):
    filename: str = ""
    offset: str | int = ""


class Wat(msgspec.Struct, rename={"envelope": "Envelope", "container": "Container"}):
    envelope: Envelope = msgspec.field(default_factory=Envelope)
    container: Container = msgspec.field(default_factory=Container)


_DECODER = msgspec.json.Decoder(Wat)


def wat_pairs(
    source: Input, pages: Tally, images: Tally, agent: str | None = None
) -> Iterator[Candidate]:
    """The candidate pairs of a WAT file. Their source is the place in the WARC file it tells of."""
    for record in whole_records(source, WarcRecordType.metadata, pages):
        place = f"{source.name}@{record.offset}"
        try:
            wat = _decode(record)
            if wat.envelope.warc.kind not in ("response", ""):
                continue  # of a request, or of the crawl: no page
            html = _html(wat, agent)
            url = wat.envelope.warc.url or record.url
            refuse_long(url)
        except NotAPageError as verdict:
            verdict.count(pages, record.url, place)
            continue
        pages.keep()
        origin = wat.container
        if origin.filename and origin.offset != "":
            place = f"{origin.filename.rpartition('/')[2]}@{origin.offset}"
        yield from image_pairs(_images(html), url, _base(html, url), place, images)


def _decode(record: RawRecord) -> Wat:
    try:
        return _DECODER.decode(record.block)
    except (msgspec.DecodeError, RecursionError) as error:  # no JSON, or JSON of another shape
        raise NotAPageError("bad_json", failed=True) from error


def _html(wat: Wat, agent: str | None) -> Html:
    """What a record says of an HTML page that may be used. Raises NotAPageError."""
    response = wat.envelope.payload.response
    if response is None:
        raise NotAPageError("not_http", failed=True)
    status = str(response.message.status)
    if status != "200":
        raise NotAPageError(f"http_{status or 'unknown'}", failed=True)
    content_type = [*_header(response, "content-type"), "text/html"][0]
    if response.html is None or not is_html(content_type):
        raise NotAPageError("not_html", failed=False)
    metas = (meta.content for meta in response.html.head.metas if is_for(meta.name, agent))
    if is_opted_out([*_header(response, "x-robots-tag"), *metas], agent):
        raise NotAPageError("opted_out", failed=False)
    return response.html


def _header(response: Response, wanted: str) -> Iterator[str]:
    """The values of a header, whatever the case of its name; one that was sent twice has a list."""
    for name, value in response.headers.items():
        if name.lower() == wanted:
            yield from map(str, value if isinstance(value, list) else [value])


def _images(html: Html) -> Iterator[FoundImage]:
    for link in html.links:
        if link.path == "IMG@/src":
            yield FoundImage(link.url.strip(), different((link.alt, link.title)))


def _base(html: Html, url: str) -> str:
    try:
        return urljoin(url, html.head.base.strip())
    except ValueError:
        return url
