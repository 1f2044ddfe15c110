"""Crawls with real Scrapy of a real server on loopback."""

from __future__ import annotations

import asyncio
import gzip
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import scrapy
from fastwarc.warc import ArchiveIterator, WarcRecordType
from scrapy.core.downloader import Slot
from scrapy.exceptions import StopDownload
from scrapy.http import HtmlResponse

from tests.workers.web import PATIENCE, Answer, Web, moved, page, robots, serving, tagged
from workers.base.failures import NeedsMendingError
from workers.base.opt_outs import Kind, entry_key, normal_entry
from workers.base.settings import CrawlSettings
from workers.base.tally import Tally
from workers.crawl.host import (
    KNOWN,
    CrawlError,
    CrawlJob,
    HostFiles,
    MovedError,
    crawl_host,
    warc_name,
)
from workers.crawl.host_crawl import HostCrawl
from workers.crawl.spider import HostSpider
from workers.crawl.visits import Before
from workers.crawl.warc_writer import WarcWriter, content_hash

HTML = {"Content-Type": "text/html"}
GZIP = HTML | {"Content-Encoding": "gzip"}

SITE: dict[str, Answer | list[Answer]] = {
    "/robots.txt": robots("User-agent: *\nDisallow: /secret\nAllow: /secret/open\n"),
    "/": page(
        *("/a", "/b", "/a#part", "a", "/secret/1", "/secret/open", "/picture.png", "/missing"),
        *("/moved", "/away", "/to-secret", "/loop", "/gone", "/huge", "/cut", "/packed"),
        *("/bomb", "/garbled", "/odd-coding", "/busy", "/plain", "/empty", "/nofollow", "/based/"),
        *("/no-robot", "/identity", "/none", "/utf-8"),
        *("mailto:someone@example.org", "javascript:void(0)", "http://example.org/", "http://["),
    ),
    "/a": tagged(page("/b", "/a", "/deep/1")),
    "/b": tagged(page("/a")),
    "/deep/1": page("/deep/2"),
    "/deep/2": page("/deep/3"),
    "/deep/3": page(),
    "/secret/1": page(),
    "/secret/open": page(),
    "/secret/target": page(),
    "/picture.png": Answer(b"\x89PNG", headers={"Content-Type": "image/png"}),
    "/moved": moved("/target"),
    "/target": page(text="found by a redirect only"),
    "/away": moved("http://127.0.0.1:1/elsewhere"),
    "/to-secret": moved("/secret/target"),
    "/loop": moved("/loop?1"),
    **{f"/loop?{n}": moved(f"/loop?{n + 1}") for n in range(1, 20)},
    "/gone": Answer(status=410),
    "/huge": Answer(b"<p>" + b"x" * 60_000),
    "/cut": Answer(b"<p>half", claimed=1_000),
    "/packed": Answer(gzip.compress(b"<p>packed, <a href='/from-packed'>x</a>"), headers=GZIP),
    "/from-packed": page(),
    "/bomb": Answer(gzip.compress(b"<p>" + b"x" * 60_000), headers=GZIP),
    "/garbled": Answer(b"\x1f\x8b\x08nonsense", headers=GZIP),
    "/odd-coding": Answer(b"<p>\0\1\2", headers=HTML | {"Content-Encoding": "odd"}),
    **{
        f"/{name}": Answer(f"<p>{name}".encode(), headers=HTML | {"Content-Encoding": name})
        for name in ("identity", "none", "utf-8")
    },
    "/busy": [Answer(status=503), page(text="at the second try")],
    "/plain": Answer(b"text", headers={"Content-Type": "text/plain"}),
    "/empty": Answer(b""),
    "/nofollow": Answer(
        b"<meta name='ROBOTS' content='NoFollow'><a href='/never'>x</a>",
        headers={"Content-Type": "TEXT/HTML", "Date": "today", "Set-Cookie": "a=b"},
    ),
    "/based/": Answer(b"<base href='/other/'><a href='x'>x</a><a rel=nofollow href=/never>x</a>"),
    "/other/x": page(),
    "/no-robot": Answer(
        b"<a href='/never'>x</a>",
        headers={
            "Content-Type": "text/html",
            "X-Robots-Tag": "googlebot: all",
            "x-robots-tag": "none",
        },
    ),
}


