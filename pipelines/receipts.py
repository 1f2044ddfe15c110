"""Shards and their receipts: what a stage has done, so that nothing is done twice or lost.

A shard is one piece of a stage's work. Its receipt names the hash of everything its output
depends on, its output files and the account of its rows. The receipt is written last: a shard
with a receipt is whole, and one without is done again from the start.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

import pyarrow.parquet as pq

from workers.storage import file_hash, sync, write_json, write_text
from workers.tally import Tally


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

    def of(self, folder: Path) -> Path:
        """The folder for this beside the folder of a stage's shards."""
        return folder.parent / self / folder.name


#: The counts of one kind of row: in, kept, rejected and failed by reason.
Counts = dict[str, Any]


@dataclass(frozen=True)
class Shard:
    """One piece of a stage's work."""

    name: str  # names its receipt and, where there is one, its output file
    key: str  # hash of the inputs' content, of the settings and of the code's version
    inputs: tuple[str, ...] = ()  # paths that it reads
    values: tuple[str, ...] = ()  # other input, such as the URLs of a crawl


class Work(Protocol):
    """What a stage does to a shard: read its inputs, write files into ``out``, count rows.

    What it writes into ``out / Side.TABLES`` are side tables, which are no shards.
    """

    def __call__(self, shard: Shard, out: Path) -> dict[str, Tally]: ...


@dataclass(frozen=True)
class Output:
    """One file that a shard's work has written."""

    file: str  # its path from the folder of the shards
    bytes: int
    sha256: str
    rows: int | None  # of a Parquet file


@dataclass(frozen=True)
class Receipt:
    """Proof that a shard is whole, with the account of its rows."""

    shard: str
    key: str
    rows: Mapping[str, Counts]  # by kind of row: pages, pairs, images, ...
    outputs: tuple[Output, ...]
    seconds: float

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Receipt:
        outputs = tuple(Output(**output) for output in value.pop("outputs"))
        return cls(outputs=outputs, **value)


@dataclass(frozen=True)
class Outcome:
    """How the work on a shard ended: with a receipt, or with an error."""

    shard: str
    receipt: Receipt | None = None
    error: str | None = None


@dataclass(frozen=True)
class Ledger:
    """The receipts of a stage's folder."""

    folder: Path

    def receipt(self, name: str) -> Receipt | None:
        path = Side.RECEIPTS.of(self.folder) / f"{name}.json"
        if not path.exists():
            return None
        return Receipt.from_json(json.loads(path.read_text(encoding="utf-8")))

    def receipts(self) -> list[Receipt]:
        """All receipts, by the name of their shards."""
        names = sorted(path.stem for path in Side.RECEIPTS.of(self.folder).glob("[!.]*.json"))
        return [receipt for name in names if (receipt := self.receipt(name))]

    def is_done(self, shard: Shard) -> bool:
        """Whether the shard's receipt is valid and its outputs are there in full."""
        receipt = self.receipt(shard.name)
        if receipt is None or receipt.key != shard.key:
            return False
        return all(self._is_whole(output) for output in receipt.outputs)

    def _is_whole(self, output: Output) -> bool:
        path = self.folder / output.file
        return path.exists() and path.stat().st_size == output.bytes

    def outputs(self) -> list[Path]:
        """The output files of all receipts, sorted."""
        files = (output.file for receipt in self.receipts() for output in receipt.outputs)
        return [self.folder / file for file in sorted(files)]

    def discard_all_but(self, shards: Iterable[Shard]) -> None:
        """Remove the receipts of other shards, then every file that no receipt names.

        Called before work starts, so that a reader never meets output of an older
        configuration beside the new, and a receipt never names a file that is gone.
        """
        valid = {shard.name for shard in shards}
        for receipt in self.receipts():
            if receipt.shard not in valid:
                for side in (Side.RECEIPTS, Side.REJECTED):
                    (side.of(self.folder) / f"{receipt.shard}.json").unlink(missing_ok=True)
        self.clear_scratch()
        named = {path.resolve() for path in self.outputs()}
        for folder in (self.folder, Side.TABLES.of(self.folder)):
            for path in folder.glob("*"):
                if path.is_file() and path.resolve() not in named:
                    path.unlink()

    def clear_scratch(self) -> None:
        """Remove what killed workers left; called before work starts."""
        shutil.rmtree(Side.SCRATCH.of(self.folder), ignore_errors=True)


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
    shards = [path for path in sorted(scratch.iterdir()) if path.is_file()]
    tables = sorted((scratch / Side.TABLES).glob("*"))
    outputs = (
        *(_publish(path, folder, folder) for path in shards),
        *(_publish(path, Side.TABLES.of(folder), folder) for path in tables),
    )
    shutil.rmtree(scratch)
    if samples := {kind: tally.samples for kind, tally in tallies.items() if tally.samples}:
        write_json(samples, Side.REJECTED.of(folder) / f"{shard.name}.json")
    receipt = Receipt(
        shard=shard.name,
        key=shard.key,
        rows={kind: tally.counts() for kind, tally in tallies.items()},
        outputs=outputs,
        seconds=round(time.monotonic() - started, 3),
    )
    write_json(asdict(receipt), Side.RECEIPTS.of(folder) / f"{shard.name}.json")
    return receipt


def _publish(path: Path, target: Path, folder: Path) -> Output:
    """Move a file of the scratch folder into ``target``, the shards' folder or one beside it."""
    rows = pq.read_metadata(path).num_rows if path.suffix == ".parquet" else None
    name = os.path.relpath(target / path.name, folder)
    output = Output(name, path.stat().st_size, file_hash(path), rows)
    sync(path)
    target.mkdir(parents=True, exist_ok=True)
    path.replace(target / path.name)
    sync(target)
    return output


def attempt(work: Work, shard: Shard, folder: Path) -> str:
    """``perform``, with an error left in a file: one bad shard must not stop the others.

    This is the one place that catches every exception: the work calls libraries that raise
    whatever they like, and the error is kept, logged and ends the run with exit code 3.
    A shard that has its receipt is left alone: an engine asks again for one whose worker was lost
    before it could say that it was done.
    Returns the shard's name; ``outcome_of`` tells how it ended.
    """
    error = Side.ERRORS.of(folder) / f"{shard.name}.txt"
    error.unlink(missing_ok=True)
    try:
        if not Ledger(folder).is_done(shard):
            perform(work, shard, folder)
    except Exception:  # noqa: BLE001
        write_text(traceback.format_exc(), error)
    return shard.name


def outcome_of(shard: Shard, folder: Path) -> Outcome:
    """How the last attempt at a shard ended, read from its receipt or its error."""
    error = Side.ERRORS.of(folder) / f"{shard.name}.txt"
    if error.exists():
        return Outcome(shard.name, error=error.read_text(encoding="utf-8"))
    receipt = Ledger(folder).receipt(shard.name)
    if receipt is None or receipt.key != shard.key:
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
