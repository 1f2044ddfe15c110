"""The web's noise: what is wrong with an image or its caption, and with how many of them.

Which image gets which noise is decided by the rank of its hash and not by a random
generator, so that the shares hold exactly and even a small site has every kind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum

from examples.sample.images import NamedImage
from workers.base.sampling import draw


class Kind(StrEnum):
    """What is special about one (URL, caption) of the site."""

    CLEAN = "clean"
    ALIAS = "alias"
    WRONG_CAPTION = "wrong_caption"
    MISSING_ALT = "missing_alt"
    FILE_NAME_ALT = "file_name_alt"
    DUPLICATE_URL = "duplicate_url"
    REDIRECT = "redirect"
    SLOW = "slow"
    OPTED_OUT = "opted_out"
    NOT_FOUND = "not_found"
    REDIRECT_LOOP = "redirect_loop"
    BROKEN_HTML = "broken_html"
    BROKEN_BYTES = "broken_bytes"
    BROKEN_EMPTY = "broken_empty"
    TRUNCATED = "truncated"
    SHORT_BODY = "short_body"
    DISALLOWED = "disallowed"
    LOGO = "logo"
    SPACER = "spacer"
    DATA_URI = "data_uri"


#: What each kind is, and what a good pipeline does with it.
MEANING: dict[Kind, tuple[str, str]] = {
    Kind.CLEAN: ("a true name as caption", "keep"),
    Kind.ALIAS: ("another true name as caption", "keep"),
    Kind.WRONG_CAPTION: ("the caption of another concept", "score low, drop"),
    Kind.MISSING_ALT: ("alt empty or absent", "reject: no caption"),
    Kind.FILE_NAME_ALT: ('"IMG_0042.jpg", "logo" as alt', "reject or score low"),
    Kind.DUPLICATE_URL: ("the same image under a second URL", "keep; a duplicate by content"),
    Kind.REDIRECT: ("302 to the image, some on another host", "keep"),
    Kind.SLOW: ("answers after 200 ms", "keep"),
    Kind.OPTED_OUT: ("served with X-Robots-Tag: noai, noimageai", "do not keep"),
    Kind.NOT_FOUND: ("404", "fail"),
    Kind.REDIRECT_LOOP: ("302 in a circle", "fail"),
    Kind.BROKEN_HTML: ("200 image/png, but an HTML error page", "fail"),
    Kind.BROKEN_BYTES: ("200 image/png, but random bytes", "fail"),
    Kind.BROKEN_EMPTY: ("200 image/png, zero bytes", "fail"),
    Kind.TRUNCATED: ("a PNG cut in the middle, Content-Length fits", "fail"),
    Kind.SHORT_BODY: ("Content-Length promises more than is sent", "fail"),
    Kind.DISALLOWED: ("only on pages that robots.txt disallows", "never see it"),
    Kind.LOGO: ("the site's own icon, on every page", "reject or score low"),
    Kind.SPACER: ("1 x 1 pixel for layout or tracking", "reject: no caption"),
    Kind.DATA_URI: ("an image inside the page", "never see it"),
}

#: Kinds whose URL serves no image that could be used.
FAILING = frozenset(
    {
        Kind.NOT_FOUND,
        Kind.REDIRECT_LOOP,
        Kind.BROKEN_HTML,
        Kind.BROKEN_BYTES,
        Kind.BROKEN_EMPTY,
        Kind.TRUNCATED,
        Kind.SHORT_BODY,
    }
)

#: Kinds whose caption describes what the URL serves.
TRUE_KINDS = frozenset(
    {
        Kind.CLEAN,
        Kind.ALIAS,
        Kind.DUPLICATE_URL,
        Kind.REDIRECT,
        Kind.SLOW,
        Kind.OPTED_OUT,
        Kind.DISALLOWED,
    }
)


@dataclass(frozen=True)
class NoiseShares:
    """The share of the images that gets each kind of noise; the rest is clean.

    ``duplicate_url`` is a share of the images too, but adds a row instead of spoiling one.
    Every share above zero gives at least one image.
    """

    missing_alt: float = 0.04
    alias: float = 0.10
    wrong_caption: float = 0.12
    file_name_alt: float = 0.04
    redirect: float = 0.02
    slow: float = 0.005
    opted_out: float = 0.005
    not_found: float = 0.02
    redirect_loop: float = 0.0002
    broken_html: float = 0.007
    broken_bytes: float = 0.007
    broken_empty: float = 0.006
    truncated: float = 0.015
    short_body: float = 0.003
    disallowed: float = 0.015
    duplicate_url: float = 0.08


def allot(keys: Iterable[str], count: int, seed: int, label: str) -> list[str]:
    """The ``count`` keys with the lowest draws: a sample that depends on nothing else."""
    return sorted(keys, key=lambda key: (draw(seed, label, key), key))[:count]


def quota(share: float, total: int) -> int:
    return max(1, round(share * total)) if share > 0 else 0


def assign_kinds(images: Sequence[NamedImage], shares: NoiseShares, seed: int) -> dict[str, Kind]:
    """The kind of each image's own URL, by code."""
    kinds = {image.code: Kind.CLEAN for image in images}
    for image in images:
        if image.name is None:
            kinds[image.code] = Kind.MISSING_ALT
    for field in fields(shares):
        if field.name == Kind.DUPLICATE_URL:
            continue
        kind = Kind(field.name)
        already = sum(given == kind for given in kinds.values())
        count = max(0, quota(getattr(shares, field.name), len(images)) - already)
        eligible = [p.code for p in images if kinds[p.code] == Kind.CLEAN and _fits(p, kind)]
        for code in allot(eligible, count, seed, kind):
            kinds[code] = kind
    return kinds


