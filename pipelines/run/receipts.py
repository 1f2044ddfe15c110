"""Shards and their receipts: what a stage has done, so that nothing is done twice or lost.

A shard is one piece of a stage's work. Its receipt names the hash of everything its output
depends on, its output files and the tally of its rows. The receipt is written last: a shard
with a receipt is whole, and one without is done again from the start.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
)

from pipelines.run.config import ConfigError
from workers.base.copies import bring, copy_of, discard, listed, publish
from workers.base.storage import make_way, remove_leftovers, write_json, write_text

log = logging.getLogger(__name__)


class Side(StrEnum):
    """What a stage has beside its shards: `_receipts/images/00000.json` is of `images/`.

    Never inside the shards' folder: there polars refuses what is not Parquet, and duckdb and
    datasets take for a shard what is.
    """

    RECEIPTS = "_receipts"
    REJECTED = "_rejected"
    ERRORS = "_errors"
    SCRATCH = "_work"
    TABLES = "_tables"
    TRAINING = "_training"
    #: The names of each shard's files, written before they appear: whose they are is known without
    #: a receipt, too.
    OUTPUTS = "_outputs"

    def of(self, folder: Path) -> Path:
        """The folder for this beside the folder of a stage's shards."""
        return folder.parent / self / folder.name


#: What any tool that is given a folder of shards reads in it.
DATA_ENDINGS = (".parquet", ".warc", ".warc.gz")

#: The counts of one kind of row: in, kept, rejected and failed by reason.
Counts = dict[str, Any]


class Check(StrEnum):
    """When a file that is read is compared with what is known of it."""

    EACH_TIME = "each_time"  # before each piece of work
    ONCE = "once"  # by a process, for all its work: many shards read some of it
    AFTER_FAILURE = "after_failure"  # when the work has failed: little of it is read


@dataclass(frozen=True)
class Source:
    """A file that is read, and what is known of it."""

    path: Path
    sha256: str
    receipt: Path | None = None  # that names it; none: it comes from outside the run
    content: str | None = None  # stands for it in a key; none: the sha256
    check: Check = Check.EACH_TIME  # when it is compared with its hash


#: Files by what they are to a piece of work: `{"pairs": (PATH,)}`.
Files = Mapping[str, tuple[Path, ...]]


#: Rows that a shard tries once more: in which shard they failed last, for which reasons.
Again = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True)
class Shard:
    """One piece of a stage's work."""

    name: str  # names its receipt and, where there is one, its output file
    key: str  # hash of the inputs' content, of the settings and of the code's version
    files: Files = field(default_factory=dict)  # that it reads, by what they are to it
    values: Mapping[str, Any] = field(default_factory=dict)  # other input, such as seeds
    sources: tuple[Source, ...] = ()  # the files again, where their content was hashed
    verify: bool = True  # whether to compare them with their hashes before they are read
    attempt: int = 1  # a receipt of an earlier one is valid, and not what is asked for
    due_since: float | None = None  # it goes on from what its receipt that ended then tells of
    made_of: str | None = None  # the one file from outside that gives the shard its name
    again: Again = field(default_factory=dict)
    rules: Mapping[str, str] = field(default_factory=dict)  # as in Receipt
    agents: tuple[str, ...] = ()

    def file(self, name: str) -> Path:
        """The file of that name, where there is one alone."""
        (path,) = self.files[name]
        return path


