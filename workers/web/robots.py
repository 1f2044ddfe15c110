"""robots.txt as RFC 9309 has it: which groups are for a crawler, and what their rules allow.

A parser of our own, since those that were looked at (Protego is Scrapy's) take a group for ours
whose name ours begins with, and let what is not of the standard, such as Crawl-delay, end a group.
"""

from __future__ import annotations

import codecs
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol
from urllib.parse import quote_from_bytes

from workers.base.failures import FetchError, is_passing
from workers.base.settings import product_token
from workers.base.urls import REDIRECTS, UrlError, absolute_url, authority

#: Bytes of a robots.txt that are read (section 2.5); the line that they end in is not.
MAX_ROBOTS_BYTES = 500 * 1024
#: Bytes that are taken, far more than are read: a larger one cannot be had.
MAX_ROBOTS_DOWNLOAD = 16 * 2**20
MAX_REDIRECTS = 5

#: Names of lines, and what people write for them.
_NAMES = {
    **dict.fromkeys(("user-agent", "useragent", "user agent"), "user-agent"),
    **dict.fromkeys(("disallow", "dissallow", "dissalow", "disalow", "diasllow"), "disallow"),
    "allow": "allow",
    **dict.fromkeys(("crawl-delay", "crawl delay"), "crawl-delay"),
}

#: The name and the value of a line: after a colon, or the one word after a forgotten one.
_LINE = re.compile(rf"(?i)({'|'.join(_NAMES)})[ \t]*(?::[ \t]*(.*)|[ \t]([^ \t]+))")

_ESCAPE = re.compile(rb"%[0-9A-Fa-f]{2}")

#: Characters that are themselves in a normal path: those of URLs but for the signs of patterns.
_PLAIN = "/?:[]@!&'()+,;=%"


class Rule(NamedTuple):
    """An Allow or Disallow line: the parts of its pattern between its asterisks."""

    parts: tuple[str, ...]
    is_whole: bool  # nothing may follow
    allows: bool
    octets: int  # of the pattern

    @classmethod
    def of(cls, pattern: str, allows: bool) -> Rule:
        is_whole = pattern.endswith("$")
        normal = _normal(pattern.removesuffix("$"), _PLAIN + "*")
        return cls(tuple(normal.split("*")), is_whole, allows, len(normal) + is_whole)

    def matches(self, path: str) -> bool:
        """Whether the pattern is one of a path, which begins with it unless it ends in "$"."""
        first, *others = self.parts
        if not path.startswith(first):
            return False
        if not others:
            return path == first or not self.is_whole
        at = len(first)
        for part in others[:-1]:  # a part's first place leaves most to those that follow
            at = path.find(part, at)
            if at < 0:
                return False
            at += len(part)
        if self.is_whole:
            return path.endswith(others[-1], at)
        return others[-1] in path[at:]


@dataclass
class _Group:
    agents: set[str] = field(default_factory=set)  # product tokens, "*" for all
    rules: list[Rule] = field(default_factory=list)
    delay: float = 0.0  # seconds
    is_open: bool = True  # no rule yet: a further user agent shares the group

    def take(self, name: str, value: str) -> None:
        if name == "crawl-delay":
            self.delay = max(self.delay, _seconds(value))
            return
        self.is_open = False
        if value:
            self.rules.append(Rule.of(value, allows=name == "allow"))


class RobotsTxt:
    """What a robots.txt says to one crawler.

    The groups for its product token count, or else those for "*", or else none. The longest pattern
    that fits decides, and of two as long as each other Allow; without any all is allowed.
    """

    def __init__(self, body: bytes, user_agent: str) -> None:
        groups = list(_groups(body))
        token = product_token(user_agent)
        ours = [group for group in groups if token in group.agents]
        ours = ours or [group for group in groups if "*" in group.agents]
        rules = [rule for group in ours for rule in group.rules]
        self._rules = sorted(rules, key=lambda rule: (-rule.octets, not rule.allows))
        #: Seconds between two requests, 0 without a Crawl-delay. Not of the RFC, but widely used.
        self.delay = max((group.delay for group in ours), default=0.0)

    def allows(self, url: str) -> bool:
        """Whether a URL in normal form may be asked for."""
        path = _normal("/" + url.split("/", 3)[3], _PLAIN)
        if path == "/robots.txt":
            return True
        return next((rule.allows for rule in self._rules if rule.matches(path)), True)


