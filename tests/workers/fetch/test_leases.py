"""Tasks that work at a time take turns at a host: the book of leases, and fetches that have it."""

import asyncio
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise

import pytest

from tests.workers.fetch.test_download import image
from tests.workers.web import Answer, robots, serving
from workers.base.settings import DownloadSettings
from workers.fetch.fetch_each import fetch_each
from workers.web import leases
from workers.web.leases import LOST, STALE, LeaseBook, Leases
from workers.web.robots import RuleFile


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def book(clock):
    return LeaseBook(clock=clock)


def test_a_host_is_one_tasks_until_it_gives_it_back(book):
    assert book.exchange("a", ["x", "y"], {}).granted == {"x": 0.0, "y": 0.0}
    assert book.exchange("b", ["x", "z"], {}).granted == {"z": 0.0}
    assert book.exchange("a", [], {}).wanted == ["x"]
    assert book.exchange("a", [], {"x": 0.0}).wanted == []
    assert book.exchange("b", ["x"], {}).granted == {"x": 0.0}


def test_who_came_first_is_next_even_where_the_holder_asks_at_once(book):
    book.exchange("a", ["x"], {})
    for task in "bc":
        book.exchange(task, ["x"], {})
    assert not book.exchange("a", ["x"], {"x": 0.0}).granted
    assert not book.exchange("c", ["x"], {}).granted
    assert book.exchange("b", ["x"], {}).granted
    assert not book.exchange("a", ["x"], {}).granted
    book.exchange("b", [], {"x": 0.0})
    assert not book.exchange("a", ["x"], {}).granted
    assert book.exchange("c", ["x"], {}).granted


def test_who_asks_no_more_does_not_hold_up_others(book, clock):
    book.exchange("a", ["x"], {})
    book.exchange("b", ["x"], {})
    clock.now += STALE / 2
    book.exchange("c", ["x"], {})
    clock.now += STALE / 2
    assert book.exchange("a", [], {}).wanted == ["x"]
    assert book.exchange("c", ["x"], {}).granted == {}
    book.exchange("a", [], {"x": 0.0})
    assert book.exchange("c", ["x"], {}).granted, "b has gone"
    assert book.exchange("c", [], {}).wanted == []


def test_a_pause_goes_with_the_host(book, clock):
    book.exchange("a", ["x", "y"], {})
    book.exchange("a", [], {"x": 30.0, "y": 1e12})
    clock.now += 10
    assert book.exchange("b", ["x", "y"], {}).granted == {"x": 20.0, "y": 86_390.0}


def test_what_a_dead_task_had_is_free(book, clock):
    book.exchange("a", ["x"], {})
    clock.now += LOST - 1
    assert not book.exchange("b", ["x"], {}).granted
    book.exchange("a", [], {})
    clock.now += LOST - 1
    assert not book.exchange("b", ["x"], {}).granted
    clock.now += 1
    assert book.exchange("b", ["x"], {}).granted


def test_so_many_tasks_as_are_allowed_have_a_host(clock):
    book = LeaseBook(2, clock)
    granted = [bool(book.exchange(task, ["x"], {}).granted) for task in "abc"]
    assert granted == [True, True, False]
    assert book.exchange("a", [], {}).wanted == book.exchange("b", [], {}).wanted == ["x"]
    book.exchange("b", [], {"x": 0.0})
    assert book.exchange("c", ["x"], {}).granted


def test_the_book_forgets_what_is_over(book, clock):
    for number in range(1000):
        host = f"{number}.example"
        book.exchange(f"task {number}", [host], {})
        book.exchange(f"task {number}", [], {host: number % 2})
        clock.now += 1
    clock.now += LOST
    book.exchange("last", ["x"], {})
    assert list(book._hosts) == ["x"]
    assert list(book._seen) == ["last"]


class Shared:
    """A book for tasks in threads."""

    def __init__(self):
        self.book, self.lock, self.exchanges = LeaseBook(), threading.Lock(), 0

    async def exchange(self, *said):
        with self.lock:
            self.exchanges += 1
            self.between()
            return self.book.exchange(*said)

    async def rules(self, url):
        with self.lock:
            return self.book.rules(url)

    async def note_rules(self, url, said):
        with self.lock:
            self.book.note_rules(url, said)

    def between(self):
        pass


def fetched(web, tasks, book, number=40, **settings):
    """Reasons of so many images at one host for each of some tasks that work at a time."""
    chosen = DownloadSettings(allow_private_hosts=("127.0.0.1",), **settings)

    def task(name):
        urls = [web.url(f"/{name}/{n}.png") for n in range(number)]
        return [result.reason for _, result in fetch_each(urls, chosen, (), book)]

    with ThreadPoolExecutor(tasks) as pool:
        return list(pool.map(task, range(tasks)))


@pytest.fixture
def short_leases(monkeypatch):
    monkeypatch.setattr(leases, "LEASE", 0.3)
    monkeypatch.setattr(leases, "ASKING", 0.02)
    monkeypatch.setattr(leases, "RENEWAL", 0.05)


def answers(tasks, number=40, seconds=0.02):
    slow = replace(image_answer(), seconds=seconds)
    return {f"/{task}/{n}.png": slow for task in range(tasks) for n in range(number)}


def image_answer():
    return Answer(image(), headers={"Content-Type": "image/png"})


def test_a_task_that_ends_gives_back_what_it_has_at_once():
    shared = Shared()

    async def work():
        task = Leases(shared)
        keeper = asyncio.create_task(task.keep())
        assert await task.of("x").get()
        task.of("x").leave_alone(50.0)
        keeper.cancel()
        await task.leave()

    asyncio.run(work())
    granted = shared.book.exchange("another", ["x"], {}).granted
    assert granted == {"x": pytest.approx(50.0, abs=5.0)}


