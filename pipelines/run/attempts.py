"""An attempt at a shard: compare what it reads, do its work, publish its files, write its receipt.

Nothing of it shows before all of it is there: files are written into a scratch folder, announced,
renamed into place, and the receipt comes last. A process may be killed between any two of these.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from glob import escape
from pathlib import Path
from typing import NamedTuple, Protocol

import pyarrow.parquet as pq

from pipelines.run import clock
from pipelines.run.receipts import (
    Check,
    Outcome,
    Output,
    Receipt,
    Receipts,
    Shard,
    Side,
    Source,
    files_of,
    is_of,
)
from workers.base.copies import discard
from workers.base.credentials import shown
from workers.base.exit_codes import causes
from workers.base.failures import NeedsMendingError
from workers.base.storage import DAMAGED_PARQUET, file_hash, make_way, sync, write_json, write_text
from workers.base.tally import Tally
from workers.crawl.warc_writer import content_hash

#: What the file of an error begins with that no rerun changes.
_MEND_FIRST = "To mend: "


#: A shard's receipt in its scratch folder, from the end of its work until its files are in place.
_SEAL = "_receipt.json"


class DamagedError(RuntimeError):
    """A file does not hold what is known of it; the message names it and says what to do."""


class Work(Protocol):
    """What a stage does to a shard: read its inputs, write files into ``out``, count rows.

    What it writes into ``out / Side.TABLES`` are side tables, which are no shards.
    """

    def __call__(self, shard: Shard, out: Path) -> dict[str, Tally]: ...


def perform(work: Work, shard: Shard, folder: Path) -> Receipt:
    """Do a shard's work and write its receipt.

    The work writes into a scratch folder; its files are renamed into the stage's folder when
    it has ended and its tally adds up. Raises LostRowsError when it does not.
    """
    started = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    Side.SCRATCH.of(folder).mkdir(parents=True, exist_ok=True)
    # A name of its own: a worker of a killed run may still be writing for a moment.
    scratch = Path(tempfile.mkdtemp(prefix=f"{shard.name}-", dir=Side.SCRATCH.of(folder)))
    tallies = work(shard, scratch)
    for tally in tallies.values():
        tally.check()
    written = _written(scratch, folder)
    _refuse_taken(written, shard.name, folder)
    receipt = Receipt(
        shard=shard.name,
        key=shard.key,
        rows={kind: tally.counts() for kind, tally in tallies.items()},
        outputs=tuple(output_of(path, file) for file, path in sorted(written.items())),
        seconds=round(time.monotonic() - started, 3),
        ended=clock.now(),
        attempt=shard.attempt,
        made_of=shard.made_of,
        again=shard.again,
        rules=dict(shard.rules),
        agents=shard.agents,
    )
    rejected = Side.REJECTED.of(folder) / f"{shard.name}.json"
    if samples := {kind: tally.samples for kind, tally in tallies.items() if tally.samples}:
        write_json(samples, rejected)
    else:
        make_way(rejected)
        rejected.unlink(missing_ok=True)
    write_json(asdict(receipt), scratch / _SEAL)
    _publish(receipt, scratch, folder)
    return receipt


def under_way(folder: Path) -> set[str]:
    """The names of the shards that somebody works on, or has worked on when he was lost."""
    scratch = Side.SCRATCH.of(folder)
    return {path.name.rpartition("-")[0] for path in scratch.glob("*-*") if path.is_dir()}


def _written(scratch: Path, folder: Path) -> dict[str, Path]:
    """What a work has written, by the files' paths from the folder of shards."""
    written = {path.name: path for path in scratch.iterdir() if path.is_file()}
    tables = Path(os.path.relpath(Side.TABLES.of(folder), folder))
    for path in (scratch / Side.TABLES).glob("*"):
        written[str(tables / path.name)] = path
    return written


def _before(name: str, folder: Path) -> set[str]:
    """The files that earlier attempts at a shard have left, or may have."""
    receipts = Receipts(folder)
    return receipts.announced(name) | files_of(receipts.get(name))


def _refuse_taken(written: Iterable[str], name: str, folder: Path) -> None:
    others = set(written) - _before(name, folder)
    if taken := sorted(file for file in others if (folder / file).exists()):
        raise FileExistsError(f"{folder / taken[0]} is not the run's: move it out of the run")


def _publish(receipt: Receipt, scratch: Path, folder: Path) -> None:
    """Rename a shard's files into the folder of shards, and of side tables; the receipt is last.

    A process that is killed meanwhile leaves what ``finish_publishing`` goes on from: what the
    shard was before is gone by then, and not all can be made again.
    """
    before = _before(receipt.shard, folder)
    written = {output.file for output in receipt.outputs}
    Receipts(folder).announce(receipt.shard, written | before)
    path = Side.RECEIPTS.of(folder) / f"{receipt.shard}.json"
    # The receipt of an earlier attempt was valid until now; it does not tell of what comes.
    path.unlink(missing_ok=True)
    for file, source in sorted(_written(scratch, folder).items()):
        if file in written:
            _move(source, folder / file)
    for file in before - written:  # of an attempt that ended without a receipt
        (folder / file).unlink(missing_ok=True)
    write_json(asdict(receipt), path)
    shutil.rmtree(scratch)


def _move(source: Path, final: Path) -> None:
    final.parent.mkdir(parents=True, exist_ok=True)
    make_way(final)
    source.replace(final)
    sync(final.parent)


