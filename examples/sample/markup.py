"""The many ways in which web pages write an image and its caption in HTML."""

from __future__ import annotations

import posixpath
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from html import escape
from html.entities import codepoint2name

#: A transparent GIF of one pixel, as pages put it where an image will be loaded later.
BLANK_DATA_URI = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"
BLANK_GIF = "/static/blank.gif"


class Form(StrEnum):
    """How one image is written. The URL and caption to find are the same in every form."""

    PLAIN = "plain"
    NO_ALT = "no_alt"
    EMPTY_ALT = "empty_alt"
    RELATIVE = "relative"
    ABSOLUTE = "absolute"
    CROSS_HOST = "cross_host"
    PROTOCOL_RELATIVE = "protocol_relative"
    UPPER_CASE = "upper_case"
    SINGLE_QUOTES = "single_quotes"
    UNQUOTED = "unquoted"
    ENTITIES = "entities"
    MULTILINE = "multiline"
    LAZY_DATA_URI = "lazy_data_uri"
    LAZY_BLANK = "lazy_blank"
    SRCSET = "srcset"
    SRCSET_ONLY = "srcset_only"
    PICTURE = "picture"
    FIGURE = "figure"
    FIGCAPTION_ONLY = "figcaption_only"
    LINKED = "linked"


#: The share of captioned images that is written in each form; the rest is plain.
FORM_SHARES: dict[Form, float] = {
    Form.RELATIVE: 0.15,
    Form.ABSOLUTE: 0.15,
    Form.CROSS_HOST: 0.06,
    Form.PROTOCOL_RELATIVE: 0.01,
    Form.UPPER_CASE: 0.03,
    Form.SINGLE_QUOTES: 0.03,
    Form.UNQUOTED: 0.02,
    Form.ENTITIES: 0.03,
    Form.MULTILINE: 0.01,
    Form.LAZY_DATA_URI: 0.04,
    Form.LAZY_BLANK: 0.02,
    Form.SRCSET: 0.04,
    Form.SRCSET_ONLY: 0.005,
    Form.PICTURE: 0.02,
    Form.FIGURE: 0.04,
    Form.FIGCAPTION_ONLY: 0.01,
    Form.LINKED: 0.01,
}


@dataclass(frozen=True)
class Source:
    """Where an image is, seen from a page."""

    base_url: str  # of the image's host: "http://127.0.0.1:8931"
    target: str  # "/pictures/1f600.png?utm_source=newsletter"
    page_folder: str  # what relative URLs of the page start from: "/category/flags/"
    is_same_host: bool

    @property
    def absolute(self) -> str:
        return self.base_url + self.target

    @property
    def shortest(self) -> str:
        """Without the host where the page has the same one."""
        return self.target if self.is_same_host else self.absolute

    @property
    def relative(self) -> str:
        if not self.is_same_host:
            return self.absolute
        path, mark, query = self.target.partition("?")
        return posixpath.relpath(path, self.page_folder) + mark + query

    @property
    def doubled(self) -> str:
        """The URL for screens of double density; the server gives the same image."""
        return double(self.shortest)


#: Forms that offer the image for double density beside the plain one.
DOUBLED_FORMS = frozenset({Form.SRCSET, Form.PICTURE})


def double(url: str) -> str:
    """The URL of an image for screens of double density."""
    return f"{url}{'&' if '?' in url else '?'}dpr=2"


def write_image(form: Form, source: Source, caption: str) -> str:
    """The HTML of one image in the given form."""
    return _WRITERS[form](source, caption)


def _image(url: str, caption: str, more: str = "") -> str:
    return f'<img src="{escape(url)}" alt="{escape(caption)}"{more}>'


def _plain(source: Source, caption: str) -> str:
    return _image(source.shortest, caption, ' width="72" height="72"')


def _no_alt(source: Source, _caption: str) -> str:
    return f'<img src="{escape(source.shortest)}" width="72" height="72">'


def _relative(source: Source, caption: str) -> str:
    return _image(source.relative, caption)


