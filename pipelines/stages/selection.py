"""Stage ``selection``: a verdict on every embedded pair."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.run.config import ConfigError
from pipelines.run.directory import Run
from pipelines.run.engines import in_process
from pipelines.run.receipts import Outcome, Shard
from pipelines.run.references import embed_dim
from pipelines.stages.base import Stage
from pipelines.stages.queries import named_files
from workers.base.tally import Tally
from workers.selection.base_filter import Available
from workers.selection.settings import SelectionSettings

if TYPE_CHECKING:
    from workers.selection.select import EmbeddedShard


class Selection(Stage):
    """One shard of work: the best share of all pairs, or a duplicate, is known of all alone."""

    name = "selection"
    reads = ("embeddings", "images", "pairs")

    def check(self) -> None:
        self.references()
        config = self.run.config
        available = Available(
            config.embeddings, lambda: embed_dim(config.embeddings), config.queries != "none"
        )
        for number, step in enumerate(config.selection.steps):
            try:
                step.check(available)
            except ConfigError:  # of the model, not of the step
                raise
            except ValueError as error:
                raise ConfigError(f"selection.steps.{number}.{error}") from error

    def references(self) -> list[dict[str, list[Path]]]:
        """The files that each step's settings name, such as an evaluation set's embeddings."""
        return [
            {
                setting: named_files(getattr(step, setting), f"selection.steps.{number}.{setting}")
                for setting in step.file_settings
            }
            for number, step in enumerate(self.run.config.selection.steps)
        ]

    def plan(self) -> list[Shard]:
        files = files_of_shards(self.run)
        if not files:
            return []
        identity = self.run.config.selection.identity() | {"seed": self.run.config.seed}
        references = self.references()
        for step, some in zip(identity["steps"], references, strict=True):
            # Their content counts, and which step they are for.
            step.update({setting: len(files) for setting, files in some.items()})
        named = dict(zip(self.reads, zip(*files, strict=True), strict=True))
        named["references"] = tuple(
            path for some in references for files in some.values() for path in files
        )
        return [self.shard("all", identity, named)]

    def execute(self, shards: Sequence[Shard]) -> Iterator[Outcome]:
        return in_process(
            Select(self.run.config.selection, self.run.config.seed), shards, self.folder
        )


def files_of_shards(run: Run) -> list[list[Path]]:
    """The files of each shard that is embedded, as ``EmbeddedShard`` takes them."""
    names = [path.name for path in run.outputs("embeddings")]
    return [[run.directory / stage / name for stage in Selection.reads] for name in names]


def embedded_shards(run: Run) -> list[EmbeddedShard]:
    """The shards that the selection judges."""
    from workers.selection.select import EmbeddedShard

    return [EmbeddedShard(*files) for files in files_of_shards(run)]


@dataclass(frozen=True)
class Select:
    settings: SelectionSettings
    seed: int

    def __call__(self, shard: Shard, out: Path) -> dict[str, Tally]:
        from workers.selection.select import EmbeddedShard, select

        files = zip(*(shard.files[stage] for stage in Selection.reads), strict=True)
        return select([EmbeddedShard(*three) for three in files], out, self.settings, self.seed)