def finish_publishing(folder: Path, shard: str = "*") -> None:
    """Put in place what ended works were putting in place when their process was killed.

    Args:
        folder: that of a stage's shards; nobody works on these shards now.
        shard: a glob for their names.
    """
    receipts = Receipts(folder)
    for seal in sorted(Side.SCRATCH.of(folder).glob(f"{shard}-*/{_SEAL}")):
        receipt = receipts.read(seal)
        if receipt is None or receipts.get(receipt.shard):
            continue  # it had not begun to, or was through
        there = {file: folder / file for file in files_of(receipt)}
        paths = there | _written(seal.parent, folder)
        if all(_has_size(paths[output.file], output) for output in receipt.outputs):
            _publish(receipt, seal.parent, folder)


def _has_size(path: Path, output: Output) -> bool:
    return path.is_file() and path.stat().st_size == output.bytes


def output_of(path: Path, file: str) -> Output:
    """What a receipt says of a file; ``file`` is its path from the folder of the shards."""
    rows = pq.read_metadata(path).num_rows if path.suffix == ".parquet" else None
    content = content_hash(path) if path.suffix == ".warc" else None
    sync(path)
    return Output(file, path.stat().st_size, file_hash(path), rows, content)


def attempt(work: Work, shard: Shard, folder: Path) -> Outcome:
    """``perform``, with an error left in a file: one bad shard must not stop the others.

    A shard that has its receipt is left alone: an engine asks again for one whose worker was lost
    before it could say that it was done.
    """
    path = Receipts(folder).record(Side.ERRORS, shard.name)
    make_way(path)
    path.unlink(missing_ok=True)

    def do() -> None:
        finish_publishing(folder, escape(shard.name))
        if not Receipts(folder).is_done(shard):
            if shard.verify:
                check_sources(_of(shard, Check.EACH_TIME, Check.ONCE))
            perform(work, shard, folder)

    error = error_of(do)
    if error is None:
        return outcome_of(shard, folder)
    error = error._replace(text=f"{_damage_of(shard)}{error.text}")
    leave_error(error, shard, folder)
    return Outcome(shard.name, None, *error)


def leave_error(error: Error, shard: Shard, folder: Path) -> None:
    """Write down why an attempt at a shard failed."""
    path = Receipts(folder).record(Side.ERRORS, shard.name)
    with suppress(OSError):  # the disk may be full, which may be the error
        write_text(f"{_MEND_FIRST if error.mend_first else ''}{error.text}", path)


class Error(NamedTuple):
    """What ended an action."""

    text: str  # without credentials
    mend_first: bool = False  # as in Outcome


def error_of(action: Callable[[], object]) -> Error | None:
    """What an action raises; None when it ends well.

    The one place that catches every exception: what works call raises whatever it likes. The error
    is kept, logged, and ends the run with exit code 3.
    """
    try:
        action()
    except DamagedError as damage:
        return Error(str(damage))
    except Exception as error:  # noqa: BLE001
        for cause in causes(error):  # Ray raises another error of a work's
            if isinstance(cause, NeedsMendingError):
                return Error(shown(str(cause)), mend_first=True)
        return Error(shown(traceback.format_exc()))
    return None


def _damage_of(shard: Shard) -> str:
    """What of a failed shard's input is to blame for it, a line each."""
    lines = [
        f"{path} is not a whole Parquet file"
        for paths in shard.files.values()
        for path in paths
        if _is_broken(path)
    ]
    if unread := _of(shard, Check.AFTER_FAILURE) if shard.verify else shard.sources:
        try:
            check_sources(unread)
        except DamagedError as damage:
            lines.append(str(damage))
    return "".join(f"{line}\n" for line in lines)


def _of(shard: Shard, *checks: Check) -> list[Source]:
    return [source for source in shard.sources if source.check in checks]


def _is_broken(path: Path) -> bool:
    """Whether the footer of a Parquet file does not parse."""
    if not (path.suffix == ".parquet" and path.is_file()):
        return False
    try:
        pq.read_metadata(path)
    except DAMAGED_PARQUET:
        return True
    return False


def outcome_of(shard: Shard, folder: Path) -> Outcome:
    """How the last attempt at a shard ended, read from its receipt or its error."""
    receipts = Receipts(folder)
    error = receipts.record(Side.ERRORS, shard.name)
    if error.is_file():
        text = error.read_text(encoding="utf-8", errors="replace")
        return Outcome(
            shard.name, None, text.removeprefix(_MEND_FIRST), text.startswith(_MEND_FIRST)
        )
    receipt = receipts.get(shard.name)
    if receipt is None or not is_of(receipt, shard):
        return Outcome(shard.name, error="the worker died before it could write a receipt")
    return Outcome(shard.name, receipt=receipt)


def damaged(sources: Sequence[Source]) -> list[Source]:
    """Those that do not hold what is known of them; as many are hashed at a time as CPUs are."""
    with ThreadPoolExecutor(min(len(sources), os.cpu_count() or 1) or 1) as pool:
        whole = pool.map(_is_unchanged, sources)
        return [source for source, is_whole in zip(sources, whole, strict=True) if not is_whole]


def _is_unchanged(source: Source) -> bool:
    try:
        # What comes from outside, a model say, is read once by a process for all its shards.
        each_time = source.receipt and source.check is not Check.ONCE
        sha256 = file_hash(source.path) if each_time else hash_once(source.path)
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
            discard(source.receipt)
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
