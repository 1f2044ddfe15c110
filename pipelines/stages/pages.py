"""Stage ``pages``: a polite crawl of the seeds into WARC files, a host a shard, on Beam."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from pipelines.config import ConfigError
from pipelines.engines import on_beam
from pipelines.receipts import Outcome, Shard
from pipelines.stages.base import Stage
from workers.settings import CrawlSettings
from workers.tally import Tally


class Pages(Stage):
    """A shard a host, so that a host is asked by one crawler at a time."""

    name = "pages"

    def check(self) -> None:
        for seed in self.run.config.pages.seeds:
            if urlsplit(seed).scheme not in ("http", "https") or not urlsplit(seed).hostname:
                raise ConfigError(f"pages.seeds: {seed!r} is not an http or https URL")

    def plan(self) -> list[Shard]:
        settings = self.run.config.pages
        hosts: dict[str, list[str]] = defaultdict(list)
        for seed in settings.seeds:
            hosts[urlsplit(seed).netloc].append(seed)
        # The seeds of other hosts do not change what is read from this one.
        identity = settings.identity()
        del identity["seeds"]
        return [
            self.shard(host.replace(":", "_"), identity, values=[host, *sorted(hosts[host])])
            for host in sorted(hosts)
        ]

    def execute(self, shards: Sequence[Shard]) -> Iterator[Outcome]:
        config = self.run.config
        return on_beam(Crawl(config.pages), shards, self.folder, config.beam.options)


@dataclass(frozen=True)
class Crawl:
    settings: CrawlSettings

    def __call__(self, shard: Shard, out: Path) -> dict[str, Tally]:
        from workers.crawl.host import crawl_host

        host, *seeds = shard.values
        return crawl_host(host, seeds, out, self.settings)
