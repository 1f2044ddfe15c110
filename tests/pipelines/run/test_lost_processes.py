"""Shards that kill whoever works on them, Ray's own processes that die: the rest is done."""

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipelines.run.config import ConfigError, RaySettings
from pipelines.run.engines import (
    MAX_ATTEMPTS,
    Actors,
    check_answers,
    in_ray_actors,
    in_ray_tasks,
    start_ray,
    stop_ray,
)
from pipelines.run.receipts import Receipts, Shard
from workers.base.tally import Tally
from workers.embedding.meter import Activity

SHARDS = [Shard(name, key=name) for name in ("a", "poison", "b", "c", "once")]


@dataclass(frozen=True)
class Poison:
    """Dies of one shard whenever it sees it, of another the first time."""

    marks: Path

    def __call__(self, shard, out):
        if shard.name in ("poison", "once"):
            tries = len(list(self.marks.glob(f"{shard.name}-*")))
            (self.marks / f"{shard.name}-{tries}").touch()
            if shard.name == "poison" or not tries:
                os.kill(os.getpid(), signal.SIGSEGV)
        (out / f"{shard.name}.txt").write_text(shard.name)
        tally = Tally()
        tally.keep()
        return {"rows": tally}

    def activity(self):
        return Activity()


@pytest.fixture(scope="module")
def ray_here():
    settings = RaySettings(num_cpus=2)
    start_ray(settings)
    yield settings
    stop_ray()


def tasks(work, folder, settings):
    return in_ray_tasks(work, SHARDS, folder, settings)


def actors(work, folder, settings):
    two = Actors(number=2, cpus=1, gpus=0, threads=1)
    return in_ray_actors(work, SHARDS, folder, two)


@pytest.mark.parametrize("engine", [tasks, actors])
def test_a_shard_that_kills_its_process_is_left_out_and_the_others_are_done(
    engine, ray_here, tmp_path
):
    folder, marks = tmp_path / "stage", tmp_path / "marks"
    marks.mkdir()
    outcomes = {o.shard: o for o in engine(Poison(marks), folder, ray_here)}
    assert sorted(outcomes) == sorted(shard.name for shard in SHARDS)
    assert {name for name, outcome in outcomes.items() if outcome.error} == {"poison"}
    assert f"lost {MAX_ATTEMPTS} times" in outcomes["poison"].error
    assert len(list(marks.glob("poison-*"))) == MAX_ATTEMPTS
    assert {r.shard for r in Receipts(folder).all()} == {"a", "b", "c", "once"}


def test_an_actor_that_cannot_be_started_is_said(ray_here, tmp_path):
    class Broken(Poison):
        def __reduce__(self):  # what is sent to the actor cannot be read there
            return os.getcwd, ("one argument too many",)

    with pytest.raises(ConfigError, match="actor cannot be started"):
        list(actors(Broken(tmp_path), tmp_path / "stage", ray_here))


def run_supervised(work, tmp_path):
    """Run what ``work``, a program's text, gives outcomes for, as commands run their stages."""
    (tmp_path / "marks").mkdir()
    program = f"""
import sys
from pathlib import Path
from tests.pipelines.run.test_lost_processes import SHARDS
from workers.base.supervisor import supervised
{work}
def command():
    failed = False
    for outcome in work(*map(Path, sys.argv[1:])):
        print(outcome.shard, outcome.error)
        failed |= bool(outcome.error)
    return 3 if failed else 0

sys.exit(supervised(command))
"""
    return subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "stage"), str(tmp_path / "marks")],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=Path(__file__).parents[3],
    )


def test_a_shard_that_kills_the_driver_is_left_out_and_said(tmp_path):
    done = run_supervised(
        """
from pipelines.run.engines import in_process
from tests.pipelines.run.test_lost_processes import Poison

def work(folder, marks):
    return in_process(Poison(marks), SHARDS, folder)
""",
        tmp_path,
    )
    assert done.returncode == 3, done.stderr
    assert f"poison the process that worked on it was lost {MAX_ATTEMPTS} times" in done.stdout
    assert "was killed by SIGSEGV" in done.stdout
    done = {receipt.shard for receipt in Receipts(tmp_path / "stage").all()}
    assert done == {"a", "b", "c", "once"}


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9"])
def test_nothing_that_answers_at_a_clusters_address_is_said_at_once(address):
    with pytest.raises(ConfigError, match=rf"ray\.address: nothing answers at {address} "):
        check_answers(address)


def test_what_listens_at_a_clusters_address_and_says_nothing_is_said(monkeypatch):
    monkeypatch.setattr("pipelines.run.engines.ANSWER_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ConfigError, match=rf"nothing answers at {address} \(timed out\)"):
            check_answers(address)


def test_a_cluster_answers(ray_here):
    import ray

    check_answers(ray.get_runtime_context().gcs_address)


@dataclass(frozen=True)
class KillsItsRaylet(Poison):
    """Ends the raylet that it works under, the first time."""

    def __call__(self, shard, out):
        mark = self.marks / "raylet"
        if not mark.exists():
            mark.touch()
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(600)
        return super().__call__(shard, out)


def test_a_raylet_that_dies_costs_a_restart(tmp_path):
    done = run_supervised(
        """
from pipelines.run.config import RaySettings
from pipelines.run.engines import Actors, in_ray_actors
from tests.pipelines.run.test_lost_processes import KillsItsRaylet

def work(folder, marks):
    actors = Actors.of(RaySettings(num_cpus=1), 1)
    return in_ray_actors(KillsItsRaylet(marks), SHARDS[:1], folder, actors)
""",
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "a None"
    assert "starting it again, 1 of" in done.stderr
    assert "Traceback" not in done.stderr
