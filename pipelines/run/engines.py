"""Where the work on shards runs: in this process, on Beam, in Ray tasks or in Ray actors.

Every engine takes the same work and the same shards and gives an outcome for each shard as it
ends; receipts are written where the work is done, so what is done stays done if the driver dies.
"""

from __future__ import annotations

import math
import os
import signal
import socket
import sys
import threading
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from pipelines.run.attempts import Work, error_of, outcome_of
from pipelines.run.bucket_attempts import attempt_anywhere, fetch_records
from pipelines.run.config import Config, ConfigError, RaySettings
from pipelines.run.progress import Reporter
from pipelines.run.receipts import Outcome, Receipts, Shard
from workers.base import supervisor
from workers.embedding.meter import Activity

if TYPE_CHECKING:
    import ray
    import ray.actor

#: A shard whose process dies so often is left out for this time, and the others are done.
MAX_ATTEMPTS = 3
#: So often a shard may lose its machine, which is not its fault.
MAX_LOST_MACHINES = 20
#: Seconds within which a Ray cluster must answer.
ANSWER_TIMEOUT = 10.0
#: How a client of HTTP/2, which all of Ray speaks, begins: a fixed text and empty settings.
_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"


def in_process(work: Work, shards: Sequence[Shard], folder: Path) -> Iterator[Outcome]:
    """One shard after the other, here. For work that starts an engine of its own (Beam).

    A shard that kills this process kills those that are started in its place, too (see
    ``workers.base.supervisor``): after MAX_ATTEMPTS it is left out.
    """
    for shard in shards:
        task = str(folder / shard.name)
        if (deaths := supervisor.deaths(task)) >= MAX_ATTEMPTS:
            yield Outcome(shard.name, error=lost_too_often(deaths, supervisor.last_end()))
            continue
        supervisor.begin(task)
        outcome = attempt_anywhere(work, shard, folder)
        supervisor.end(task)
        yield outcome


def lost_too_often(times: int, error: object) -> str:
    """Why a shard is left out."""
    return (
        f"the process that worked on it was lost {times} times, so it is left out for this time: "
        f"{error}"
    )


def on_beam(
    work: Work, shards: Sequence[Shard], folder: Path, options: Sequence[str]
) -> Iterator[Outcome]:
    """A Beam element for each shard, on any runner."""
    import apache_beam as beam

    from workers.base.beam_pipeline import open_pipeline

    def run() -> None:
        with open_pipeline(options) as pipeline:
            _ = (
                pipeline
                | "shards" >> beam.Create(list(shards))
                | "spread" >> beam.Reshuffle()
                | "work" >> beam.Map(lambda shard: attempt_anywhere(work, shard, folder))
            )

    error = error_of(run)
    # A Beam pipeline hands nothing back to its driver: what it did stands in the receipts.
    for shard in shards:
        fetch_records(shard, folder)
        if error and not Receipts(folder).is_done(shard):
            yield Outcome(shard.name, None, *error)
        else:
            yield outcome_of(shard, folder)


def in_ray_tasks(
    work: Work, shards: Sequence[Shard], folder: Path, settings: RaySettings, cpus: float = 1.0
) -> Iterator[Outcome]:
    """A Ray task for each shard, no more of them submitted than the cluster can soon start.

    Args:
        cpus: that a task needs; less than one where it waits most of the time.
    """
    import ray

    start_ray(settings)
    # Ray's own retries end neither at a lack of memory nor say which shard was to blame.
    task = ray.remote(attempt_anywhere).options(num_cpus=cpus, max_retries=0)
    work_reference = ray.put(work)
    queue = ShardQueue(shards)
    running: dict[ray.ObjectRef, Shard] = {}
    while queue.waiting or running:
        # A cluster that grows with what waits for it begins with no more than its head.
        window = math.ceil(2 * cluster_cpus() / cpus)
        while queue.waiting and len(running) < window:
            shard = queue.waiting.popleft()
            running[task.remote(work_reference, shard, folder)] = shard
        done, _ = ray.wait(list(running))
        for reference in done:
            shard = running.pop(reference)
            if outcome := queue.outcome(shard, folder, *result_of(reference)):
                yield outcome


def on_text_engine(
    work: Work, shards: Sequence[Shard], folder: Path, config: Config, cpus: float = 1.0
) -> Iterator[Outcome]:
    """Shards of text, on the engine that a configuration names for it.

    Args:
        cpus: that the work on a shard needs; Beam gives each one of its workers.
    """
    if not shards:  # no engine is started for nothing
        return iter(())
    if config.text.engine == "beam":
        return on_beam(work, shards, folder, config.beam.options)
    return in_ray_tasks(work, shards, folder, config.ray, cpus)


class ShardQueue:
    """The shards that wait, and how often each was lost together with its process or machine."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        self.waiting = deque(shards)
        self._deaths: Counter[str] = Counter()
        self._lost_machines: Counter[str] = Counter()

    def outcome(
        self, shard: Shard, folder: Path, outcome: Outcome | None, loss: Exception | None
    ) -> Outcome | None:
        """How a shard's attempt went; None when the shard waits for another one."""
        if outcome or loss is None:
            return outcome
        fetch_records(shard, folder)
        if Receipts(folder).is_done(shard):  # lost after its receipt was written
            return outcome_of(shard, folder)
        # Who works on machines that come and go must not lose a shard for it.
        counts, most = (
            (self._lost_machines, MAX_LOST_MACHINES)
            if is_loss_of_machine(loss)
            else (self._deaths, MAX_ATTEMPTS)
        )
        counts[shard.name] += 1
        if counts[shard.name] < most:
            self.waiting.append(shard)
            return None
        return Outcome(shard.name, error=lost_too_often(counts[shard.name], loss))