@dataclass(frozen=True)
class Robots:
    """The robots.txt of one origin; ``unreachable`` is why there is none, and then all waits."""

    txt: RobotsTxt
    unreachable: str | None = None


class Reply(NamedTuple):
    """An answer to a request for a robots.txt."""

    status: int
    body: bytes
    location: str  # where a redirect leads; "" for none


class Source(Protocol):
    """Who asks for it."""

    async def robots_reply(self, url: str) -> Reply:
        """Raises FetchError."""

    async def can_reach(self, url: str) -> bool:
        """Whether another host may be connected to."""


async def read_robots(origin: str, source: Source, user_agent: str) -> Robots:
    """Read the robots.txt of ``origin`` (SCHEME://HOST:PORT), wherever it sends us for it.

    What keeps us out, as an error of the server's would: more redirects than MAX_REDIRECTS, and
    one to a host that may not be connected to.
    """
    url = f"{origin}/robots.txt"
    for _ in range(MAX_REDIRECTS + 1):
        try:
            reply = await source.robots_reply(url)
        except FetchError as error:
            return Robots(RobotsTxt(b"", user_agent), unreachable=error.reason)
        if reply.status not in REDIRECTS:
            break
        try:
            url = absolute_url(reply.location, url)
        except UrlError:
            break
        if authority(url) != authority(f"{origin}/") and not await source.can_reach(url):
            break
    if 200 <= reply.status < 300:
        return Robots(RobotsTxt(reply.body, user_agent))
    if 400 <= reply.status < 500 and not is_passing(f"http_{reply.status}"):
        return Robots(RobotsTxt(b"", user_agent))
    return Robots(RobotsTxt(b"", user_agent), unreachable="robots_unreachable")


def _groups(body: bytes) -> Iterator[_Group]:
    group = None
    for name, value in _lines(body):
        if name == "user-agent":
            if group is None or not group.is_open:
                group = _Group()
                yield group
            group.agents.add("*" if value.split()[:1] == ["*"] else product_token(value) or "")
        elif group:
            group.take(name, value)


def _lines(body: bytes) -> Iterator[tuple[str, str]]:
    """The names and values that count, one character a byte."""
    if body.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        body = body.decode("utf-16", "replace").encode("utf-8", "replace")
    body = body.removeprefix(codecs.BOM_UTF8)
    lines = re.split(rb"[\r\n]+", body[:MAX_ROBOTS_BYTES])
    for line in lines if len(body) <= MAX_ROBOTS_BYTES else lines[:-1]:
        text = line.partition(b"#")[0].decode("latin-1").strip(" \t\0")
        if match := _LINE.fullmatch(text):
            yield _NAMES[match[1].lower()], match[2] if match[2] is not None else match[3]


def _seconds(value: str) -> float:
    try:
        seconds = float(value)
    except ValueError:
        return 0.0
    return max(seconds, 0.0) if math.isfinite(seconds) else 0.0


def _normal(text: str, plain: str) -> str:
    """A path with its query, or a pattern of some, as they are compared (section 2.2.2).

    A character and its percent-encoding are the same, but for separators in the path ("/", "?"),
    the signs of patterns, and "%". ``text`` has a character a byte, ``plain`` are not encoded.
    """
    path, mark, query = text.partition("?")
    return _recoded(path, b"/?%*$", plain) + mark + _recoded(query, b"%*$", plain)


def _recoded(text: str, kept: bytes, plain: str) -> str:
    def decoded(escape: re.Match[bytes]) -> bytes:
        byte = bytes.fromhex(escape[0][1:].decode())
        return escape[0].upper() if byte in kept else byte

    return quote_from_bytes(_ESCAPE.sub(decoded, text.encode("latin-1")), safe=plain)