def settings(web: Web, **changes: object) -> CrawlSettings:
    defaults: dict[str, object] = {
        "allow_private_hosts": (web.host,),
        "max_depth": 3,
        "max_page_bytes": 50_000,
        "timeout": PATIENCE,
        "retries": 1,
        "retry_pause": 0.01,
    }
    return CrawlSettings.model_validate(defaults | changes)


def crawl(web: Web, out: Path, seeds: Sequence[str] = ("/",), **changes: object) -> Tally:
    urls = [web.url(seed) if seed.startswith("/") else seed for seed in seeds]
    tally = crawl_host(web.host, urls, out, settings(web, **changes))["pages"]
    tally.check()
    return tally


def pages_of(web: Web, out: Path) -> list[str]:
    """The paths in the WARC file, in its order."""
    records = ArchiveIterator(
        str(out / warc_name(web.host)), record_types=WarcRecordType.response, parse_http=False
    )
    return [record.headers["WARC-Target-URI"].removeprefix(web.url("")) for record in records]


@pytest.fixture(scope="module")
def crawled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Web, Path, Tally]]:
    out = tmp_path_factory.mktemp("crawl") / "out"
    with serving(SITE) as web:
        yield web, out, crawl(web, out)


def test_pages_are_kept_in_the_order_of_their_urls(crawled):
    web, out, tally = crawled
    assert pages_of(web, out) == [
        *("/", "/a", "/b", "/based/", "/busy", "/deep/1", "/deep/2", "/empty", "/from-packed"),
        *("/identity", "/no-robot", "/nofollow", "/none", "/other/x", "/packed", "/secret/open"),
        *("/target", "/utf-8"),
    ]
    assert tally.kept == 18


def test_every_url_has_one_reason(crawled):
    _, _, tally = crawled
    assert tally.rejected == {
        "bad_url": 1,
        "not_html": 2,
        "not_http": 2,
        "off_site": 2,
        "redirect": 3 + 6,  # /loop and the five redirects that follow it
        "robots_txt": 2,
        "too_deep": 1,
    }
    assert tally.failed == {
        "bad_encoding": 2,
        "http_404": 1,
        "http_410": 1,
        "too_large": 2,
        "too_many_redirects": 1,
        "truncated": 1,
    }


def test_robots_txt_is_read_first_and_obeyed(crawled):
    web, _, tally = crawled
    assert web.asked[0] == "/robots.txt"
    assert web.asked.count("/robots.txt") == 1
    assert "/secret/1" not in web.asked
    assert "/secret/target" not in web.asked, "robots.txt holds for redirects, too"
    assert set(tally.samples["robots_txt"]) == {web.url("/secret/1"), web.url("/secret/target")}


def test_each_page_is_asked_for_once_unless_it_fails(crawled):
    web, _, _ = crawled
    again = {path for path in web.asked if web.asked.count(path) > 1}
    assert again == {"/busy", "/cut"}


def test_the_crawler_says_who_it_is_and_follows_no_nofollow(crawled):
    web, _, _ = crawled
    assert web.agents == {"clip-from-scratch"}
    assert "/never" not in web.asked


def test_only_the_warc_file_and_its_table_are_left(crawled):
    web, out, _ = crawled
    name = web.host.replace(":", "_")
    files = [str(path.relative_to(out)) for path in sorted(out.rglob("*")) if path.is_file()]
    assert files == [f"{name}.warc", f"_tables/{name}.parquet"]


def test_records_are_whole_and_hold_the_page(crawled):
    web, out, _ = crawled
    bodies = {}
    for record in ArchiveIterator(str(out / warc_name(web.host)), parse_http=False):
        if record.record_type == WarcRecordType.response:
            assert record.verify_block_digest()
            bodies[record.headers["WARC-Target-URI"]] = record.reader.read()
    head, _, body = bodies[web.url("/nofollow")].partition(b"\r\n\r\n")
    assert head == b"HTTP/1.1 200 OK\r\nContent-Type: TEXT/HTML\r\nContent-Length: %d" % len(body)
    lines = b"\r\nX-Robots-Tag: googlebot: all\r\nX-Robots-Tag: none\r\n"
    assert lines in bodies[web.url("/no-robot")], "what is said to one robot stands by itself"
    assert bodies[web.url("/packed")].endswith(b"<p>packed, <a href='/from-packed'>x</a>")


