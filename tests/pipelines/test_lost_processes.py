"""Shards that kill whoever works on them, Ray's own processes that die: the rest is done."""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.board import Board
from pipelines.config import ConfigError, RaySettings
from pipelines.engines import (
    MAX_ATTEMPTS,
    Actors,
    check_answers,
    in_ray_actors,
    in_ray_tasks,
    start_ray,
    stop_ray,
)
from pipelines.receipts import Ledger, Shard
from tests.pipelines.conftest import wait_for
from tests.shards import pictures, save_tiny_model
from workers.embedding.meter import Activity
from workers.tally import Tally

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
    return in_ray_actors(work, SHARDS, folder, two, Board())


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
    assert {r.shard for r in Ledger(folder).receipts()} == {"a", "b", "c", "once"}


def test_an_actor_that_cannot_be_started_is_said(ray_here, tmp_path):
    class Broken(Poison):
        def __reduce__(self):  # what is sent to the actor cannot be read there
            return os.getcwd, ("one argument too many",)

    with pytest.raises(ConfigError, match="actor cannot be started"):
        list(actors(Broken(tmp_path), tmp_path / "stage", ray_here))


def test_a_shard_that_kills_the_driver_is_left_out_and_said(tmp_path):
    program = """
import sys
from pathlib import Path
from pipelines.engines import in_process
from tests.pipelines.test_lost_processes import SHARDS, Poison
from workers.supervisor import supervised

def command():
    folder, marks = map(Path, sys.argv[1:])
    outcomes = list(in_process(Poison(marks), SHARDS, folder))
    for outcome in outcomes:
        print(outcome.shard, outcome.error)
    return 3 if any(outcome.error for outcome in outcomes) else 0

sys.exit(supervised(command))
"""
    folder, marks = tmp_path / "stage", tmp_path / "marks"
    marks.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder), str(marks)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 3, done.stderr
    assert f"poison the process that worked on it was lost {MAX_ATTEMPTS} times" in done.stdout
    assert "was killed by SIGSEGV" in done.stdout
    assert {r.shard for r in Ledger(folder).receipts()} == {"a", "b", "c", "once"}


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9"])
def test_nothing_that_answers_at_a_clusters_address_is_said_at_once(address):
    with pytest.raises(ConfigError, match=rf"ray\.address: nothing answers at {address} "):
        check_answers(address)


def test_a_raylet_that_dies_costs_a_restart(tmp_path):
    captions, jpgs = zip(*pictures(1000), strict=True)
    shards = tmp_path / "shards"
    shards.mkdir()
    for number in range(3):
        table = pa.table({"jpg": jpgs, "caption": captions})
        pq.write_table(table, shards / f"{number}.parquet")
    model = save_tiny_model(tmp_path / "tiny.safetensors")
    command = [sys.executable, "-m", "pipelines.embed", str(shards), "--model", model]
    command += ["--out", str(tmp_path / "out"), "--actors", "1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(tmp_path / "out", "**/_work/**/*-*", process)  # a shard is under way
    children = psutil.Process(process.pid).children(recursive=True)
    next(child for child in children if child.name() == "raylet").kill()
    _, errors = process.communicate(timeout=180)
    assert process.returncode == 0, errors
    assert "starting it again, 1 of" in errors
    assert "Traceback" not in errors
    assert len(list((tmp_path / "out").rglob("*.parquet"))) == 3
