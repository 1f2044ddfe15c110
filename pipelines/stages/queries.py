"""Stage ``queries``: the Wikipedia dump, page views and WordNet to the query list, on Beam."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipelines.run.config import ConfigError
from pipelines.run.engines import in_process
from pipelines.run.receipts import Outcome, Shard
from pipelines.stages.base import Stage
from query_builder.inputs import Inputs, check_dumps, find_inputs
from query_builder.settings import QuerySettings
from workers.base.credentials import shown
from workers.base.file_systems import find_files, is_remote, version_of
from workers.base.tally import Tally


class Queries(Stage):
    """One shard: every term's count needs all pages."""

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
        assert self.settings is not None  # else there are no shards
        work = BuildQueries(self.settings, self.run.config.beam.options)
        return in_process(work, shards, self.folder)


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
class BuildQueries:
    settings: QuerySettings
    beam_options: tuple[str, ...]

    def __call__(self, shard: Shard, out: Path) -> dict[str, Tally]:
        from query_builder.build import build_queries

        if self.settings.list:
            from query_builder.own_list import build_list

            return build_list(shard.files["list"], out, self.settings)
        return build_queries(
            [*shard.files["dumps"], *shard.values["remote_dumps"]],
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