def test_a_second_crawl_differs_in_its_dates_alone(crawled, tmp_path):
    web, out, _ = crawled
    crawl(web, tmp_path, requests_per_host=5)
    first, second = ((where / warc_name(web.host)).read_bytes() for where in (out, tmp_path))
    assert undated(first) == undated(second)


def test_a_crawl_that_goes_on_from_another_asks_for_what_has_changed(crawled, tmp_path):
    web, out, tally = crawled
    web.unchanged.clear()
    before = HostFiles.of(web.host, out, out / "_tables")
    seeds, again = [web.url("/")], settings(web)
    tallies = crawl_host(web.host, seeds, tmp_path, again, before)
    assert sorted(web.unchanged) == ["/a", "/b"]
    assert tallies["pages"] == tally
    assert tallies[KNOWN].counts() == {"in": 18, "kept": 18, "rejected": {}, "failed": {}}
    first, second = (content_hash(where / warc_name(web.host)) for where in (out, tmp_path))
    assert first == second


def test_what_is_no_page_is_not_read_and_a_304_leaves_its_connection_open():
    spider = HostSpider()
    request = scrapy.Request("http://a.example/", meta={"is_page": True, "is_conditional": True})
    spider.on_headers({}, request)
    for headers in ({"Content-Type": b"image/png"}, {"Content-Type": b"text/plain"}):
        with pytest.raises(StopDownload):
            spider.on_headers(headers, request)
    with pytest.raises(StopDownload):
        spider.on_headers({}, request.replace(meta={"is_page": True}))


def undated(warc: bytes) -> bytes:
    return re.sub(rb"(?m)^WARC-Date: \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\r$", b"WARC-Date", warc)


def test_warcio_reads_the_file(crawled):
    warcio = pytest.importorskip("warcio.archiveiterator")
    web, out, tally = crawled
    with (out / warc_name(web.host)).open("rb") as file:
        records = list(warcio.ArchiveIterator(file, check_digests="raise"))
    assert [record.rec_type for record in records] == ["warcinfo"] + ["response"] * tally.kept


def test_loopback_is_refused_unless_named(tmp_path):
    with serving(SITE) as web:
        tally = crawl(web, tmp_path, allow_private_hosts=("127.0.0.2", "127.0.0.1:1"))
        assert web.asked == []
    assert tally.counts()["rejected"] == {"private_address": 1}
    assert pages_of(web, tmp_path) == []


def test_a_host_that_is_not_there_fails(tmp_path):
    with serving({}) as web:
        pass
    tally = crawl(web, tmp_path, seeds=("/", "/more"))
    assert tally.failed == {"connection": 2}
    with pytest.raises(StopIteration):
        next(iter(pages_of(web, tmp_path)))


def test_the_page_limit_takes_the_first_urls_of_a_level(tmp_path):
    links = [f"/{n}" for n in range(9)]
    answers = {link: Answer(b"<a href=/more>x</a>", at_once=3) for link in links}
    with serving({"/": page(*reversed(links)), **answers}) as web:
        tally = crawl(web, tmp_path, max_pages_per_host=5, requests_per_host=3)
        assert pages_of(web, tmp_path) == ["/", "/0", "/1", "/2", "/3"], "also without robots.txt"
    assert web.most_at_once == 3
    assert tally.counts()["rejected"] == {"too_many_pages": 5 + 1}


def test_what_does_not_answer_in_time_fails(tmp_path):
    """The robots.txt is there by then or is not: its own lack of an answer is no other reason."""
    with serving({"/slow": Answer(seconds=PATIENCE)}) as web:
        tally = crawl(web, tmp_path, seeds=("/slow",), timeout=0.2, retries=0)
    assert tally.failed == {"timeout": 1}


def test_other_hosts_seeds_are_not_crawled(tmp_path):
    with serving({"/": page()}) as web, serving({"/": page()}) as other:
        tally = crawl(web, tmp_path, seeds=("/", other.url("/"), "ftp://127.0.0.1/"))
        assert other.asked == []
    assert tally.kept == 1
    assert tally.rejected == {"off_site": 1, "not_http": 1}


