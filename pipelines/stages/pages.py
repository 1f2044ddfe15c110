"""Stage ``pages``: a polite crawl of the seeds into WARC files, a host a shard."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pipelines.run.config import ConfigError
from pipelines.run.directory import Run
from pipelines.run.engines import on_text_engine
from pipelines.run.health import largest
from pipelines.run.history import Sources
from pipelines.run.opt_outs import opt_out_files
from pipelines.run.outages import Tolerance
from pipelines.run.receipts import Outcome, Receipt, Shard, Side
from pipelines.stages.base import Stage
from workers.base.opt_outs import read_tombstones
from workers.base.preferences import RULES
from workers.base.settings import NO_CONTACT, CrawlSettings, has_contact
from workers.base.tally import Tally
from workers.base.urls import DEFAULT_PORTS, UrlError, absolute_url, authority, normal_host
from workers.crawl.host import KNOWN
from workers.web.addresses import is_named

#: That a crawler needs, which waits for its host most of the time: so many hosts are crawled side
#: by side on a core.
CPUS_OF_A_HOST = 0.25


class Pages(Stage):
    """A shard a host, so that a host is asked by one crawler at a time."""

    name = "pages"
    version = 3

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        settings = run.config.pages
        self.tolerance = Tolerance(settings.max_unreachable, settings.reruns)

    @property
    def skipped(self) -> str:
        return "" if self.run.config.pages.seeds else "there are no seeds to crawl (pages.seeds)"

    @property
    def rules(self) -> Mapping[str, str]:
        # What headers and pages say of their use counts when pairs are made of them.
        heard = ("robots.txt", "X-Robots-Tag", "Content-Usage", "Content-Signal")
        return {name: RULES[name] for name in heard}

    @property
    def agents(self) -> tuple[str, ...]:
        return self.run.config.pages.agents

    def check(self) -> None:
        settings = self.run.config.pages
        for host, seeds in self.seeds_by_host().items():
            named = [_is_named(seed, settings.allow_private_hosts) for seed in seeds]
            if not (all(named) or has_contact(settings.user_agent)):
                raise ConfigError(
                    f"pages.user_agent: {host} is to be crawled, and {NO_CONTACT}. If it is a host "
                    "of your own network, name it in pages.allow_private_hosts"
                )

    def seeds_by_host(self) -> dict[str, set[str]]:
        """The seeds in normal form, by host however it was written. Raises ConfigError."""
        hosts: dict[str, set[str]] = defaultdict(set)
        for number, seed in enumerate(self.run.config.pages.seeds):
            try:
                url = absolute_url(seed)
                hosts[normal_host(authority(url))].add(url)
            except UrlError as error:
                raise ConfigError(f"pages.seeds.{number}: {_refusal(seed)}") from error
        return hosts

    def plan(self) -> list[Shard]:
        settings = self.run.config.pages
        gone = read_tombstones(opt_out_files(self.run).taken_down)
        hosts = {
            host: seeds for host, seeds in self.seeds_by_host().items() if not gone.has_host(host)
        }
        # The seeds of other hosts do not change what is read from this one.
        identity = settings.identity()
        del identity["seeds"]
        self.settings_of_shards["seeds"] = sorted(settings.seeds)  # without one its host goes
        return [self._shard(host, sorted(seeds), identity) for host, seeds in sorted(hosts.items())]

    def _shard(self, host: str, seeds: list[str], identity: dict[str, Any]) -> Shard:
        name, receipts = host.replace(":", "_"), self.run.receipts(self.name)
        shard = self.shard(name, identity, values={"host": host, "seeds": seeds})
        receipt = receipts.get(name)
        if receipt is None or receipt.key == shard.key:
            return shard
        # Other seeds or settings: what is there need not come again if it has not changed.
        sources = tuple(receipts.sources_of(receipt))
        return replace(shard, due_since=receipt.ended, sources=sources)

    def is_due(self, receipt: Receipt) -> bool:
        hours = self.run.config.pages.recrawl_hours
        return hours is not None and self.run.started - receipt.ended >= hours * 3600

    def sources(self, made: Sequence[Receipt]) -> Sources:
        kept, failed = Counter[str](), Counter[str]()
        for receipt in made:
            for kind, counts in receipt.rows.items():
                missed = sum(counts["failed"].values())
                failed[receipt.shard] += missed
                # What could not be looked at again is a kept page, and no sign of life.
                kept[receipt.shard] += -missed if kind == KNOWN else counts["kept"]
        return largest(kept, failed)

    def execute(self, shards: Sequence[Shard]) -> Iterator[Outcome]:
        config = self.run.config
        work = Crawl(config.pages, self.folder, opt_out_files(self.run).taken_down)
        return on_text_engine(work, shards, self.folder, config, CPUS_OF_A_HOST)


def _is_named(url: str, allowed: Collection[str]) -> bool:
    parts = urlsplit(url)
    return is_named(parts.hostname or "", parts.port or DEFAULT_PORTS[parts.scheme], allowed)


def _refusal(seed: str) -> str:
    """Why a seed cannot be used, without what may be a password in it."""
    if "@" in seed.partition("://")[2].partition("/")[0] or ("://" not in seed and "@" in seed):
        return "a URL with a user name or password is not crawled; give it without"
    return f"{seed!r} is not an http or https URL"


@dataclass(frozen=True)
class Crawl:
    settings: CrawlSettings
    folder: Path  # where the crawl before a further one has left its files
    taken_down: Path

    def __call__(self, shard: Shard, out: Path) -> dict[str, Tally]:
        from workers.crawl.host import HostFiles, crawl_host

        host, is_rerun = shard.values["host"], shard.attempt > 1
        before = None
        if is_rerun or shard.due_since is not None:
            before = HostFiles.of(host, self.folder, Side.TABLES.of(self.folder))
        return crawl_host(
            host,
            shard.values["seeds"],
            out,
            self.settings,
            before,
            is_rerun=is_rerun,
            taken_down=self.taken_down,
        )
