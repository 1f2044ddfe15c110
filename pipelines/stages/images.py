"""Stage ``images``: the pictures of each shard of pairs, by img2dataset in Ray tasks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.engines import in_ray_tasks
from pipelines.receipts import Outcome, Shard
from pipelines.stages.base import Stage
from workers.settings import DownloadSettings
from workers.tally import Tally


class Images(Stage):
    """A shard a shard of pairs."""

    name = "images"
    reads = ("pairs",)

    def plan(self) -> list[Shard]:
        identity = self.run.config.images.identity()
        return [self.shard(path.stem, identity, [path]) for path in self.run.outputs("pairs")]

    def execute(self, shards: Sequence[Shard]) -> Iterator[Outcome]:
        config = self.run.config
        return in_ray_tasks(Download(config.images), shards, self.folder, config.ray)


@dataclass(frozen=True)
class Download:
    settings: DownloadSettings

    def __call__(self, shard: Shard, out: Path) -> dict[str, Tally]:
        from workers.download import download_shard

        (pairs,) = map(Path, shard.inputs)
        return download_shard(pairs, out / f"{shard.name}.parquet", self.settings)
