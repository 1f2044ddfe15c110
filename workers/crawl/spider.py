"""The crawl of one host: Scrapy fetches, this module decides what is fetched.

The crawl goes level by level: all pages one link away from the seeds, then all two links
away, each level in the order of its URLs. So the depth of a page, and which pages fall within
the page limit, do not depend on which answer came first.

Rules:

- only http and https, only the host's own authority (HOST or HOST:PORT);
- a host's name is resolved once, its addresses are checked, and nothing else is connected
  to (``workers.crawl.addresses``); no proxy, no cookies;
- robots.txt as in RFC 9309: read before the first page, from another host if it is sent there;
  4xx means there is none; if it cannot be had for another reason, nothing is fetched. Crawl-delay
  is honoured, up to a minute;
- a redirect is never followed as such: its target is looked at like any link, by the same
  rules, at the same depth;
- 408, 429, 5xx and broken connections are tried again after Retry-After or a pause that
  doubles; other errors are not.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import scrapy
from scrapy import signals
from scrapy.crawler import AsyncCrawlerProcess
from scrapy.exceptions import StopDownload

from workers.base.robots_directives import directives_of
from workers.base.settings import product_token
from workers.base.tally import Tally
from workers.base.urls import REDIRECTS, Base, UrlError, authority, normal_host, origin
from workers.crawl.addresses import PrivateAddressError
from workers.crawl.fetch import (
    MAX_REDIRECTS,
    Download,
    Fetcher,
    FetchError,
    PinnedResolver,
    header,
    header_lines,
    location,
)
from workers.crawl.host import CrawlError, CrawlJob, CrawlResult
from workers.crawl.robots import Robots, read_robots
from workers.crawl.warc_writer import STORED_HEADERS, WarcWriter
from workers.extract.page import PageError, base_of, is_html, links_of, parse_page, robots_of

MAX_CRAWL_DELAY = 60.0  # seconds


@dataclass
class Level:
    """What reading one level of pages brought to light, as absolute URLs."""

    links: set[str] = field(default_factory=set)
    redirects: set[str] = field(default_factory=set)


class HostCrawl:
    """The decisions of one crawl: every URL ends in the tally once, with its reason."""

    def __init__(self, job: CrawlJob, writer: WarcWriter) -> None:
        self.pages = Tally()
        self.moved_to: set[str] = set()  # origins of other hosts that redirects lead to
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
        urls = self._admit(self._absolute(self._seeds, Base("")))
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
            self.moved_to |= {origin(url) for url in level.redirects if not self._is_ours(url)}
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
            if not self._is_ours(url):
                self._reject("off_site", url)
        return [url for url in fresh if self._is_ours(url)]

    def _is_ours(self, url: str) -> bool:
        return authority(url) == self._host

    def _within_budget(self, urls: list[str]) -> list[str]:
        taken, left = urls[: self._budget], urls[self._budget :]
        self._budget -= len(taken)
        for url in left:
            self._reject("too_many_pages", url)
        return taken

    def _absolute(self, references: Iterable[str], base: Base) -> Iterator[str]:
        for reference in references:
            try:
                yield base.absolute_url(reference)
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
        if not robots.txt.allows(url):
            return self._reject("robots_txt", url)
        try:
            response = await self._fetcher.fetch(url)
        except FetchError as error:
            return self._fail(error.reason, url)
        return self._take(url, response, level)

    async def _robots_of(self, url: str) -> Robots:
        start = origin(url)
        if start not in self._robots:
            reading = read_robots(start, self._fetcher, self._settings.user_agent)
            self._robots[start] = asyncio.ensure_future(reading)
        robots = await self._robots[start]
        self._slow_down(min(robots.txt.delay, MAX_CRAWL_DELAY))
        return robots

    def _take(self, url: str, response: scrapy.http.Response, level: Level) -> None:
        """Decide what becomes of a response."""
        target = location(response)
        if response.status in REDIRECTS and target:
            self._reject("redirect", url)
            level.redirects.update(self._absolute([target], Base(url)))
        elif response.status != 200:
            self._fail(f"http_{response.status}", url)
        elif not is_html(header(response, "Content-Type")):
            self._reject("not_html", url)
        else:
            self._keep(url, response, level)

    def _keep(self, url: str, response: scrapy.http.Response, level: Level) -> None:
        headers = {name: "\n".join(header_lines(response, name)) for name in STORED_HEADERS}
        self._writer.add(url, response.status, headers, response.body)
        self.pages.keep()
        try:
            root = parse_page(response.body, headers["Content-Type"])
        except PageError:
            return  # kept as it came; the extraction will say that it holds nothing
        robots = [*header_lines(response, "X-Robots-Tag"), *robots_of(root, self._agent)]
        if "nofollow" in directives_of(robots, self._agent):
            return
        base = Base(base_of(root, url), root.encoding)
        level.links.update(self._absolute(links_of(root), base))

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
        if request.meta.get("is_page") and not is_html(content_type):
            raise StopDownload(fail=False)


def scrapy_settings(job: CrawlJob) -> dict[str, Any]:
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


def run_job(job: CrawlJob) -> CrawlResult:
    """Crawl in this process, which cannot crawl again. Raises CrawlError."""
    about = {
        "software": "clip-from-scratch",
        "format": "WARC/1.1",
        "robots": "obey",
        "http-header-user-agent": job.settings.user_agent,
    }
    with WarcWriter(job.warc, about) as writer:
        crawl = HostCrawl(job, writer)
        if refusal := _pin(job):
            crawl.pages = _refuse_seeds(job.seeds, refusal)
        else:
            _run_scrapy(crawl, scrapy_settings(job))
        writer.finish()
    return CrawlResult(pages=crawl.pages, moved_to=sorted(crawl.moved_to))


def _pin(job: CrawlJob) -> str | None:
    """Why the host may not or cannot be reached; None once its name has its address."""
    try:
        PinnedResolver.pin(f"http://{normal_host(job.host)}/", job.settings.allow_private_hosts)
    except PrivateAddressError:
        return "private_address"
    except (OSError, UnicodeError):
        return "dns"
    return None


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
    """Read a CrawlJob from standard input, crawl, write its CrawlResult to standard output."""
    logging.captureWarnings(True)
    job = CrawlJob.model_validate_json(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.stdout.write(run_job(job).model_dump_json())


if __name__ == "__main__":
    main()
