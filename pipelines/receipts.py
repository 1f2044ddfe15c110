"""Shards and their receipts: what a stage has done, so that nothing is done twice or lost.

A shard is one piece of a stage's work. Its receipt names the hash of everything its output
depends on, its output files and the account of its rows. The receipt is written last: a shard
with a receipt is whole, and one without is done again from the start.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
)

from pipelines.config import ConfigError
from workers.crawl.warc_writer import content_hash
from workers.credentials import shown
from workers.storage import file_hash, make_way, remove_leftovers, sync, write_json, write_text
from workers.tally import Tally

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


class DamagedError(RuntimeError):
    """A file does not hold what is known of it; the message names it and says what to do."""


@dataclass(frozen=True)
class Source:
    """A file that is read, and what is known of it."""

    path: Path
    sha256: str
    receipt: Path | None = None  # that names it; none: it comes from outside the run
    content: str | None = None  # stands for it in a key; none: the sha256


@dataclass(frozen=True)
class Shard:
    """One piece of a stage's work."""

    name: str  # names its receipt and, where there is one, its output file
    key: str  # hash of the inputs' content, of the settings and of the code's version
    inputs: tuple[str, ...] = ()  # paths that it reads
    values: tuple[str, ...] = ()  # other input, such as the URLs of a crawl
    sources: tuple[Source, ...] = ()  # the inputs again, where their content was hashed
    verify: bool = True  # whether to compare them with their hashes before they are read
    attempt: int = 1  # a receipt of an earlier one is valid, and not what is asked for
    made_of: str | None = None  # the one file from outside that gives the shard its name


class Work(Protocol):
    """What a stage does to a shard: read its inputs, write files into ``out``, count rows.

    What it writes into ``out / Side.TABLES`` are side tables, which are no shards.
    """

    def __call__(self, shard: Shard, out: Path) -> dict[str, Tally]: ...


