"""Stage ``images``: the pictures of each shard of pairs, by img2dataset in Ray tasks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.run.config import ConfigError
from pipelines.run.directory import Run
from pipelines.run.engines import in_ray_tasks
from pipelines.run.health import largest, rows_of
from pipelines.run.history import Sources
from pipelines.run.outages import Tolerance
from pipelines.run.receipts import Outcome, Receipt, Shard, Side
from pipelines.stages.base import Stage
from workers.base.settings import DownloadSettings, resolve_path
from workers.base.tally import Tally

#: The host in a picture's URL, and the rows of those that failed to come.
HOST = r"^\w+://(?:[^/?#@]*@)?(?P<source>[^/?#]+)"
FAILED = [("rejected", "==", False)]
#: Pictures asked of a host in a night below which nothing can be told of it.
FEWEST_PICTURES = 20


class Images(Stage):
    """A shard a shard of pairs."""

    name = "images"
    reads = ("pairs",)
    version = 4

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        settings = run.config.images
        self.tolerance = Tolerance(settings.max_unreachable, settings.reruns)

    def check(self) -> None:
        for name, root in self.run.config.images.local_roots.items():
            if not resolve_path(root).is_dir():
                raise ConfigError(f"images.local_roots.{name}: there is no folder {root}")

    def plan(self) -> list[Shard]:
        identity = self.run.config.images.identity()
        return [
            self.shard(path.stem, identity, {"pairs": [path]}) for path in self.run.outputs("pairs")
        ]

    def sources(self, made: Sequence[Receipt]) -> Sources:
        files = self.tables_of(made)
        kept = rows_of((f for f in files if f.parent == self.folder), "url", HOST)
        failed = rows_of((f for f in files if f.parent != self.folder), "url", HOST, FAILED)
        return largest(kept, failed, FEWEST_PICTURES)

    def execute(self, shards: Sequence[Shard]) -> Iterator[Outcome]:
        config = self.run.config
        return in_ray_tasks(Download(config.images, self.folder), shards, self.folder, config.ray)


@dataclass(frozen=True)
class Download:
    settings: DownloadSettings
    folder: Path  # where the attempt before a further one has left its files

    def __call__(self, shard: Shard, out: Path) -> dict[str, Tally]:
        from workers.fetch.download import ShardFiles, download_shard

        name = f"{shard.name}.parquet"
        new = ShardFiles(out / name, out / Side.TABLES / name)
        old = ShardFiles(self.folder / name, Side.TABLES.of(self.folder) / name)
        pairs = shard.file("pairs")
        return download_shard(pairs, new, self.settings, old if shard.attempt > 1 else None)
