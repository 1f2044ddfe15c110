"""WAT files: what Common Crawl says of each page of a WARC file, links and images included.

Each response has a metadata record with a JSON object, whose images are links with the path
"IMG@/src". There are no figure captions, source sets or lazy-loading attributes in it. Only the
fields below are decoded. See "Web Archive Transformation (WAT) Specification".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from workers.base.preferences import page_opts_out
from workers.base.tally import Tally
from workers.base.urls import Base, base_url
from workers.extract.candidates import Candidate
from workers.extract.inputs import Input
from workers.extract.page import is_html
from workers.extract.page_images import different
from workers.extract.pages import (
    FoundImage,
    NotAPageError,
    image_pairs,
    only_this_page,
    refuse_long,
)
from workers.extract.warc_pages import PAGE_KINDS, of_another_kind, whole_records
from workers.extract.warc_records import RawRecord

#: Other tools than Common Crawl's write null for what there is not.
Text = str | None


class Link(msgspec.Struct):
    path: Text = None
    url: Text = None
    alt: Text = None
    title: Text = None


class Meta(msgspec.Struct):
    name: Text = None
    content: Text = None


class Head(msgspec.Struct, rename={"base": "Base", "metas": "Metas"}):
    base: Text = None
    metas: list[Meta] | None = None


class Html(msgspec.Struct, rename={"head": "Head", "links": "Links"}):
    head: Head = msgspec.field(default_factory=Head)
    links: list[Link] | None = None


class Message(msgspec.Struct, rename={"status": "Status"}):
    status: str | int | None = None


class Response(
    msgspec.Struct,
    rename={"message": "Response-Message", "headers": "Headers", "html": "HTML-Metadata"},
):
    message: Message = msgspec.field(default_factory=Message)
    headers: dict[str, Any] = {}
    html: Html | None = None


class Payload(msgspec.Struct, rename={"response": "HTTP-Response-Metadata"}):
    response: Response | None = None


class Envelope(
    msgspec.Struct, rename={"payload": "Payload-Metadata", "warc": "WARC-Header-Metadata"}
):
    payload: Payload = msgspec.field(default_factory=Payload)
    warc: dict[str, Any] = {}


class Container(msgspec.Struct, rename={"filename": "Filename", "offset": "Offset"}):
    filename: Text = None
    offset: str | int | None = None


class Wat(msgspec.Struct, rename={"envelope": "Envelope", "container": "Container"}):
    envelope: Envelope = msgspec.field(default_factory=Envelope)
    container: Container = msgspec.field(default_factory=Container)


_DECODER = msgspec.json.Decoder(Wat)


def wat_pairs(
    source: Input, pages: Tally, images: Tally, agents: tuple[str, ...] = ()
) -> Iterator[Candidate]:
    """The candidate pairs of a WAT file. Their source is the place in the WARC file it tells of."""
    for record in whole_records(source, ("metadata",), pages):
        place = f"{source.name}@{record.offset}"
        try:
            with only_this_page():
                wat = _decode(record)
                html = _html(wat, agents)
                url = _first(wat.envelope.warc, "warc-target-uri").strip().strip("<>") or record.url
                base = Base(base_url(html.head.base or "", url))
            refuse_long(url)
        except NotAPageError as verdict:
            verdict.count(pages, record.url, place)
            continue
        pages.keep()
        yield from image_pairs(_images(html), url, base, _origin(wat) or place, images)


def _decode(record: RawRecord) -> Wat:
    try:
        try:
            return _DECODER.decode(record.block)
        except UnicodeDecodeError:
            return _DECODER.decode(record.block.decode("utf-8", "replace"))
    except (msgspec.DecodeError, RecursionError) as error:  # no JSON, or JSON of another shape
        raise NotAPageError("bad_json", failed=True) from error


def _origin(wat: Wat) -> str:
    """The place in the WARC file that a record tells of, or ""."""
    origin = wat.container
    if not origin.filename or origin.offset in (None, ""):
        return ""
    return f"{origin.filename.rpartition('/')[2]}@{origin.offset}"


def _html(wat: Wat, agents: tuple[str, ...]) -> Html:
    """What a record says of an HTML page that may be used. Raises NotAPageError."""
    response = wat.envelope.payload.response
    kind = _first(wat.envelope.warc, "warc-type").strip().lower()
    if kind and (kind not in PAGE_KINDS or (kind != "response" and response is None)):
        raise of_another_kind(kind)  # of a request, or of the crawl
    if response is None:
        raise NotAPageError("not_http", failed=True)
    status = str(response.message.status or "")
    if status != "200":
        raise NotAPageError(f"http_{status or 'unknown'}", failed=True)
    content_type = _first(response.headers, "content-type") or "text/html"
    if response.html is None or not is_html(content_type):
        raise NotAPageError("not_html", failed=False)
    metas = response.html.head.metas or []
    said = [(meta.name or "", meta.content or "") for meta in metas]
    if page_opts_out(_lines(response.headers), said, agents):
        raise NotAPageError("opted_out", failed=False)
    return response.html


def _lines(headers: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Names and values of headers; one that was sent twice has a list of values."""
    for name, values in headers.items():
        for value in values if isinstance(values, list) else [values]:
            if value is not None:
                yield name, str(value)


def _first(headers: dict[str, Any], wanted: str) -> str:
    """The first value of a header, whatever the case of its name."""
    return next((value for name, value in _lines(headers) if name.lower() == wanted), "")


def _images(html: Html) -> Iterator[FoundImage]:
    for link in html.links or []:
        if link.path == "IMG@/src":
            texts = different((link.alt or "", link.title or ""))
            yield FoundImage((link.url or "").strip(), texts)
