"""Scrapy's downloader: connected to checked addresses alone, its errors with names."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ClassVar
from urllib.parse import urlsplit

import scrapy
from scrapy.exceptions import (
    CannotResolveHostError,
    DownloadCancelledError,
    DownloadConnectionRefusedError,
    DownloadFailedError,
    DownloadTimeoutError,
    IgnoreRequest,
    ResponseDataLossError,
)
from scrapy.resolver import CachingThreadedResolver
from twisted.internet import defer
from twisted.internet.error import ConnectError, ConnectionClosed, DNSLookupError

from workers.base.failures import FetchError, is_passing, reason_of
from workers.base.settings import CrawlSettings
from workers.base.urls import DEFAULT_PORTS, from_header
from workers.extract.http_messages import CodingError, undo_codings
from workers.web.addresses import PrivateAddressError, check_contact, permitted_addresses
from workers.web.pauses import MAX_PAUSE, backoff, retry_after
from workers.web.robots import MAX_ROBOTS_DOWNLOAD, RuleFile

#: What a failed download is called in the tally.
FAILURES: dict[type[Exception], str] = {
    CannotResolveHostError: "dns",
    DownloadConnectionRefusedError: "connection",
    ConnectError: "connection",
    ConnectionClosed: "connection",
    DownloadFailedError: "connection",
    DownloadTimeoutError: "timeout",
    DownloadCancelledError: "too_large",
    IgnoreRequest: "too_large",  # how Scrapy refuses a body that grows too large when unpacked
    ResponseDataLossError: "truncated",
    OSError: "bad_encoding",  # of gzip; the sockets' errors come as the classes above
    EOFError: "bad_encoding",
    zlib.error: "bad_encoding",
}

NO_CONDITIONS: Mapping[str, str] = {}

Download = Callable[[scrapy.Request], Awaitable[scrapy.http.Response]]


class PinnedResolver(CachingThreadedResolver):  # type: ignore[misc]
    """Answers for names whose addresses were checked, with the one that was, and for no other."""

    #: By name; of the one crawl of this process.
    addresses: ClassVar[dict[str, str]] = {}

    def getHostByName(self, name: str, timeout: Any = ()) -> Any:  # noqa: ARG002, N802
        if name in self.addresses:
            return defer.succeed(self.addresses[name])
        return defer.fail(DNSLookupError(f"{name} is not the host of this crawl"))

    @classmethod
    def pin(cls, url: str, settings: CrawlSettings) -> None:
        """Let the host of ``url`` be connected to, at an address of its own that is checked here.

        Raises PrivateAddressError or OSError (``permitted_addresses``), and NoContactError.
        """
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or DEFAULT_PORTS[parts.scheme]
        allowed, known = settings.allow_private_hosts, cls.addresses.get(host)
        found = permitted_addresses(host, port, allowed, known, settings.timeout)
        check_contact(host, found, settings.user_agent, "pages.user_agent")
        cls.addresses[host] = found[0]


class Fetcher:
    """Scrapy's downloader with retries, and errors that have names."""

    def __init__(self, download: Download, settings: CrawlSettings) -> None:
        self._download = download
        self._settings = settings

    async def fetch(
        self, url: str, *, is_page: bool = True, conditions: Mapping[str, str] = NO_CONDITIONS
    ) -> scrapy.http.Response:
        """The response at ``url``, whatever its status. Raises FetchError.

        Of a page a body that is not HTML is not read; what is none, robots.txt, may be of any type
        and has a limit of its own. ``conditions`` are headers, such as If-None-Match.
        """
        for attempt in range(self._settings.retries + 1):
            last = attempt == self._settings.retries
            try:
                response = await self._once(url, is_page, conditions)
            except FetchError as error:
                if last or not is_passing(error.reason):
                    raise
                pause = backoff(self._settings.retry_pause, url, attempt)
            else:
                if last or not is_passing(f"http_{response.status}"):
                    return response
                asked = retry_after(header(response, "Retry-After"))
                pause = (
                    backoff(self._settings.retry_pause, url, attempt) if asked is None else asked
                )
            await asyncio.sleep(min(pause, MAX_PAUSE))
        raise AssertionError("the last attempt returns or raises")

    async def robots_reply(self, url: str) -> RuleFile:
        """What ``read_robots`` wants to know. Raises FetchError."""
        response = await self.fetch(url, is_page=False)
        return RuleFile(response.status, response.body, location(response))

    async def can_reach(self, url: str) -> bool:
        """Whether a host other than the one that is crawled is there, and may be connected to."""
        try:
            await asyncio.to_thread(PinnedResolver.pin, url, self._settings)
        except (PrivateAddressError, OSError, UnicodeError):
            return False
        return True

    async def _once(
        self, url: str, is_page: bool, conditions: Mapping[str, str]
    ) -> scrapy.http.Response:
        meta: dict[str, Any] = {"is_page": is_page, "is_conditional": bool(conditions)}
        if not is_page:
            meta["download_maxsize"] = MAX_ROBOTS_DOWNLOAD
        request = scrapy.Request(url, headers=dict(conditions), meta=meta, dont_filter=True)
        try:
            response = await self._download(request)
        except tuple(FAILURES) as error:
            raise FetchError(reason_of(error, FAILURES)) from error
        if declared := header_lines(response, "Content-Encoding"):  # what Scrapy knows nothing of
            return response.replace(body=self._undone(response.body, declared))
        return response

    def _undone(self, body: bytes, declared: list[str]) -> bytes:
        """A body whose server says that it is in `none` or `utf-8`, or really is in something."""
        try:
            plain = undo_codings(body, declared)
        except CodingError as error:
            raise FetchError("bad_encoding") from error
        if len(plain) > self._settings.max_page_bytes:
            raise FetchError("too_large")
        return plain


def header(response: scrapy.http.Response, name: str) -> str:
    """A header's value as text: all its lines."""
    return ", ".join(header_lines(response, name))


def header_lines(response: scrapy.http.Response, name: str) -> list[str]:
    """The value of each of a header's lines, as text."""
    return [value.decode("utf-8", "replace") for value in response.headers.getlist(name)]


def location(response: scrapy.http.Response) -> str:
    """Where a redirect leads, or ""."""
    return from_header(next(iter(response.headers.getlist("Location")), b""))
