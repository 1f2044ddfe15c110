"""Stage ``labels``: what the embeddings say of the images, without a look at a pixel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.run.engines import Actors, in_ray_actors
from pipelines.run.receipts import Outcome, Shard
from pipelines.run.references import check_embeddings
from pipelines.stages.base import Stage
from pipelines.stages.embeddings import content_of, recorded_settings
from workers.base.tally import Tally
from workers.embedding.meter import Activity
from workers.embedding.settings import EmbedSettings

if TYPE_CHECKING:
    from workers.embedding.labeller import Labeller


class Labels(Stage):
    """A shard a shard of embeddings: another label set or head costs no image."""

    name = "labels"
    reads = ("embeddings",)

    @property
    def skipped(self) -> str:
        has_labels = self.run.config.embeddings.has_labels
        return "" if has_labels else "there are no label sets, attributes or heads"

    def check(self) -> None:
        content_of(self.run.config.embeddings)
        check_embeddings(self.run.config.embeddings)

    def plan(self) -> list[Shard]:
        if self.skipped:
            return []
        content = content_of(recorded_settings(self.run))
        return [
            self.shard(path.stem, content.identity, {"embeddings": [path], **content.files})
            for path in self.run.outputs("embeddings")
        ]

    def execute(self, shards: Sequence[Shard]) -> Iterator[Outcome]:
        settings, actors = recorded_settings(self.run), Actors.of(self.run.config.ray, len(shards))
        threads = settings.threads or actors.threads
        work = Label(settings.model_copy(update={"threads": threads}))
        return in_ray_actors(work, shards, self.folder, actors)


@dataclass(frozen=True)
class Label:
    """The work on a shard: a file of embeddings."""

    settings: EmbedSettings

    @cached_property
    def labeller(self) -> Labeller:
        """Loaded by the first shard and kept, as long as its actor lives, for the others."""
        from workers.embedding.labeller import Labeller

        return Labeller(self.settings)

    def activity(self) -> Activity:
        loaded = "labeller" in vars(self)
        return self.labeller.meter.activity() if loaded else Activity()

    def __call__(self, shard: Shard, out: Path) -> dict[str, Tally]:
        return self.labeller.label_shard(shard.file("embeddings"), out / f"{shard.name}.parquet")
