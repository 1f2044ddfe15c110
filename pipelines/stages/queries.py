"""Stage ``queries``: the Wikipedia dump to the query list, on Beam."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.config import ConfigError
from pipelines.engines import in_process
from pipelines.receipts import Outcome, Shard
from pipelines.stages.base import Stage
from query_builder.settings import QuerySettings
from workers.settings import find_files
from workers.tally import Tally


class Queries(Stage):
    """One shard: every term's count needs all pages."""

    name = "queries"

    def check(self) -> None:
        self.dumps()

    def dumps(self) -> list[Path]:
        """The dump files, sorted. Raises ConfigError for a pattern that matches none."""
        return named_files(self.run.config.queries.dumps, "queries.dumps")

    def plan(self) -> list[Shard]:
        return [self.shard("all", self.run.config.queries.identity(), self.dumps())]

    def execute(self, shards: Sequence[Shard]) -> Iterator[Outcome]:
        config = self.run.config
        return in_process(BuildQueries(config.queries, config.beam.options), shards, self.folder)


@dataclass(frozen=True)
class BuildQueries:
    settings: QuerySettings
    beam_options: tuple[str, ...]

    def __call__(self, shard: Shard, out: Path) -> dict[str, Tally]:
        from query_builder.build import build_queries

        dumps = [Path(path) for path in shard.inputs]
        return build_queries(dumps, out, self.settings, self.beam_options)


def named_files(patterns: Sequence[str], key: str) -> list[Path]:
    """The files that a setting names. Raises ConfigError, naming the key, where there is none."""
    try:
        return find_files(patterns)
    except FileNotFoundError as error:
        raise ConfigError(f"{key}: {error}") from error
