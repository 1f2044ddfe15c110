"""Crawls in the test's own process, where Scrapy runs once: Python's HTTP client in its place."""

from __future__ import annotations

import asyncio
import http.client
from typing import Any
from urllib.parse import urlsplit

import pytest
import scrapy
from scrapy.exceptions import DownloadConnectionRefusedError
from scrapy.http import HtmlResponse

from tests.workers.web import PATIENCE
from workers.crawl import host, spider
from workers.crawl.host import CrawlJob
from workers.crawl.host_crawl import HostCrawl


def _answer(request: scrapy.Request) -> HtmlResponse:
    parts = urlsplit(request.url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=PATIENCE)
    headers = {name.decode(): values[0].decode() for name, values in request.headers.items()}
    try:
        connection.request("GET", request.url.partition(parts.netloc)[2], headers=headers)
        response = connection.getresponse()
        fields = response.headers
        named = {name: fields.get_all(name, []) for name in fields}
        return HtmlResponse(request.url, response.status, named, response.read())
    except ConnectionError as error:
        raise DownloadConnectionRefusedError from error
    finally:
        connection.close()


async def _download(request: scrapy.Request) -> HtmlResponse:
    return await asyncio.to_thread(_answer, request)


def _run_plain(crawl: HostCrawl, _settings: dict[str, Any]) -> None:
    asyncio.run(crawl.run(_download, lambda _: None))


def use_plain_crawls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``crawl_host`` crawl here and at once."""

    def run_here(job: CrawlJob, log: Any) -> tuple[int, bytes]:
        log.touch()
        job = CrawlJob.model_validate_json(job.model_dump_json())
        return 0, spider.run_job(job).model_dump_json().encode()

    monkeypatch.setattr(spider, "_run_scrapy", _run_plain)
    monkeypatch.setattr(host, "_run_spider", run_here)
