"""The images of a page: the best version of each, and the texts that describe it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from workers.extract.tags import Document, Tag

#: Attributes in which lazy-loading scripts keep what belongs into src, best first: those of
#: lazysizes and lozad, jQuery's plug-ins, sliders, WordPress' plug-ins, and services.
LAZY_SOURCES = (
    "data-src", "data-original", "data-lazy-src", "data-lazy", "data-original-src",
    "data-actualsrc", "data-echo", "data-lazyload", "data-flickity-lazyload",
    "data-flickity-lazyload-src", "data-splide-lazy", "data-orig-src", "data-opt-src",
    "data-wpfc-original-src", "data-cfsrc", "data-ezsrc", "data-pagespeed-lazy-src",
)  # fmt: skip

#: The same of srcset.
LAZY_SETS = (
    "data-srcset", "data-lazy-srcset", "data-original-set", "data-flickity-lazyload-srcset",
    "data-splide-lazy-srcset", "data-wpfc-original-srcset", "data-ezsrcset",
    "data-pagespeed-lazy-srcset",
)  # fmt: skip

#: What such attributes hold where they are switches and no addresses.
_SWITCHES = frozenset({"0", "1", "auto", "false", "lazy", "lazyload", "no", "on", "true", "yes"})

#: The attributes of an <img> that describe it; a figure's caption comes after the first.
TEXTS = ("alt", "title", "aria-label")

#: Image types of a <source> that the download can read.
READABLE_TYPES = ("image/jpeg", "image/png", "image/webp", "image/gif")

_ELEMENTS = ("img", "source", "picture", "noscript", "figcaption", "figure")

_SETS = ("srcset", *LAZY_SETS)
_ATTRIBUTES = ("src", "type", *TEXTS, *_SETS, *LAZY_SOURCES)

#: The attributes of an image that has no other version.
_PLAIN = frozenset({"src", "type", *TEXTS})

#: Figures in figures; deeper ones are not told apart.
_MAX_FIGURES = 8

#: A candidate of a srcset: a URL, which may hold commas but does not end in one; a descriptor.
_CANDIDATE = re.compile(r"[\s,]*+(\S++)([^,]*+)")

#: A width or a density.
_DESCRIPTOR = re.compile(r"(?:^|\s)([0-9]{1,9}(?:\.[0-9]+)?|\.[0-9]+)([wx])(?:\s|$)")

#: File names of what stands in for an image that is on its way.
_PLACEHOLDER = re.compile(
    r"(?:^|[/_.\-])(?:1x1|blank|grey|lazy|loading|lq|lqip|pixel|placeholder|preload|spacer|transparent)"
    r"(?:[_.\-][^/]*)?$",
    re.IGNORECASE,
)


@dataclass(slots=True)
class Figure:
    """A <figure>: how many images it has, and its caption."""

    images: int = 0
    caption: str = ""


@dataclass(slots=True)
class PageImage:
    """An <img> in its surroundings."""

    attributes: Mapping[str, str]
    sources: list[_Set]  # the source sets of the <image> around it
    figure: Figure | None
    in_noscript: bool

    def reference(self) -> str:
        """The reference to the best version, "" if there is none.

        The largest of its source sets and those of the <picture> around it; else where a
        lazy-loading script would look; else its src.
        """
        if not self.sources and self.attributes.keys() <= _PLAIN:
            return self.attributes.get("src", "").strip()
        return (
            _largest([*_source_sets(self.attributes), *self.sources])
            or next(filter(_is_address, map(self._stripped, LAZY_SOURCES)), "")
            or self._stripped("src")
        )

    def _stripped(self, name: str) -> str:
        return self.attributes.get(name, "").strip()

    def texts(self) -> list[str]:
        """The different texts that the page gives it: alt, figure caption, title, label.

        A figure's caption describes an image only if the figure has no other.
        """
        texts = [self.attributes[name] for name in TEXTS if name in self.attributes]
        if self.figure and self.figure.images == 1:
            texts.insert("alt" in self.attributes, self.figure.caption)
        return different(texts)


def different(texts: Iterable[str]) -> list[str]:
    """The texts that say something, of those that differ in case or white space alone the first."""
    said = [text for text in texts if text and not text.isspace()]
    if len(said) < 2:
        return said
    return list({" ".join(text.split()).lower(): text for text in reversed(said)}.values())[::-1]


@dataclass(slots=True)
class _Place:
    """What is open where a tag stands."""

    figures: list[Figure] = field(default_factory=list)
    waiting: list[PageImage] = field(default_factory=list)  # until their figure is closed
    sources: list[_Set] | None = None  # None outside of a <image>
    in_noscript: bool = False
    caption_start: int | None = None


def images_of(document: Document) -> Iterator[PageImage]:
    """The images of a page in its order."""
    place = _Place()
    for tag in document.tags(_ELEMENTS, _ATTRIBUTES):
        if tag.name == "img" and not tag.closing:
            place.waiting.append(_image(tag.attributes, place))
        elif tag.name == "source" and place.sources is not None:
            place.sources += _readable(tag.attributes)
        elif tag.name == "picture":
            place.sources = None if tag.closing else []
        elif tag.name == "noscript":
            place.in_noscript = not tag.closing
        elif tag.name == "figcaption":
            _caption(tag, document, place)
        elif tag.name == "figure":
            _figure(tag, place)
        if place.waiting and not place.figures:
            yield from place.waiting
            place.waiting.clear()
    yield from place.waiting


def _image(attributes: Mapping[str, str], place: _Place) -> PageImage:
    figure = place.figures[-1] if place.figures else None
    for around in place.figures:
        around.images += 1
    sources, place.sources = place.sources or [], None  # a <image> has one <img>
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


def _readable(source: Mapping[str, str]) -> list[_Set]:
    kind = source.get("type", READABLE_TYPES[0]).strip().lower()
    return _source_sets(source) if kind in READABLE_TYPES else []


def _source_sets(attributes: Mapping[str, str]) -> list[_Set]:
    return [_Set(attributes[name], name != "srcset") for name in _SETS if name in attributes]


class _Set(NamedTuple):
    """A source set; ``lazy`` ones hold what a script puts into the others' place."""

    text: str
    lazy: bool


