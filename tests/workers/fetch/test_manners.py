"""How hosts are treated: what robots.txt says, how often, how far apart, and when no more."""

import asyncio
import socket
import threading
import time
from contextlib import ExitStack, nullcontext
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial
from itertools import pairwise

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.workers.fetch.test_download import files_in, image
from tests.workers.fetch.test_image_fetch import images_asked
from tests.workers.web import PATIENCE, Answer, moved, robots, serving
from workers.base.contracts import REQUESTS
from workers.base.pair_ids import make_pair_id
from workers.base.settings import DownloadSettings
from workers.base.storage import write_table
from workers.fetch.download import download_shard
from workers.fetch.fetch_each import fetch_each
from workers.web.hosts import MAX_FAILURES, Host, Manners
from workers.web.leases import Lease
from workers.web.pauses import MAX_PAUSE, backoff, retry_after

BODY = b"a picture" * 100
GOOD = Answer(BODY)


def outcomes(urls, *allowed, **settings):
    """By URL, the reason for which there is no image; None for one that is there."""
    settings = {"retry_pause": 0.0, "allow_private_hosts": ("127.0.0.1", *allowed), **settings}
    return {
        url: None if result.content is not None else result.reason
        for url, result in fetch_each(urls, DownloadSettings(**settings))
    }


def pictures(web, count):
    """So many images on a server; their URLs."""
    web.answers |= {f"/{n}.png": GOOD for n in range(count)}
    return [web.url(f"/{n}.png") for n in range(count)]


TEXT = "User-agent: *\nDisallow: /1\n\nUser-agent: clip-from-scratch\nDisallow: /secret\n"


def test_robots_txt_is_read_once_before_a_host_is_asked_for_anything():
    with serving({"/robots.txt": robots(TEXT), "/secret/a.png": GOOD}) as web:
        urls = [*pictures(web, 5), web.url("/secret/a.png")]
        said = outcomes(urls)
        assert said == {url: "robots_txt" if "secret" in url else None for url in urls}
        assert web.asked[:2] == ["/robots.txt", "/.well-known/tdmrep.json"]
        assert sorted(web.asked[2:]) == [f"/{n}.png" for n in range(5)]
        assert outcomes(urls, user_agent="somebody-else")[urls[1]] == "robots_txt"
        web.asked.clear()
        assert set(outcomes(urls, robots=False).values()) == {None}
        assert "/robots.txt" not in web.asked


def test_what_a_host_says_of_the_use_of_its_images_counts():
    usage = "User-agent: *\nContent-Usage: /a train-ai=n\nContent-Signal: search=yes\nAllow: /"
    tdmrep = (
        b'[{"location": "/b*", "tdm-reservation": 1}, {"location": "/c*", "tdm-reservation": 0}]'
    )
    free = Answer(BODY, headers={"tdm-reservation": "0"})
    with serving({"/robots.txt": robots(usage), "/.well-known/tdmrep.json": Answer(tdmrep)}) as web:
        web.answers |= {f"/{name}.png": GOOD for name in "abcd"} | {"/b-free.png": free}
        said = outcomes([web.url(f"/{name}.png") for name in ("a", "b", "b-free", "c", "d")])
    assert list(said.values()).count("opted_out") == 2
    assert {url.rpartition("/")[2]: reason for url, reason in said.items() if reason} == {
        "a.png": "opted_out",
        "b.png": "opted_out",  # a header overrules the file
    }


def test_the_rules_for_crawlers_that_are_named_are_obeyed_too():
    text = "User-agent: CCBot\nDisallow: /0\n\nUser-agent: clip-from-scratch\nDisallow: /1"
    with serving({"/robots.txt": robots(text)}) as web:
        urls = pictures(web, 3)
        assert outcomes(urls) == {urls[0]: None, urls[1]: "robots_txt", urls[2]: None}
        both = outcomes(urls, obey_agents=("CCBot",))
        assert both == {urls[0]: "robots_txt", urls[1]: "robots_txt", urls[2]: None}


def test_a_redirect_is_held_to_the_robots_txt_of_where_it_leads():
    with serving({"/robots.txt": robots("User-agent: *\nDisallow: /a")}) as other:
        with serving({"/to.png": moved(other.url("/a.png"))}) as web:
            assert outcomes([web.url("/to.png")]) == {web.url("/to.png"): "robots_txt"}
        assert images_asked(other) == []


@pytest.mark.parametrize("answer", [Answer(status=503), Answer(status=429), moved("/robots.txt")])
def test_where_robots_txt_cannot_be_had_nothing_is_asked_for(answer):
    with serving({"/robots.txt": answer}) as web:
        urls = pictures(web, 3)
        assert outcomes(urls) == dict.fromkeys(urls, "robots_unreachable")
        assert images_asked(web) == []


