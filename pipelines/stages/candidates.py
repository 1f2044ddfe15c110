"""Stage ``candidates``: inputs to captions that match a query, a group of inputs a shard."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path

from pipelines.run.config import ConfigError, digest
from pipelines.run.engines import on_text_engine
from pipelines.run.health import largest, rows_of
from pipelines.run.history import Sources
from pipelines.run.opt_outs import identity_of, opt_out_files
from pipelines.run.receipts import Outcome, Receipt, Shard
from pipelines.stages.base import Stage
from workers.base.copies import bring
from workers.base.credentials import shown
from workers.base.file_systems import Stored, is_remote, stored
from workers.base.preferences import RULES, RULES_OF_HOSTS
from workers.base.tally import Tally
from workers.extract.groups import Sized, group_inputs, group_names
from workers.extract.inputs import LISTS, Input, InputKind, find_inputs
from workers.fetch.local_images import Folder
from workers.pairs.captions import CaptionCleaner
from workers.pairs.settings import CaptionSettings


class Candidates(Stage):
    """Follows its inputs, group by group: balancing, which needs all pairs, comes after it."""

    name = "candidates"
    reads = ("queries", "pages")

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
        return {name: version for name, version in RULES.items() if name not in RULES_OF_HOSTS}

    @property
    def agents(self) -> tuple[str, ...]:
        return self.run.config.pages.agents

    def inputs_to_read(self) -> list[Input]:
        """The crawl's pages and what the configuration names beside them."""
        pages = self.run.outputs("pages")
        bring(pages)
        found = [*find_inputs(map(str, pages)), *self.given]
        return sorted(found, key=lambda source: (source.url, source.files))

    @cached_property
    def groups(self) -> dict[str, tuple[Input, ...]]:
        """What there is to read, by the names of shards. Raises OSError for what is not there."""
        sized = [
            Sized(source, sum(self._stored(path).size for path in source.paths()))
            for source in self.inputs_to_read()
        ]
        groups = list(group_inputs(sized, self.run.config.text.bytes_per_shard))
        return dict(zip(group_names(groups), groups, strict=True))

    @cached_property
    def _stored(self) -> Callable[[str], Stored]:
        """What a store says of a file: each is asked for once."""
        return cache(stored)

    def plan(self) -> list[Shard]:
        config = self.run.config
        # Without one of them its candidates go.
        self.settings_of_shards["inputs"] = sorted(config.pairs.inputs)
        identity = config.pairs.captions.identity() | {
            "lower_case": self.lower_case,
            **identity_of(self.run, lists=False),
        }
        try:
            return [self._shard(name, group, identity) for name, group in self.groups.items()]
        except OSError as error:
            raise ConfigError(f"pairs.inputs: {error}") from error

    def _shard(self, name: str, group: Sequence[Input], identity: Mapping[str, object]) -> Shard:
        files = [Path(source.url) for source in group if is_local_file(source)]
        named = {"queries": self.run.outputs("queries"), "inputs": files}
        versions = [version for source in group for version in self._versions(source)]
        reads_pages = any(source.kind not in LISTS for source in group)
        heard = {"rules": self.rules, "agents": self.agents} if reads_pages else {}
        shard = self.shard(name, {**identity, **heard}, named, {"versions": versions})
        # The key is the same however a URL is signed; the work needs the signature.
        shard = replace(shard, values={"inputs": tuple(group)})
        # Lists say nothing of the pages.
        return shard if reads_pages else replace(shard, rules={}, agents=())

    def _versions(self, source: Input) -> list[str]:
        """What tells that an input has changed which is not one file of this machine.

        A folder of pages and what lies on other machines is not read for it: size and time count.
        A URL that is signed anew is the same file.
        """
        what = f"{source.kind} {source.name} {source.columns} {source.root_url}"
        what += f" {source.row_groups} {source.span}"
        if source.folder:  # the URLs of its images count from there
            what += f" {source.folder.root}/{source.folder.inside}"
        if is_local_file(source):
            return [what]
        known = [[shown(path), self._stored(path).version] for path in source.paths()]
        return [what, digest(known)]

    def called_before(self, shard: Shard, made: Sequence[Shard]) -> str:
        """A group has another name where one of its inputs is gone, a host that was taken down."""
        there = {source.name for source in self.inputs_to_read()}
        names = [source.name for source in shard.values["inputs"]]
        for other in made:
            if [one.name for one in other.values["inputs"] if one.name in there] == names:
                return other.name
        return shard.name

    def sources(self, made: Sequence[Receipt]) -> Sources:
        kept = rows_of(self.tables_of(made), "source", r"^(?P<source>.*)@[^@]*$")
        read = (self.groups[receipt.shard] for receipt in made)
        names = {source.name for group in read for source in group}
        return largest({name: kept[name] for name in names}, {})

    def execute(self, shards: Sequence[Shard]) -> Iterator[Outcome]:
        config = self.run.config
        work = FindCandidates(
            config.pairs.captions,
            self.lower_case,
            config.pages.agents,
            opt_out_files(self.run).taken_down,
        )
        return on_text_engine(work, shards, self.folder, config)


def _in_roots(source: Input, roots: Mapping[str, str]) -> Input:
    """An input with the place of its local images, if it may have any."""
    if is_remote(source.url) or source.kind not in (*LISTS, InputKind.HTML):
        return source
    folder = source.url if source.files else str(Path(source.url).parent)
    return replace(source, folder=Folder.of(folder, roots))


def is_local_file(source: Input) -> bool:
    """Whether an input is one file of this machine, whose content can be hashed."""
    return not source.files and "://" not in source.url


@dataclass(frozen=True)
class FindCandidates:
    captions: CaptionSettings
    lower_case: bool | None
    agents: tuple[str, ...]
    taken_down: Path

    def __call__(self, shard: Shard, out: Path) -> dict[str, Tally]:
        from workers.pairs.candidates import find_candidates
        from workers.pairs.reader import PairReader

        reader = PairReader(
            None if self.lower_case is None else shard.files["queries"],
            self.captions,
            lower_case=bool(self.lower_case),
            agents=self.agents,
            taken_down=self.taken_down,
        )
        return find_candidates(shard.values["inputs"], reader, out, shard.name)