Number = Annotated[int, Field(ge=0)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_EXACT = ConfigDict(strict=True, extra="forbid")


class _Account(BaseModel):
    model_config = _EXACT

    rows_in: Number = Field(alias="in")
    kept: Number
    rejected: dict[str, Number]
    failed: dict[str, Number]


def _balanced(counts: Counts) -> Counts:
    account = _Account.model_validate(counts)
    dropped = sum(account.rejected.values()) + sum(account.failed.values())
    if account.rows_in != account.kept + dropped:
        raise ValueError("its account does not balance")
    return counts


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
    """Proof that a shard is whole, with the account of its rows."""

    __pydantic_config__ = _EXACT

    shard: str
    key: str
    rows: Mapping[str, Annotated[Counts, AfterValidator(_balanced)]]  # by kind: pages, pairs, ...
    outputs: tuple[Output, ...]
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    attempt: Annotated[int, Field(ge=1)] = 1  # how often the shard has been tried
    spoiled: bool = False  # a service that it needed was lost meanwhile: that attempt tells little
    made_of: str | None = None  # the file from outside, where there is one of the shard's own


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

    def failure(self) -> str:
        """What a log's line says of an error: all but its trace, which is in the run's folder."""
        head, trace, tail = (self.error or "").partition("Traceback (most recent call last):")
        lines = [head, tail.strip().rpartition("\n")[2] if trace else ""]
        reason = "; ".join(line.strip() for line in lines if line.strip())
        return f"shard {self.shard} failed; a rerun tries it again: {reason}"


@dataclass(frozen=True)
class Ledger:
    """The receipts of a stage's folder."""

    folder: Path

    def receipt(self, name: str) -> Receipt | None:
        """The receipt of a shard. One that cannot be read, or is another's, is none."""
        try:
            receipt = _RECEIPT.validate_json(self._record(Side.RECEIPTS, name).read_bytes())
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError, ValidationError):
            return None
        is_ours = all(map(self._is_inside, _files_of(receipt)))
        return receipt if receipt.shard == name and is_ours else None

    def _record(self, side: Side, name: str) -> Path:
        return side.of(self.folder) / f"{name}{'.txt' if side is Side.ERRORS else '.json'}"

    def _names(self, side: Side) -> list[str]:
        return sorted(path.stem for path in side.of(self.folder).glob("[!.]*.json"))

    def _is_inside(self, file: str) -> bool:
        """Whether a file's name leads into the folder of shards or of side tables."""
        if "/" not in file:
            return file not in ("", ".", "..") and "\0" not in file
        path = Path(os.path.normpath(self.folder / file))
        return path.parent in (self.folder, Side.TABLES.of(self.folder)) and "\0" not in file

    def receipts(self) -> list[Receipt]:
        """All receipts, by the name of their shards."""
        names = self._names(Side.RECEIPTS)
        return [receipt for name in names if (receipt := self.receipt(name))]

    def unreadable(self) -> list[str]:
        """The shards whose receipts cannot be read."""
        return [name for name in self._names(Side.RECEIPTS) if not self.receipt(name)]

    def begun(self) -> list[str]:
        """The shards that were tried and have left something: files or an error."""
        errors = Side.ERRORS.of(self.folder).glob("[!.]*.txt")
        return sorted({*self._names(Side.OUTPUTS), *(path.stem for path in errors)})

    def drop(self, name: str) -> None:
        """Remove a shard's receipt: its files stay until the next run makes it again."""
        make_way(self._record(Side.RECEIPTS, name))
        self._record(Side.RECEIPTS, name).unlink(missing_ok=True)

    def valid(self, shard: Shard) -> Receipt | None:
        """The shard's receipt if it is of the same key and its outputs are there in full."""
        receipt = self.receipt(shard.name)
        if receipt is None or receipt.key != shard.key:
            return None
        return receipt if all(map(self._is_whole, receipt.outputs)) else None

    def is_done(self, shard: Shard) -> bool:
        """Whether its receipt is valid, and of the attempt that is asked for or a later one."""
        receipt = self.valid(shard)
        return receipt is not None and _is_of(receipt, shard)

    def _is_whole(self, output: Output) -> bool:
        path = self.folder / output.file
        return path.is_file() and path.stat().st_size == output.bytes

    def outputs(self) -> list[Path]:
        """The output files of all receipts, sorted."""
        files = (output.file for receipt in self.receipts() for output in receipt.outputs)
        return [self.folder / file for file in sorted(files)]

    def sources(self) -> list[Source]:
        """The output files of all receipts, to be read."""
        return [source for receipt in self.receipts() for source in self.sources_of(receipt)]

    def sources_of(self, receipt: Receipt) -> list[Source]:
        """The output files of a receipt."""
        path = self._record(Side.RECEIPTS, receipt.shard)
        return [
            Source(self.folder / file.file, file.sha256, path, file.content)
            for file in receipt.outputs
        ]

    def announced(self, name: str) -> set[str]:
        """The files that attempts at a shard may have left here without a receipt."""
        try:
            files = _NAMES.validate_json(self._record(Side.OUTPUTS, name).read_bytes())
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError, ValidationError):
            return set()
        return set(filter(self._is_inside, files))

    def announce(self, name: str, files: Iterable[str]) -> None:
        """Say that these files are the shard's, before they are renamed into the folder."""
        write_json(sorted(files), self._record(Side.OUTPUTS, name))

    def spoil(self, receipt: Receipt) -> None:
        """Note that a service was lost while the shard was worked on."""
        write_json(
            asdict(replace(receipt, spoiled=True)), self._record(Side.RECEIPTS, receipt.shard)
        )

    def keep_only(self, shards: Iterable[Shard]) -> None:
        """Remove what the run has of other shards: their files, samples, errors and receipts.

        Called with the run locked, before work starts, so that a reader never meets output of an
        older configuration beside the new. What no receipt and no announcement names is not the
        run's, and stays. A receipt goes after its files: killed here, the next run goes on.
        """
        self._check_folders()
        valid = {shard.name for shard in shards}
        receipts = {name: self.receipt(name) for name in self._names(Side.RECEIPTS)}
        kept = {file for name in valid for file in _files_of(receipts.get(name))}
        for name in sorted({*receipts, *self.begun()} - valid):
            receipt, path = receipts.get(name), self._record(Side.RECEIPTS, name)
            if receipt is None and path.exists():
                log.warning("%s cannot be read: it counts as none, its shard as not done", path)
            for file in (_files_of(receipt) | self.announced(name)) - kept:
                if not (self.folder / file).is_dir():
                    (self.folder / file).unlink(missing_ok=True)
            for side in (Side.REJECTED, Side.ERRORS, Side.RECEIPTS, Side.OUTPUTS):
                make_way(self._record(side, name))
                self._record(side, name).unlink(missing_ok=True)
        self.clear_scratch()
        if names := [path.name for path in self.foreign()]:
            log.warning("%s: not the run's, left alone: %s", self.folder, ", ".join(names))

    def foreign(self) -> list[Path]:
        """What stands among the shards and is not the run's, hidden names and folders aside."""
        paths = [path for path in self.folder.glob("*") if not path.name.startswith(".")]
        paths = [path for path in paths if not (path.name.startswith("_") and path.is_dir())]
        # Most files have the name of their shard: then not one receipt has to be read.
        names = {*self._names(Side.RECEIPTS), *self._names(Side.OUTPUTS)}
        if all(path.stem in names for path in paths):
            return []
        ours = {file for name in names for file in self.announced(name)}
        ours |= {file for receipt in self.receipts() for file in _files_of(receipt)}
        # Another process may have removed some of its own in the meantime.
        return sorted(path for path in paths if path.name not in ours and path.exists())

    def refuse_foreign_data(self) -> None:
        """Raise ConfigError where readers of the folder would take for data what is not the run's.

        That is the case for Parquet and WARC files, and in sub-folders too.
        """
        found = [
            file
            for path in self.foreign()
            for file in (path, *path.rglob("*"))
            if file.is_file() and file.name.lower().endswith(DATA_ENDINGS)
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


def _is_of(receipt: Receipt, shard: Shard) -> bool:
    return receipt.key == shard.key and receipt.attempt >= shard.attempt


def _files_of(receipt: Receipt | None) -> set[str]:
    return {output.file for output in receipt.outputs} if receipt else set()


def damaged(sources: Sequence[Source]) -> list[Source]:
    """Those that do not hold what is known of them; as many are hashed at a time as CPUs are."""
    with ThreadPoolExecutor(min(len(sources), os.cpu_count() or 1) or 1) as pool:
        whole = pool.map(_is_unchanged, sources)
        return [source for source, is_whole in zip(sources, whole, strict=True) if not is_whole]


def _is_unchanged(source: Source) -> bool:
    try:
        # What comes from outside, a model say, is read once by a process for all its shards.
        sha256 = file_hash(source.path) if source.receipt else hash_once(source.path)
    except OSError:  # it is gone, or the disk does not give it
        return False
    return sha256 == source.sha256


def hash_once(path: Path) -> str:
    """The sha256 of a file, read again by this process only when its size or time has changed."""
    status = path.stat()
    return _hash_of(path, status.st_size, status.st_mtime_ns)


@cache
def _hash_of(path: Path, _bytes: int, _mtime_ns: int) -> str:
    return file_hash(path)


def check_sources(sources: Sequence[Source], *, drop: bool = True) -> None:
    """Raise DamagedError for files that do not hold what is known of them.

    Args:
        drop: remove the receipts that name them, so that the next run makes the files again. Only
            for work on a run: another process that works on it would take them for done.
    """
    found = damaged(sources)
    for source in found:
        if drop and source.receipt:
            source.receipt.unlink(missing_ok=True)
    if found:
        raise DamagedError("\n".join(_what_to_do(source, drop) for source in found))


def _what_to_do(source: Source, dropped: bool) -> str:
    if not source.receipt:
        return (
            f"{source.path} does not hold what it held when the run was planned: restore it, or "
            "`touch` it if it is meant to be as it is; then give the same command again"
        )
    what = f"{source.path} is damaged: it does not hold what its receipt says."
    if dropped:
        stage = source.receipt.parent.name
        commands = {"model": "pipelines.train", "scores": "pipelines.evaluate"}
        command = commands.get(stage, "pipelines.build_dataset")
        return f"{what} The receipt is removed: {command} makes it again, then give this one again"
    return f"{what} `python -m pipelines.verify --mend` says what to do"


def perform(work: Work, shard: Shard, folder: Path) -> Receipt:
    """Do a shard's work and write its receipt.

    The work writes into a scratch folder; its files are renamed into the stage's folder when
    it has ended and its account balances. Raises LostRowsError when it does not balance.
    """
    started = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    Side.SCRATCH.of(folder).mkdir(parents=True, exist_ok=True)
    # A name of its own: a worker of a killed run may still be writing for a moment.
    scratch = Path(tempfile.mkdtemp(prefix=f"{shard.name}-", dir=Side.SCRATCH.of(folder)))
    tallies = work(shard, scratch)
    for tally in tallies.values():
        tally.check()
    outputs = _publish(shard, scratch, folder)
    shutil.rmtree(scratch)
    rejected = Side.REJECTED.of(folder) / f"{shard.name}.json"
    if samples := {kind: tally.samples for kind, tally in tallies.items() if tally.samples}:
        write_json(samples, rejected)
    else:
        make_way(rejected)
        rejected.unlink(missing_ok=True)
    receipt = Receipt(
        shard=shard.name,
        key=shard.key,
        rows={kind: tally.counts() for kind, tally in tallies.items()},
        outputs=outputs,
        seconds=round(time.monotonic() - started, 3),
        attempt=shard.attempt,
        made_of=shard.made_of,
    )
    write_json(asdict(receipt), Side.RECEIPTS.of(folder) / f"{shard.name}.json")
    return receipt


def _publish(shard: Shard, scratch: Path, folder: Path) -> tuple[Output, ...]:
    """Rename a shard's files into the folder of shards, and of side tables."""
    written = {path.name: path for path in scratch.iterdir() if path.is_file()}
    tables = Path(os.path.relpath(Side.TABLES.of(folder), folder))
    for path in (scratch / Side.TABLES).glob("*"):
        written[str(tables / path.name)] = path
    ledger = Ledger(folder)
    before = ledger.announced(shard.name) | _files_of(ledger.receipt(shard.name))
    if taken := sorted(file for file in written.keys() - before if (folder / file).exists()):
        raise FileExistsError(f"{folder / taken[0]} is not the run's: move it out of the run")
    ledger.announce(shard.name, written.keys() | before)
    # The receipt of an earlier attempt was valid until now; it does not tell of what comes.
    (Side.RECEIPTS.of(folder) / f"{shard.name}.json").unlink(missing_ok=True)
    outputs = tuple(_publish_file(path, folder, file) for file, path in sorted(written.items()))
    for file in before - written.keys():  # of an attempt that ended without a receipt
        (folder / file).unlink(missing_ok=True)
    return outputs


def _publish_file(path: Path, folder: Path, file: str) -> Output:
    rows = pq.read_metadata(path).num_rows if path.suffix == ".parquet" else None
    content = content_hash(path) if path.suffix == ".warc" else None
    output = Output(file, path.stat().st_size, file_hash(path), rows, content)
    sync(path)
    final = folder / file
    final.parent.mkdir(parents=True, exist_ok=True)
    make_way(final)
    path.replace(final)
    sync(final.parent)
    return output


def attempt(work: Work, shard: Shard, folder: Path) -> Outcome:
    """``perform``, with an error left in a file: one bad shard must not stop the others.

    A shard that has its receipt is left alone: an engine asks again for one whose worker was lost
    before it could say that it was done.
    """
    path = Side.ERRORS.of(folder) / f"{shard.name}.txt"
    make_way(path)
    path.unlink(missing_ok=True)

    def do() -> None:
        if not Ledger(folder).is_done(shard):
            if shard.verify:
                check_sources(shard.sources)
            perform(work, shard, folder)

    error = error_of(do)
    if error is None:
        return outcome_of(shard, folder)
    error = f"{_damage_of(shard)}{error}"
    with suppress(OSError):  # the disk may be full, which may be the error
        write_text(error, path)
    return Outcome(shard.name, error=error)


def error_of(action: Callable[[], object]) -> str | None:
    """What an action raises, as text without credentials; None when it ends well.

    The one place that catches every exception: what works call raises whatever it likes. The error
    is kept, logged, and ends the run with exit code 3.
    """
    try:
        action()
    except DamagedError as damage:
        return str(damage)
    except Exception:  # noqa: BLE001
        return shown(traceback.format_exc())
    return None


def _damage_of(shard: Shard) -> str:
    """What of a failed shard's input is to blame for it, a line each."""
    lines = [f"{path} is not a whole Parquet file" for path in shard.inputs if _is_broken(path)]
    if not shard.verify:
        try:
            check_sources(shard.sources)
        except DamagedError as damage:
            lines.append(str(damage))
    return "".join(f"{line}\n" for line in lines)


def _is_broken(path: str) -> bool:
    """Whether the footer of a Parquet file does not parse."""
    if not (path.endswith(".parquet") and Path(path).is_file()):
        return False
    try:
        pq.read_metadata(path)
    except (OSError, pa.ArrowException):
        return True
    return False


def outcome_of(shard: Shard, folder: Path) -> Outcome:
    """How the last attempt at a shard ended, read from its receipt or its error."""
    error = Side.ERRORS.of(folder) / f"{shard.name}.txt"
    if error.is_file():
        return Outcome(shard.name, error=error.read_text(encoding="utf-8", errors="replace"))
    receipt = Ledger(folder).receipt(shard.name)
    if receipt is None or not _is_of(receipt, shard):
        return Outcome(shard.name, error="the worker died before it could write a receipt")
    return Outcome(shard.name, receipt=receipt)


@dataclass
class StageTotals:
    """The sum of a stage's receipts."""

    shards: int = 0
    seconds: float = 0.0
    bytes: int = 0
    rows: dict[str, Counts] = field(default_factory=dict)

    @classmethod
    def of(cls, receipts: Sequence[Receipt]) -> StageTotals:
        totals = cls(
            shards=len(receipts),
            seconds=round(sum(receipt.seconds for receipt in receipts), 3),
            bytes=sum(output.bytes for receipt in receipts for output in receipt.outputs),
        )
        for receipt in receipts:
            for kind, counts in receipt.rows.items():
                _add_counts(totals.rows.setdefault(kind, Tally().counts()), counts)
        return totals


def _add_counts(total: Counts, counts: Counts) -> None:
    total["in"] += counts["in"]
    total["kept"] += counts["kept"]
    for how in ("rejected", "failed"):
        for reason, number in counts[how].items():
            total[how][reason] = total[how].get(reason, 0) + number
        total[how] = dict(sorted(total[how].items()))