def _fits(image: NamedImage, kind: Kind) -> bool:
    return bool(image.aliases) if kind == Kind.ALIAS else True


def duplicated(kinds: dict[str, Kind], shares: NoiseShares, seed: int) -> list[str]:
    """The codes of the images that are shown under a second URL too: sound ones only."""
    sound = [code for code, kind in kinds.items() if kind in (Kind.CLEAN, Kind.ALIAS)]
    return allot(sound, quota(shares.duplicate_url, len(kinds)), seed, Kind.DUPLICATE_URL)


def concept_words(image: NamedImage) -> frozenset[str]:
    """The words of all names of an image, in lower case."""
    text = " ".join((image.name or "", *image.aliases)).lower()
    words = "".join(c if c.isalnum() else " " for c in text).split()
    return frozenset(word for word in words if len(word) > 2) - _STOP_WORDS


_STOP_WORDS = frozenset({"and", "for", "from", "face", "into", "over", "the", "with", "without"})
_PEOPLE = frozenset({"People & Body", "Smileys & Emotion"})


def is_other_concept(image: NamedImage, other: NamedImage) -> bool:
    """Whether no reader could take a name of ``other`` for one of ``image``.

    Of people and faces, too much is true at once: an image of someone who pouts is one of a
    person, and one of a frowning face.
    """
    return (
        image.subgroup != other.subgroup
        and not {image.group, other.group} <= _PEOPLE
        and image.content != other.content
        and not concept_words(image) & concept_words(other)
    )


def wrong_name_finder(images: Sequence[NamedImage], seed: int) -> Callable[[NamedImage], str]:
    """A function that gives an image the name of another concept, always the same one."""
    named = [image for image in images if image.name is not None]

    def wrong_name(image: NamedImage) -> str:
        for attempt in range(1_000):
            other = named[int(draw(seed, "wrong", image.code, attempt) * len(named))]
            if other.name is not None and is_other_concept(image, other):
                return other.name
        raise ValueError(f"no image of another concept than {image.name!r} on this site")

    return wrong_name
