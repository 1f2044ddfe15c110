"""The crawl of one host: what is asked for, and what becomes of each answer.

The crawl goes level by level: all pages one link away from the seeds, then all two links
away, each level in the order of its URLs. So the depth of a page, and which pages fall within
the page limit, do not depend on which answer came first.

Rules:

- only http and https, only the host's own authority (HOST or HOST:PORT);
- a host's name is resolved once, its addresses are checked, and nothing else is connected
  to (``workers.web.addresses``); no proxy, no cookies;
- robots.txt as in RFC 9309: read before the first page, from another host if it is sent there;
  4xx means there is none; if it cannot be had for another reason, nothing is fetched. What it
  does not want to be trained on is not asked for. Crawl-delay is honoured, up to a minute;
- what was taken down is not asked for;
- a redirect is never followed as such: its target is looked at like any link, by the same
  rules, at the same depth;
- 408, 429, 5xx and broken connections are tried again after Retry-After or a pause that
  doubles; other errors are not. After MAX_FAILURES URLs in a row that could not be reached, the
  rest of a level is not asked for.

A host that was crawled before is crawled in the same way, with what is known of it: a page is asked
for if it has changed, and one that has not is as it was. So is one that cannot be had, and the
pages below it are found, until it has failed at so many crawls that it counts as gone; a crawl at
which the whole host was away does not count. A page that is not met is not linked any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from hashlib import blake2b

import pyarrow as pa
import scrapy

from workers.base.failures import FetchError, NeedsMendingError, is_passing
from workers.base.opt_outs import OptOuts, read_tombstones
from workers.base.preferences import directives_of
from workers.base.tally import Tally
from workers.base.urls import REDIRECTS, Base, UrlError, authority, normal_host, origin
from workers.crawl.fetch import Download, Fetcher, header, location
from workers.crawl.host import CrawlJob
from workers.crawl.visits import Before, Visit, answered, freshened, page_of
from workers.crawl.warc_writer import StoredPage, WarcWriter
from workers.extract.page import PageError, base_of, is_html, links_of, metas_of, parse_page
from workers.web.hosts import MAX_FAILURES
from workers.web.pauses import MAX_PAUSE
from workers.web.robots import MAX_REDIRECTS, Robots, RobotsTxt, read_robots

#: What says of a page that it is gone.
_GONE = ("http_404", "http_410")


@dataclass
class Level:
    """What reading one level of pages brought to light, as absolute URLs."""

    links: set[str] = field(default_factory=set)
    redirects: set[str] = field(default_factory=set)


class HostCrawl:
    """The decisions of one crawl: every URL ends in the tally once, with its reason."""

    def __init__(self, job: CrawlJob, writer: WarcWriter, before: Before) -> None:
        self.pages = Tally()
        self.known = Tally()  # what became of the pages that the crawl before has brought
        self.visits: dict[str, Visit] = {}  # for the next crawl
        self.moved_to: set[str] = set()  # origins of other hosts that redirects lead to
        self.completed = False
        self.fault: NeedsMendingError | None = None  # what has ended it, if it was a setting
        self._host = normal_host(job.host)
        self._seeds = job.seeds
        self._settings = job.settings
        self._is_rerun = job.is_rerun
        self._agents = job.settings.agents
        self._writer = writer
        self._before = before
        self._unmet = set(before.urls)
        self._stale: dict[str, str] = {}  # why pages that are kept as they were could not be had
        self._failures = 0  # URLs in a row
        self._refusal: str | None = None
        self._seen: set[int] = set()  # 64-bit hashes of all URLs and references met
        self._robots: dict[str, asyncio.Future[Robots]] = {}
        self._taken_down = read_tombstones(job.taken_down) if job.taken_down else OptOuts.none()
        self._budget = job.settings.max_pages_per_host
        self._fetcher: Fetcher
        self._slow_down: Callable[[float], None]

    async def run(self, download: Download, slow_down: Callable[[float], None]) -> None:
        """Crawl the host; ``slow_down`` sets the least seconds between two requests."""
        self._fetcher = Fetcher(download, self._settings)
        self._slow_down = slow_down
        try:
            await self._crawl()
        except NeedsMendingError as error:
            self.fault = error

    def refuse(self, reason: str) -> None:
        """Crawl the host without asking it for anything, since it may not or cannot be reached."""
        self._refusal = reason
        asyncio.run(self._crawl())

    async def _crawl(self) -> None:
        urls = self._admit(self._absolute(self._seeds, Base("")))
        for _ in range(self._settings.max_depth + 1):
            urls = self._admit(await self._read_level(urls))
        for url in urls:
            self._reject("too_deep", url)
        self._settle()
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
        # What has failed when it was asked for comes last: it must not keep us from the rest.
        queue = iter(sorted(urls, key=lambda url: self._before.visit(url).has_failed))
        level = Level()
        self._failures = 0

        async def work() -> None:
            for url in queue:  # shared: each worker takes the next one
                await self._read(url, level)

        await asyncio.gather(*(work() for _ in range(self._settings.requests_per_host)))
        return level

    def _admit(self, urls: Iterable[str]) -> list[str]:
        """The new URLs of the host among ``urls``, sorted; the host's limits come later."""
        fresh = self._allowed([url for url in sorted(urls) if self._is_new(url)])
        for url in fresh:
            if not self._is_ours(url):
                self._reject("off_site", url)
        return [url for url in fresh if self._is_ours(url)]

    def _allowed(self, urls: list[str]) -> list[str]:
        """Those that were not taken down; no sample shows the others."""
        gone = self._taken_down.has_urls(pa.array(urls, pa.string())).tolist()
        if any(gone):
            self.pages.reject_many("taken_down", sum(gone), ())
        return [url for url, is_gone in zip(urls, gone, strict=True) if not is_gone]

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
            return self._keep_out(robots.unreachable, url, level)
        if not robots.txt.allows(url):
            return self._reject("robots_txt", url)
        if robots.txt.opts_out(url):
            return self._reject("opted_out", url)
        page = self._before.page(url)
        if self._is_rerun and self._before.is_settled(url):
            return self._take_again(self._before.visit(url), page, level)
        if self._failures >= MAX_FAILURES:
            return self._miss("host_away", url, level)
        conditions = self._before.visit(url).conditions() if page else {}
        try:
            response = await self._fetcher.fetch(url, conditions=conditions)
        except FetchError as error:
            response, reason = None, error.reason
        else:
            reason = f"http_{response.status}"
        if is_passing(reason):
            self._failures += 1
            return self._miss(reason, url, level)
        self._failures = 0
        if response is None:
            return self._give_up(reason, url, level)
        return self._take(url, response, page, level)

    async def _robots_of(self, url: str) -> Robots:
        if self._refusal:
            return Robots(RobotsTxt(b"", ""), self._refusal)
        start = origin(url)
        if start not in self._robots:
            reading = read_robots(start, self._fetcher, *self._agents)
            self._robots[start] = asyncio.ensure_future(reading)
        robots = await self._robots[start]
        self._slow_down(min(robots.txt.delay, MAX_PAUSE))
        return robots

    def _take(
        self, url: str, response: scrapy.http.Response, page: StoredPage | None, level: Level
    ) -> None:
        """Decide what becomes of a response; ``page`` is what was there before."""
        target = location(response)
        if response.status == 304 and page:
            visit = answered(url, response, self._before.visit(url))
            self._keep(visit, freshened(page, response), page, level)
        elif response.status in REDIRECTS and target:
            self._redirect(Visit(url, "redirect", target), level)
        elif response.status != 200:
            self._give_up(f"http_{response.status}", url, level)
        elif not is_html(header(response, "Content-Type")):
            self.visits[url] = Visit(url, "not_html")
            self._reject("not_html", url)
        else:
            self._keep(answered(url, response), page_of(response), page, level)

    def _take_again(self, visit: Visit, page: StoredPage | None, level: Level) -> None:
        """Decide as it was decided when the URL was asked for."""
        if visit.reason is None and page:
            self._keep(visit, page, page, level)
        elif visit.target:
            self._redirect(visit, level)
        elif visit.reason == "not_html":
            self.visits[visit.url] = visit
            self._reject("not_html", visit.url)
        else:
            self._give_up(str(visit.reason), visit.url, level)

    def _keep(
        self, visit: Visit, page: StoredPage, before: StoredPage | None, level: Level
    ) -> None:
        self.visits[visit.url] = visit
        self.pages.keep()
        if visit.url in self._unmet:
            if before and before.is_same(page):
                self._unmet.discard(visit.url)
                self.known.keep()
            else:
                self._lose("changed", visit.url)
        self._store(visit.url, page, level)

    def _redirect(self, visit: Visit, level: Level) -> None:
        self.visits[visit.url] = visit
        self._reject("redirect", visit.url)
        self._follow(visit, level)

    def _follow(self, visit: Visit, level: Level) -> None:
        if visit.target:
            level.redirects.update(self._absolute([visit.target], Base(visit.url)))

    def _give_up(self, reason: str, url: str, level: Level) -> None:
        """Count a URL that could not be read; of one that was a page it may be for this time."""
        if url in self._before.urls and reason not in _GONE:
            return self._miss(reason, url, level)
        self.visits[url] = Visit(url, reason)
        return self._fail(reason, url)

    def _keep_out(self, reason: str, url: str, level: Level) -> None:
        """Count a URL whose host, or its robots.txt, may not or cannot be asked.

        What keeps us out of a host that has let us in before is taken to pass: a name that leads to
        a private address has none for the time being.
        """
        is_private = reason == "private_address"
        if self._before.urls and not is_passing(reason):
            reason = "dns" if is_private else "robots_unreachable"
        if is_passing(reason):
            self._miss(reason, url, level)
        elif is_private:
            self._reject(reason, url)
        else:
            self._fail(reason, url)

    def _miss(self, reason: str, url: str, level: Level) -> None:
        """Count a URL that could not be had: what it was before, it is taken to be still."""
        before = self._before.visit(url)
        is_counted = not self._is_rerun and reason != "host_away"
        visit = replace(before, reason=reason, failures=before.failures + is_counted)
        self.visits[url] = visit
        if page := self._before.page(url):
            self._stale[url] = reason
            self._store(url, page, level)
        else:
            self._fail(reason, url)
            if before.failures < self._settings.gone_after:
                self._follow(before, level)

    def _settle(self) -> None:
        """Decide what becomes of the pages that were not met or could not be reached."""
        for url in self._unmet - self._stale.keys():
            self._lose("not_linked", url)
        failed = self.pages.failed
        missed = len(self._stale) + sum(n for reason, n in failed.items() if is_passing(reason))
        wanted = len(self._stale) + self.pages.kept + failed.total()
        is_away = missed > self._settings.max_unreachable * wanted
        for url, visit in self.visits.items():
            if visit.failures and is_away:  # it is not the page's fault
                self.visits[url] = replace(visit, failures=self._before.visit(url).failures)
        for url, reason in self._stale.items():
            if self.visits[url].failures >= self._settings.gone_after:
                self._writer.drop(url)
                self._lose("gone", url)
                self._fail(reason, url)
            else:
                self._unmet.discard(url)
                self.pages.keep()
                self.known.fail(reason, url, {"url": url})

    def _store(self, url: str, page: StoredPage, level: Level) -> None:
        """Write a page, and take its links."""
        self._writer.add(url, 200, page.headers, page.body, page.fetched)
        try:
            root = parse_page(page.body, page.headers["Content-Type"])
        except PageError:
            return  # kept as it came; the extraction will say that it holds nothing
        if "nofollow" in directives_of(page.header_lines(), metas_of(root), self._agents):
            return
        base = Base(base_of(root, url), root.encoding)
        level.links.update(self._absolute(links_of(root), base))

    def _lose(self, reason: str, url: str) -> None:
        """Count a known page that is not as it was, or not there any more."""
        if url in self._unmet:
            self._unmet.discard(url)
            self.known.reject(reason, url, {"url": url})

    def _reject(self, reason: str, url: str) -> None:
        self._lose(reason, url)
        self.pages.reject(reason, url, {"url": url})

    def _fail(self, reason: str, url: str) -> None:
        self._lose("gone" if reason in _GONE else reason, url)
        self.pages.fail(reason, url, {"url": url})