def test_a_robots_txt_that_cannot_be_had_keeps_us_out(tmp_path):
    with serving({"/": page(), "/robots.txt": Answer(status=503)}) as web:
        tally = crawl(web, tmp_path)
        assert set(web.asked) == {"/robots.txt"}
    assert tally.failed == {"robots_unreachable": 1}


def test_a_robots_txt_may_be_another_hosts(tmp_path):
    """Its name is resolved and checked like that of the host that is crawled."""
    site = {"/": page("/secret", "/open"), "/secret": page(), "/open": page()}
    rules = robots("User-agent: *\nDisallow: /secret\n")
    with serving({"/rules": rules}) as other, serving(site) as web:
        named = other.host.replace("127.0.0.1", "localhost")
        web.answers["/robots.txt"] = moved(f"http://{named}/rules")
        tally = crawl(web, tmp_path, allow_private_hosts=(web.host, named))
        assert tally.rejected == {"robots_txt": 1}
        assert pages_of(web, tmp_path) == ["/", "/open"]


def test_a_long_robots_txt_is_read_whatever_a_page_may_be(tmp_path):
    rules = "User-agent: *\nDisallow: /secret\n" + "#" * 600_000
    with serving({"/robots.txt": robots(rules), "/": page("/secret"), "/secret": page()}) as web:
        assert crawl(web, tmp_path).rejected == {"robots_txt": 1}


def test_rules_for_our_name_go_before_the_general_ones(tmp_path):
    rules = (
        "User-agent: *\nDisallow: /\n\nUser-agent: bot\nDisallow: /1\n\n"
        "User-agent: Birds-Research\nDisallow: /2\n"
    )
    site = {"/robots.txt": robots(rules), "/": page("/1", "/2"), "/1": page(), "/2": page()}
    with serving(site) as web:
        tally = crawl(web, tmp_path, user_agent="birds-research (+https://birds.example/bot)")
        assert pages_of(web, tmp_path) == ["/", "/1"]
    assert tally.rejected == {"robots_txt": 1}


def test_what_robots_txt_does_not_want_trained_on_is_not_asked_for(tmp_path):
    rules = (
        "User-agent: *\nContent-Usage: /1 train-ai=n\nContent-Signal: /2 ai-train=no\n\n"
        "User-agent: CCBot\nDisallow: /3\nContent-Signal: /4 ai-train=no\n"
    )
    paths = ("/1", "/2", "/3", "/4")
    site = {"/robots.txt": robots(rules), "/": page(*paths), **{path: page() for path in paths}}
    with serving(site) as web:
        assert crawl(web, tmp_path).rejected == {"opted_out": 2}
        assert pages_of(web, tmp_path) == ["/", "/3", "/4"]
        web.asked.clear()
        tally = crawl(web, tmp_path, obey_agents=("CCBot",))
        assert tally.rejected == {"opted_out": 3, "robots_txt": 1}
        assert web.asked == ["/robots.txt", "/"]


@pytest.mark.parametrize(("asked_for", "pause"), [("0.2", 0.2), ("3600", 60.0), ("soon", 0.0)])
def test_crawl_delay_is_kept_up_to_a_minute(tmp_path, asked_for, pause):
    """The delay reaches Scrapy's slots, which wait so long between two requests."""
    rules = f"User-agent: *\nCrawl-delay: {asked_for}\n"
    answers = {"http://a.example/robots.txt": rules, "http://a.example/": "<p>x</p>"}

    async def download(request: scrapy.Request) -> HtmlResponse:
        headers = {"Content-Type": "text/html"}
        return HtmlResponse(request.url, headers=headers, body=answers[request.url].encode())

    slots = {"a.example": Slot(2, 0.05, 0.0)}
    spider = HostSpider()
    spider.crawler = SimpleNamespace(
        engine=SimpleNamespace(downloader=SimpleNamespace(slots=slots))
    )
    job = CrawlJob(
        host="a.example",
        seeds=("http://a.example/",),
        files=HostFiles.of("a", tmp_path, tmp_path),
        settings=CrawlSettings(max_depth=0),
    )
    with WarcWriter(job.files.warc, {}) as writer:
        asyncio.run(HostCrawl(job, writer, Before(None)).run(download, spider._slow_down))
    assert slots["a.example"].delay == max(pause, 0.05)


