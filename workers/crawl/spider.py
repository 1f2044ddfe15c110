"""The crawl of one host: Scrapy fetches, this module decides what is fetched.

The crawl goes level by level: all pages one link away from the seeds, then all two links
away, each level in the order of its URLs. So the depth of a page, and which pages fall within
the page limit, do not depend on which answer came first.

Rules:

- only http and https, only the host's own authority (HOST or HOST:PORT);
- the host's name is resolved once, its addresses are checked, and nothing else is connected
  to (``workers.crawl.addresses``); no proxy, no cookies;
- robots.txt as in RFC 9309: read before the first page; 4xx means there is none; if it
  cannot be had for another reason, nothing is fetched. Crawl-delay is honoured, up to a minute;
- a redirect is never followed as such: its target is looked at like any link, by the same
  rules, at the same depth;
- 408, 429, 5xx and broken connections are tried again after Retry-After or a pause that
  doubles; other errors are not.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
import threading
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any
from urllib.parse import urlsplit

import scrapy
from scrapy import signals
from scrapy.crawler import AsyncCrawlerProcess
from scrapy.exceptions import (
    CannotResolveHostError,
    DownloadCancelledError,
    DownloadConnectionRefusedError,
    DownloadFailedError,
    DownloadTimeoutError,
    IgnoreRequest,
    ResponseDataLossError,
    StopDownload,
)
from scrapy.resolver import CachingThreadedResolver
from scrapy.robotstxt import ProtegoRobotParser
from twisted.internet import defer
from twisted.internet.error import ConnectError, ConnectionClosed, DNSLookupError

from workers.crawl.addresses import PrivateAddressError, permitted_addresses
from workers.crawl.host import TALLIES, CrawlError, CrawlJob
from workers.crawl.warc_writer import STORED_HEADERS, WarcWriter
from workers.extract.page import PageError, base_of, is_html, links_of, parse_page, robots_of
from workers.failures import is_passing
from workers.robots_directives import directives_of
from workers.sampling import draw
from workers.settings import CrawlSettings, product_token
from workers.tally import Tally
from workers.urls import DEFAULT_PORTS, UrlError, absolute_url, authority, normal_host

REDIRECTS = frozenset({301, 302, 303, 307, 308})
MAX_REDIRECTS = 5
MAX_RETRY_PAUSE = 60.0  # seconds
MAX_CRAWL_DELAY = 60.0  # seconds

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

Download = Callable[[scrapy.Request], Awaitable[scrapy.http.Response]]


class FetchError(Exception):
    """A URL that could not be read; ``reason`` is for the tally."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class PinnedResolver(CachingThreadedResolver):  # type: ignore[misc]
    """Answers for the host that is crawled, with the address that was checked, alone."""

    addresses: dict[str, str]

    @classmethod
    def from_crawler(cls, crawler: Any, reactor: Any) -> PinnedResolver:
        resolver: PinnedResolver = super().from_crawler(crawler, reactor)
        resolver.addresses = crawler.settings.getdict("PINNED_ADDRESSES")
        return resolver

    def getHostByName(self, name: str, timeout: Any = ()) -> Any:  # noqa: ARG002, N802
        if name in self.addresses:
            return defer.succeed(self.addresses[name])
        return defer.fail(DNSLookupError(f"{name} is not the host of this crawl"))


class Fetcher:
    """Scrapy's downloader with retries, and errors that have names."""

    def __init__(self, download: Download, settings: CrawlSettings) -> None:
        self._download = download
        self._settings = settings

    async def fetch(self, url: str, *, any_type: bool = False) -> scrapy.http.Response:
        """The response at ``url``, whatever its status. Raises FetchError.

        Bodies that are not HTML are read only where ``any_type`` says so.
        """
        for attempt in range(self._settings.retries + 1):
            last = attempt == self._settings.retries
            try:
                response = await self._once(url, any_type)
            except FetchError as error:
                if last or not is_passing(error.reason):
                    raise
                pause = self._backoff(url, attempt)
            else:
                if last or not is_passing(f"http_{response.status}"):
                    return response
                pause = _retry_after(response) or self._backoff(url, attempt)
            await asyncio.sleep(min(pause, MAX_RETRY_PAUSE))
        raise AssertionError("the last attempt returns or raises")

    async def _once(self, url: str, any_type: bool) -> scrapy.http.Response:
        request = scrapy.Request(url, meta={"any_type": any_type}, dont_filter=True)
        try:
            response = await self._download(request)
        except tuple(FAILURES) as error:
            raise FetchError(_failure_reason(error)) from error
        if response.headers.get("Content-Encoding"):  # one that Scrapy could not undo
            raise FetchError("bad_encoding")
        return response

    def _backoff(self, url: str, attempt: int) -> float:
        """Seconds: uniform between nothing and a bound that doubles."""
        bound: float = self._settings.retry_pause * 2**attempt
        return bound * draw(0, url, attempt)


