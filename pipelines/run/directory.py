"""A run: its configuration, its directory, its lock and its record, ``run.json``."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from pipelines.run import clock
from pipelines.run.attempts import check_sources, hash_once
from pipelines.run.config import Config, digest
from pipelines.run.lock import is_changing_record, lock_folder, open_folder
from pipelines.run.receipts import Receipts, RowCounts, Sha256, first_problem
from pipelines.run.rewrite import finish_rewrite
from pipelines.run.totals import StageTotals
from workers.base.copies import bring, copy_of
from workers.base.credentials import shown_settings
from workers.base.settings import printable
from workers.base.storage import remove_leftovers, write_json

log = logging.getLogger(__name__)

VERSION = "0.1.0"
RECORD = "run.json"
HISTORY = "logs/history.jsonl"


@dataclass(frozen=True)
class Run:
    """A run's configuration and directory, with a folder for each stage."""

    config: Config
    directory: Path
    #: Reasons for which an image is asked for again now, whatever was decided of it.
    retry: frozenset[str] = frozenset()
    #: Whether images may be discarded that were made with other settings.
    refetch: bool = False
    #: Whether finished shards may be discarded, however much work they were.
    discard: bool = False
    #: What is decided by the time is decided by this, once for a command. Seconds since 1970.
    started: float = field(default_factory=lambda: clock.now())
    #: The option that names its directory.
    option: ClassVar[str] = "--run-dir"

    @classmethod
    def open(cls, config: Config, directory: Path | str) -> Self:
        """Open a run's directory, or that of a bucket's URL, new or with what was done before.

        Raises ConfigError for a bucket that cannot be reached.
        """
        return cls(config, open_folder(cls.option, directory))

    @property
    def home(self) -> Path:
        """Where its lock, its record and its logs are."""
        return self.directory

    @cached_property
    def record(self) -> dict[str, Any]:
        """What ``run.json`` holds: the resolved configuration and its hash, the code's version,
        the hashes of the input files, the seed, what `auto` was decided to be, and the counts of
        every stage.

        It is read once, and once more when the run is locked. Empty where there is none, and where
        there is one that cannot be read, which is said.
        """
        return read_record(self.home / RECORD)

    def receipts(self, stage: str) -> Receipts:
        return Receipts(self.directory / stage)

    def outputs(self, stage: str) -> list[Path]:
        """The shards of a stage, sorted by name; side tables are none."""
        receipts = self.receipts(stage)
        return [file for file in receipts.outputs() if file.parent == receipts.folder]

    def check_outputs(self, *stages: str, drop: bool) -> None:
        """Raise DamagedError, as before the work on a shard, where an output is not as it was."""
        if self.config.verify_inputs:
            sources = [source for stage in stages for source in self.receipts(stage).sources()]
            bring(source.path for source in sources)
            check_sources(sources, drop=drop)

    def resolve(self, text: str) -> str:
        """A setting's text with ``{run_dir}`` filled in."""
        return text.replace("{run_dir}", str(self.directory))

    def identify_input(self, stage: str, path: Path) -> dict[str, Any]:
        """The sha256, size and time of an input file of a stage.

        It is read again only when its size or time differ from those on record: a finished run
        with a dump of 20 GB is looked over in seconds, not in a minute.
        """
        status = path.stat()
        stamp = {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns}
        known = self.record.get("inputs", {}).get(stage, {}).get(printable(path), {})
        if stamp.items() <= known.items():
            return dict(known)
        return {"sha256": hash_once(path), **stamp}

    def note_inputs(self, stage: str, inputs: dict[str, Any]) -> None:
        """Record the input files that a stage's plan has read."""
        self.record.setdefault("inputs", {})[stage] = inputs

    def decision(self, key: str) -> str | None:
        """What a setting that leaves something open was decided to be, if it was."""
        decisions: dict[str, str] = self.record.get("decisions", {})
        return decisions.get(key)

    def note_decision(self, key: str, value: str) -> None:
        """Record a decision at once: a run that is killed goes on with it."""
        if self.decision(key) != value:
            self.record.setdefault("decisions", {})[key] = value
            self.save()

    def is_recorded(self) -> bool:
        """Whether the record is of this very configuration."""
        return self.record.get("configuration_hash") == self.configuration_hash

    @property
    def configuration_hash(self) -> str:
        return digest(self._configuration())

    def _configuration(self) -> dict[str, Any]:
        """The configuration as it may be stored."""
        configuration: dict[str, Any] = shown_settings(self.config.model_dump(mode="json"))
        return configuration

    def save(self) -> None:
        """Write ``run.json``."""
        head = {
            "name": self.config.name,
            "seed": self.config.seed,
            "configuration_hash": self.configuration_hash,
            "code": code_in_use(),
            "history": HISTORY,
        }
        tail = {
            "decisions": self.record.get("decisions", {}),
            "inputs": self.record.get("inputs", {}),
            "stages": self.record.get("stages", {}),
            "configuration": self._configuration(),
        }
        self.record.clear()
        self.record.update(head | tail)
        write_json(self.record, self.home / RECORD)
        self.send_records()

    def send_records(self) -> None:
        """Send what was written beside the shards, where the run lives in a bucket."""
        if (copy := copy_of(self.home)) and copy.is_owner:
            copy.send_changed(is_changing_record)

    def note_stage(self, stage: str, totals: StageTotals, **figures: Any) -> None:
        """Record a stage's totals; ``figures`` are added where given (memory, seconds)."""
        stages = self.record.setdefault("stages", {})
        # In the order in which they are read, so that a record that says the same is the same.
        stages[stage] = {**stages.get(stage, {}), **figures, **asdict(totals)}

    def made_with(self, stage: str) -> dict[str, Any] | None:
        """The settings that the shards of a stage were made with; None where that is not known."""
        known: dict[str, Any] | None = self.record.get("stages", {}).get(stage, {}).get("made_with")
        return known

    def note_made_with(self, stage: str, settings: dict[str, Any]) -> None:
        """Record the settings that the shards of a complete stage were made with, if it has any."""
        if known := self.record.get("stages", {}).get(stage):
            known["made_with"] = settings

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run for this process. Raises LockedError when another one holds it."""
        with lock_folder(self.home, f"choose another {self.option}"):
            vars(self).pop("record", None)  # another process may have written it since
            remove_leftovers(self.home)
            finish_rewrite(self.directory)
            yield


class _InputFile(BaseModel):
    model_config = ConfigDict(strict=True)

    sha256: Sha256
    bytes: int
    mtime_ns: int


class _StageRecord(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")

    wall_seconds: float = 0.0
    peak_bytes: int = 0
    shards: int = 0  # from here on as StageTotals has them: read and written anew, it is the same
    seconds: float = 0.0
    bytes: int = 0
    rows: RowCounts = {}


class _Record(BaseModel):
    """What is read out of a record; the rest is for people, and written anew each time."""

    model_config = ConfigDict(strict=True, extra="allow")

    decisions: dict[str, str] = {}
    inputs: dict[str, dict[str, _InputFile]] = {}
    stages: dict[str, _StageRecord] = {}


def read_record(path: Path) -> dict[str, Any]:
    """``load_record``; empty, with a warning, where it cannot be read.

    Nothing is lost by that: what has been done stands in the receipts.
    """
    try:
        return load_record(path)
    except ValueError as error:
        log.warning("%s cannot be read (%s); it is made again", path, error)
        return {}


def load_record(path: Path) -> dict[str, Any]:
    """A run's record as plain data, empty if there is none. Raises ValueError if it is damaged."""
    try:
        return _Record.model_validate_json(path.read_bytes()).model_dump(exclude_unset=True)
    except FileNotFoundError:
        return {}
    except (IsADirectoryError, ValidationError) as error:
        raise ValueError(first_problem(error)) from error


def code_in_use() -> dict[str, str | None]:
    """The version, and the commit that the code was checked out at; None outside a checkout."""
    return {"version": VERSION, "commit": _commit()}


def _commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return result.stdout.strip()