@pytest.mark.usefixtures("short_leases")
@pytest.mark.parametrize("at_once", [1, 2, 8])
def test_all_tasks_together_have_so_many_requests_at_a_host(at_once):
    with serving(answers(3, seconds=0.02 * at_once)) as web:
        reasons = fetched(web, 3, Shared(), requests_per_host=at_once)
        assert reasons == [[""] * 40] * 3
        assert web.most_at_once <= at_once
        tasks = [path.split("/")[1] for path in web.asked if path.endswith(".png")]
    changes = sum(one != other for one, other in pairwise(tasks))
    assert 3 <= changes < 60  # each had it several times, for a while


@pytest.mark.usefixtures("short_leases")
@pytest.mark.parametrize("status", [200, 404, 503])
def test_what_a_host_says_of_itself_is_read_once_for_all_tasks(status):
    """But for what it cannot say now, which another task asks for again."""
    rules = {"/robots.txt": Answer(b"User-agent: *\nDisallow: /1/\n", status=status)}
    with serving(answers(3, number=5) | rules) as web:
        reasons = fetched(web, 3, Shared(), number=5)
        asked = Counter(path for path in web.asked if not path.endswith(".png"))
    if status == 503:
        assert reasons == [["robots_unreachable"] * 5] * 3
        assert asked == {"/robots.txt": 3}
        return
    refused = ["robots_txt" if status == 200 else ""] * 5
    assert reasons == [[""] * 5, refused, [""] * 5]
    assert asked == {"/robots.txt": 1, "/.well-known/tdmrep.json": 1}


def test_of_what_hosts_have_said_the_book_keeps_what_was_wanted_last():
    book = LeaseBook(rule_bytes=10_000)
    for number in range(4):
        book.note_rules(f"u{number}", RuleFile(200, b"x" * 2000, ""))
        assert book.rules("u0")
    assert [bool(book.rules(f"u{number}")) for number in range(4)] == [True, False, True, True]
    book.note_rules("u2", RuleFile(200, b"", ""))
    book.note_rules("u4", RuleFile(200, b"", ""))
    assert [bool(book.rules(f"u{number}")) for number in (0, 2, 3, 4)] == [True] * 4


def test_what_a_host_has_said_is_asked_for_again_after_a_day(book, clock):
    book.note_rules("u", RuleFile(200, b"old", ""))
    clock.now += 86_000
    assert book.rules("u") == RuleFile(200, b"old", "")
    clock.now += 500
    assert book.rules("u") is None
    book.note_rules("u", RuleFile(200, b"new", ""))
    assert book.rules("u") == RuleFile(200, b"new", "")


@pytest.mark.usefixtures("short_leases")
def test_a_book_that_begins_anew_is_obeyed():
    class Forgetful(Shared):
        def between(self):
            if self.exchanges == 20:
                self.book = LeaseBook()
            if self.exchanges == 35:
                web.most_at_once = 0

    with serving(answers(3)) as web:
        book = Forgetful()
        assert fetched(web, 3, book) == [[""] * 40] * 3
        assert book.exchanges > 50
        assert web.most_at_once <= 2


def test_alone_they_do_not_know_of_each_other():
    with serving(answers(3)) as web:
        fetched(web, 3, None, requests_per_host=2)
        assert web.most_at_once > 2


@pytest.mark.usefixtures("short_leases")
@pytest.mark.parametrize("by", ["setting", "robots.txt"])
def test_all_tasks_together_keep_the_distance(by):
    delay = {"delay": 0.2} if by == "setting" else {}
    text = "" if delay else "User-agent: *\nCrawl-delay: 0.2"
    with serving({**answers(2, 5, 0.0), "/robots.txt": robots(text)}) as web:
        reasons = fetched(web, 2, Shared(), 5, **delay)
        assert reasons == [[""] * 5] * 2
        images = [at for path, at in zip(web.asked, web.asked_at, strict=True) if "png" in path]
    assert min(later - sooner for sooner, later in pairwise(images)) > 0.18


@pytest.mark.usefixtures("short_leases")
def test_a_host_that_wants_to_be_left_alone_is_left_alone_by_all():
    wait = Answer(b"", status=429, headers={"Retry-After": "3600"})
    with serving(answers(2, 40, 0.0) | {"/0/0.png": wait}) as web:
        book = Shared()
        assert fetched(web, 1, book, robots=False, retries=0)[0].count("http_429") == 1
        asked = len(web.asked)
        reasons = fetched(web, 2, book, robots=False, retries=0)
        assert len(web.asked) == asked
    assert reasons == [["host_away"] * 40] * 2


@pytest.mark.usefixtures("short_leases")
def test_one_host_of_many_does_not_hold_up_the_others():
    with serving(answers(2, 40, 0.05)) as busy, serving(answers(2, 40, 0.0)) as free:
        book = Shared()
        settings = DownloadSettings(allow_private_hosts=("127.0.0.1",), connections=4)

        def task(name):
            urls = [web.url(f"/{name}/{n}.png") for n in range(40) for web in (busy, free)]
            began = time.monotonic()
            ended = {}
            for url, result in fetch_each(urls, settings, (), book):
                assert not result.reason
                ended[url] = time.monotonic() - began
            return [max(at for url, at in ended.items() if web.host in url) for web in (busy, free)]

        with ThreadPoolExecutor(2) as pool:
            times = list(pool.map(task, range(2)))
    for of_busy, of_free in times:
        assert of_free < of_busy
