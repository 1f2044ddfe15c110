"""Embedding on a Ray cluster of three machines, one of which dies; tasks on one that grows."""

import contextlib
import json
import subprocess
import sys
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import requests

from benchmarks.photographs import photographs
from pipelines.run.config import RaySettings
from pipelines.run.engines import in_ray_tasks, stop_ray
from pipelines.run.receipts import Shard
from tests.pipelines.stages.test_candidates_and_pairs import write_lists
from tests.shards import save_tiny_model
from workers.base.tally import Tally

SHARDS, ROWS = 9, 400
LISTS = 12


@pytest.fixture
def cluster():
    """Three raylets with a GPU each, as Ray's book has it: the model runs on their CPUs.

    Every GPU is held by an actor, so none is free for the one whose machine dies.
    """
    from ray.cluster_utils import Cluster

    # A dead machine is noticed after two seconds instead of half a minute, metrics are current.
    quick = {"health_check_period_ms": 500, "health_check_failure_threshold": 4}
    quick["metrics_report_interval_ms"] = 500
    head = {"num_cpus": 0, "include_dashboard": False, "_system_config": quick}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(3):
        cluster.add_node(num_cpus=2, num_gpus=1)
    yield cluster
    cluster.shutdown()


@pytest.fixture
def shards(tmp_path):
    jpgs = list(photographs(50))
    folder = tmp_path / "shards"
    folder.mkdir()
    for number in range(SHARDS):
        rows = {
            "key": [f"{number}-{row}" for row in range(ROWS)],
            "jpg": [jpgs[(number + row) % len(jpgs)] for row in range(ROWS)],
            "caption": [f"photograph {row} of {number}" for row in range(ROWS)],
        }
        pq.write_table(pa.table(rows), folder / f"{number:05d}.parquet")
    return folder


def start(shards, model, out, *more):
    command = [sys.executable, "-m", "pipelines.embed", str(shards), "--model", model]
    command += ["--out", str(out), *more]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"
    )


def receipts(out):
    """The receipts so far, with the time at which each was written."""
    files = (out / "_receipts/embeddings").glob("[!.]*.json")
    return {file.name: (file.read_text(), file.stat().st_mtime_ns) for file in files}


def wait_for_receipts(number, out, process):
    deadline = time.monotonic() + 120
    while len(receipts(out)) < number and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    return receipts(out)


def switch_off_at_work(machine, cluster, scratch):
    """End all of a machine's processes at once, as a power cut does, in the middle of a shard."""
    raylet = psutil.Process(machine.all_processes["raylet"][0].process.pid)
    deadline = time.monotonic() + 60
    while True:
        assert time.monotonic() < deadline, "the machine was never seen at work"
        processes = [raylet, *raylet.children(recursive=True)]
        each(psutil.Process.suspend, processes)
        files = [file for some in each(psutil.Process.open_files, processes) for file in some]
        # In a shard's own folder: what tells of their progress lies beside these.
        if any(scratch in Path(file.path).parents[1:] for file in files):
            break
        each(psutil.Process.resume, processes)
        time.sleep(0.02)
    each(psutil.Process.kill, processes)
    cluster.remove_node(machine, allow_graceful=False)


def each(do, processes):
    """The results of those processes that have not ended meanwhile."""
    results = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            results.append(do(process))
    return results


def metrics(cluster):
    """The sum over all machines of Ray's metrics of this project, as Prometheus scrapes them."""
    ports = [node.metrics_export_port for node in cluster.list_all_nodes()]
    texts = [requests.get(f"http://127.0.0.1:{port}/metrics", timeout=5).text for port in ports]
    lines = [line for text in texts for line in text.splitlines() if line.startswith("ray_clip_")]
    counters: dict[str, float] = defaultdict(float)
    for line in lines:
        counters[line.partition("{")[0]] += float(line.rpartition(" ")[2])
    return counters