def test_a_host_that_sends_everybody_to_another_one_is_no_success(tmp_path):
    with serving({"/": page()}) as there, serving({}) as web:
        web.answers |= {"/": moved("/home"), "/home": moved(there.url("/")), "/a": page()}
        message = rf"{web.host} keeps no page of its own, it redirects to {there.url('')}: put that"
        with pytest.raises(MovedError, match=message):
            crawl(web, tmp_path / "a")
        tally = crawl(web, tmp_path / "b", seeds=("/", "/a"))
        assert there.asked == []
    assert tally.rejected == {"off_site": 1, "redirect": 2}
    assert tally.kept == 1


def test_a_redirect_leads_where_its_bytes_say(tmp_path):
    moves = {
        "/1": ("/caf\xe9", "/caf%E9"),  # as somebody's Latin-1
        "/2": ("/caf\xc3\xa9?\xc3\xa9", "/caf%C3%A9?%C3%A9"),  # and as UTF-8
        "/3": ("/a b", "/a%20b"),
        "/4": ("/a\\b", "/a/b"),
    }
    site = {"/": page(*moves), **{url: moved(to) for url, (to, _) in moves.items()}}
    with serving({**site, **{target: page() for _, target in moves.values()}}) as web:
        crawl(web, tmp_path)
        assert pages_of(web, tmp_path) == ["/", *sorted(target for _, target in moves.values())]


def test_a_crawl_ends_with_the_process_that_asked_for_it(tmp_path):
    """After kill -9 nobody may go on asking the host: this one keeps a crawl waiting for ever."""
    with serving({"/": page("/never"), "/never": Answer(seconds=10 * PATIENCE)}) as web:
        asking = (
            "import sys; from pathlib import Path; from workers.crawl.host import crawl_host;"
            "from workers.base.settings import CrawlSettings;"
            "host, out = sys.argv[1:];"
            "settings = CrawlSettings(allow_private_hosts=(host,), timeout=600);"
            "crawl_host(host, [f'http://{host}/'], Path(out), settings)"
        )
        command = [sys.executable, "-c", asking, web.host, str(tmp_path)]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            wait_until(lambda: "/never" in web.asked)
            (crawler,) = psutil.Process(process.pid).children()
            process.kill()
        wait_until(lambda: not crawler.is_running() or crawler.status() == psutil.STATUS_ZOMBIE)


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_broken_crawler_is_an_error_with_its_log(tmp_path):
    with pytest.raises(CrawlError, match="ended with"):
        crawl_host("[", [], tmp_path, CrawlSettings())
    assert (tmp_path / "_crawl.log").read_text()


def test_a_crawl_that_would_ask_the_public_internet_as_nobody_says_which_setting_is_at_fault(
    tmp_path,
):
    """A host that is named need have no contact before it shows where it is."""
    public = "93.184.215.14"
    nobody = CrawlSettings(allow_private_hosts=(public,))
    with pytest.raises(NeedsMendingError, match=rf"^{public} is .*; pages\.user_agent: the owners"):
        crawl_host(public, [f"http://{public}/"], tmp_path / "named", nobody)
    assert not (tmp_path / "named" / "_crawl.log").exists()
    with serving({"/robots.txt": moved(f"http://{public}/robots.txt"), "/": page()}) as web:
        with pytest.raises(NeedsMendingError, match=rf"^{public} is .*; pages\.user_agent: "):
            crawl(web, tmp_path / "robots")
        assert web.asked == ["/robots.txt"]


def test_what_was_taken_down_is_not_asked_for_and_stands_in_no_sample(tmp_path):
    site = {"/": page("/a", "/b", "/to-a"), "/to-a": moved("/a"), "/a": page(), "/b": page()}
    with serving(site) as web:
        entry = entry_key(Kind.URL, normal_entry(Kind.URL, web.url("/a"))).hex()
        (tmp_path / "taken_down.txt").write_text(f"url {entry} 2026-11-26\n")
        settings = CrawlSettings(allow_private_hosts=(web.host,))
        seeds, taken_down = [web.url("/")], tmp_path / "taken_down.txt"
        pages = crawl_host(web.host, seeds, tmp_path / "out", settings, taken_down=taken_down)[
            "pages"
        ]
    assert sorted(web.asked) == ["/", "/b", "/robots.txt", "/to-a"]
    assert pages.rejected == {"redirect": 1, "taken_down": 1}
    assert pages.samples.get("taken_down", {}) == {}