Number = Annotated[int, Field(ge=0)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_EXACT = ConfigDict(strict=True, extra="forbid")


class _Counts(BaseModel):
    model_config = _EXACT

    rows_in: Number = Field(alias="in")
    kept: Number
    rejected: dict[str, Number]
    failed: dict[str, Number]


def _balanced(counts: Counts) -> Counts:
    tally = _Counts.model_validate(counts)
    dropped = sum(tally.rejected.values()) + sum(tally.failed.values())
    if tally.rows_in != tally.kept + dropped:
        raise ValueError("its tally does not add up")
    return counts


#: By kind of row: pages, pairs, ...
RowCounts = Mapping[str, Annotated[Counts, AfterValidator(_balanced)]]


@dataclass(frozen=True)
class Output:
    """One file that a shard's work has written."""

    __pydantic_config__ = _EXACT

    file: str  # its path from the folder of the shards
    bytes: Number
    sha256: Sha256
    rows: Number | None  # of a Parquet file
    content: Sha256 | None = None  # of a WARC without its dates, which no reader depends on


@dataclass(frozen=True)
class Receipt:
    """Proof that a shard is whole, with the tally of its rows."""

    __pydantic_config__ = _EXACT

    shard: str
    key: str
    rows: RowCounts
    outputs: tuple[Output, ...]
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    ended: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0  # seconds since 1970
    attempt: Annotated[int, Field(ge=1)] = 1  # how often the shard has been tried
    spoiled: bool = False  # a service that it needed was lost meanwhile: that attempt tells little
    made_of: str | None = None  # the file from outside, where there is one of the shard's own
    again: Mapping[str, Mapping[str, Number]] = field(default_factory=dict)
    lease: int | None = None  # of a bucket: under which it was written
    #: Of the web's rules (``workers.base.preferences``), by name, the versions that were applied.
    rules: Mapping[str, str] = field(default_factory=dict)
    agents: tuple[str, ...] = ()  # the crawlers for whom they were heard, beside everybody


_RECEIPT = TypeAdapter(Receipt)
_NAMES = TypeAdapter(list[str])


def first_problem(error: Exception) -> str:
    """What is wrong with a file of JSON, in one line."""
    if not isinstance(error, ValidationError):
        return getattr(error, "strerror", None) or str(error)
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place}: {first['msg']}" if place else first["msg"]


@dataclass(frozen=True)
class Outcome:
    """How the work on a shard ended: with a receipt, or with an error."""

    shard: str
    receipt: Receipt | None = None
    error: str | None = None
    mend_first: bool = False  # no rerun helps before what the error names is mended

    def failure(self) -> str:
        """What a log's line says of an error: all but its trace, which is in the run's folder."""
        error = self.error or ""
        advice = "a rerun tries it again"
        if self.mend_first:
            advice = "once it is mended, a rerun goes on"
        head, trace, tail = error.partition("Traceback (most recent call last):")
        lines = [head, tail.strip().rpartition("\n")[2] if trace else ""]
        reason = "; ".join(line.strip() for line in lines if line.strip())
        return f"shard {self.shard} failed; {advice}: {reason}"


