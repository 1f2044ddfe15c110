"""Stage ``dataset``: the selected pairs, with all that training needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pipelines.run.engines import in_ray_tasks
from pipelines.run.receipts import Check, Outcome, Shard
from pipelines.stages.base import Stage
from pipelines.stages.selection import embedded_shards
from workers.base.copies import bring
from workers.base.ranges import NOTHING, SortedFile, within
from workers.base.tally import Tally


class Dataset(Stage):
    """A shard a shard of pairs, joined with what was fetched of them on whatever night."""

    name = "dataset"
    reads = ("selection", "pairs", "labels", "embeddings", "images")
    version = 2

    def plan(self) -> list[Shard]:
        nightly = {stage: self.run.outputs(stage) for stage in ("labels", "embeddings", "images")}
        return [self._shard(path, nightly) for path in self.run.outputs("selection")]

    def _shard(self, selection: Path, nightly: Mapping[str, Sequence[Path]]) -> Shard:
        pairs = self.run.directory / "pairs" / selection.name
        bring([pairs])
        between = SortedFile.open(pairs).range or NOTHING
        # One at least, for its columns.
        files = {stage: within(some, between) or some[:1] for stage, some in nightly.items()}
        shard = self.shard(
            selection.stem, {}, {"selection": [selection], "pairs": [pairs], **files}
        )
        sources = (
            replace(source, check=Check.ONCE) if source.path.parent.name in files else source
            for source in shard.sources
        )
        return replace(shard, sources=tuple(sources))

    def execute(self, shards: Sequence[Shard]) -> Iterator[Outcome]:
        return in_ray_tasks(assemble, shards, self.folder, self.run.config.ray)


def assemble(shard: Shard, out: Path) -> dict[str, Tally]:
    """The work on a shard."""
    from workers.selection.assemble import assemble_shard

    (embedded,) = embedded_shards(shard.files)
    return assemble_shard(embedded, shard.file("selection"), out / f"{shard.name}.parquet")
