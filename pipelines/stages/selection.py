"""Stage ``selection``: a verdict on every embedded pair."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.run.config import Config, ConfigError
from pipelines.run.engines import in_process
from pipelines.run.opt_outs import identity_of, shared_opt_outs
from pipelines.run.receipts import Files, Outcome, Shard
from pipelines.run.references import embed_dim, temperature
from pipelines.stages.base import Stage
from pipelines.stages.queries import named_files
from workers.base.opt_outs import OptOutFiles
from workers.base.tally import Tally
from workers.embedding.settings import model_label
from workers.selection.base_filter import Available
from workers.selection.settings import SelectionSettings

if TYPE_CHECKING:
    from workers.selection.select import EmbeddedShard


class Selection(Stage):
    """One shard of work: the best share of all pairs, or a duplicate, is known of all alone."""

    name = "selection"
    reads = ("labels", "embeddings", "images", "pairs")

    def check(self) -> None:
        self.references()
        available = available_in(self.run.config)
        for number, step in enumerate(self.run.config.selection.steps):
            try:
                step.check(available)
            except ConfigError:  # of the model, not of the step
                raise
            except ValueError as error:
                raise ConfigError(f"selection.steps.{number}.{error}") from error

    def doubts(self) -> Iterator[str]:
        available = available_in(self.run.config)
        for number, step in enumerate(self.run.config.selection.steps):
            yield from (f"selection.steps.{number}.{doubt}" for doubt in step.doubts(available))

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
        files = {stage: self.run.outputs(stage) for stage in self.reads}
        if not files["embeddings"]:
            return []
        identity = self.run.config.selection.identity() | {
            "seed": self.run.config.seed,
            **identity_of(self.run, lists=True),
        }
        references = self.references()
        for step, some in zip(identity["steps"], references, strict=True):
            # Their content counts, and which step they are for.
            step.update({setting: len(named) for setting, named in some.items()})
        files["references"] = [
            path for some in references for named in some.values() for path in named
        ]
        return [self.shard("all", identity, files)]

    def execute(self, shards: Sequence[Shard]) -> Iterator[Outcome]:
        return in_process(
            Select(
                known_selection(self.run.config), self.run.config.seed, shared_opt_outs(self.run)
            ),
            shards,
            self.folder,
        )


def available_in(config: Config) -> Available:
    """What the steps of a configuration can refer to."""
    embeddings = config.embeddings
    return Available(
        embeddings,
        dim=lambda: embed_dim(embeddings),
        model=lambda: model_label(embeddings.model),
        temperature=lambda: temperature(embeddings),
        has_queries=config.queries != "none",
    )


def known_selection(config: Config) -> SelectionSettings:
    """The steps with what they leave to the model of the embeddings."""
    available = available_in(config)
    return SelectionSettings(
        steps=tuple(step.known_for(available) for step in config.selection.steps)
    )


def embedded_shards(files: Files) -> list[EmbeddedShard]:
    """The shards of pairs that the selection judges, with where their images are."""
    from workers.selection.select import EmbeddedShard

    others = files["embeddings"], files["images"], files["labels"]
    return [EmbeddedShard(pairs, *others) for pairs in files["pairs"]]


@dataclass(frozen=True)
class Select:
    settings: SelectionSettings
    seed: int
    opt_outs: OptOutFiles

    def __call__(self, shard: Shard, out: Path) -> dict[str, Tally]:
        from workers.selection.select import select

        opt_outs = self.opt_outs.load()
        return select(embedded_shards(shard.files), out, self.settings, self.seed, opt_outs)
