"""The pictures of a page: the best version of each, and the texts that describe it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from workers.extract.tags import Document, Tag

#: Attributes in which lazy-loading scripts keep what belongs into src and srcset, best first.
LAZY_SOURCES = (
    "data-src", "data-original", "data-lazy-src", "data-lazy", "data-original-src",
    "data-actualsrc", "data-echo",
)  # fmt: skip
SOURCE_SETS = ("srcset", "data-srcset", "data-lazy-srcset", "data-original-set")

#: The attributes of an <img> that describe it; a figure's caption comes after the first.
TEXTS = ("alt", "title", "aria-label")

#: Picture types of a <source> that the download can read.
READABLE_TYPES = ("image/jpeg", "image/png", "image/webp", "image/gif")

_ELEMENTS = ("img", "source", "picture", "noscript", "figcaption", "figure")

#: Figures in figures; deeper ones are not told apart.
_MAX_FIGURES = 8

#: A candidate of a srcset: a URL, which may hold commas but does not end in one; a descriptor.
_CANDIDATE = re.compile(r"[\s,]*+(\S++)([^,]*+)")


@dataclass(slots=True)
class Figure:
    """A <figure>: how many pictures it has, and its caption."""

    images: int = 0
    caption: str = ""


@dataclass(slots=True)
class PageImage:
    """An <img> in its surroundings."""

    attributes: Mapping[str, str]
    sources: list[str]  # the source sets of the <picture> around it
    figure: Figure | None
    in_noscript: bool

    def reference(self) -> str:
        """The reference to the best version, "" if there is none.

        The largest of its srcset, or of the <picture> around it; else where a lazy-loading script
        would look; else its src.
        """
        for source_set in (*_source_sets(self.attributes), *self.sources):
            best = largest_candidate(source_set)
            if best:
                return best
        for name in (*LAZY_SOURCES, "src"):
            value = self.attributes.get(name)
            if value and not value.isspace():
                return value.strip()
        return ""

    def texts(self) -> list[str]:
        """The different texts that the page gives it: alt, figure caption, title, label.

        A figure's caption describes a picture only if the figure has no other.
        """
        alt, *others = (self.attributes.get(name, "") for name in TEXTS)
        alone = self.figure is not None and self.figure.images == 1
        return different((alt, self.figure.caption if self.figure and alone else "", *others))


def different(texts: Iterable[str]) -> list[str]:
    """The texts that say something, of those that differ in case or white space alone the first."""
    found: dict[str, str] = {}
    for text in texts:
        words = " ".join(text.split())
        if words:
            found.setdefault(words.lower(), text)
    return list(found.values())


@dataclass(slots=True)
class _Place:
    """What is open where a tag stands."""

    figures: list[Figure] = field(default_factory=list)
    waiting: list[PageImage] = field(default_factory=list)  # until their figure is closed
    sources: list[str] | None = None  # None outside of a <picture>
    in_noscript: bool = False
    caption_start: int | None = None


def images_of(document: Document) -> Iterator[PageImage]:
    """The pictures of a page in its order."""
    place = _Place()
    for tag in document.tags(*_ELEMENTS):
        if tag.name == "img" and not tag.closing:
            place.waiting.append(_image(document.attributes(tag), place))
        elif tag.name == "source" and place.sources is not None:
            place.sources += _readable(document.attributes(tag))
        elif tag.name == "picture":
            place.sources = None if tag.closing else []
        elif tag.name == "noscript":
            place.in_noscript = not tag.closing
        elif tag.name == "figcaption":
            _caption(tag, document, place)
        elif tag.name == "figure":
            _figure(tag, place)
        if not place.figures:
            yield from place.waiting
            place.waiting.clear()
    yield from place.waiting


def _image(attributes: Mapping[str, str], place: _Place) -> PageImage:
    figure = place.figures[-1] if place.figures else None
    for around in place.figures:
        around.images += 1
    sources, place.sources = place.sources or [], None  # a <picture> has one <img>
    return PageImage(attributes, sources, figure, place.in_noscript)


def _figure(tag: Tag, place: _Place) -> None:
    place.caption_start = None
    if tag.closing and place.figures:
        place.figures.pop()
    elif not tag.closing and len(place.figures) < _MAX_FIGURES:
        place.figures.append(Figure())


def _caption(tag: Tag, document: Document, place: _Place) -> None:
    if not tag.closing:
        place.caption_start = tag.end
    elif place.caption_start is not None and place.figures:
        figure = place.figures[-1]
        figure.caption = figure.caption or document.text(place.caption_start, tag.start)
        place.caption_start = None


def _readable(source: Mapping[str, str]) -> list[str]:
    kind = source.get("type", READABLE_TYPES[0]).strip().lower()
    return _source_sets(source) if kind in READABLE_TYPES else []


def _source_sets(attributes: Mapping[str, str]) -> list[str]:
    return [attributes[name] for name in SOURCE_SETS if name in attributes]


def largest_candidate(source_set: str) -> str:
    """The URL of the largest candidate of a srcset by width or density; the first of equals."""
    best, best_size, at = "", 0.0, 0
    while match := _CANDIDATE.match(source_set, at):
        url, descriptor = match[1], match[2]
        at = match.end()
        if url[-1] == ",":
            url, descriptor, at = url.rstrip(","), "", match.end(1)
        size = _size(descriptor)
        if size > best_size and url[:5].lower() != "data:":
            best, best_size = url, size
    return best


def _size(descriptor: str) -> float:
    """A srcset descriptor ("640w", "2x") as a number; 1 where there is none."""
    try:
        return max(float(descriptor.split()[0][:-1]), 0.001) if descriptor.strip() else 1.0
    except ValueError:
        return 1.0
