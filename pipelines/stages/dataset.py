"""Stage ``dataset``: the embedded pairs that are good enough, with all that training needs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.engines import in_ray_tasks
from pipelines.receipts import Outcome, Shard
from pipelines.stages.base import Stage
from workers.settings import SelectSettings
from workers.tally import Tally


class Dataset(Stage):
    """A shard a shard of embeddings, joined with its pictures and pairs."""

    name = "dataset"
    reads = ("pairs", "images", "embeddings")

    def plan(self) -> list[Shard]:
        identity = self.run.config.dataset.identity()
        return [
            self.shard(
                path.stem,
                identity,
                [self.folder.parent / stage / path.name for stage in self.reads],
            )
            for path in self.run.outputs("embeddings")
        ]

    def execute(self, shards: Sequence[Shard]) -> Iterator[Outcome]:
        config = self.run.config
        return in_ray_tasks(Select(config.dataset), shards, self.folder, config.ray)


@dataclass(frozen=True)
class Select:
    settings: SelectSettings

    def __call__(self, shard: Shard, out: Path) -> dict[str, Tally]:
        from workers.select import select_shard

        pairs, images, embeddings = map(Path, shard.inputs)
        return select_shard(pairs, images, embeddings, out / f"{shard.name}.parquet", self.settings)