@dataclass(frozen=True)
class Receipts:
    """The receipts of a stage's folder."""

    folder: Path

    def get(self, name: str) -> Receipt | None:
        """The receipt of a shard. One that cannot be read, or is another's, is none."""
        receipt = self.read(self.record(Side.RECEIPTS, name))
        return receipt if receipt and receipt.shard == name else None

    def read(self, path: Path) -> Receipt | None:
        """The receipt in a file; none where there is none that names files of this folder alone."""
        try:
            return self.parsed(path.read_bytes())
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return None

    def parsed(self, content: bytes) -> Receipt | None:
        """The receipt that a file holds; none where it is none of this folder's."""
        try:
            receipt = _RECEIPT.validate_json(content)
        except ValidationError:
            return None
        return receipt if all(map(self._is_inside, files_of(receipt))) else None

    def record(self, side: Side, name: str) -> Path:
        """The file of a side that is of a shard."""
        return side.of(self.folder) / f"{name}{'.txt' if side is Side.ERRORS else '.json'}"

    def _names(self, side: Side) -> list[str]:
        return sorted(path.stem for path in side.of(self.folder).glob("[!.]*.json"))

    def _is_inside(self, file: str) -> bool:
        """Whether a file's name leads into the folder of shards or of side tables."""
        if "/" not in file:
            return file not in ("", ".", "..") and "\0" not in file
        path = Path(os.path.normpath(self.folder / file))
        return path.parent in (self.folder, Side.TABLES.of(self.folder)) and "\0" not in file

    def all(self) -> list[Receipt]:
        """All receipts, by the name of their shards."""
        return self.others(())

    def others(self, names: Collection[str]) -> list[Receipt]:
        """The receipts of all other shards than these."""
        others = [name for name in self._names(Side.RECEIPTS) if name not in names]
        return [receipt for name in others if (receipt := self.get(name))]

    def unreadable(self) -> list[str]:
        """The shards whose receipts cannot be read."""
        return [name for name in self._names(Side.RECEIPTS) if not self.get(name)]

    def begun(self) -> list[str]:
        """The shards that were tried and have left something: files or an error."""
        errors = Side.ERRORS.of(self.folder).glob("[!.]*.txt")
        return sorted({*self._names(Side.OUTPUTS), *(path.stem for path in errors)})

    def drop(self, name: str) -> None:
        """Remove a shard's receipt: its files stay until the next run makes it again."""
        make_way(self.record(Side.RECEIPTS, name))
        discard(self.record(Side.RECEIPTS, name))

    def rename(self, name: str, new: str) -> None:
        """Call a shard otherwise; its files keep their names. Its receipt is to be written anew."""
        if new == name:
            return
        for side in (Side.REJECTED, Side.ERRORS, Side.OUTPUTS):
            path = self.record(side, name)
            if path.is_file():
                write_text(path.read_text(encoding="utf-8"), self.record(side, new))
                discard(path)
        self.drop(name)

    def valid(self, shard: Shard) -> Receipt | None:
        """The shard's receipt if it is of the same key and its outputs are there in full."""
        receipt = self.get(shard.name)
        return receipt if receipt and self.is_valid(receipt, shard.key) else None

    def is_valid(self, receipt: Receipt, key: str) -> bool:
        """Whether a receipt is of this key and its outputs are there in full."""
        return receipt.key == key and all(map(self._is_whole, receipt.outputs))

    def is_done(self, shard: Shard) -> bool:
        """Whether its receipt is valid, and of the attempt that is asked for or a later one."""
        receipt = self.valid(shard)
        return receipt is not None and is_of(receipt, shard)

    def _is_whole(self, output: Output) -> bool:
        path = self.folder / output.file
        if path.is_file():
            return path.stat().st_size == output.bytes
        copy = copy_of(path)
        return copy is not None and copy.sizes.get(copy.name_of(path)) == output.bytes

    def outputs(self) -> list[Path]:
        """The output files of all receipts, sorted."""
        files = (output.file for receipt in self.all() for output in receipt.outputs)
        return [self.folder / file for file in sorted(files)]

    def sources(self) -> list[Source]:
        """The output files of all receipts, to be read."""
        return [source for receipt in self.all() for source in self.sources_of(receipt)]

    def sources_of(self, receipt: Receipt) -> list[Source]:
        """The output files of a receipt."""
        path = self.record(Side.RECEIPTS, receipt.shard)
        return [
            Source(self.folder / file.file, file.sha256, path, file.content)
            for file in receipt.outputs
        ]

    def announced(self, name: str) -> set[str]:
        """The files that attempts at a shard may have left here without a receipt."""
        try:
            files = _NAMES.validate_json(self.record(Side.OUTPUTS, name).read_bytes())
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError, ValidationError):
            return set()
        return set(filter(self._is_inside, files))

    def announce(self, name: str, files: Iterable[str]) -> None:
        """Say that these files are the shard's, before they are renamed into the folder."""
        write_json(sorted(files), self.record(Side.OUTPUTS, name))

    def keep(self, receipt: Receipt) -> None:
        """Write a receipt here alone: of a run in a bucket, somebody else sends it, or has."""
        write_json(asdict(receipt), self.record(Side.RECEIPTS, receipt.shard))

    def write(self, receipt: Receipt) -> None:
        self.keep(receipt)
        publish(self.record(Side.RECEIPTS, receipt.shard))

    def note(self, receipt: Receipt) -> None:
        """Know of a receipt that a worker has written, perhaps on another machine."""
        if copy := copy_of(self.folder):
            self.keep(receipt)
            bring([self.record(Side.REJECTED, receipt.shard)])
            for output in receipt.outputs:
                copy.sizes[copy.name_of(self.folder / output.file)] = output.bytes

    def spoil(self, receipt: Receipt) -> None:
        """Note that a service was lost while the shard was worked on."""
        self.write(replace(receipt, spoiled=True))

    def keep_only(self, shards: Iterable[Shard]) -> None:
        """Remove what the run has of other shards: their files, samples, errors and receipts.

        Called with the run locked, before work starts, so that a reader never meets output of an
        older configuration beside the new. What no receipt and no announcement names is not the
        run's, and stays. A receipt goes after its files: killed here, the next run goes on.
        """
        self._check_folders()
        valid = {shard.name for shard in shards}
        receipts = {name: self.get(name) for name in self._names(Side.RECEIPTS)}
        kept = {file for name in valid for file in files_of(receipts.get(name))}
        for name in sorted({*receipts, *self.begun()} - valid):
            receipt, path = receipts.get(name), self.record(Side.RECEIPTS, name)
            if receipt is None and path.exists():
                log.warning("%s cannot be read: it counts as none, its shard as not done", path)
            for file in (files_of(receipt) | self.announced(name)) - kept:
                if not (self.folder / file).is_dir():
                    discard(self.folder / file)
            for side in (Side.REJECTED, Side.ERRORS, Side.RECEIPTS, Side.OUTPUTS):
                make_way(self.record(side, name))
                discard(self.record(side, name))
        self.clear_scratch()
        if names := [path.name for path in self.foreign()]:
            log.warning("%s: not the run's, left alone: %s", self.folder, ", ".join(names))

    def foreign(self) -> list[Path]:
        """What stands among the shards and is not the run's, hidden names and folders aside."""
        paths = [path for path in listed(self.folder) if not path.name.startswith(".")]
        paths = [path for path in paths if not (path.name.startswith("_") and path.is_dir())]
        # Most files have the name of their shard: then not one receipt has to be read.
        names = {*self._names(Side.RECEIPTS), *self._names(Side.OUTPUTS)}
        if all(path.stem in names for path in paths):
            return []
        ours = {file for name in names for file in self.announced(name)}
        ours |= {file for receipt in self.all() for file in files_of(receipt)}
        # Another process may have removed some of its own in the meantime.
        still = listed(self.folder)
        return sorted(path for path in paths if path.name not in ours and path in still)

    def refuse_foreign_data(self) -> None:
        """Raise ConfigError where readers of the folder would take for data what is not the run's.

        That is the case for Parquet and WARC files, and in sub-folders too.
        """
        found = [
            file
            for path in self.foreign()
            for file in (path, *path.rglob("*"))
            if not file.is_dir() and file.name.lower().endswith(DATA_ENDINGS)
        ]
        if found:
            more = f" (and {len(found) - 1} more files)" if len(found) > 1 else ""
            raise ConfigError(
                f"{found[0]}{more} is not the run's, and readers of {self.folder.name}/ would take "
                "it for data: move it elsewhere, then give the same command again"
            )

    def _check_folders(self) -> None:
        """Raise ConfigError where a file stands in the place of a folder."""
        for folder in (self.folder, *(side.of(self.folder) for side in Side)):
            for path in (folder.parent, folder):
                if path.exists() and not path.is_dir():
                    raise ConfigError(f"{path}: a file stands where the run has a folder; move it")

    def clear_scratch(self) -> None:
        """Remove what killed workers left; called before work starts."""
        shutil.rmtree(Side.SCRATCH.of(self.folder), ignore_errors=True)
        for folder in (self.folder, *(side.of(self.folder) for side in Side)):
            remove_leftovers(folder)


def is_of(receipt: Receipt, shard: Shard) -> bool:
    """Whether a receipt is of the attempt that is asked for, or of a later one."""
    is_due = receipt.ended == shard.due_since
    return receipt.key == shard.key and receipt.attempt >= shard.attempt and not is_due


def files_of(receipt: Receipt | None) -> set[str]:
    return {output.file for output in receipt.outputs} if receipt else set()
