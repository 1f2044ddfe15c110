"""The crawling process: Scrapy fetches, ``workers.crawl.host_crawl`` decides what is fetched."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import AsyncIterator
from typing import Any

import scrapy
from scrapy import signals
from scrapy.crawler import AsyncCrawlerProcess
from scrapy.exceptions import StopDownload

from workers.base.failures import NeedsMendingError
from workers.base.urls import normal_host
from workers.crawl.fetch import PinnedResolver
from workers.crawl.host import CrawlError, CrawlJob, CrawlResult
from workers.crawl.host_crawl import HostCrawl
from workers.crawl.visits import Before, write_visits
from workers.crawl.warc_writer import WarcWriter
from workers.extract.page import is_html
from workers.web.addresses import PrivateAddressError


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
        if not content_type and request.meta.get("is_conditional"):
            return  # a 304, whose connection goes on to be used
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
    """Crawl in this process, which cannot crawl again. Raises CrawlError, NeedsMendingError."""
    about = {
        "software": "clip-from-scratch",
        "format": "WARC/1.1",
        "robots": "obey",
        "http-header-user-agent": job.settings.user_agent,
    }
    with WarcWriter(job.files.warc, about) as writer:
        crawl = HostCrawl(job, writer, Before(job.before))
        if refusal := _pin(job):
            crawl.refuse(refusal)
        else:
            _run_scrapy(crawl, scrapy_settings(job))
        writer.finish()
    write_visits(crawl.visits.values(), job.files.table)
    return CrawlResult(pages=crawl.pages, known=crawl.known, moved_to=tuple(sorted(crawl.moved_to)))


def _pin(job: CrawlJob) -> str | None:
    """Why the host may not or cannot be reached; None once its name has its address."""
    try:
        PinnedResolver.pin(f"http://{normal_host(job.host)}/", job.settings)
    except PrivateAddressError:
        return "private_address"
    except (OSError, UnicodeError):
        return "dns"
    return None


def _run_scrapy(crawl: HostCrawl, settings: dict[str, Any]) -> None:
    process = AsyncCrawlerProcess(settings)
    process.crawl(HostSpider, crawl=crawl)
    process.start()
    if crawl.fault:
        raise crawl.fault
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
    try:
        result = run_job(job)
    except NeedsMendingError as error:
        result = CrawlResult(at_fault=str(error))
    sys.stdout.write(result.model_dump_json())


if __name__ == "__main__":
    main()