def test_no_host_has_more_requests_at_a_time_than_it_may():
    with serving({}) as web:
        urls = pictures(web, 12)
        for most in (2, 5):  # each answer waits until there were so many at a time
            web.answers |= {
                f"/{n}.png": Answer(BODY, seconds=0.02, at_once=most) for n in range(12)
            }
            assert set(outcomes(urls, requests_per_host=most).values()) == {None}
            assert web.most_at_once == most


def test_a_slow_host_holds_its_own_share_alone():
    with serving({}) as slow, serving({}) as fast:
        urls = [*pictures(slow, 40), *pictures(fast, 40)]
        slow.answers |= {f"/{n}.png": Answer(BODY, seconds=0.1) for n in range(40)}
        order = list(outcomes(urls, connections=3))
    last_of_fast = max(order.index(url) for url in urls[40:])
    assert sum(order.index(url) < last_of_fast for url in urls[:40]) < 30


@pytest.mark.parametrize("written", ["seconds", "date"])
def test_a_host_that_says_for_how_long_is_left_alone_for_so_long(written):
    with serving({}) as web:
        urls = pictures(web, 4)
        later = format_datetime(datetime.now(UTC) + timedelta(seconds=3), usegmt=True)
        busy = Answer(status=429, headers={"Retry-After": {"seconds": "2", "date": later}[written]})
        web.answers["/0.png"] = [busy, GOOD]
        assert set(outcomes(urls, requests_per_host=1).values()) == {None}
        assert images_asked(web).count("/0.png") == 2
        asked = [at for path, at in zip(web.asked, web.asked_at, strict=True) if "png" in path]
        first = images_asked(web).index("/0.png")
        # No image of this host meanwhile, not that one alone.
        assert asked[first + 1] - asked[first] > 1


def test_a_host_that_wants_more_than_a_minute_is_left_to_another_run():
    with serving({}) as web:
        urls = pictures(web, 4)
        web.answers["/0.png"] = Answer(status=503, headers={"Retry-After": f"{MAX_PAUSE + 1:.0f}"})
        said = outcomes(urls, requests_per_host=1)
        assert said == {urls[0]: "http_503", **dict.fromkeys(urls[1:], "host_away")}
        assert images_asked(web) == ["/0.png"]


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120),
        (" 0 ", 0),
        ("Fri, 27 Nov 2026 12:00:30 GMT", 30),
        ("Friday, 27-Nov-26 12:00:30 GMT", 30),  # as RFC 850 had it
        ("Fri Nov 27 12:00:30 2026", 30),  # as C's asctime has it
        ("Fri, 27 Nov 2026 12:00:30 -0000", 30),
        ("Fri, 27 Nov 2026 11:00:00 GMT", 0),
        ("Fri, 27 Nov 2026 14:00:30 +0200", 30),
        ("", None),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("9" * 400, None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value, seconds):
    assert retry_after(value, datetime(2026, 11, 27, 12, tzinfo=UTC)) == seconds


def test_pauses_are_anything_up_to_what_doubles_from_attempt_to_attempt():
    for attempt, most in enumerate((2.0, 4.0, 8.0)):
        pauses = [backoff(2.0, f"http://a.org/{number}", attempt) for number in range(1000)]
        assert 0 <= min(pauses) < 0.01 * most
        assert 0.99 * most < max(pauses) < most
        assert sum(pauses) / 1000 == pytest.approx(most / 2, rel=0.05)


def test_a_host_may_want_a_minute_between_two_requests_and_no_more():
    async def pause(wanted):
        lease = Lease()
        host = Host(Manners(1, 0.0, 1e9), lease)
        host.want_delay(wanted)
        async with host.turn(nullcontext):
            return lease.pause

    assert 29 < asyncio.run(pause(30.0)) <= 30
    assert MAX_PAUSE - 1 < asyncio.run(pause(1e9)) <= MAX_PAUSE


def test_a_host_without_an_answer_is_asked_no_more():
    with serving({}) as web:
        urls = [f"http://127.0.0.1:9/{n}.png" for n in range(40)] + pictures(web, 3)
        said = outcomes(urls, robots=False, retries=0)
    reasons = [said[url] for url in urls]
    assert reasons.count("connection") == MAX_FAILURES
    assert reasons.count("host_away") == 40 - MAX_FAILURES
    assert reasons[40:] == [None] * 3


def test_a_host_holds_up_a_shard_for_so_long_and_no_longer():
    with serving({}) as web:
        urls = pictures(web, 30)
        web.answers |= {f"/{n}.png": Answer(BODY, seconds=0.1) for n in range(30)}
        reasons = list(outcomes(urls, max_host_seconds=0.5, retries=3).values())
    assert {*reasons} == {None, "host_slow"}
    assert len(images_asked(web)) == reasons.count(None)


@pytest.mark.parametrize("by", ["setting", "robots.txt"])
def test_requests_to_a_host_are_so_far_apart(by):
    rules = robots("User-agent: *\nCrawl-delay: 0.2\n" if by == "robots.txt" else "")
    with serving({"/robots.txt": rules}) as web:
        outcomes(pictures(web, 4), delay=0.2 if by == "setting" else 0.0)
        times = web.asked_at[1:]
    assert all(after - before > 0.15 for before, after in pairwise(times))


