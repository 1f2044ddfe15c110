"""Names looked up side by side, some of which hang."""

import socket
import subprocess
import sys
import threading

import pytest

from tests.workers.web import PATIENCE
from workers.base.settings import CrawlSettings
from workers.crawl.fetch import PinnedResolver
from workers.web.addresses import permitted_addresses
from workers.web.lookups import Lookups

ADDRESS = "127.0.0.7"


@pytest.fixture
def resolver(monkeypatch):
    """The system's, which answers for a name that begins with "slow" only once it may."""
    resolver = Resolver()
    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    yield resolver
    resolver.may_answer.set()


class Resolver:
    def __init__(self):
        self.real, self.asked, self.may_answer = socket.getaddrinfo, [], threading.Event()

    def __call__(self, host, *args, **more):
        self.asked.append(host)
        if host.startswith("slow"):
            assert self.may_answer.wait(PATIENCE)
        if host == "nowhere":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return self.real(ADDRESS, *args, **more)


def test_a_name_is_looked_up_once_for_all_who_ask_meanwhile(resolver):
    lookups = Lookups(2)
    answers = [lookups.ask("slow") for _ in range(10)]
    assert lookups.ask("other").result(PATIENCE) == [ADDRESS]
    resolver.may_answer.set()
    assert [answer.result(PATIENCE) for answer in answers] == [[ADDRESS]] * 10
    assert resolver.asked == ["slow", "other"]


def test_what_has_no_address_is_an_error(resolver):
    with pytest.raises(socket.gaierror):
        Lookups(1).ask("nowhere").result(PATIENCE)
    assert Lookups(1).ask("other").result(PATIENCE) == [ADDRESS]


def test_more_than_so_many_wait_for_a_thread_and_who_has_given_up_takes_none(resolver):
    lookups = Lookups(2)
    hanging = [lookups.ask(name) for name in ("slow 1", "slow 2")]
    given_up, waiting, wanted = (lookups.ask(name) for name in ("a", "b", "b"))
    late = lookups.ask("slow 1")
    assert given_up.cancel()
    assert waiting.cancel()
    assert not wanted.done()
    resolver.may_answer.set()
    assert wanted.result(PATIENCE) == late.result(PATIENCE) == [ADDRESS]
    assert all(answer.result(PATIENCE) for answer in hanging)
    assert sorted(resolver.asked) == ["b", "slow 1", "slow 2"]


def test_those_who_have_given_up_are_not_counted_up(resolver):
    lookups = Lookups(1)
    lookups.ask("slow")
    for n in range(50):
        assert lookups.ask("slow").cancel()
        assert lookups.ask(f"other {n}").cancel()
    assert len(lookups._running["slow"]) == 2
    assert len(lookups._waiting) == 1


@pytest.mark.usefixtures("resolver")
def test_a_crawl_waits_no_longer_for_a_name_than_for_a_page():
    with pytest.raises(TimeoutError, match="no name server has answered for slow within 0.1 s"):
        permitted_addresses("slow", 80, (), seconds=0.1)
    with pytest.raises(TimeoutError, match="within 0.2 s"):
        PinnedResolver.pin("http://slow/", CrawlSettings(timeout=0.2))


HANGS = """
import socket, threading
from workers.web.addresses import permitted_addresses
socket.getaddrinfo = lambda *_, **__: threading.Event().wait()
try:
    permitted_addresses("a.invalid", 80, (), seconds=0.1)
except TimeoutError as error:
    print(error)
"""


def test_a_name_that_hangs_does_not_hold_the_process():
    done = subprocess.run(
        [sys.executable, "-c", HANGS], capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    assert done.stdout == "no name server has answered for a.invalid within 0.1 s\n"
