"""Stage ``images``: the images of each list of ``requests``, by img2dataset in Ray tasks.

It only grows. What the web gave cannot be had twice: a shard is never made again because pairs or
settings have changed, and an image that could not be reached is asked for by another list.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from pipelines.run.config import ConfigError
from pipelines.run.directory import Run
from pipelines.run.engines import in_ray_tasks
from pipelines.run.health import largest, rows_of
from pipelines.run.history import Sources
from pipelines.run.lease_book import RayLeaseBook
from pipelines.run.opt_outs import shared_opt_outs
from pipelines.run.outages import Tolerance
from pipelines.run.receipts import Again, Check, Outcome, Receipt, Shard, Side, Source
from pipelines.stages.base import Stage
from workers.base.copies import bring, copy_of
from workers.base.opt_outs import OptOutFiles
from workers.base.preferences import RULES, RULES_OF_HOSTS
from workers.base.settings import NO_CONTACT, DownloadSettings, has_contact, resolve_path
from workers.base.tally import Tally
from workers.fetch.images_before import ShardFiles
from workers.fetch.requests import attempt_of, read_requests
from workers.web.leases import Book

#: Failures of a shard that say something of the network.
FEW_FAILURES = 5

#: The host in an image's URL, and the rows of those that failed to come.
HOST = r"^\w+://(?:[^/?#@]*@)?(?P<source>[^/?#]+)"
FAILED = [("rejected", "==", False)]
#: Images asked of a host in a night below which nothing can be told of it.
FEWEST_IMAGES = 20


class Images(Stage):
    """A shard a list of pairs to ask for."""

    name = "images"
    reads = ("requests",)
    version = 7

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self.tolerance = Tolerance(run.config.images.max_unreachable, at_least=FEW_FAILURES)

    @property
    def rules(self) -> Mapping[str, str]:
        asks_hosts = self.run.config.images.robots
        return {
            name: version
            for name, version in RULES.items()
            if asks_hosts or name not in RULES_OF_HOSTS
        }

    @property
    def agents(self) -> tuple[str, ...]:
        return self.run.config.images.agents

    def check(self) -> None:
        settings = self.run.config.images
        for name, root in settings.local_roots.items():
            if not resolve_path(root).is_dir():
                raise ConfigError(f"images.local_roots.{name}: there is no folder {root}")
        receipts = self.receipts.all()
        others = sum(receipt.key != self._key(receipt.shard) for receipt in receipts)
        if others and not self.run.refetch:
            raise ConfigError(
                f"images: {others:,} shards of images in {self.folder} were made with other "
                "settings of images or by another version, and would be fetched again: give "
                "--refetch if that is meant, or the settings as they were (run.json has them), or "
                "another --run-dir"
            )
        # Where these are, no URL may be one of the public internet: a shard ends at the first.
        may_stay = settings.allow_private_hosts or settings.local_roots
        if not (may_stay or has_contact(settings.user_agent)):
            raise ConfigError(
                f"images.user_agent: {NO_CONTACT}. If all images lie in your own network or on "
                "this machine, name what has them in images.allow_private_hosts or "
                "images.local_roots"
            )

    def answered(self) -> list[Receipt]:
        """The receipts of what is there of this configuration."""
        return [
            receipt
            for receipt in self.receipts.all()
            if self.receipts.is_valid(receipt, self._key(receipt.shard))
        ]

    def plan(self) -> list[Shard]:
        lists = {path.stem: path for path in self.run.outputs("requests")}
        # Of what is there, the list need not be.
        names = sorted({*lists, *(receipt.shard for receipt in self.answered())})
        return [self._with_list(name, lists.get(name)) for name in names]

    def _shard(self, name: str) -> Shard:
        # The name stands for what is on the list.
        return self.shard(name, self.run.config.images.identity(), values={"list": name})

    def _key(self, name: str) -> str:
        return self._shard(name).key

    def _with_list(self, name: str, path: Path | None) -> Shard:
        shard = replace(self._shard(name), attempt=attempt_of(name))
        if path is None:
            return shard
        return replace(shard, files={"requests": (path,)}, sources=(self._source(path),))

    def sources(self, made: Sequence[Receipt]) -> Sources:
        files = self.tables_of(made)
        kept = rows_of((f for f in files if f.parent == self.folder), "url", HOST)
        failed = rows_of((f for f in files if f.parent != self.folder), "url", HOST, FAILED)
        return largest(kept, failed, FEWEST_IMAGES)

    def execute(self, shards: Sequence[Shard]) -> Iterator[Outcome]:
        config = self.run.config
        there = {receipt.shard: receipt for receipt in self.answered()}
        before: dict[str, ShardFiles] = {}
        prepared = []
        for shard in shards:
            history = history_of(shard)
            named = sorted(there.keys() & set(history["image_in"].drop_null().to_pylist()))
            before |= {name: shard_files(self.folder, name) for name in named}
            sources = (*shard.sources, *self._unread(there[name] for name in named))
            prepared.append(replace(shard, again=failures_before(history), sources=sources))
        most, book = config.images.tasks_per_host, None
        if most is not None and len(shards) > most:
            book = RayLeaseBook.open(most, config.ray)
        work = Download(config.images, shared_opt_outs(self.run), before, book)
        return in_ray_tasks(work, prepared, self.folder, config.ray)

    def _unread(self, receipts: Iterable[Receipt]) -> Iterator[Source]:
        """Shards of which a little is read, where they lie.

        They are compared with their hashes when the work has failed.
        """
        if copy_of(self.folder):
            return
        for receipt in receipts:
            for source in self.receipts.sources_of(receipt):
                yield replace(source, check=Check.AFTER_FAILURE)

    def again(self, *_: object, missed: bool) -> list[Shard]:  # noqa: ARG002
        """Never a whole shard: ``requests`` makes lists of what is to be tried again."""
        return []


def history_of(shard: Shard) -> pa.Table:
    """What the list of a shard says of earlier nights."""
    path = shard.file("requests")
    bring([path])
    return read_requests(path, ["failed_in", "failed_for", "image_in"])


def failures_before(asked: pa.Table) -> Again:
    """What of a list has failed before, where and why."""
    again: dict[str, Counter[str]] = defaultdict(Counter)
    columns = (asked[name].to_pylist() for name in ("failed_in", "failed_for"))
    for shard, reason in zip(*columns, strict=True):
        if shard is not None:
            again[shard][reason] += 1
    return {shard: dict(reasons) for shard, reasons in again.items()}


def shard_files(folder: Path, name: str) -> ShardFiles:
    """The files of a shard of images in its folder."""
    file = f"{name}.parquet"
    return ShardFiles(folder / file, Side.TABLES.of(folder) / file)


@dataclass(frozen=True)
class Download:
    settings: DownloadSettings
    opt_outs: OptOutFiles
    before: Mapping[str, ShardFiles]  # the shards that have images of URLs on the lists
    book: Book | None = None  # of all tasks that work at a time

    def __call__(self, shard: Shard, out: Path) -> dict[str, Tally]:
        from workers.fetch.download import download_shard

        name = f"{shard.name}.parquet"
        new = ShardFiles(out / name, out / Side.TABLES / name)
        opt_outs = self.opt_outs.load()
        asked = shard.file("requests")
        return download_shard(asked, new, self.settings, opt_outs, self.book, self.before)
