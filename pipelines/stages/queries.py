"""Stage ``queries``: the Wikipedia dump, page views and WordNet to the query list.

The parts of the dumps are counted on the engine of text; the list is made of the counts on Beam.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.run.config import ConfigError, digest
from pipelines.run.engines import in_process, on_text_engine
from pipelines.run.passes import PassError, do_pass
from pipelines.run.receipts import Outcome, Shard, Source
from pipelines.stages.base import Stage
from query_builder.inputs import Inputs, check_dumps, find_inputs
from query_builder.settings import QuerySettings
from workers.base.credentials import shown
from workers.base.file_systems import find_files, is_remote, version_of
from workers.base.tally import Tally

if TYPE_CHECKING:
    from query_builder.part_counts import Counting

#: Of a key, the digits that name what was counted under it.
_NAME_DIGITS = 24


class Queries(Stage):
    """One shard, once the parts of the dumps are counted: every term's count needs all pages."""

    name = "queries"
    version = 4

    @property
    def skipped(self) -> str:
        none = "captions are matched with nothing, and all are kept (queries: none)"
        return "" if self.settings else none

    @property
    def settings(self) -> QuerySettings | None:
        """None where captions are matched with nothing."""
        queries = self.run.config.queries
        return None if queries == "none" else queries

    def check(self) -> None:
        if self.settings is None:
            return
        if self.settings.list:
            _check_own_list(self.settings)
            return
        files = self.files(self.settings)
        if not files.dumps and not files.synsets:
            raise ConfigError("queries.dumps: there is nothing to read; name a dump")
        try:
            check_dumps(files.dumps)
        except OSError as error:
            raise ConfigError(f"queries.{error}") from error

    def files(self, settings: QuerySettings) -> Inputs:
        """The dumps, view files and synsets. Raises ConfigError for one that is not there."""
        try:
            return find_inputs(settings)
        except OSError as error:
            raise ConfigError(f"queries.{error}") from error

    def plan(self) -> list[Shard]:
        settings = self.settings
        if settings is None:
            return []
        identity = settings.identity()
        for setting in ("dumps", "views", "wordnet", "list"):
            del identity[setting]  # their content counts, and stands in the key already
        if settings.list:
            own = named_files([settings.list], "queries.list")
            identity = {name: identity[name] for name in ("lower_case", "max_queries")}
            identity["list"] = [path.suffix for path in own]  # which says how it is read
            return [self.shard("all", identity, {"list": own})]
        files = self.files(settings)
        local = [Path(dump) for dump in files.dumps if not is_remote(dump)]
        remote = [dump for dump in files.dumps if is_remote(dump)]
        if remote:  # it is not read twice: the version that its store tells stands for it
            identity["remote"] = _versions(remote)
        named = {"dumps": local, "views": files.views, "synsets": files.synsets}
        shard = self.shard("all", identity, named, {"remote_dumps": list(map(shown, remote))})
        # The key is the same however a URL is signed; the work needs the signature.
        return [replace(shard, values={"remote_dumps": remote})]

    def execute(self, shards: Sequence[Shard]) -> Iterator[Outcome]:
        settings = self.settings
        assert settings is not None  # else there are no shards
        if settings.list:
            yield from in_process(WriteOwnList(settings), shards, self.folder)
            return
        from query_builder.build import how_to_count

        (shard,) = shards
        try:
            dumps = self.files(settings).dumps
            counting, partitions = how_to_count(dumps, settings)
            counts = self._count(dumps, counting)
        except PassError as error:
            yield error.outcome_of(shard)
            return
        except OSError as error:  # of a dump, before any of it is counted
            yield Outcome(shard.name, error=shown(str(error)))
            return
        work = BuildQueries(settings, partitions, self.run.config.beam.options)
        files = {**shard.files, "counts": tuple(source.path for source in counts)}
        shard = replace(shard, files=files, sources=(*shard.sources, *counts))
        yield from in_process(work, [shard], self.folder)

    def _count(self, dumps: Sequence[str], counting: Counting) -> list[Source]:
        """Count what is in each part of the dumps, but for the parts that have been.

        The counts stay: of dumps that grow, only what is new is counted. Raises PassError.
        """
        shards = [shard for dump in dumps for shard in self._parts_of(dump, counting)]
        engine = partial(on_text_engine, config=self.run.config)
        return do_pass(self.folder, "counts", CountPart(counting), shards, engine).sources()

    def _parts_of(self, dump: str, counting: Counting) -> Iterator[Shard]:
        """The work on each part of a dump, under a name of what is in it."""
        from query_builder.dump import dump_parts
        from query_builder.part_counts import VERSION

        if is_remote(dump):
            content = [shown(dump), *_versions([dump])]
        else:
            content = [self._source(Path(dump)).sha256]
        for part in dump_parts(dump):
            place = {"dump": content, "start": part.start, "end": part.end}
            key = digest({"version": VERSION, "counting": asdict(counting), **place})
            # The dump is compared with its hash before the list is made.
            yield Shard(key[:_NAME_DIGITS], key, values={"part": part})


def _check_own_list(settings: QuerySettings) -> None:
    from query_builder.own_list import check_list

    files = named_files([settings.list or ""], "queries.list")
    try:
        check_list(files, settings)
    except (OSError, ValueError) as error:
        raise ConfigError(f"queries.list: {error}") from error


def _versions(dumps: Sequence[str]) -> list[str]:
    try:
        return [version_of(dump) for dump in dumps]
    except OSError as error:
        raise ConfigError(f"queries.dumps: {error}") from error


@dataclass(frozen=True)
class WriteOwnList:
    settings: QuerySettings

    def __call__(self, shard: Shard, out: Path) -> dict[str, Tally]:
        from query_builder.own_list import build_list

        return build_list(shard.files["list"], out, self.settings)


@dataclass(frozen=True)
class CountPart:
    """Counts the words and bigrams of a part of a dump."""

    counting: Counting

    def __call__(self, shard: Shard, out: Path) -> dict[str, Tally]:
        from query_builder.part_counts import SUFFIX, write_counts

        write_counts(shard.values["part"], self.counting, str(out / f"{shard.name}{SUFFIX}"))
        return {}  # the list's shard accounts for the pages


@dataclass(frozen=True)
class BuildQueries:
    """Makes the list of what was counted."""

    settings: QuerySettings
    partitions: int
    beam_options: tuple[str, ...]

    def __call__(self, shard: Shard, out: Path) -> dict[str, Tally]:
        from query_builder.build import build_from_counts

        return build_from_counts(
            shard.files["counts"],
            self.partitions,
            out,
            self.settings,
            self.beam_options,
            views=shard.files["views"],
            synsets=shard.files["synsets"],
        )


def named_files(patterns: Sequence[str], key: str) -> list[Path]:
    """The files that a setting names. Raises ConfigError, naming the key, where there is none."""
    try:
        return find_files(patterns)
    except FileNotFoundError as error:
        raise ConfigError(f"{key}: {error}") from error