def _absolute(source: Source, caption: str) -> str:
    return _image(source.absolute, caption)


def _protocol_relative(source: Source, caption: str) -> str:
    return _image(source.absolute.removeprefix("http:"), caption)


def _upper_case(source: Source, caption: str) -> str:
    return f'<IMG BORDER=0 SRC="{escape(source.shortest)}" ALT="{escape(caption)}">'


def _single_quotes(source: Source, caption: str) -> str:
    return f"<img alt='{escape(caption)}' src='{escape(source.shortest)}' />"


def _unquoted(source: Source, caption: str) -> str:
    """Without quotes where HTML allows it: values of plain characters."""
    alt = caption if caption.isalnum() else f'"{escape(caption)}"'
    url = f'"{escape(source.shortest)}"' if "?" in source.target else source.shortest
    return f"<img width=72 src={url} alt={alt}>"


def _entities(source: Source, caption: str) -> str:
    alt = f"&#x{ord(caption[0]):x};" + "".join(map(_entity, caption[1:]))
    return f'<img src="{escape(source.shortest)}" alt="{alt}">'


def _entity(character: str) -> str:
    name = codepoint2name.get(ord(character))
    if name:
        return f"&{name};"
    return f"&#{ord(character)};" if character in ":-'" else character


def _multiline(source: Source, caption: str) -> str:
    alt = escape(caption).replace(" ", "\n        ", 1)
    return f'<img\n  src="{escape(source.shortest)}"\n  alt="  {alt} "\n>'


def _lazy_data_uri(source: Source, caption: str) -> str:
    return _image(BLANK_DATA_URI, caption, f' data-src="{escape(source.shortest)}" class="lazy"')


def _lazy_blank(source: Source, caption: str) -> str:
    return _image(BLANK_GIF, caption, f' class="lazyload" data-src="{escape(source.absolute)}"')


def _srcset(source: Source, caption: str) -> str:
    candidates = f"{source.shortest} 1x, {source.doubled} 2x"
    return _image(source.shortest, caption, f' srcset="{escape(candidates)}"')


def _srcset_only(source: Source, caption: str) -> str:
    return f'<img srcset="{escape(source.shortest)} 1x" alt="{escape(caption)}">'


def _picture(source: Source, caption: str) -> str:
    wide = f'<source media="(min-width: 800px)" srcset="{escape(source.doubled)}">'
    return f"<picture>{wide}{_image(source.shortest, caption)}</picture>"


def _figure(source: Source, caption: str) -> str:
    text = f"<figcaption>{escape(caption)}</figcaption>"
    return f"<figure>{_image(source.shortest, caption)}{text}</figure>"


def _figcaption_only(source: Source, caption: str) -> str:
    text = f"<figcaption><em>{escape(caption)}</em></figcaption>"
    return f"<figure>{_image(source.shortest, '')}{text}</figure>"


def _linked(source: Source, caption: str) -> str:
    return f'<a href="{escape(source.shortest)}">{_image(source.shortest, caption)}</a>'


_WRITERS: dict[Form, Callable[[Source, str], str]] = {
    Form.PLAIN: _plain,
    Form.NO_ALT: _no_alt,
    Form.EMPTY_ALT: _plain,
    Form.RELATIVE: _relative,
    Form.ABSOLUTE: _absolute,
    Form.CROSS_HOST: _absolute,
    Form.PROTOCOL_RELATIVE: _protocol_relative,
    Form.UPPER_CASE: _upper_case,
    Form.SINGLE_QUOTES: _single_quotes,
    Form.UNQUOTED: _unquoted,
    Form.ENTITIES: _entities,
    Form.MULTILINE: _multiline,
    Form.LAZY_DATA_URI: _lazy_data_uri,
    Form.LAZY_BLANK: _lazy_blank,
    Form.SRCSET: _srcset,
    Form.SRCSET_ONLY: _srcset_only,
    Form.PICTURE: _picture,
    Form.FIGURE: _figure,
    Form.FIGCAPTION_ONLY: _figcaption_only,
    Form.LINKED: _linked,
}