def test_a_machine_dies_and_all_is_there_once_and_the_same(cluster, shards, tmp_path):
    model = save_tiny_model(tmp_path / "tiny.safetensors")
    out = tmp_path / "cluster"
    process = start(shards, model, out, "--ray-address", cluster.address)
    before = wait_for_receipts(3, out, process)
    doomed, *_ = cluster.worker_nodes
    switch_off_at_work(doomed, cluster, out / "_work/embeddings")
    said, errors = process.communicate(timeout=180)
    counters = metrics(cluster)
    assert process.returncode == 0, errors
    assert f"{SHARDS * ROWS:,} images in, {SHARDS * ROWS:,} kept, 0 failed" in said

    assert len(before) < SHARDS
    assert {name: receipt for name, receipt in receipts(out).items() if name in before} == before
    assert list((out / "_work/embeddings").iterdir())  # what the machine left

    alone = tmp_path / "alone"
    assert start(shards, model, alone).wait(timeout=180) == 0
    for file in sorted(alone.glob("embeddings/*")):
        assert (out / "embeddings" / file.name).read_bytes() == file.read_bytes()
    assert len(list(out.glob("embeddings/*"))) == SHARDS

    assert ROWS <= counters["ray_clip_rows_total"] <= SHARDS * ROWS
    busy = sum(counters[f"ray_clip_{work}_seconds_total"] for work in ("decoding", "computing"))
    assert 0 < busy <= counters["ray_clip_thread_seconds_total"]

    lines = (out / "_run" / "logs" / "run.jsonl").read_text().splitlines()
    assert "bound (threads" in json.loads(lines[-1])["message"]


def build(config, run_dir, *more):
    command = [sys.executable, "-m", "pipelines.build_dataset", str(config), "--run-dir"]
    stages = [
        word for name in ("queries", "pages", "candidates", "pairs") for word in ("--stage", name)
    ]
    return subprocess.Popen(
        [*command, str(run_dir), *stages, *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )


def texts(run_dir):
    """The bytes of candidates and pairs."""
    files = [*run_dir.glob("candidates/*"), *run_dir.glob("pairs/*")]
    return {str(file.relative_to(run_dir)): file.read_bytes() for file in files}


def test_a_machine_dies_in_the_middle_of_candidates_and_the_pairs_are_the_same(cluster, tmp_path):
    write_lists(tmp_path / "lists", lists=LISTS, rows=20_000, group=20_000)
    config = tmp_path / "config.yaml"
    config.write_text(
        "name: texts\nqueries: {list: lists/terms.txt}\ntext: {bytes_per_shard: 1}\n"
        "pairs: {inputs: [lists/*.parquet], pairs_per_query: 400, shards: 6}\n"
    )
    out = tmp_path / "cluster"
    process = build(config, out, "--set", f"ray.address={cluster.address}")
    scratch = out / "_work/candidates"
    wait_for(lambda: len([*(out / "_receipts/candidates").glob("*.json")]) > 2, 240)
    doomed, *_ = cluster.worker_nodes
    raylet = psutil.Process(doomed.all_processes["raylet"][0].process.pid)
    processes = [raylet, *raylet.children(recursive=True)]
    each(psutil.Process.suspend, processes)
    begun = set(scratch.iterdir())
    each(psutil.Process.kill, processes)
    cluster.remove_node(doomed, allow_graceful=False)
    _, errors = process.communicate(timeout=180)
    assert process.returncode == 0, errors
    assert begun & set(scratch.iterdir()), "a shard was in the middle, and was begun again"

    alone = tmp_path / "alone"
    assert build(config, alone).wait(timeout=180) == 0
    assert texts(out) == texts(alone)
    assert len(texts(out)) == LISTS + 6


@dataclass(frozen=True)
class Meeting:
    """The first two shards wait until the cluster has grown, the others for each other."""

    marks: Path

    def __call__(self, shard, out):
        name = "begun" if int(shard.name) < 2 else f"meets-{shard.name}"
        (self.marks / name).touch()
        if name == "begun":
            wait_for(lambda: (self.marks / "grown").exists())
        else:
            wait_for(lambda: len(list(self.marks.glob("meets-*"))) == 4)
        tally = Tally()
        tally.keep()
        return {"rows": tally}


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "this does not come"
        time.sleep(0.02)


def test_a_cluster_that_has_grown_is_given_as_much_as_it_can_do(tmp_path):
    from ray.cluster_utils import Cluster

    work, shards = Meeting(tmp_path), [Shard(str(n), key=str(n)) for n in range(6)]
    cluster = Cluster(True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    settings = RaySettings(address=cluster.address)
    try:
        with ThreadPoolExecutor() as pool:
            outcomes = pool.submit(list, in_ray_tasks(work, shards, tmp_path / "out", settings))
            wait_for((tmp_path / "begun").exists)
            cluster.add_node(num_cpus=4)
            (tmp_path / "grown").touch()
            assert [outcome.error for outcome in outcomes.result()] == [None] * 6
    finally:
        stop_ray()
        cluster.shutdown()
