"""The contract of a stage: plan the shards, then do those that have no valid receipt."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from os.path import normpath
from pathlib import Path
from typing import Any, ClassVar

from pipelines.run.config import digest
from pipelines.run.directory import Run
from pipelines.run.history import Sources
from pipelines.run.outages import Tolerance, is_worth_another_try
from pipelines.run.receipts import Outcome, Receipt, Shard, Source
from workers.base.copies import bring
from workers.base.settings import printable

NOTHING: Mapping[str, Any] = {}


class Stage(ABC):
    """One stage of a run. Its name is its folder and its section of the configuration.

    A new stage is a file beside this one with a subclass, added to ``stages.STAGES``.
    """

    name: ClassVar[str]
    #: The stages whose folders it reads; they must be complete before it is planned.
    reads: ClassVar[tuple[str, ...]] = ()
    #: When rows that could not be reached are tried again.
    tolerance: Tolerance = Tolerance()
    #: Raise it when the code gives other bytes for the same inputs and settings.
    version: ClassVar[int] = 1

    def __init__(self, run: Run) -> None:
        self.run = run
        self.receipts = run.receipts(self.name)
        self.folder = self.receipts.folder
        #: The files from outside the run that its plan covers, for the run's record.
        self.inputs: dict[str, Any] = {}
        #: The settings that its shards depend on, once it was planned.
        self.settings_of_shards: dict[str, Any] = {}

    @property
    def title(self) -> str:
        """What messages call it."""
        return self.name

    @property
    def skipped(self) -> str:
        """Why the stage has nothing to do with this configuration; "" where it has."""
        return ""

    @property
    def may_be_empty(self) -> bool:
        """Whether it is no failure to have kept nothing."""
        return False

    @property
    def rules(self) -> Mapping[str, str]:
        """Which of the web's rules its work applies, with their versions, for the receipts."""
        return NOTHING

    @property
    def agents(self) -> tuple[str, ...]:
        """The product tokens of the crawlers whose rules these are, ours first."""
        return ()

    def check(self) -> None:  # noqa: B027 - most stages have nothing to check
        """Raise ConfigError for what can be seen to be wrong before any stage has started."""

    def doubts(self) -> Iterator[str]:
        """What of the configuration is no mistake, and yet may not be what was meant."""
        yield from ()

    def prepare(self) -> None:  # noqa: B027 - most stages have nothing to decide
        """Decide what the configuration leaves open, once, when the stages it reads are complete.

        Called before a plan that is worked off, never for one that is only looked at.
        """

    @abstractmethod
    def plan(self) -> list[Shard]:
        """All shards of the stage, done or not."""

    def is_due(self, receipt: Receipt) -> bool:  # noqa: ARG002 - most stages look inwards
        """Whether a shard is to be done anew since what it was made of may have changed by now."""
        return False

    def rewritten(self) -> list[Shard]:
        """What the stage's receipts must have the keys of once what it reads was rewritten."""
        return self.plan()

    def called_before(self, shard: Shard, made: Sequence[Shard]) -> str:  # noqa: ARG002
        """What a shard was called before what the stage reads was rewritten.

        Args:
            made: the shards that were done then.
        """
        return shard.name

    def again(
        self, shards: Sequence[Shard], receipts: Sequence[Receipt], *, missed: bool
    ) -> list[Shard]:
        """What is worth doing once more though the stage is complete without it.

        Args:
            shards, receipts: what is done, shard for shard.
            missed: the gate of the stage is.
        """
        again = []
        for done, receipt in zip(shards, receipts, strict=True):
            # What the last attempt has left may be read, so it is compared, too.
            shard = replace(done, sources=(*done.sources, *self.receipts.sources_of(receipt)))
            if self.is_due(receipt):
                again.append(replace(shard, due_since=receipt.ended))
            elif is_worth_another_try(receipt, self.tolerance, missed=missed):
                again.append(replace(shard, attempt=receipt.attempt + 1))
        return again

    def discard_others(self, shards: Sequence[Shard]) -> None:
        """Remove what was made of other shards than these, before work starts."""
        self.receipts.keep_only(shards)

    @abstractmethod
    def execute(self, shards: Sequence[Shard]) -> Iterator[Outcome]:
        """Do the shards and give an outcome for each, as they end."""

    def done(self) -> list[Receipt]:
        """Those of its shards that are done, once ``discard_others`` was called."""
        return self.receipts.all()

    def sources(self, made: Sequence[Receipt]) -> Sources:  # noqa: ARG002
        """Rows kept and failed by host or file, where a dried up one should be noticed.

        Args:
            made: the receipts of the shards that a command has done.
        """
        return {}

    def tables_of(self, made: Sequence[Receipt]) -> list[Path]:
        """The Parquet files of receipts, shards and side tables."""
        files = [output.file for receipt in made for output in receipt.outputs]
        paths = [Path(normpath(self.folder / f)) for f in files if f.endswith(".parquet")]
        bring(paths)
        return paths

    def tidy(self) -> None:  # noqa: B027 - most stages leave nothing
        """Remove what is of no use any more, called whenever all shards have receipts."""

    def shard(
        self,
        name: str,
        settings: Mapping[str, Any],
        files: Mapping[str, Sequence[Path]] = NOTHING,
        values: Mapping[str, Any] = NOTHING,
    ) -> Shard:
        """A shard whose key covers what its output depends on.

        Args:
            settings: those that the output depends on.
            files: what it reads, by what it is; the content counts, not the files' names.
            values: other input, plain data.
        """
        self.settings_of_shards = {**self.settings_of_shards, **settings}
        sources = {name: tuple(map(self._source, paths)) for name, paths in files.items()}
        key = digest(
            {
                "stage": self.name,
                "version": self.version,
                "settings": settings,
                "files": {
                    name: [source.content or source.sha256 for source in some]
                    for name, some in sources.items()
                },
                "values": values,
            }
        )
        return Shard(
            name,
            key,
            {name: tuple(paths) for name, paths in files.items()},
            values,
            tuple(source for some in sources.values() for source in some),
            self.run.config.verify_inputs,
            rules=self.rules,
            agents=self.agents,
        )

    def _source(self, path: Path) -> Source:
        """A file with its sha256: of another stage's output, as its receipt says it."""
        if source := self._known.get(path):
            return source
        known = self.inputs[printable(path)] = self.run.identify_input(self.name, path)
        return Source(path, str(known["sha256"]))

    @cached_property
    def _known(self) -> dict[Path, Source]:
        return {
            source.path: source
            for stage in self.reads
            for source in self.run.receipts(stage).sources()
        }
