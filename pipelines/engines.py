"""Where the work on shards runs: in this process, on Beam, in Ray tasks or in Ray actors.

Every engine takes the same work and the same shards and gives an outcome for each shard as it
ends; receipts are written where the work is done, so what is done stays done if the driver dies.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pipelines.board import Board, Reporter
from pipelines.config import RaySettings
from pipelines.receipts import Outcome, Shard, Work, attempt, outcome_of
from workers.embedding.meter import Activity

if TYPE_CHECKING:
    import ray
    import ray.actor

#: A dead worker or node must not end a stage that has hours behind it.
MAX_RETRIES = 3
#: CPUs of a machine that no actor asks for: actors that hold every CPU leave none for Ray Data's
#: own tasks, which then never start.
CPUS_LEFT_FREE = 1


def in_process(work: Work, shards: Sequence[Shard], folder: Path) -> Iterator[Outcome]:
    """One shard after the other, here. For work that starts an engine of its own (Beam)."""
    for shard in shards:
        attempt(work, shard, folder)
        yield outcome_of(shard, folder)


def on_beam(
    work: Work, shards: Sequence[Shard], folder: Path, options: Sequence[str]
) -> Iterator[Outcome]:
    """A Beam element for each shard, on any runner."""
    import apache_beam as beam

    from workers.beam_pipeline import open_pipeline

    with open_pipeline(options) as pipeline:
        _ = (
            pipeline
            | "shards" >> beam.Create(list(shards))
            | "spread" >> beam.Reshuffle()
            | "work" >> beam.Map(lambda shard: attempt(work, shard, folder))
        )
    # A Beam pipeline hands nothing back to its driver: what it did stands in the receipts.
    for shard in shards:
        yield outcome_of(shard, folder)


def in_ray_tasks(
    work: Work, shards: Sequence[Shard], folder: Path, settings: RaySettings
) -> Iterator[Outcome]:
    """A Ray task for each shard, no more of them submitted than the cluster can soon start."""
    import ray

    start_ray(settings)
    task = ray.remote(attempt).options(num_cpus=1, max_retries=MAX_RETRIES)
    window = 2 * cluster_cpus()
    work_reference = ray.put(work)
    waiting = list(reversed(shards))
    running: dict[ray.ObjectRef, Shard] = {}
    while waiting or running:
        while waiting and len(running) < window:
            shard = waiting.pop()
            running[task.remote(work_reference, shard, folder)] = shard
        done, _ = ray.wait(list(running))
        for reference in done:
            yield _outcome_of_task(reference, running.pop(reference), folder)


def _outcome_of_task(reference: ray.ObjectRef, shard: Shard, folder: Path) -> Outcome:
    import ray

    try:
        ray.get(reference)
    except ray.exceptions.RayError as error:
        return Outcome(shard.name, error=str(error))
    return outcome_of(shard, folder)


@dataclass(frozen=True)
class Actors:
    """How many actors share a Ray cluster, and what each of them has."""

    number: int
    cpus: float  # of the cluster's book, each
    gpus: float
    threads: int | None  # that each of them may use; none: all of its machine

    @classmethod
    def of(cls, settings: RaySettings, shards: int) -> Actors:
        """``on`` the machines that the cluster has now. Starts Ray."""
        import ray

        start_ray(settings)
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        return cls.on([node for node in nodes if node.get("CPU")], settings, shards)

    @classmethod
    def on(cls, nodes: Sequence[dict[str, float]], settings: RaySettings, shards: int) -> Actors:
        """One for each GPU (or share of one), else one for each machine; no more than shards.

        An actor uses all of its machine's cores by itself and holds the model once, so more of
        them on a machine only cost memory. Where there are no machines yet, a cluster is meant
        that grows with what waits for it.

        Args:
            nodes: the machines' resources, as Ray names them.
        """
        gpus = settings.gpus_per_actor
        if gpus is None:
            gpus = 1.0 if any(node.get("GPU") for node in nodes) else 0.0
        places = [int(node.get("GPU", 0) / gpus) if gpus else 1 for node in nodes]
        hosts = [node for node, room in zip(nodes, places, strict=True) if room]
        number = max(1, min(settings.actors or sum(places), shards))
        if not hosts:
            return cls(number, CPUS_LEFT_FREE, gpus, None)
        together = min(number, max(places)) if gpus else -(-number // len(hosts))
        cores = int(min(node["CPU"] for node in hosts))
        cpus = max(0.5, (cores - CPUS_LEFT_FREE) / together)
        return cls(number, cpus, gpus, max(1, cores // together))


class WatchedWork(Work, Protocol):
    """Work that can be looked at while it goes on."""

    def activity(self) -> Activity:
        """What it has done so far; another thread asks."""


def in_ray_actors(
    work: WatchedWork, shards: Sequence[Shard], folder: Path, actors: Actors, board: Board
) -> Iterator[Outcome]:
    """Ray Data actors that keep what ``work`` has loaded, a model say, from shard to shard.

    A row is a shard, not a picture: pixels never enter the object store, so the driver's memory
    does not grow with the data. Ray has been started, by ``Actors.of``. The actors of a machine
    that dies are started on others, and what they had begun is begun again.
    """
    import ray.data

    quiet_ray_data()
    by_name = {shard.name: shard for shard in shards}
    outcomes = ray.data.from_items(
        [{"shard": shard} for shard in by_name], override_num_blocks=len(shards)
    ).map_batches(
        ShardActor,
        fn_constructor_kwargs={
            "work": work,
            "shards": by_name,
            "folder": folder,
            "board": board.open(),
        },
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=actors.number),
        num_cpus=actors.cpus,
        num_gpus=actors.gpus or None,
    )
    for row in outcomes.iter_rows():
        yield outcome_of(by_name[row["shard"]], folder)


class ShardActor:
    """Does shards, one a call; ``work`` keeps its model between the calls."""

    def __init__(
        self,
        work: WatchedWork,
        shards: dict[str, Shard],
        folder: Path,
        board: ray.actor.ActorHandle,
    ) -> None:
        self.work = work
        self.shards = shards
        self.folder = folder
        self.reporter = Reporter(board, work)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        (name,) = batch["shard"]
        attempt(self.work, self.shards[name], self.folder)
        self.reporter.report()
        return {"shard": [name]}


def start_ray(settings: RaySettings) -> None:
    """Connect to the configured Ray cluster, or start one here; nothing if that is done."""
    import ray

    if ray.is_initialized():
        return
    # Set before Ray starts its processes, which inherit them: nothing may call out from a run.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    # Ray Data's actors log a warning as an error at every start (ray #53727).
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    here = settings.address is None
    ray.init(
        address=settings.address or "local",
        num_cpus=(settings.num_cpus or os.cpu_count()) if here else None,
        include_dashboard=False if here else None,
        log_to_driver=False,
        logging_level="ERROR",
    )


def cluster_cpus() -> int:
    """The CPUs of the Ray cluster that this process is connected to, at least one."""
    import ray

    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def quiet_ray_data() -> None:
    """No bars and plan dumps of Ray Data's own: the run has its own progress."""
    import logging

    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def stop_ray() -> None:
    """Leave the cluster, or end the one that was started here; nothing without one."""
    if "ray" in sys.modules:
        import ray

        ray.shutdown()
