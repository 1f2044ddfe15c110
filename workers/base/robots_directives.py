"""What a page or image says that may be done with it: one list of directives, one parser.

Directives come in the X-Robots-Tag header of a page or an image, and in the robots meta elements
of a page. There is no standard; this is what Google, Bing and DeviantArt have published of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from workers.base.settings import product_token

#: Each of these says that a page or image is not for a use like ours.
OPT_OUTS = frozenset({"noai", "noimageai", "noml", "noindex", "noimageindex"})

#: "none" stands for these.
_NONE = frozenset({"noindex", "nofollow"})

#: Whom a directive for everybody is addressed to, if anybody is named.
_EVERYBODY = frozenset({"*", "robots"})

#: Directives with a value behind a colon, which may hold colons and be called "none".
_VALUED = re.compile(r"max-[a-z-]+|unavailable_after")

#: A crawler's name before a colon. A part of a date, "15" in "15:00:00 PST", is none.
_AGENT = re.compile(r"\*|[a-z_][\w./*-]*")


def directives_of(values: Iterable[str], agent: str | None) -> set[str]:
    """The directives for everybody and for ``agent``, in lower case; of "none" what it means.

    ``values`` are the lines of a header, one by one, or the contents of meta elements. A name
    before a colon ("googlebot: noindex, nofollow") addresses all that follows in its line.
    ``agent`` is a product token as ``product_token`` gives it; with None only what is said to
    everybody counts.
    """
    said = {word for value in values for word in _words(value, {*_EVERYBODY, agent})}
    return said | _NONE if "none" in said else said


def _words(value: str, names: set[str | None]) -> Iterator[str]:
    is_for_us = True
    for part in value.lower().split(","):
        name, colon, rest = (text.strip() for text in part.partition(":"))
        if colon and _is_agent(name):
            is_for_us = name in names or product_token(name) in names
            name, colon, rest = (text.strip() for text in rest.partition(":"))
        if is_for_us:
            # Of a value the first word is passed over. Some write spaces or semicolons for commas.
            yield from re.split(r"[\s;]+", name)
            yield from re.split(r"[\s;]+", rest)[1:]


def _is_agent(name: str) -> bool:
    known = _VALUED.fullmatch(name) or name in OPT_OUTS
    return not known and _AGENT.fullmatch(name) is not None


def is_opted_out(values: Iterable[str], agent: str | None) -> bool:
    """Whether one of the directives for everybody or for ``agent`` is among OPT_OUTS."""
    return not OPT_OUTS.isdisjoint(directives_of(values, agent))
