"""Training on a Ray cluster of three machines, one of which dies."""

from __future__ import annotations

import json
import threading
import time

import psutil
import pytest

from pipelines.run.attempts import hash_once
from pipelines.run.config import RaySettings
from pipelines.run.engines import start_ray, stop_ray
from pipelines.run.receipts import Shard, Side, Source
from pipelines.stages.model import TrainOnRay
from pipelines.training.checkpoints import Checkpoints
from tests.pipelines.training.test_training import run, settings
from tests.shards import images, write_dataset


@pytest.fixture
def cluster():
    """A head without CPUs, and three machines of one CPU."""
    from ray.cluster_utils import Cluster

    # A dead machine is noticed after two seconds instead of half a minute.
    quick = {"health_check_period_ms": 500, "health_check_failure_threshold": 4}
    head = {"num_cpus": 0, "include_dashboard": False, "_system_config": quick}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(3):
        cluster.add_node(num_cpus=1)
    start_ray(RaySettings(address=cluster.address))
    yield cluster
    stop_ray()
    cluster.shutdown()


def switch_off(machine, cluster):
    raylet = psutil.Process(machine.all_processes["raylet"][0].process.pid)
    for process in [raylet, *raylet.children(recursive=True)]:
        process.kill()
    cluster.remove_node(machine, allow_graceful=False)


def test_a_machine_dies_in_a_training_and_the_others_go_on(cluster, tmp_path):
    """With as many workers as there is room for, from the last step that was kept."""
    path = tmp_path / "00000.parquet"
    write_dataset(list(images(60)), path)
    config = settings(tmp_path, epochs=20, workers=(1, 3), checkpoints={"every_steps": 2})
    folder = tmp_path / "run" / "model"
    source = Source(path, hash_once(path))
    shard = Shard("all", "0" * 64, {"dataset": (path,)}, {}, (source,))
    training = Side.TRAINING.of(folder) / shard.key[:32]

    def kill_one():
        deadline = time.monotonic() + 240  # workers start slowly on a machine that is busy
        while not Checkpoints(training).entries() and time.monotonic() < deadline:
            time.sleep(0.05)
        busy = [machine for machine in cluster.worker_nodes if is_at_work(machine)]
        switch_off(busy[-1], cluster)
        killed.append(Checkpoints(training).entries()[-1].step)

    killed: list[int] = []
    killer = threading.Thread(target=kill_one)
    killer.start()
    tally = TrainOnRay(config, 0, folder)(shard, tmp_path / "out")["pairs"]
    killer.join()

    alone = run([path], config, tmp_path / "alone")
    assert tally.counts() == alone.pairs.counts()
    lines = [json.loads(line) for line in (tmp_path / "out/metrics.jsonl").read_text().splitlines()]
    assert 0 < killed[0] < len(lines), "it died in the middle"
    assert [line["step"] for line in lines] == [line["step"] for line in alone.metrics]
    for one, other in zip(lines[:20], alone.metrics, strict=False):
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-3)


def is_at_work(machine):
    raylet = psutil.Process(machine.all_processes["raylet"][0].process.pid)
    return any("TrainWorker" in " ".join(p.cmdline()) for p in raylet.children(recursive=True))