def result_of(reference: ray.ObjectRef) -> tuple[Outcome | None, Exception | None]:
    """What a call has given, or Ray's error when it was lost with its process."""
    import ray

    try:
        outcome: Outcome | None = ray.get(reference)
    except ray.exceptions.RayError as error:
        return None, error
    return outcome, None


def is_loss_of_machine(error: Exception) -> bool:
    """Whether Ray says that a whole machine was lost, and not the process on it alone."""
    import ray

    if isinstance(error, ray.exceptions.NodeDiedError):
        return True
    return isinstance(error, ray.exceptions.RayActorError) and (
        error.preempted or "its node has died" in str(error)
    )


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
            return cls(number, 1, gpus, None)
        together = min(number, max(places)) if gpus else -(-number // len(hosts))
        cores = int(min(node["CPU"] for node in hosts))
        return cls(number, cores / together, gpus, max(1, cores // together))


class WatchedWork(Work, Protocol):
    """Work that can be looked at while it goes on."""

    def activity(self) -> Activity:
        """What it has done so far; another thread asks."""


def in_ray_actors(
    work: WatchedWork, shards: Sequence[Shard], folder: Path, actors: Actors
) -> Iterator[Outcome]:
    """Ray actors that keep what ``work`` has loaded, a model say, from shard to shard.

    What is sent to them is a shard, not an image: pixels never enter the object store, so the
    driver's memory does not grow with the data. Ray has been started, by ``Actors.of``. An actor
    that is lost is replaced, on another machine if its own is gone, and its shard begun again.
    """
    import ray

    kind = ray.remote(ShardActor).options(
        num_cpus=actors.cpus, num_gpus=actors.gpus, max_restarts=0, max_task_retries=0
    )
    shared = ray.put((work, folder))
    queue = ShardQueue(shards)
    # An actor gets its first shard when it has started: there may be no machine for it yet.
    starting: dict[ray.ObjectRef, ray.actor.ActorHandle] = {}
    running: dict[ray.ObjectRef, tuple[ray.actor.ActorHandle, Shard]] = {}
    failed_starts = 0
    while queue.waiting or running:
        wanted = min(actors.number - len(running), len(queue.waiting))
        for _ in range(wanted - len(starting)):
            actor = kind.remote(shared)
            starting[actor.ready.remote()] = actor
        (reference, *_), _ = ray.wait([*starting, *running])
        result, loss = result_of(reference)
        if reference in starting:
            actor = starting.pop(reference)
            failed_starts = failed_starts + 1 if loss else 0
            if failed_starts == MAX_ATTEMPTS:
                raise ConfigError(f"ray: an embedding actor cannot be started: {loss}")
        else:
            actor, shard = running.pop(reference)
            if outcome := queue.outcome(shard, folder, result, loss):
                yield outcome
        if queue.waiting and not loss:
            shard = queue.waiting.popleft()
            running[actor.attempt.remote(shard)] = actor, shard
        else:
            ray.kill(actor)
    for actor in starting.values():
        ray.kill(actor)


class ShardActor:
    """Does shards, one a call; ``work`` keeps its model between the calls."""

    def __init__(self, shared: tuple[WatchedWork, Path]) -> None:
        import ray

        self.work, self.folder = shared
        name = ray.get_runtime_context().get_actor_id()
        self.reporter = Reporter(self.work.activity, self.folder, name)

    def ready(self) -> None:
        """Answers once the actor has started."""

    def attempt(self, shard: Shard) -> Outcome:
        outcome = attempt_anywhere(self.work, shard, self.folder)
        self.reporter.report()
        return outcome


def start_ray(settings: RaySettings) -> None:
    """Connect to the configured Ray cluster, or start one here; nothing if that is done.

    Raises ConfigError when no cluster answers or none can be started.
    """
    import ray

    if ray.is_initialized():
        return
    # Set before Ray starts its processes, which inherit them: nothing may call out from a run.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    if settings.address:
        check_answers(settings.address)
    handler = signal.getsignal(signal.SIGTERM)
    with supervisor.deaf():  # Ray's handler aborts the process, with a trace (ray #17308)
        try:
            _init_ray(settings)
        finally:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, handler)


def _init_ray(settings: RaySettings) -> None:
    import ray

    here = settings.address is None
    session = supervisor.session_folder()
    for last in (False, True):
        try:
            ray.init(
                address=settings.address or "local",
                num_cpus=(settings.num_cpus or os.cpu_count()) if here else None,
                include_dashboard=False if here else None,
                log_to_driver=False,
                logging_level="ERROR",
                _temp_dir=str(session / "ray") if here and session else None,
            )
            return
        except Exception as error:  # Ray raises plain ones, too
            ray.shutdown()
            # On a machine under load, a start can time out once.
            if last or not here:
                raise ConfigError(
                    f"ray.address: Ray {'does not start here' if here else 'cannot be reached'}: "
                    f"{error}"
                ) from error


def check_answers(address: str) -> None:
    """Raise ConfigError where nothing at a cluster's address says a word: Ray would wait long."""
    place = urlsplit(address if "://" in address else f"ray://{address}")
    try:
        host, port = place.hostname, place.port
        if host and port:
            with socket.create_connection((host, port), ANSWER_TIMEOUT) as connection:
                connection.sendall(_GREETING)
                connection.recv(1)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"ray.address: nothing answers at {address} ({error}); is the cluster up, and its "
            "port open from here?"
        ) from error


def cluster_cpus() -> int:
    """The CPUs of the Ray cluster that this process is connected to, at least one."""
    import ray

    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def stop_ray() -> None:
    """Leave the cluster, or end the one that was started here; nothing without one."""
    if "ray" in sys.modules:
        import ray

        ray.shutdown()
