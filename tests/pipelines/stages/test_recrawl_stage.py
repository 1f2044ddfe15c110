"""Hosts that are crawled again: when they are due, what a night costs, and what it may not cost."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pipelines.run import clock
from pipelines.run.config import Config
from pipelines.run.directory import Run
from pipelines.run.engines import in_process
from pipelines.run.receipts import Receipt
from pipelines.run.runner import is_complete, run_stages
from pipelines.run.totals import StageTotals
from pipelines.stages import STAGES, pages
from tests.workers.plain_crawl import use_plain_crawls
from tests.workers.web import Answer, Web, moved, page, serving, tagged
from workers.crawl.host import KNOWN
from workers.crawl.warc_writer import StoredPages

HOURS = 3600.0
AWAY = Answer(status=503)
SITE = {
    "/": tagged(page(*(f"/{name}" for name in "abcdefgh"))),
    **{f"/{name}": tagged(page(text=name)) for name in "abcdefgh"},
}


@dataclass
class Nights:
    """Runs of the stage at times that a test sets."""

    web: Web
    directory: Path
    time: float = 1e9
    asked: list[str] = field(default_factory=list)

    def run(self, **settings: Any) -> Run:
        seeds = {"seeds": [self.web.url("/")], "allow_private_hosts": [self.web.host]}
        crawl = seeds | {"retries": 0, "recrawl_hours": 24} | settings
        tree = {"name": "x", "queries": {}, "pages": crawl}
        return Run.open(Config.model_validate(tree), self.directory)

    def __call__(self, hours: float, **settings: Any) -> int:
        """The exit code of a run so many hours after the last one."""
        self.time += hours * HOURS
        self.web.asked.clear()
        self.web.unchanged.clear()
        result = run_stages(self.run(**settings), ["pages"])
        self.asked = sorted(self.web.asked)
        return int(result.code)

    def receipt(self) -> Receipt:
        (receipt,) = self.run().receipts("pages").all()
        return receipt

    def key_of_candidates(self) -> str:
        (shard,) = STAGES["candidates"](self.run()).plan()
        return shard.key

    def paths(self) -> list[str]:
        (warc,) = self.run().outputs("pages")
        return [url.removeprefix(self.web.url("")) for url in StoredPages(warc)]


@pytest.fixture
def nights(tmp_path, monkeypatch):
    use_plain_crawls(monkeypatch)
    monkeypatch.setattr(
        pages, "on_text_engine", lambda work, shards, folder, *_: in_process(work, shards, folder)
    )
    with serving(SITE) as web:
        found = Nights(web, tmp_path / "run")

        def now() -> float:
            found.time += 1  # no two things happen at once
            return found.time

        monkeypatch.setattr(clock, "now", now)
        yield found


ALL = sorted(["/robots.txt", *SITE])


def test_a_host_is_crawled_again_when_it_is_due_and_changes_nothing_if_it_has_not(nights, caplog):
    caplog.set_level(logging.INFO)
    assert (nights(0), nights.asked) == (0, ALL)
    key = nights.key_of_candidates()
    assert (nights(23), nights.asked) == (0, [])
    assert (nights(2), nights.asked) == (0, ALL)
    assert "pages: 0 of them once more for what failed to come, and 1 for what may" in caplog.text
    assert sorted(nights.web.unchanged) == sorted(SITE)
    assert nights.key_of_candidates() == key
    assert nights.receipt().rows[KNOWN] == {"in": 9, "kept": 9, "rejected": {}, "failed": {}}
    assert nights.receipt().attempt == 1
    assert (nights(1), nights.asked) == (0, [])
    assert (nights(1000, recrawl_hours=None), nights.asked) == (0, [])
    assert (nights(0, recrawl_hours=0), nights.asked) == (0, ALL)
    nights.web.answers["/a"] = tagged(page(text="new"))
    assert nights(25) == 0
    assert nights.key_of_candidates() != key


@pytest.mark.parametrize("broken", [["/robots.txt"], list(SITE)])
def test_a_host_that_is_away_for_a_night_keeps_its_pages_and_is_asked_by_the_next_run(
    nights, caplog, broken
):
    nights(0)
    key = nights.key_of_candidates()
    nights.web.answers |= dict.fromkeys(broken, AWAY)
    for hours, attempt in ((25, 1), (1, 2), (1, 3), (1, 4), (25, 1)):
        assert nights(hours) == 3
        assert nights.asked
        assert is_complete(nights.run(), "pages", {}), "the next stages go on with these"
        assert nights.key_of_candidates() == key
        assert nights.receipt().attempt == attempt
    name = nights.web.host.replace(":", "_")
    assert f"pages: {name} away (" in caplog.text
    assert "9 pages are as an earlier crawl found them; a rerun asks again" in caplog.text
    nights.web.answers = dict(SITE)
    assert (nights(1), nights.asked) == (0, ALL)
    assert (nights(1), nights.asked) == (0, [])
    assert nights.key_of_candidates() == key


def test_a_page_that_failed_is_asked_for_by_as_many_reruns_as_are_set(nights):
    nights.web.answers["/a"] = AWAY
    assert (nights(0), nights.asked) == (0, ALL)
    for attempt in (2, 3):
        assert (nights(1), nights.asked) == (0, ["/a", "/robots.txt"])
        assert nights.receipt().attempt == attempt
    assert (nights(1), nights.asked) == (0, [])
    assert (nights(1, reruns=3), nights.asked) == (0, ["/a", "/robots.txt"])
    nights.web.answers["/a"] = SITE["/a"]
    assert nights(25) == 0
    assert nights.paths() == sorted(SITE)


def test_a_crawl_that_breaks_leaves_the_one_before_it(nights, monkeypatch):
    nights(0)
    with monkeypatch.context() as broken:
        broken.setattr(pages.Crawl, "__call__", lambda *_: 1 / 0)
        assert nights(25) == 3
    assert nights.paths() == sorted(SITE)
    assert (nights(0), sorted(nights.web.unchanged)) == (0, sorted(SITE))


def test_other_seeds_and_settings_go_on_from_what_is_there(nights):
    nights(0)
    more = {"seeds": [nights.web.url("/"), nights.web.url("/more")], "max_depth": 1}
    nights.web.answers["/more"] = tagged(page(text="more"))
    assert (nights(1, **more), nights.asked) == (0, sorted([*ALL, "/more"]))
    assert sorted(nights.web.unchanged) == sorted(SITE), "no page has come twice"
    assert nights.paths() == sorted([*SITE, "/more"])
    assert (nights(1, **more), nights.asked) == (0, [])


def test_a_crawl_of_other_seeds_that_breaks_leaves_the_one_before_it(nights, monkeypatch):
    nights(0)
    with monkeypatch.context() as broken:
        broken.setattr(pages.Crawl, "__call__", lambda *_: 1 / 0)
        assert nights(1, max_depth=1) == 3
    assert nights.paths() == sorted(SITE)
    assert (nights(0), nights.asked) == (0, []), "it is whole for the settings as they were"


def test_a_host_that_moves_to_another_keeps_its_pages_until_that_is_mended(nights, caplog):
    nights(0)
    nights.web.answers = {path: moved(f"http://127.0.0.1:1{path}") for path in SITE}
    assert nights(25) == 3
    assert "it redirects to http://127.0.0.1:1: put that into pages.seeds" in caplog.text
    assert nights.paths() == sorted(SITE)


def test_pages_are_what_a_gate_counts_whichever_hosts_were_crawled_again():
    counts = {"in": 1, "kept": 1, "rejected": {}, "failed": {}}
    first = Receipt("a", "k", {"pages": counts}, (), 0.0)
    again = Receipt("b", "k", {KNOWN: counts, "pages": counts}, (), 0.0)
    assert list(StageTotals.of([first, again]).rows) == [KNOWN, "pages"]
