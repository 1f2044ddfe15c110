"""The one lease book of all tasks of a Ray cluster (``workers.web.leases``), in an actor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipelines.run.config import RaySettings
from pipelines.run.engines import start_ray
from workers.web.leases import LeaseBook, Reply
from workers.web.robots import RuleFile

if TYPE_CHECKING:
    import ray.actor


@dataclass(frozen=True)
class RayLeaseBook:
    """A ``workers.web.leases.Book`` for tasks anywhere in a cluster."""

    actor: ray.actor.ActorHandle

    @classmethod
    def open(cls, most: int, settings: RaySettings) -> RayLeaseBook:
        """An empty one, until nobody has it any more. Starts Ray.

        Where its machine is lost it begins anew on another, and says so.
        """
        import ray

        start_ray(settings)
        kind = ray.remote(LeaseBook).options(num_cpus=0, max_restarts=-1, max_task_retries=-1)
        return cls(kind.remote(most))

    async def exchange(self, task: str, asked: Sequence[str], given: Mapping[str, float]) -> Reply:
        reply: Reply = await self.actor.exchange.remote(task, asked, given)
        return reply

    async def rules(self, url: str) -> RuleFile | None:
        said: RuleFile | None = await self.actor.rules.remote(url)
        return said

    async def note_rules(self, url: str, said: RuleFile) -> None:
        await self.actor.note_rules.remote(url, said)
