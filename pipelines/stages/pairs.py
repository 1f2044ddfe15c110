"""Stage ``pairs``: pages and lists to captioned URLs, matched and balanced, on Beam."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from pipelines.run.config import ConfigError, digest
from pipelines.run.engines import in_process
from pipelines.run.health import largest, rows_of
from pipelines.run.history import Sources
from pipelines.run.opt_outs import identity_of, opt_out_files
from pipelines.run.receipts import Outcome, Receipt, Shard
from pipelines.stages.base import Stage
from workers.base.copies import bring
from workers.base.credentials import shown
from workers.base.file_systems import is_remote, version_of
from workers.base.preferences import RULES, RULES_OF_HOSTS
from workers.base.tally import Tally
from workers.extract.inputs import LISTS, Input, InputKind, find_inputs
from workers.fetch.local_images import Folder
from workers.pairs.captions import CaptionCleaner
from workers.pairs.settings import PairSettings


class Pairs(Stage):
    """One shard of work, several files out: the cap of a query needs all its pairs."""

    name = "pairs"
    reads = ("queries", "pages")
    version = 6

    def check(self) -> None:
        if not self.given and not self.run.config.pages.seeds:
            what = "name what you have, or pages.seeds to crawl"
            raise ConfigError(f"pairs.inputs: there is nothing to read; {what}")
        try:
            CaptionCleaner(self.run.config.pairs.captions)
        except ValueError as error:
            raise ConfigError(f"pairs.captions.language.{error}") from error

    @cached_property
    def given(self) -> list[Input]:
        """The inputs that the configuration names. Raises ConfigError."""
        settings = self.run.config.pairs
        try:
            found = find_inputs(settings.inputs, settings.list_columns, settings.root_url or "")
        except (OSError, ValueError) as error:
            raise ConfigError(f"pairs.inputs: {error}") from error

        roots = self.run.config.images.local_roots
        return [_in_roots(source, roots) for source in found] if roots else found

    @property
    def lower_case(self) -> bool | None:
        """Whether the queries are in lower case; None where captions are matched with nothing."""
        queries = self.run.config.queries
        return None if queries == "none" else queries.lower_case

    @property
    def rules(self) -> Mapping[str, str]:
        reads_pages = any(source.kind not in LISTS for source in self.given)
        if not (self.run.config.pages.seeds or reads_pages):
            return {}  # lists say nothing of the pages
        return {name: version for name, version in RULES.items() if name not in RULES_OF_HOSTS}

    @property
    def agents(self) -> tuple[str, ...]:
        return self.run.config.pages.agents if self.rules else ()

    def inputs_to_read(self) -> list[Input]:
        """The crawl's pages and what the configuration names beside them."""
        pages = self.run.outputs("pages")
        bring(pages)
        return [*find_inputs(map(str, pages)), *self.given]

    def plan(self) -> list[Shard]:
        config = self.run.config
        identity = config.pairs.identity() | {
            "seed": config.seed,
            "lower_case": self.lower_case,
            "agents": config.pages.agents,
            **({"rules": self.rules} if self.rules else {}),
            **identity_of(self.run, lists=False),
        }
        del identity["inputs"]  # their content counts, and stands in the key already
        inputs = self.inputs_to_read()
        files = [Path(source.url) for source in inputs if is_local_file(source)]
        try:
            versions = [version for source in inputs for version in _versions(source)]
        except OSError as error:
            raise ConfigError(f"pairs.inputs: {error}") from error
        named = {"queries": self.run.outputs("queries"), "inputs": files}
        shard = self.shard("all", identity, named, {"versions": versions})
        return [shard] if inputs else []

    def sources(self, made: Sequence[Receipt]) -> Sources:
        files = [file for file in self.tables_of(made) if file.parent == self.folder]
        kept = rows_of(files, "source", r"^(?P<source>.*)@[^@]*$")
        return largest({source.name: kept[source.name] for source in self.inputs_to_read()}, {})

    def execute(self, shards: Sequence[Shard]) -> Iterator[Outcome]:
        config = self.run.config
        work = BuildPairs(
            tuple(self.inputs_to_read()),
            None if self.lower_case is None else tuple(self.run.outputs("queries")),
            config.pairs,
            config.seed,
            config.beam.options,
            bool(self.lower_case),
            config.pages.agents,
            opt_out_files(self.run).taken_down,
        )
        return in_process(work, shards, self.folder)


def _in_roots(source: Input, roots: Mapping[str, str]) -> Input:
    """An input with the place of its local images, if it may have any."""
    if is_remote(source.url) or source.kind not in (*LISTS, InputKind.HTML):
        return source
    folder = source.url if source.files else str(Path(source.url).parent)
    return replace(source, folder=Folder.of(folder, roots))


def is_local_file(source: Input) -> bool:
    """Whether an input is one file of this machine, whose content can be hashed."""
    return not source.files and "://" not in source.url


def _versions(source: Input) -> list[str]:
    """What tells that an input has changed which is not one file of this machine.

    A folder of pages and what lies on other machines is not read for it: size and time count.
    A URL that is signed anew is the same file.
    """
    what = f"{source.kind} {source.name} {source.columns} {source.root_url}"
    if source.folder:  # the URLs of its images count from there
        what += f" {source.folder.root}/{source.folder.inside}"
    if is_local_file(source):
        return [what]
    return [what, digest([[shown(path), version_of(path)] for path in source.paths()])]


@dataclass(frozen=True)
class BuildPairs:
    inputs: tuple[Input, ...]
    queries: tuple[Path, ...] | None
    settings: PairSettings
    seed: int
    beam_options: tuple[str, ...]
    lower_case: bool
    agents: tuple[str, ...]
    taken_down: Path

    def __call__(self, shard: Shard, out: Path) -> dict[str, Tally]:  # noqa: ARG002
        from workers.pairs.pipeline import build_pairs

        return build_pairs(
            self.inputs,
            self.queries,
            out,
            self.settings,
            self.seed,
            self.beam_options,
            lower_case=self.lower_case,
            agents=self.agents,
            taken_down=self.taken_down,
        )