def _failure_reason(error: Exception) -> str:
    return next(reason for kind, reason in FAILURES.items() if isinstance(error, kind))


def _retry_after(response: scrapy.http.Response) -> float | None:
    value = _header(response, "Retry-After")
    return float(value) if value.isascii() and value.isdigit() else None


def _header(response: scrapy.http.Response, name: str) -> str:
    return ", ".join(_lines(response, name))


def _lines(response: scrapy.http.Response, name: str) -> list[str]:
    return [value.decode("utf-8", "replace") for value in response.headers.getlist(name)]


@dataclass(frozen=True)
class Robots:
    """The robots.txt of one origin; ``unreachable`` is why there is none, and then all waits."""

    parser: ProtegoRobotParser
    agent: str
    unreachable: str | None = None

    def allows(self, url: str) -> bool:
        return bool(self.parser.allowed(url, self.agent))

    def delay(self) -> float:
        """Seconds between requests that the host asks for."""
        return min(self.parser.crawl_delay(self.agent) or 0.0, MAX_CRAWL_DELAY)


async def read_robots(origin: str, fetcher: Fetcher, agent: str) -> Robots:
    """Read the robots.txt of ``origin`` (SCHEME://HOST:PORT)."""
    url = f"{origin}/robots.txt"
    for _ in range(MAX_REDIRECTS + 1):
        try:
            response = await fetcher.fetch(url, any_type=True)
        except FetchError as error:
            return Robots(_robots_parser(b""), agent, unreachable=error.reason)
        if response.status not in REDIRECTS:
            break
        try:
            url = absolute_url(_header(response, "Location"), url)
        except UrlError:
            break
        if authority(url) != authority(f"{origin}/"):
            break
    return _judge_robots(response, agent)


def _judge_robots(response: scrapy.http.Response, agent: str) -> Robots:
    if 200 <= response.status < 300:
        return Robots(_robots_parser(response.body), agent)
    if 400 <= response.status < 500 and not is_passing(f"http_{response.status}"):
        return Robots(_robots_parser(b""), agent)
    return Robots(_robots_parser(b""), agent, unreachable="robots_unreachable")


def _robots_parser(body: bytes) -> ProtegoRobotParser:
    return ProtegoRobotParser(body, None)


@dataclass
class Level:
    """What reading one level of pages brought to light, as absolute URLs."""

    links: set[str] = field(default_factory=set)
    redirects: set[str] = field(default_factory=set)


