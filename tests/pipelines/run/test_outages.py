"""What a run makes of rows that could not be reached, and of stages that end with nothing."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import psutil
import pytest

from benchmarks.small_sample import free_port
from pipelines.run.config import Config
from pipelines.run.directory import Run
from pipelines.run.engines import in_process
from pipelines.run.receipts import Ledger
from pipelines.run.runner import is_complete, run_stages
from pipelines.stages import STAGES
from pipelines.stages.images import Images
from tests.workers.web import Answer, page, serving
from workers.base.tally import Tally


class ScriptedImages(Images):
    """Three shards of ten pictures whose failures a test writes down, attempt by attempt."""

    reads: ClassVar[Any] = ()
    #: By shard: the failures of each attempt, the last for ever.
    script: ClassVar[dict[str, list[dict[str, int]]]] = {}
    asked: ClassVar[list[str]] = []

    def plan(self):
        return [self.shard(name, self.run.config.images.identity()) for name in "abc"]

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
        return {"images": tally}


@dataclass
class Command:
    """Runs the scripted stage; gives the exit code and which shards were tried for which time."""

    directory: Path
    monkeypatch: pytest.MonkeyPatch
    is_complete: bool = False  # for the stages that come after

    def __call__(self, script=None, **settings):
        if script is not None:
            self.monkeypatch.setattr(ScriptedImages, "script", script)
        asked: list[str] = []
        self.monkeypatch.setattr(ScriptedImages, "asked", asked)
        gates = {"images": settings.pop("gate", {})}
        services = settings.pop("services", {})
        tree = {"name": "x", "queries": {}, "images": settings, "gates": gates}
        tree["services"] = services
        run = Run.open(Config.model_validate(tree), self.directory)
        code = run_stages(run, ["images"]).code
        self.is_complete = is_complete(run, "images", {})
        return int(code), asked


@pytest.fixture
def scripted(monkeypatch, tmp_path):
    monkeypatch.setitem(STAGES, "images", ScriptedImages)
    return Command(tmp_path / "run", monkeypatch)


def test_an_outage_is_partial_until_all_of_it_has_come(scripted, caplog):
    away = {"connection": 4, "timeout": 2, "http_404": 2}
    assert scripted({"b": [away, away, away, away, {"http_404": 2}]}) == (3, ["a1", "b1", "c1"])
    assert "images: 6 of 10 images in 1 shards could not be reached (connection 4, timeout 2)" in (
        caplog.text
    )
    for attempt in (2, 3, 4):
        assert scripted() == (3, [f"b{attempt}"])
        assert not scripted.is_complete, "the stages after it must not go on from here"
    assert scripted() == (0, ["b5"])
    assert scripted.is_complete
    assert scripted() == (0, [])


def test_a_few_passing_failures_are_tried_again_by_as_many_reruns_as_are_set(scripted):
    script = {"a": [{"timeout": 1}, {}], "b": [{"cut_off": 3}], "c": [{"http_404": 9}]}
    assert scripted(script) == (0, ["a1", "b1", "c1"])
    assert scripted() == (0, ["a2", "b2"])
    assert scripted() == (0, ["b3"])
    assert scripted() == (0, [])
    assert scripted(reruns=3) == (0, ["b4"])
    assert scripted(reruns=0) == (0, [])


def test_the_share_is_of_what_was_asked_for_and_not_rejected(scripted):
    script = {"a": [{"timeout": 2, "opted_out": 6}]}
    assert scripted(script)[0] == 3
    assert scripted(max_unreachable=0.5) == (0, ["a2"]), "and nothing else is fetched again"


def test_what_a_lost_service_has_cost_is_asked_for_again_whatever_is_tolerated(
    scripted, caplog, monkeypatch
):
    port = free_port()
    serve = ["python", "-m", "http.server", str(port), "--bind", "127.0.0.1"]
    web = {"command": serve, "ready": f"http://127.0.0.1:{port}/", "stages": ["images"]}
    tolerant = {"services": {"web": web}, "max_unreachable": 1.0, "reruns": 0}
    work = ScriptedImages.work

    def lose_the_service(self, shard, out):
        (guard,) = [p for p in psutil.Process().children() if "http.server" in p.cmdline()]
        guard.kill()
        psutil.wait_procs([guard], timeout=10)
        return work(self, shard, out)

    with monkeypatch.context() as losing:
        losing.setattr(ScriptedImages, "work", lose_the_service)
        losing.setattr(ScriptedImages, "plan", lambda self: [self.shard("b", {})])
        assert scripted({"b": [{"timeout": 1}, {}]}, **tolerant) == (3, ["b1"])
        assert "service web ended while it was needed: 1 shards lack rows" in caplog.text
        losing.setattr(ScriptedImages, "work", work)
        assert scripted(**tolerant) == (0, ["b2"])
        assert scripted(**tolerant) == (0, [])


def test_a_missed_gate_asks_again_for_what_may_have_come_back(scripted, tmp_path, caplog):
    script = {"a": [{"timeout": 3}, {"timeout": 3}, {}], "b": [{"http_404": 3}]}
    gate = {"gate": {"max_failed": 0.15}, "reruns": 0}
    assert scripted(script, **gate) == (4, ["a1", "b1", "c1"])
    assert (
        "images: the gate is not met: 24 of 30 images kept (at least 1), 20.0% failed (at most "
        "15.0%); dropped images: http_404 3, timeout 3; samples of them are in "
        f"{tmp_path / 'run/_rejected/images'}"
    ) in caplog.text
    assert scripted(**gate) == (4, ["a2"])
    assert scripted(**gate) == (0, ["a3"])
    assert scripted(**gate) == (0, [])


def test_nothing_kept_is_no_success_whatever_the_configuration_says_of_gates(scripted, caplog):
    script = {name: [{"http_404": 10}] for name in "abc"}
    for asked in (["a1", "b1", "c1"], []):
        assert scripted(script) == (4, asked)
        assert "images: the gate is not met: 0 of 30 images kept (at least 1)" in caplog.text
        caplog.clear()
    assert scripted(gate={"min_kept": 0}) == (0, [])


def test_a_shard_that_is_tried_again_and_breaks_stays_as_it_was(scripted, tmp_path, monkeypatch):
    assert scripted({"a": [{"timeout": 1}]}) == (0, ["a1", "b1", "c1"])
    with monkeypatch.context() as broken:
        broken.setattr(ScriptedImages, "work", lambda *_: 1 / 0)
        assert scripted()[0] == 3
    receipt = Ledger(tmp_path / "run/images").receipt("a")
    assert receipt
    assert receipt.attempt == 1
    assert scripted() == (0, ["a2"])


def test_what_a_further_attempt_goes_on_from_is_compared_with_its_receipt(scripted, tmp_path):
    assert scripted({"a": [{"timeout": 1}]}) == (0, ["a1", "b1", "c1"])
    (tmp_path / "run/images/a.bin").write_bytes(b"\1" * 9)  # of the same size
    assert scripted() == (3, []), "and its receipt is gone"
    assert scripted() == (0, ["a1"])


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