class _Candidate(NamedTuple):
    """A version of an image by its width in pixels, or by its density."""

    url: str
    size: float
    in_pixels: bool


def _largest(sets: list[_Set]) -> str:
    """The largest version in some source sets: by width, else by the sets' order, lazy ones first.

    Densities of different sets say nothing about each other. What a page shows while its images
    are on their way is no version of them.
    """
    best = None
    for lazy in (True, False):
        for each in sets:
            found = largest_candidate(each.text) if each.lazy == lazy else None
            if found is None or (best and not lazy and _PLACEHOLDER.search(found.url)):
                continue
            if best is None or (best.in_pixels and found.in_pixels and found.size > best.size):
                best = found
    return best.url if best else ""


def largest_candidate(source_set: str) -> _Candidate | None:
    """The largest candidate of a srcset; the first of equals, None without any."""
    best, at = None, 0
    while match := _CANDIDATE.match(source_set, at):
        url, descriptor = match[1], match[2]
        at = match.end()
        if url[-1] == ",":
            url, descriptor, at = url.rstrip(","), "", match.end(1)
        size, unit = _size(descriptor)
        found = _Candidate(url, size, unit == "w")
        if _is_address(url) and (best is None or found.size > best.size):
            best = found
    return best


def _size(descriptor: str) -> tuple[float, str]:
    """A srcset descriptor ("640w", "2x") as a number and its unit; 1x where there is none."""
    found = _DESCRIPTOR.search(descriptor)
    return (float(found[1]), found[2]) if found else (1.0, "x")


def _is_address(value: str) -> bool:
    """Whether a value may be an image's address: no switch, no template, no image itself."""
    return (
        value != "" and value[:5].lower() != "data:" and "{" not in value
        and value.lower() not in _SWITCHES
    )  # fmt: skip