class HostCrawl:
    """The decisions of one crawl: every URL ends in the tally once, with its reason."""

    def __init__(self, job: CrawlJob, writer: WarcWriter) -> None:
        self.pages = Tally()
        self.completed = False
        self._host = normal_host(job.host)
        self._seeds = job.seeds
        self._settings = job.settings
        self._agent = product_token(job.settings.user_agent)
        self._writer = writer
        self._seen: set[int] = set()  # 64-bit hashes of all URLs and references met
        self._robots: dict[str, asyncio.Future[Robots]] = {}
        self._budget = job.settings.max_pages_per_host
        self._fetcher: Fetcher
        self._slow_down: Callable[[float], None]

    async def run(self, download: Download, slow_down: Callable[[float], None]) -> None:
        """Crawl the host; ``slow_down`` sets the least seconds between two requests."""
        self._fetcher = Fetcher(download, self._settings)
        self._slow_down = slow_down
        urls = self._admit(self._absolute(self._seeds, base=""))
        for _ in range(self._settings.max_depth + 1):
            urls = self._admit(await self._read_level(urls))
        for url in urls:
            self._reject("too_deep", url)
        self.completed = True

    async def _read_level(self, urls: list[str]) -> set[str]:
        """Read pages and the targets of their redirects; returns the links found."""
        links: set[str] = set()
        for _ in range(MAX_REDIRECTS + 1):
            level = await self._read_all(self._within_budget(urls))
            links |= level.links
            urls = self._admit(level.redirects)
        for url in urls:
            self._fail("too_many_redirects", url)
        return links

    async def _read_all(self, urls: list[str]) -> Level:
        level, queue = Level(), iter(urls)

        async def work() -> None:
            for url in queue:  # shared: each worker takes the next one
                await self._read(url, level)

        await asyncio.gather(*(work() for _ in range(self._settings.requests_per_host)))
        return level

    def _admit(self, urls: Iterable[str]) -> list[str]:
        """The new URLs of the host among ``urls``, sorted; the host's limits come later."""
        fresh = [url for url in sorted(urls) if self._is_new(url)]
        for url in fresh:
            if authority(url) != self._host:
                self._reject("off_site", url)
        return [url for url in fresh if authority(url) == self._host]

    def _within_budget(self, urls: list[str]) -> list[str]:
        taken, left = urls[: self._budget], urls[self._budget :]
        self._budget -= len(taken)
        for url in left:
            self._reject("too_many_pages", url)
        return taken

    def _absolute(self, references: Iterable[str], base: str) -> Iterator[str]:
        for reference in references:
            try:
                yield absolute_url(reference, base)
            except UrlError as error:
                if self._is_new(reference):
                    self._reject(error.reason, reference)

    def _is_new(self, url: str) -> bool:
        text = url.encode("utf-8", "surrogatepass")
        key = int.from_bytes(blake2b(text, digest_size=8).digest(), "big")
        if key in self._seen:
            return False
        self._seen.add(key)
        return True

    async def _read(self, url: str, level: Level) -> None:
        robots = await self._robots_of(url)
        if robots.unreachable:
            return self._fail(robots.unreachable, url)
        if not robots.allows(url):
            return self._reject("robots_txt", url)
        try:
            response = await self._fetcher.fetch(url)
        except FetchError as error:
            return self._fail(error.reason, url)
        return self._take(url, response, level)

    async def _robots_of(self, url: str) -> Robots:
        parts = urlsplit(url)
        origin = f"{parts.scheme}://{parts.netloc}"
        if origin not in self._robots:
            reading = read_robots(origin, self._fetcher, self._settings.user_agent)
            self._robots[origin] = asyncio.ensure_future(reading)
        robots = await self._robots[origin]
        self._slow_down(robots.delay())
        return robots

    def _take(self, url: str, response: scrapy.http.Response, level: Level) -> None:
        """Decide what becomes of a response."""
        location = _header(response, "Location")
        if response.status in REDIRECTS and location:
            self._reject("redirect", url)
            level.redirects.update(self._absolute([location], url))
        elif response.status != 200:
            self._fail(f"http_{response.status}", url)
        elif not is_html(_header(response, "Content-Type")):
            self._reject("not_html", url)
        else:
            self._keep(url, response, level)

    def _keep(self, url: str, response: scrapy.http.Response, level: Level) -> None:
        headers = {name: "\n".join(_lines(response, name)) for name in STORED_HEADERS}
        self._writer.add(url, response.status, headers, response.body)
        self.pages.keep()
        try:
            root = parse_page(response.body, headers["Content-Type"])
        except PageError:
            return  # kept as it came; the extraction will say that it holds nothing
        robots = [*_lines(response, "X-Robots-Tag"), *robots_of(root, self._agent)]
        if "nofollow" in directives_of(robots, self._agent):
            return
        level.links.update(self._absolute(links_of(root), base_of(root, url)))

    def _reject(self, reason: str, url: str) -> None:
        self.pages.reject(reason, url, {"url": url})

    def _fail(self, reason: str, url: str) -> None:
        self.pages.fail(reason, url, {"url": url})


class HostSpider(scrapy.Spider):  # type: ignore[misc]
    """Lends Scrapy's downloader to a HostCrawl."""

    name = "host"
    crawl: HostCrawl

    @classmethod
    def from_crawler(cls, crawler: Any, *args: Any, **kwargs: Any) -> HostSpider:
        spider: HostSpider = super().from_crawler(crawler, *args, **kwargs)
        crawler.signals.connect(spider.on_headers, signal=signals.headers_received)
        return spider

    async def start(self) -> AsyncIterator[Any]:
        await self.crawl.run(self.crawler.engine.download_async, self._slow_down)
        # Scrapy wants a generator of requests; the crawl has made its own by now.
        for request in list[scrapy.Request]():
            yield request

    def _slow_down(self, delay: float) -> None:
        for slot in self.crawler.engine.downloader.slots.values():
            slot.delay = max(slot.delay, delay)

    def on_headers(self, headers: Any, request: scrapy.Request) -> None:
        """Stop a download whose headers already say that it will not be kept."""
        content_type = (headers.get("Content-Type") or b"").decode("latin-1")
        if not request.meta.get("any_type") and not is_html(content_type):
            raise StopDownload(fail=False)


