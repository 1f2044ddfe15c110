"""The pages of the site, in HTML: an index for each host, galleries, and pages with quirks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from html import escape

from examples.sample.markup import BLANK_DATA_URI, Form, Source, write_image
from examples.sample.noise import Kind, allot
from examples.sample.placements import Placement

IMAGES_A_PAGE = 50
FEATURED = 6
OFF_SITE = "http://example.invalid/"
LOGO = "/static/logo.png"
SPACER = "/static/spacer.gif"
PIXEL = "/static/pixel.gif"
PRIVATE = "/private/"
SORTED = "/gallery/?sort=newest"
LOGO_ALT = "logo"
BULLET_ALT = "bullet point"

ROBOTS = """\
User-agent: *
Disallow: /private/
Disallow: /calendar/
Disallow: /*?sort=

User-agent: ExampleBadBot
Disallow: /
"""

_FOOTER = (
    "Graphics: Twemoji, copyright Twitter, Inc and other contributors, licensed under "
    '<a href="https://creativecommons.org/licenses/by/4.0/">CC-BY 4.0</a>.'
)


class Quirk(StrEnum):
    """What is unusual about a whole page."""

    NONE = "none"
    BASE_HREF = "base_href"
    LATIN_1 = "latin_1"  # declared in the header only
    UTF_16 = "utf_16"  # with a byte order mark
    WINDOWS_1252 = "windows_1252"  # declared in a meta tag only
    MALFORMED = "malformed"  # tags left open, a stray end tag


_ENCODINGS = {
    Quirk.LATIN_1: ("latin-1", "text/html; charset=iso-8859-1"),
    Quirk.UTF_16: ("utf-16", "text/html; charset=utf-16"),
    Quirk.WINDOWS_1252: ("cp1252", "text/html"),
}
#: One gallery in this many has a <base href>.
_BASE_HREF_EVERY = 8
_BASE_FOLDER = "/pictures/"


@dataclass(frozen=True)
class Page:
    """One HTML page, before it is written."""

    host: int
    target: str
    title: str
    placements: tuple[Placement, ...] = ()
    links: tuple[tuple[str, str], ...] = ()  # (href, text)
    quirk: Quirk = Quirk.NONE
    body: str = field(default="", repr=False)  # HTML after the gallery

    @property
    def folder(self) -> str:
        """What the page's relative URLs start from."""
        if self.quirk == Quirk.BASE_HREF:
            return _BASE_FOLDER
        return self.target.partition("?")[0].rpartition("/")[0] + "/"


def make_pages(placements: Sequence[Placement], base_urls: Sequence[str], seed: int) -> list[Page]:
    """Every page of every host, except the calendar, which has no end."""
    shown = [p for p in placements if p.kind != Kind.DISALLOWED]
    hidden = [p for p in placements if p.kind == Kind.DISALLOWED]
    galleries = _with_quirks(list(_galleries(shown, len(base_urls))), seed)
    indexes = [_index(host, galleries, shown, base_urls, seed) for host in range(len(base_urls))]
    return [*indexes, *galleries, *_hidden_pages(hidden, len(base_urls))]


def _galleries(placements: Sequence[Placement], hosts: int) -> Iterator[Page]:
    groups = sorted({placement.image.group for placement in placements})
    for host in range(hosts):
        for group in groups:
            members = [p for p in placements if p.page_host == host and p.image.group == group]
            yield from _gallery(host, group, members)


def _gallery(host: int, group: str, members: Sequence[Placement]) -> Iterator[Page]:
    """The pages of one group on one host; each links to all others, as paginations do."""
    chunks = [members[i : i + IMAGES_A_PAGE] for i in range(0, len(members), IMAGES_A_PAGE)]
    targets = [_gallery_target(group, number) for number in range(1, len(chunks) + 1)]
    links = (("/", "Home"), *((t, f"Page {n}") for n, t in enumerate(targets, 1)))
    for number, (target, chunk) in enumerate(zip(targets, chunks, strict=True), 1):
        yield Page(host, target, f"{group}, page {number}", tuple(chunk), links)


def _gallery_target(group: str, number: int) -> str:
    slug = "-".join(re.findall(r"[a-z]+", group.lower()))
    return f"/category/{slug}/" + ("" if number == 1 else f"page-{number}.html")


def _with_quirks(galleries: Sequence[Page], seed: int) -> list[Page]:
    """Give some galleries a quirk; the encodings go where there is something to encode."""
    quirks: dict[tuple[int, str], Quirk] = {}
    ranked = sorted(galleries, key=lambda page: (-_foreign_letters(page), page.host, page.target))
    for page, quirk in zip(ranked, _ENCODINGS, strict=False):
        quirks[page.host, page.target] = quirk
    plain = {f"{p.host} {p.target}": p for p in ranked[len(_ENCODINGS) :]}
    chosen = allot(plain, 1 + len(galleries) // _BASE_HREF_EVERY, seed, "quirk")
    for order, key in enumerate(chosen):
        page = plain[key]
        quirks[page.host, page.target] = Quirk.MALFORMED if order == 0 else Quirk.BASE_HREF
    return [replace(p, quirk=quirks.get((p.host, p.target), Quirk.NONE)) for p in galleries]


def _foreign_letters(page: Page) -> int:
    return sum(not c.isascii() and c.isalpha() for p in page.placements for c in p.caption)


def _index(
    host: int,
    galleries: Sequence[Page],
    placements: Sequence[Placement],
    base_urls: Sequence[str],
    seed: int,
) -> Page:
    groups = [
        (page.target, page.title)
        for page in galleries
        if page.host == host and page.title.endswith(", page 1")
    ]
    others = [(f"{url}/", "A sister site") for url in base_urls if url != base_urls[host]]
    return Page(
        host,
        "/",
        f"Picture library {host + 1}",
        _featured(host, placements, seed),
        (*groups, *others, *_TRAPS),
        body=f'<p><img src="{BLANK_DATA_URI}" alt="{BULLET_ALT}"> New pictures every day.</p>',
    )


#: What a crawler must not follow, or must survive.
_TRAPS = (
    (PRIVATE, "Members"),
    (SORTED, "Newest first"),
    ("/calendar/2026/01.html", "Calendar"),
    ("/gone.html", "News"),
    ("/old/", "The old home page"),
    ("/catalogue.pdf", "Catalogue"),
    (OFF_SITE, "A friend's site"),
    ("mailto:nobody@example.invalid", "Write to us"),
    ("javascript:void(0)", "Menu"),
    ("#top", "To the top"),
)


def _featured(host: int, placements: Sequence[Placement], seed: int) -> tuple[Placement, ...]:
    """Images of this host's galleries, shown once more on its index page."""
    clean = {
        p.image.code: p
        for p in placements
        if p.kind == Kind.CLEAN and p.page_host == host and p.form == Form.PLAIN
    }
    return tuple(clean[code] for code in allot(clean, FEATURED, seed, "featured"))


def _hidden_pages(hidden: Sequence[Placement], hosts: int) -> Iterator[Page]:
    for host in range(hosts):
        members = [p for p in hidden if p.page_host == host]
        home = (("/", "Home"),)
        yield Page(host, PRIVATE, "Members only", tuple(members[::2]), home)
        yield Page(host, SORTED, "Newest first", tuple(members[1::2]), home)


def calendar_page(host: int, target: str) -> Page | None:
    """A page of the calendar, which links to the next month for ever."""
    match = re.fullmatch(r"/calendar/(\d{4,9})/(\d\d)\.html", target)
    if not match:
        return None
    year, month = int(match[1]), int(match[2])
    following = f"/calendar/{year + month // 12}/{month % 12 + 1:02d}.html"
    return Page(host, target, f"Calendar {year}-{month:02d}", links=((following, "Next month"),))


def write_page(page: Page, base_urls: Sequence[str]) -> tuple[bytes, str]:
    """The bytes of a page and its Content-Type."""
    text = "\n".join(_lines(page, base_urls)) + "\n"
    if page.quirk == Quirk.MALFORMED:
        text = _malformed(text)
    encoding, content_type = _ENCODINGS.get(page.quirk, ("utf-8", "text/html; charset=utf-8"))
    return text.encode(encoding, "xmlcharrefreplace"), content_type


def _lines(page: Page, base_urls: Sequence[str]) -> Iterator[str]:
    yield "<!DOCTYPE html>"
    yield f'<html lang="en"><head><title>{escape(page.title)}</title>'
    if page.quirk == Quirk.WINDOWS_1252:
        yield '<meta charset="windows-1252">'
    if page.quirk == Quirk.BASE_HREF:
        yield f'<base href="{base_urls[page.host]}{_BASE_FOLDER}">'
    yield "</head><body>"
    yield f'<p><a href="/"><img src="{LOGO}" alt="{LOGO_ALT}"></a></p>'
    yield f'<h1>{escape(page.title)}</h1><img src="{SPACER}" width="1" height="1" alt="">'
    yield "<ul>"
    yield from _items(page, base_urls)
    yield "</ul>"
    yield page.body
    yield from (f'<a href="{escape(href)}">{escape(text)}</a>' for href, text in page.links)
    pixel = base_urls[(page.host + 1) % len(base_urls)] + PIXEL
    yield f"<footer><p>{_FOOTER}</p><img src={pixel}></footer>"
    yield "</body></html>"


def _items(page: Page, base_urls: Sequence[str]) -> Iterator[str]:
    for number, placement in enumerate(page.placements, 1):
        source = Source(
            base_urls[placement.file_host],
            placement.target,
            page.folder,
            is_same_host=placement.file_host == page.host,
        )
        image = write_image(placement.form, source, placement.caption)
        yield f"<li>{image}<p>No. {number}</p></li>"


def _malformed(text: str) -> str:
    """Leave tags open and close what was never opened, as many pages do."""
    for tag in ("</li>", "</p>", "</ul>", "</body>", "</html>"):
        text = text.replace(tag, "")
    return text.replace("<ul>", "</div><ul><b><i>", 1)