def test_who_waits_for_a_connection_still_keeps_the_distance():
    with ExitStack() as stack:
        webs = [stack.enter_context(serving({})) for _ in range(4)]
        urls = [url for web in webs for url in pictures(web, 3)]
        for web in webs:
            web.answers |= {f"/{n}.png": Answer(BODY, seconds=0.1) for n in range(3)}
        assert set(outcomes(urls, connections=1, delay=0.3, robots=False).values()) == {None}
        for web in webs:
            assert all(after - before > 0.25 for before, after in pairwise(web.asked_at))


@pytest.mark.parametrize("robots_too", [True, False])
def test_names_that_no_name_server_answers_for_hold_up_nothing_else(monkeypatch, robots_too):
    ended, real, asked = threading.Event(), socket.getaddrinfo, []

    def look_up(host, *args, **more):
        if host.endswith(".invalid"):
            asked.append(host)
            ended.wait(PATIENCE)
        return real("127.0.0.1", *args, **more)

    with serving({}) as web:
        monkeypatch.setattr(socket, "getaddrinfo", look_up)
        hosts = [f"{n}.{robots_too:d}.invalid" for n in range(40)]
        hanging = [f"http://{host}/a.png" for host in hosts]
        good = [url.replace("127.0.0.1", "good.test") for url in pictures(web, 3)]
        named = web.host.replace("127.0.0.1", "good.test")
        settings = {"timeout": 0.5, "retries": 0, "robots": robots_too}
        said = outcomes([*hanging, *good], named, **settings)
        try:
            assert said == {**dict.fromkeys(hanging, "timeout"), **dict.fromkeys(good)}
            again = outcomes([*hanging, *good], named, **settings)
            assert again == said
            assert sorted(asked) == sorted(hosts)  # a thread each, and not one more
        finally:
            ended.set()


def test_a_url_is_asked_for_once_however_many_captions_it_has(tmp_path):
    with serving({"/a.png": Answer(image()), "/b.png": Answer(b"none")}) as web:
        rows = [
            {"pair_id": make_pair_id(url, text), "url": url, "caption": text, "tries": n}
            for url in (web.url("/a.png"), web.url("/b.png"))
            for n in range(4)
            for text in [f"caption {n}"]
        ]
        asked = pa.Table.from_pylist(rows, REQUESTS).sort_by("pair_id")
        write_table(asked, tmp_path / "list.parquet")
        out = files_in(tmp_path / "out")
        settings = DownloadSettings(allow_private_hosts=("127.0.0.1",))
        tally = download_shard(tmp_path / "list.parquet", out, settings)["images"]
    assert sorted(images_asked(web)) == ["/a.png", "/b.png"]
    assert tally.counts() == {"in": 8, "kept": 4, "rejected": {}, "failed": {"not_an_image": 4}}
    kept = pq.read_table(out.images)
    assert len(set(kept["jpg"].to_pylist())) == 1
    assert sorted(kept["caption"].to_pylist()) == [f"caption {n}" for n in range(4)]
    answers = pq.read_table(out.answers).to_pylist()
    assert sorted((row["tries"], row["reason"] or "") for row in answers) == [
        (n, reason) for n in range(4) for reason in ("", "not_an_image")
    ]


def settled(number, seconds=5.0):
    """A number that has not changed for a while."""
    deadline, before = time.monotonic() + seconds, None
    while (now := number()) != before and time.monotonic() < deadline:
        before = now
        time.sleep(0.3)
    return now


def test_no_more_contents_wait_than_two_for_a_connection():
    with serving({}) as web:
        settings = DownloadSettings(
            allow_private_hosts=("127.0.0.1",), connections=2, requests_per_host=2
        )
        results = fetch_each(pictures(web, 40), settings)
        next(results)  # and whoever takes them is at work for long
        asked = settled(lambda: len(images_asked(web)))
        assert 4 <= asked <= 2 * 2 + 2 + 1
        assert len(list(results)) == 39


def test_who_takes_no_more_ends_the_fetching():
    with serving({}) as web:
        before = threading.active_count()
        settings = DownloadSettings(allow_private_hosts=("127.0.0.1",), delay=0.05)
        results = fetch_each(pictures(web, 200), settings)
        next(results)
        results.close()
        assert len(images_asked(web)) < 100
        assert settled(partial(len, web.asked)) < 100
    assert threading.active_count() <= before


def test_a_fault_of_the_program_is_raised_to_who_takes_the_results(monkeypatch):
    def broken(*_):
        raise KeyError("fault")

    monkeypatch.setattr("workers.fetch.image_fetch.absolute_url", broken)
    with pytest.raises(ExceptionGroup) as raised:
        list(fetch_each(["http://127.0.0.1/"], DownloadSettings()))
    assert raised.group_contains(KeyError)