def scrapy_settings(job: CrawlJob, addresses: dict[str, str]) -> dict[str, Any]:
    """Scrapy's settings for a crawl; what HostCrawl decides itself is switched off."""
    settings = job.settings
    return {
        "USER_AGENT": settings.user_agent,
        "CONCURRENT_REQUESTS": settings.requests_per_host,
        "CONCURRENT_REQUESTS_PER_DOMAIN": settings.requests_per_host,
        "DOWNLOAD_DELAY": settings.delay,
        "DOWNLOAD_DELAY_JITTER": 0.0,
        "DOWNLOAD_TIMEOUT": settings.timeout,
        "DOWNLOAD_MAXSIZE": settings.max_page_bytes,
        "DOWNLOAD_WARNSIZE": 0,
        "DOWNLOAD_VERIFY_CERTIFICATES": True,
        "DNS_RESOLVER": PinnedResolver,
        "PINNED_ADDRESSES": addresses,
        "COOKIES_ENABLED": False,
        "HTTPPROXY_ENABLED": False,
        "METAREFRESH_ENABLED": False,
        "REDIRECT_ENABLED": False,
        "RETRY_ENABLED": False,
        "ROBOTSTXT_OBEY": False,
        "TELNETCONSOLE_ENABLED": False,
        "REMOTE_CONTROL_ENABLED": False,
        "LOG_LEVEL": "WARNING",
        "DOWNLOADER_MIDDLEWARES": {
            "scrapy.downloadermiddlewares.offsite.OffsiteMiddleware": None,
        },
    }


def run_job(job: CrawlJob) -> Tally:
    """Crawl in this process, which cannot crawl again. Raises CrawlError."""
    about = {
        "software": "clip-from-scratch",
        "format": "WARC/1.1",
        "robots": "obey",
        "http-header-user-agent": job.settings.user_agent,
    }
    with WarcWriter(job.warc, about) as writer:
        crawl = HostCrawl(job, writer)
        refusal, addresses = _resolve(job)
        if refusal:
            pages = _refuse_seeds(job.seeds, refusal)
        else:
            _run_scrapy(crawl, scrapy_settings(job, addresses))
            pages = crawl.pages
        writer.finish()
    return pages


def _resolve(job: CrawlJob) -> tuple[str | None, dict[str, str]]:
    """Why the host may not or cannot be reached, or the address of its name."""
    parts = urlsplit(f"http://{normal_host(job.host)}/")
    host, port = parts.hostname or "", parts.port or DEFAULT_PORTS["http"]
    try:
        address = permitted_addresses(host, port, job.settings.allow_private_hosts)[0]
    except PrivateAddressError:
        return "private_address", {}
    except (socket.gaierror, UnicodeError):
        return "dns", {}
    return None, {host: address}


def _refuse_seeds(seeds: Iterable[str], reason: str) -> Tally:
    pages = Tally()
    for seed in sorted(set(seeds)):
        count = pages.reject if reason == "private_address" else pages.fail
        count(reason, seed, {"url": seed})
    return pages


def _run_scrapy(crawl: HostCrawl, settings: dict[str, Any]) -> None:
    process = AsyncCrawlerProcess(settings)
    process.crawl(HostSpider, crawl=crawl)
    process.start()
    if not crawl.completed:
        raise CrawlError("the crawl ended early; the log above says why")


def _end_with_parent() -> None:
    """End this process when standard input closes, so that no crawl outlives who asked for it."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(1)


def main() -> None:
    """Read a CrawlJob from standard input, crawl, write the tallies to standard output."""
    logging.captureWarnings(True)
    job = CrawlJob.model_validate_json(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    tallies = {"pages": run_job(job)}
    sys.stdout.write(TALLIES.dump_json(tallies).decode())


if __name__ == "__main__":
    main()
