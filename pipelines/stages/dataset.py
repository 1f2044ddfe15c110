"""Stage ``dataset``: the selected pairs, with all that training needs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pipelines.run.engines import in_ray_tasks
from pipelines.run.receipts import Outcome, Shard
from pipelines.stages.base import Stage
from workers.base.tally import Tally


class Dataset(Stage):
    """A shard a shard of embeddings, joined with its pictures and pairs."""

    name = "dataset"
    reads = ("selection", "embeddings", "images", "pairs")

    def plan(self) -> list[Shard]:
        return [
            self.shard(
                path.stem,
                {},
                {stage: [self.folder.parent / stage / path.name] for stage in self.reads},
            )
            for path in self.run.outputs("embeddings")
        ]

    def execute(self, shards: Sequence[Shard]) -> Iterator[Outcome]:
        return in_ray_tasks(assemble, shards, self.folder, self.run.config.ray)


def assemble(shard: Shard, out: Path) -> dict[str, Tally]:
    """The work on a shard."""
    from workers.selection.assemble import assemble_shard
    from workers.selection.select import EmbeddedShard

    embedded = EmbeddedShard(*map(shard.file, ("embeddings", "images", "pairs")))
    return assemble_shard(embedded, shard.file("selection"), out / f"{shard.name}.parquet")
