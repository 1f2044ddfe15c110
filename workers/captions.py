"""Captions: cleaned, then kept or rejected by named rules.

A rule is a function from a clean caption to None (keep) or the reason to reject it; a caption
is rejected by the first rule that speaks. A new rule is a function and a line in
``caption_rules``.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Sequence

import ftfy

from workers.settings import PairSettings

Rule = Callable[[str], str | None]

_IMAGE_EXTENSIONS = "jpe?g|jfif|png|gif|webp|svg|bmp|tiff?|avif|heic|ico"
_FILE_NAME = re.compile(
    rf".*[\w)\]]\.(?:{_IMAGE_EXTENSIONS})"  # IMG_0042.jpg, 1f600.png, My cat (2).jpeg
    r"|(?:img|dscn?|dscf|dcim|pxl|p|screenshot|scan)[-_ ]?\d[-_\d]*"  # DSC_0042
    r"|(?:image|photo|pic)[-_]?\d[-_\d]*"
    r"|(?=[a-f-]*\d)[0-9a-f]{4,}(?:-[0-9a-f]{2,})*",  # 1f600, a hash
    re.IGNORECASE,
)

#: Texts that page builders put in place of a description.
BOILERPLATE = frozenset(
    {
        "ad",
        "advertisement",
        "alt",
        "alt text",
        "avatar",
        "banner",
        "blank",
        "caption",
        "click here",
        "click to enlarge",
        "click to view",
        "company logo",
        "default",
        "featured image",
        "figure",
        "graphic",
        "gravatar",
        "header image",
        "icon",
        "icons",
        "image",
        "image description",
        "image not found",
        "image placeholder",
        "images",
        "img",
        "loading",
        "logo",
        "logos",
        "no image",
        "no image available",
        "photo",
        "photograph",
        "photos",
        "pic",
        "picture",
        "pictures",
        "placeholder",
        "profile photo",
        "profile picture",
        "screenshot",
        "site logo",
        "spacer",
        "thumb",
        "thumbnail",
        "thumbs",
        "untitled",
        "user avatar",
        "website logo",
    }
)

_EDGE_PUNCTUATION = " \t.,;:!?'\"()[]{}<>*-_#|/"

#: What ftfy may change: anything but printable ASCII, entities, and terminal escapes.
_NEEDS_FTFY = re.compile(r"[^ -%'-~]")


def clean_caption(text: str) -> str:
    """A caption as people would write it: mojibake and entities undone, single spaces.

    Idempotent up to what ftfy is.
    """
    text = " ".join(text.split())
    if _NEEDS_FTFY.search(text):
        text = " ".join(ftfy.fix_text(html.unescape(text)).split())
    return text.strip()


def caption_rules(settings: PairSettings) -> list[Rule]:
    """The rules in the order in which they are asked."""
    return [
        too_short(settings.min_caption_chars),
        too_long(settings.max_caption_chars),
        file_name,
        no_letters,
        garbled,
        boilerplate,
    ]


def first_reason(caption: str, rules: Sequence[Rule]) -> str | None:
    """The first reason to reject a caption, None if there is none."""
    return next((reason for rule in rules if (reason := rule(caption))), None)


def too_short(min_chars: int) -> Rule:
    def rule(caption: str) -> str | None:
        return "too_short" if len(caption) < min_chars else None

    return rule


def too_long(max_chars: int) -> Rule:
    def rule(caption: str) -> str | None:
        return "too_long" if len(caption) > max_chars else None

    return rule


def file_name(caption: str) -> str | None:
    """The name of an image file, or what cameras and icon sets name their files."""
    return "file_name" if _FILE_NAME.fullmatch(caption) else None


def no_letters(caption: str) -> str | None:
    return None if any(map(str.isalpha, caption)) else "no_letters"


def garbled(caption: str) -> str | None:
    """Text that was decoded wrongly beyond repair."""
    return "garbled" if "\ufffd" in caption else None


def boilerplate(caption: str) -> str | None:
    """What stands where a description should be: "logo", "Image 3", "[photo]"."""
    words = re.sub(r"\d+", " ", caption.casefold()).strip(_EDGE_PUNCTUATION)
    return "boilerplate" if words in BOILERPLATE else None
