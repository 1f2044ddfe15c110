"""Fetching images: over http and https, as their hosts want it, or from a local root.

What the web may make this machine do is bounded by ``workers.web.client``, what we do to the web by
``workers.web.hosts``: robots.txt is read before a host is asked for anything, each host has a few
requests at a time, and is left alone when it says so. A URL is asked for once, however many
captions it has. A failure is a reason as the tally has it, and a text.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial

from multidict import CIMultiDictProxy

from workers.base.failures import FetchError, is_passing
from workers.base.opt_outs import Kind, OptOuts
from workers.base.preferences import TdmRep, headers_opt_out
from workers.base.settings import DownloadSettings
from workers.base.urls import REDIRECTS, UrlError, absolute_url, authority, from_header, origin
from workers.fetch.codings import without_codings
from workers.fetch.local_images import LocalImages
from workers.web.client import ERRORS, Answer, Client, TooLargeError, failure_reason
from workers.web.hosts import Host, Manners
from workers.web.leases import Leases
from workers.web.pauses import MAX_PAUSE, backoff, retry_after
from workers.web.robots import (
    MAX_REDIRECTS,
    MAX_ROBOTS_BYTES,
    MAX_ROBOTS_DOWNLOAD,
    Robots,
    RuleFile,
    read_robots,
)

#: Where a host says what it reserves (TDMRep).
TDMREP = "/.well-known/tdmrep.json"

#: The reasons for which a host counts as one that does not answer.
_NO_ANSWER = ("connection", "timeout", "unknown_host")

#: The reasons that are a decision of ours or the server's, not a failure.
REJECTIONS = frozenset(
    {
        "private_address", "odd_port", "opted_out", "taken_down", "robots_txt", "not_http",
        "data_uri", "bad_url", "url_too_long",
    }
)  # fmt: skip


class ListedError(FetchError):
    """A URL or an image stands on a list of what is not to be used."""

    def __str__(self) -> str:
        return "it stands on a list (opt_outs) or was taken down"


@dataclass
class LastAnswer:
    """Who answered last, of a URL and what it redirects to, and how."""

    url: str | None = None  # None: nothing was asked
    status: int | None = None  # None: there was no answer, or it was a file
    last_modified: str | None = None
    etag: str | None = None

    def asks(self, url: str) -> None:
        """Nobody has answered for this URL yet."""
        self.url, self.status, self.last_modified, self.etag = url, None, None, None

    def note(self, answer: Answer) -> None:
        """What an answer says."""
        self.status = answer.status
        self.last_modified = _header(answer, "Last-Modified")
        self.etag = _header(answer, "ETag")


@dataclass(frozen=True)
class Fetched:
    """What came of a URL: a content, or a reason for which there is none."""

    content: bytes | None
    reason: str = ""
    text: str = ""  # more about it
    sha256: str = ""  # of the content
    answer: LastAnswer = field(default_factory=LastAnswer)
    attempts: int = 1
    ended: float = 0.0  # seconds since 1970


class Backlog:
    """Contents that wait to be taken: while there are many, nothing more is asked for.

    Args:
        connections: requests at a time; twice as many contents may wait.
    """

    def __init__(self, connections: int) -> None:
        self._connections = asyncio.Semaphore(connections)
        self._most, self._count = 2 * connections, 0
        self._has_room = asyncio.Event()
        self._has_room.set()

    @asynccontextmanager
    async def room(self) -> AsyncIterator[None]:
        """The time of a request."""
        await self._has_room.wait()
        async with self._connections:
            yield

    def add(self, contents: int) -> None:
        """Count contents that have come, or with a minus, that were taken."""
        self._count += contents
        if self._count < self._most:
            self._has_room.set()
        else:
            self._has_room.clear()


@dataclass
class _Budget:
    """What one attempt may still take."""

    seconds: float


class ImageFetcher:
    """Fetches images at any number of hosts, in one event loop."""

    def __init__(
        self,
        settings: DownloadSettings,
        client: Client,
        backlog: Backlog,
        opt_outs: Sequence[OptOuts],
        leases: Leases,
    ) -> None:
        self._settings = settings
        self._client = client
        self._backlog = backlog
        self._opt_outs = opt_outs
        self._local = LocalImages(settings.local_roots, settings.max_bytes)
        self._manners = Manners(
            settings.requests_per_host, settings.delay, settings.max_host_seconds
        )
        self._leases = leases
        self._hosts: dict[str, Host] = {}  # by HOST:PORT
        self._rules: dict[str, asyncio.Future[_Rules]] = {}  # by origin

    async def fetch(self, url: str) -> Fetched:
        """The image at a URL, after further attempts where what is wrong may pass."""
        for attempt in range(self._settings.retries + 1):
            fetched, pause = await self._attempt(url)
            if attempt == self._settings.retries or not is_passing(fetched.reason):
                break
            if pause is None:
                pause = backoff(self._settings.retry_pause, url, attempt)
            if pause > MAX_PAUSE:
                break
            await asyncio.sleep(pause)
        return replace(fetched, attempts=attempt + 1, ended=time.time())

    async def _attempt(self, url: str) -> tuple[Fetched, float | None]:
        """What came of it, and the seconds until another attempt, where they are known."""
        last = LastAnswer()
        try:
            content = await self._content(url, last)
            digest = hashlib.sha256(content).hexdigest()
            self._refuse(Kind.SHA256, digest)
        except FetchError as error:
            text = _more_than(error.reason, error)
            return Fetched(None, error.reason, text, answer=last), error.pause
        except UrlError as error:
            text = _more_than(error.reason, error)
            return Fetched(None, error.reason, text, answer=last), None
        except ERRORS as error:
            return Fetched(None, failure_reason(error), str(error), answer=last), None
        return Fetched(content, sha256=digest, answer=last), None

    def _refuse(self, kind: Kind, value: str) -> None:
        """Raise FetchError for what is listed."""
        for listed in self._opt_outs:
            if listed.has_url(value) if kind is Kind.URL else listed.has(kind, value):
                raise ListedError(listed.reason)

    async def _content(self, url: str, last: LastAnswer) -> bytes:
        """The image at a URL; ``last`` says meanwhile how far it came."""
        if url.startswith("file:"):
            self._refuse(Kind.URL, url)
            last.asks(url)
            return await asyncio.to_thread(self._local.read, url)
        limit, budget = self._settings.max_bytes, _Budget(self._settings.max_seconds)
        url = absolute_url(url)
        for _ in range(MAX_REDIRECTS + 1):
            self._refuse(Kind.URL, url)  # nothing is asked of what is listed
            reserved = await self._check_rules(url)
            last.asks(url)
            answer = await self._get(url, limit, budget, partial(self._is_image, reserved))
            last.note(answer)
            to = answer.headers.get("Location") if answer.status in REDIRECTS else None
            if to is None:
                return _image(answer, limit)
            url = absolute_url(from_header(to.encode("utf-8", "surrogateescape")), url)
        raise FetchError("redirect_loop")

    async def _get(
        self,
        url: str,
        limit: int,
        budget: _Budget,
        is_wanted: Callable[[int, CIMultiDictProxy[str]], bool],
    ) -> Answer:
        """An answer, when it is the host's turn and a connection is free.

        Waiting costs nothing of the budget. Raises FetchError and what ``Client.get`` raises.
        """
        host = self._host(url)
        async with host.turn(self._backlog.room):
            return await self._ask(host, url, limit, budget, is_wanted)

    async def _ask(
        self,
        host: Host,
        url: str,
        limit: int,
        budget: _Budget,
        is_wanted: Callable[[int, CIMultiDictProxy[str]], bool],
    ) -> Answer:
        began = time.monotonic()
        try:
            answer = await self._client.get(url, limit, budget.seconds, is_wanted)
        except ERRORS as error:
            if failure_reason(error) in _NO_ANSWER:
                host.failed()
            raise
        finally:
            budget.seconds -= time.monotonic() - began
        host.answered()
        pause = _pause_of(answer)
        if pause is not None and is_passing(f"http_{answer.status}"):
            host.pause(pause)
        return answer

    def _host(self, url: str) -> Host:
        name = authority(url)
        if name not in self._hosts:
            self._hosts[name] = Host(self._manners, self._leases.of(name))
        return self._hosts[name]

    def _is_image(self, reserved: bool | None, status: int, headers: CIMultiDictProxy[str]) -> bool:
        """Raises FetchError for what is not to be used; a redirect may say so as well."""
        if headers_opt_out(headers.items(), self._settings.agents, reserved):
            raise FetchError("opted_out")
        return 200 <= status < 300

    # --- what a host says of all that it has -----------------------------------------------------

    async def _check_rules(self, url: str) -> bool | None:
        """What tdmrep.json says of a URL that may be asked for.

        Raises FetchError where the host does not want that, or cannot say.
        """
        if not self._settings.robots:
            return None
        start = origin(url)
        if start not in self._rules:
            self._rules[start] = asyncio.ensure_future(self._read_rules(start))
        rules = await self._rules[start]
        if rules.robots.unreachable:
            raise FetchError(rules.robots.unreachable, pause=math.inf)
        if not rules.robots.txt.allows(url):
            raise FetchError("robots_txt")
        if rules.robots.txt.opts_out(url):
            raise FetchError("opted_out")
        return rules.tdmrep.reserves(url)

    async def _read_rules(self, start: str) -> _Rules:
        robots = await read_robots(start, self, *self._settings.agents)
        self._host(f"{start}/").want_delay(robots.txt.delay)
        url, nothing = f"{start}{TDMREP}", _Rules(robots, TdmRep(b""))
        if robots.unreachable or not robots.txt.allows(url):
            return nothing
        with suppress(FetchError, *ERRORS):  # what cannot be had says nothing
            return _Rules(robots, TdmRep((await self._rule_file(url, MAX_ROBOTS_BYTES)).body))
        return nothing

    async def robots_reply(self, url: str) -> RuleFile:
        """What ``read_robots`` wants to know. Raises FetchError."""
        try:
            return await self._rule_file(url, MAX_ROBOTS_DOWNLOAD)
        except TooLargeError as error:
            raise FetchError("robots_unreachable") from error
        except ERRORS as error:
            raise FetchError(failure_reason(error)) from error

    async def _rule_file(self, url: str, limit: int) -> RuleFile:
        """What a host says of itself there, which one of all tasks asks for.

        Raises FetchError and what ``Client.get`` raises.
        """
        if said := await self._leases.rules(url):
            return said
        host = self._host(url)
        async with host.turn(self._backlog.room):
            # Another task may have asked while this one waited for its turn.
            if said := await self._leases.rules(url):
                return said
            budget = _Budget(self._settings.max_seconds)
            answer = await self._ask(host, url, limit, budget, _is_good)
            said = RuleFile(answer.status, answer.body, answer.headers.get("Location", ""))
            if not is_passing(f"http_{answer.status}"):
                await self._leases.note_rules(url, said)
        return said

    async def can_reach(self, url: str) -> bool:  # noqa: ARG002
        """The client itself connects to nothing that it may not."""
        return True


@dataclass(frozen=True)
class _Rules:
    """Of one origin."""

    robots: Robots
    tdmrep: TdmRep


def _more_than(reason: str, error: Exception) -> str:
    """What an error says beside its reason."""
    text = str(error)
    return "" if text == reason else text


def _is_good(status: int, _: CIMultiDictProxy[str]) -> bool:
    return 200 <= status < 300


def _pause_of(answer: Answer) -> float | None:
    """Seconds for which a server wants to be left alone, if it says so."""
    return retry_after(answer.headers.get("Retry-After", ""))


def _header(answer: Answer, name: str) -> str | None:
    """As it came; what is no UTF-8 cannot be written into a table."""
    value = answer.headers.get(name)
    if value is None:
        return None
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _image(answer: Answer, limit: int) -> bytes:
    """The content of the last answer. Raises FetchError."""
    if not 200 <= answer.status < 300:
        raise FetchError(f"http_{answer.status}", _pause_of(answer))
    return without_codings(answer.body, answer.headers.getall("Content-Encoding", []), limit)
