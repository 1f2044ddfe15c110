"""What a run makes of rows that could not be reached, and of stages that end with nothing.

How images are asked for again stands in stages/test_growth.py.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import psutil
import pytest

from benchmarks.small_sample import free_port
from pipelines.run.config import Config
from pipelines.run.directory import Run
from pipelines.run.engines import in_process
from pipelines.run.outages import Tolerance, is_outage, is_stale
from pipelines.run.receipts import Receipt, Receipts
from pipelines.run.runner import run_stages
from pipelines.stages import STAGES
from pipelines.stages.base import Stage
from tests.workers.web import Answer, page, serving
from workers.base.tally import Tally
from workers.crawl.host import KNOWN


class ScriptedPages(Stage):
    """Three shards of ten rows whose failures a test writes down, attempt by attempt."""

    name = "pages"
    #: By shard: the failures of each attempt, the last for ever.
    script: ClassVar[dict[str, list[dict[str, int]]]] = {}
    asked: ClassVar[list[str]] = []

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self.tolerance = Tolerance(run.config.pages.max_unreachable)

    def plan(self):
        return [self.shard(name, {}) for name in "abc"]

    def execute(self, shards):
        return in_process(self.work, shards, self.folder)

    def work(self, shard, out):
        self.asked.append(f"{shard.name}{shard.attempt}")
        attempts = self.script.get(shard.name, [{}])
        failures = attempts[min(shard.attempt, len(attempts)) - 1]
        tally = Tally()
        for reason, number in failures.items():
            for n in range(number):
                drop = tally.reject if reason == "opted_out" else tally.fail
                drop(reason, f"{reason}{n}", {})
        tally.keep(10 - tally.rows_in)
        (out / f"{shard.name}.bin").write_bytes(bytes(tally.kept))
        return {"rows": tally}


@dataclass
class Command:
    """Runs the scripted stage; gives the exit code and which shards were tried for which time."""

    directory: Path
    monkeypatch: pytest.MonkeyPatch

    def __call__(self, script=None, **settings: Any):
        if script is not None:
            self.monkeypatch.setattr(ScriptedPages, "script", script)
        asked: list[str] = []
        self.monkeypatch.setattr(ScriptedPages, "asked", asked)
        gates = {"pages": settings.pop("gate", {})}
        services = settings.pop("services", {})
        tree = {"name": "x", "queries": {}, "pages": settings, "gates": gates}
        tree["services"] = services
        run = Run.open(Config.model_validate(tree), self.directory)
        return int(run_stages(run, ["pages"]).code), asked


@pytest.fixture
def scripted(monkeypatch, tmp_path):
    monkeypatch.setitem(STAGES, "pages", ScriptedPages)
    return Command(tmp_path / "run", monkeypatch)


def test_an_outage_is_partial_until_all_of_it_has_come(scripted, caplog):
    away = {"connection": 4, "timeout": 2, "http_404": 2}
    assert scripted({"b": [away, away, away, {"http_404": 2}]}) == (3, ["a1", "b1", "c1"])
    assert "pages: 6 of 10 rows in 1 shards could not be reached (connection 4, timeout 2)" in (
        caplog.text
    )
    for attempt in (2, 3):
        assert scripted() == (3, [f"b{attempt}"])
    assert scripted() == (0, ["b4"])
    assert scripted() == (0, [])


def test_the_share_is_of_what_was_asked_for_and_not_rejected(scripted):
    script = {"a": [{"timeout": 2, "opted_out": 6}]}
    assert scripted(script)[0] == 3
    assert scripted(max_unreachable=0.5) == (0, []), "and nothing else is fetched again"


def receipt(failed, kept=0, **more):
    counts = {"in": kept + sum(failed.values()), "kept": kept, "rejected": {}, "failed": failed}
    return Receipt("a", "key", {"images": counts}, (), 0.0, **more)


def test_few_failures_and_those_of_what_failed_before_say_nothing_of_the_network():
    tolerance = Tolerance(0.3, at_least=5)
    assert is_outage(receipt({"timeout": 5}), tolerance)
    assert not is_outage(receipt({"timeout": 4}), tolerance)
    assert not is_outage(receipt({"timeout": 5}, kept=12), tolerance)
    again = {"b": {"timeout": 5}}
    assert not is_outage(receipt({"timeout": 5}, attempt=2, again=again), tolerance)
    assert is_outage(receipt({"timeout": 5}, again=again), tolerance), "an outage's are no tries"


def test_a_host_that_is_away_stops_no_run_where_its_pages_are_those_of_an_earlier_crawl():
    counts = {"in": 7, "kept": 0, "rejected": {}, "failed": {"connection": 7}}
    away = receipt({"connection": 7}, kept=7)
    stale = replace(away, rows={KNOWN: counts, "pages": away.rows["images"]})
    assert is_outage(away, Tolerance(0.3))
    assert not is_outage(stale, Tolerance(0.3))
    assert is_stale(stale, Tolerance(0.3))


def test_what_a_lost_service_has_cost_is_asked_for_again_whatever_is_tolerated(
    scripted, caplog, monkeypatch
):
    port = free_port()
    serve = ["python", "-m", "http.server", str(port), "--bind", "127.0.0.1"]
    web = {"command": serve, "ready": f"http://127.0.0.1:{port}/", "stages": ["pages"]}
    tolerant = {"services": {"web": web}, "max_unreachable": 1.0}
    work = ScriptedPages.work

    def lose_the_service(self, shard, out):
        (guard,) = [p for p in psutil.Process().children() if "http.server" in p.cmdline()]
        guard.kill()
        psutil.wait_procs([guard], timeout=10)
        return work(self, shard, out)

    with monkeypatch.context() as losing:
        losing.setattr(ScriptedPages, "work", lose_the_service)
        losing.setattr(ScriptedPages, "plan", lambda self: [self.shard("b", {})])
        assert scripted({"b": [{"timeout": 1}, {}]}, **tolerant) == (3, ["b1"])
        assert "service web ended while it was needed: 1 shards lack rows" in caplog.text
        losing.setattr(ScriptedPages, "work", work)
        assert scripted(**tolerant) == (0, ["b2"])
        assert scripted(**tolerant) == (0, [])


def test_a_missed_gate_tries_again_what_may_have_come_back(scripted, tmp_path, caplog):
    script = {"a": [{"timeout": 3}, {"timeout": 3}, {}], "b": [{"http_404": 3}]}
    gate = {"gate": {"max_failed": 0.15}}
    assert scripted(script, **gate) == (4, ["a1", "b1", "c1"])
    assert (
        "pages: the gate is not met: 24 of 30 rows kept (at least 1), 20.0% failed (at most "
        "15.0%); dropped rows: http_404 3, timeout 3; samples of them are in "
        f"{tmp_path / 'run/_rejected/pages'}"
    ) in caplog.text
    assert scripted(**gate) == (4, ["a2"])
    assert scripted(**gate) == (0, ["a3"])
    assert scripted(**gate) == (0, [])


def test_nothing_kept_is_no_success_whatever_the_configuration_says_of_gates(scripted, caplog):
    script = {name: [{"http_404": 10}] for name in "abc"}
    for asked in (["a1", "b1", "c1"], []):
        assert scripted(script) == (4, asked)
        assert "pages: the gate is not met: 0 of 30 rows kept (at least 1)" in caplog.text
        caplog.clear()
    assert scripted(gate={"min_kept": 0}) == (0, [])


def test_a_shard_that_is_tried_again_and_breaks_stays_as_it_was(scripted, tmp_path, monkeypatch):
    away = {"a": [{"timeout": 4}, {}]}
    assert scripted(away) == (3, ["a1", "b1", "c1"])
    with monkeypatch.context() as broken:
        broken.setattr(ScriptedPages, "work", lambda *_: 1 / 0)
        assert scripted()[0] == 3
    receipt = Receipts(tmp_path / "run/pages").get("a")
    assert receipt
    assert receipt.attempt == 1
    assert scripted() == (0, ["a2"])


def test_a_host_that_was_away_is_crawled_again_whole(tmp_path, caplog):
    away, back = Answer(status=503), Answer(status=404)
    with serving({"/robots.txt": [away, back], "/": page("/a"), "/a": page()}) as web:
        tree = {
            "name": "x",
            "queries": {},
            "pages": {"seeds": [web.url("/")], "retries": 0, "allow_private_hosts": [web.host]},
        }
        run = Run.open(Config.model_validate(tree), tmp_path / "run")
        assert run_stages(run, ["pages"]).code == 3
        assert "1 of 1 pages in 1 shards could not be reached (robots_unreachable 1)" in caplog.text
        assert run_stages(run, ["pages"]).code == 0
        assert run_stages(run, ["pages"]).code == 0
        assert web.asked == ["/robots.txt", "/robots.txt", "/", "/a"]
