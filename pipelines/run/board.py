"""What Ray actors do while they work: shown by the driver, exported as Ray's own metrics.

An outcome comes when a shard ends, which can take an hour. Until then each actor says every few
seconds how far it is: to a board, an actor without a CPU beside the driver, and to the metrics
that Ray offers to Prometheus on every machine.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from workers.embedding.meter import Activity

if TYPE_CHECKING:
    import ray.actor

#: Seconds between two reports of an actor.
INTERVAL = 2.0
#: An actor that says nothing for so long is gone, and its open shard is begun anew by another.
SILENCE = 15.0

#: Ray puts "ray_" before a counter's name and "_total" behind it.
METRICS = {
    "rows": "rows embedded",
    "thread_seconds": "seconds that the threads of embedding had",
    "gpu_seconds": "seconds that the GPUs of embedding had",
    "decoding_seconds": "seconds of threads that decoding took",
    "computing_seconds": "seconds of GPUs or, without any, of threads that the model took",
}


class Board:
    """The driver's end: open it when Ray runs, look at it from any thread, before that too."""

    def __init__(self) -> None:
        self._actor: ray.actor.ActorHandle | None = None

    def open(self) -> ray.actor.ActorHandle:
        """Start the actor that others report to, on this machine."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        actor = ray.remote(Reports).options(
            num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy=here
        )
        self._actor = actor.remote()
        return self._actor

    def activity(self) -> Activity:
        """What all actors have done so far; nothing when the board does not answer."""
        if self._actor is None:
            return Activity()
        import ray

        try:
            total: Activity = ray.get(self._actor.total.remote(), timeout=INTERVAL)
        except ray.exceptions.RayError:  # it is starting, or moving to another machine
            return Activity()
        return total


class Reports:
    """The last report of each actor."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[float, Activity]] = {}

    def put(self, actor: str, activity: Activity) -> None:
        self._last[actor] = time.monotonic(), activity

    def total(self) -> Activity:
        now = time.monotonic()
        alive = (
            activity if now - at < SILENCE else replace(activity, under_way=0.0)
            for at, activity in self._last.values()
        )
        return sum(alive, Activity())


@dataclass
class Reporter:
    """An actor's end: reports what a work's ``activity`` says, until its process ends."""

    board: ray.actor.ActorHandle
    work: Any  # with activity() -> Activity

    def __post_init__(self) -> None:
        import ray
        from ray.util.metrics import Counter

        self._name = ray.get_runtime_context().get_actor_id()
        self._counters = {name: Counter(f"clip_{name}", text) for name, text in METRICS.items()}
        self._counted = Activity()
        self._lock = threading.Lock()
        threading.Thread(target=self._go_on, name="report", daemon=True).start()

    def report(self) -> None:
        """Say it now: at the end of a shard, lest the actor be gone before it is said."""
        with self._lock:
            activity = self.work.activity()
            self.board.put.remote(self._name, activity)
            for name, counter in self._counters.items():
                if more := getattr(activity, name) - getattr(self._counted, name):
                    counter.inc(more)
            self._counted = activity

    def _go_on(self) -> None:
        while True:
            time.sleep(INTERVAL)
            self.report()
