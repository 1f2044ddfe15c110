"""Stage ``pairs``: pages to captioned URLs, matched with the queries and balanced, on Beam."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.engines import in_process
from pipelines.receipts import Outcome, Shard
from pipelines.stages.base import Stage
from pipelines.stages.queries import named_files
from workers.settings import PairSettings
from workers.tally import Tally


class Pairs(Stage):
    """One shard of work, several files out: the cap of a query needs all its pairs."""

    name = "pairs"
    reads = ("queries", "pages")

    def check(self) -> None:
        self.warcs()

    def warcs(self) -> list[Path]:
        """The WARC files given beside the crawl's own."""
        return named_files(self.run.config.pairs.warcs, "pairs.warcs")

    def plan(self) -> list[Shard]:
        settings = self.run.config.pairs
        warcs = [*self.run.outputs("pages"), *self.warcs()]
        identity = settings.identity() | {"seed": self.run.config.seed}
        del identity["warcs"]  # their content counts, and stands in the key already
        shard = self.shard(
            "all", identity, [*self.run.outputs("queries"), *warcs], values=[str(len(warcs))]
        )
        return [shard] if warcs else []

    def execute(self, shards: Sequence[Shard]) -> Iterator[Outcome]:
        config = self.run.config
        work = BuildPairs(config.pairs, config.seed, config.beam.options)
        return in_process(work, shards, self.folder)


@dataclass(frozen=True)
class BuildPairs:
    settings: PairSettings
    seed: int
    beam_options: tuple[str, ...]

    def __call__(self, shard: Shard, out: Path) -> dict[str, Tally]:
        from workers.pairs import build_pairs

        (warc_count,) = map(int, shard.values)
        paths = [Path(path) for path in shard.inputs]
        queries, warcs = paths[:-warc_count], paths[-warc_count:]
        return build_pairs(warcs, queries, out, self.settings, self.seed, self.beam_options)
