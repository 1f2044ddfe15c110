"""robots.txt as RFC 9309 has it: which groups are for a crawler, and what their rules allow.

Beside what may be asked for it says what the answers may be used for: Content-Usage, a rule of a
group as the IETF's aipref drafts have it, and Content-Signal (``workers.base.preferences``).

A parser of our own, since those that were looked at (Protego is Scrapy's) take a group for ours
whose name ours begins with, let what is not of the standard, such as Crawl-delay, end a group, and
know nothing of the use.
"""

from __future__ import annotations

import codecs
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from workers.base.failures import FetchError, is_passing
from workers.base.path_patterns import PathPattern, path_of
from workers.base.preferences import signal_opts_out, usage_opts_out
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
    "content-usage": "content-usage",
    **dict.fromkeys(("content-signal", "content-signals"), "content-signal"),
}

#: The name and the value of a line: after a colon, or the one word after a forgotten one.
_LINE = re.compile(rf"(?i)({'|'.join(_NAMES)})[ \t]*(?::[ \t]*(.*)|[ \t]([^ \t]+))")

#: Lines that say what may be done with what is there, after a path or for all paths.
_USES = {"content-usage": usage_opts_out, "content-signal": signal_opts_out}


class Rule(NamedTuple):
    """A line of a group: the paths that it is for, and what it says of them."""

    pattern: PathPattern
    allows: bool


@dataclass
class _Group:
    agents: set[str] = field(default_factory=set)  # product tokens, "*" for all
    #: Which paths may be asked for ("access"), and used as each of _USES says.
    rules: defaultdict[str, list[Rule]] = field(default_factory=lambda: defaultdict(list))
    delay: float = 0.0  # seconds
    is_open: bool = True  # no rule yet: a further user agent shares the group

    def take(self, name: str, value: str) -> None:
        if name == "crawl-delay":
            self.delay = max(self.delay, _seconds(value))
        elif name in _USES:
            # Content-Usage is a rule; what is none, by RFC 9309, may not end a group (2.2.4).
            self.is_open &= name != "content-usage"
            self._use(name, value)
        else:
            self.is_open = False
            if value:
                self.rules["access"].append(Rule(PathPattern.of(value), name == "allow"))

    def _use(self, name: str, value: str) -> None:
        path, _, statement = value.replace("\t", " ").partition(" ")
        if not value.startswith("/"):
            path, statement = "", value
        opts_out = _USES[name](statement)
        if opts_out is not None:  # what says nothing of our use leaves it to a more general line
            self.rules[name].append(Rule(PathPattern.of(path), not opts_out))


class _Rules:
    """What is said to one crawler: by the groups for it, or else those for "*", or else none."""

    def __init__(self, groups: Iterable[_Group], agent: str) -> None:
        token = product_token(agent)
        ours = [group for group in groups if token in group.agents]
        ours = ours or [group for group in groups if "*" in group.agents]
        self.delay = max((group.delay for group in ours), default=0.0)
        # The longest pattern decides; of two as long as each other Allow, or else the opt-out.
        self._rules = {
            kind: sorted(
                (rule for group in ours for rule in group.rules[kind]),
                key=lambda rule: (-rule.pattern.octets, rule.allows != (kind == "access")),
            )
            for kind in ("access", *_USES)
        }

    def allow(self, kind: str, path: str) -> bool:
        """Whether the rules of a kind allow a path; without one for it they do."""
        fitting = (rule.allows for rule in self._rules[kind] if rule.pattern.matches(path))
        return next(fitting, True)


class RobotsTxt:
    """What a robots.txt says to a crawler, and to others whose rules it obeys as well.

    For each the groups for its product token count, or else those for "*", or else none. The
    longest pattern that fits decides; without any all is allowed.
    """

    def __init__(self, body: bytes, user_agent: str, *others: str) -> None:
        groups = list(_groups(body))
        self._rules = [_Rules(groups, agent) for agent in (user_agent, *others)]
        #: Seconds between two requests, 0 without a Crawl-delay. Not of the RFC, but widely used.
        self.delay = max(rules.delay for rules in self._rules)

    def allows(self, url: str) -> bool:
        """Whether a URL in normal form may be asked for."""
        path = path_of(url)
        return path == "/robots.txt" or all(rules.allow("access", path) for rules in self._rules)

    def opts_out(self, url: str) -> bool:
        """Whether what is at a URL in normal form is not to be trained on."""
        path = path_of(url)
        return not all(rules.allow(use, path) for rules in self._rules for use in _USES)


@dataclass(frozen=True)
class Robots:
    """The robots.txt of one origin; ``unreachable`` is why there is none, and then all waits."""

    txt: RobotsTxt
    unreachable: str | None = None


class RuleFile(NamedTuple):
    """What a host answers to a request for a file of rules: robots.txt, tdmrep.json."""

    status: int
    body: bytes
    location: str  # where a redirect leads; "" for none


class Source(Protocol):
    """Who asks for it."""

    async def robots_reply(self, url: str) -> RuleFile:
        """Raises FetchError."""

    async def can_reach(self, url: str) -> bool:
        """Whether another host may be connected to."""


async def read_robots(origin: str, source: Source, user_agent: str, *others: str) -> Robots:
    """Read the robots.txt of ``origin`` (SCHEME://HOST:PORT), wherever it sends us for it.

    It is read for ``user_agent``, and ``others`` whose rules we obey.

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
        return Robots(RobotsTxt(reply.body, user_agent, *others))
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
