"""An attempt at a shard of a run that lives in a bucket: fetch, work here, send, the receipt last.

Nothing is renamed there and no list is relied on. Where a shard had a receipt, what it was is kept
until what it becomes is there in full (``pipelines.run.staged``).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from pipelines.run.attempts import Error, Work, attempt, error_of, leave_error
from pipelines.run.receipts import (
    Outcome,
    Receipt,
    Receipts,
    Shard,
    Side,
    files_of,
    is_of,
)
from pipelines.run.staged import replace_objects
from workers.base.copies import Copy, bring, copy_of


def attempt_anywhere(work: Work, shard: Shard, folder: Path) -> Outcome:
    """``attempt``, on whichever machine, wherever the run lives."""
    read = {*(path for some in shard.files.values() for path in some)}
    read |= {source.path for source in shard.sources}
    read = {path for path in read if copy_of(path)}
    with ExitStack() as stack:
        for used in {copy for path in (folder, *read) if (copy := copy_of(path))}:
            stack.enter_context(used.in_use())
        if copy := copy_of(folder):
            return _attempt_in_copy(copy, work, shard, folder, read)
        is_wanted = bool(read) and not Receipts(folder).is_done(shard)
        if is_wanted and (error := error_of(lambda: bring(read))):
            return _failed(error, shard, folder)
        return attempt(work, shard, folder)


def _attempt_in_copy(
    copy: Copy, work: Work, shard: Shard, folder: Path, read: set[Path]
) -> Outcome:
    receipts = Receipts(folder)
    records = [receipts.record(side, shard.name) for side in (Side.RECEIPTS, Side.OUTPUTS)]
    is_mine = copy.is_owner  # his records are those of the bucket
    try:
        if not is_mine:
            _forget(records)
        if error := error_of(lambda: bring([*records, *shared_files(copy)])):
            return _failed(error, shard, folder)
        before = receipts.get(shard.name)
        if before and is_of(before, shard) and _is_there(copy, folder, before):
            return Outcome(shard.name, receipt=before)
        files = receipts.announced(shard.name) | files_of(before)
        if error := error_of(lambda: bring(read)):
            return _failed(error, shard, folder)
        outcome = attempt(work, shard, folder)
        if error := error_of(lambda: _send(copy, receipts, outcome, before, files)):
            # Done here alone is not done: whoever looks here must not take it for that.
            _forget([*records, *(folder / file for file in files_of(outcome.receipt))])
            return _failed(error, shard, folder)
        return outcome
    finally:
        made = files_of(receipts.get(shard.name))
        _forget([*read, *(folder / file for file in made)])
        if not is_mine:
            _forget(records)


def _failed(error: Error, shard: Shard, folder: Path) -> Outcome:
    """Of what could not be fetched or sent: it is left here alone, for who works in this copy."""
    leave_error(error, shard, folder)
    return Outcome(shard.name, None, *error)


def fetch_records(shard: Shard, folder: Path) -> None:
    """Have here what an attempt on another machine has left in a bucket of its end."""
    receipts = Receipts(folder)
    bring(receipts.record(side, shard.name) for side in (Side.RECEIPTS, Side.ERRORS))


def shared_files(copy: Copy) -> list[Path]:
    """What every work may look into: the lists of what must not be used."""
    return [copy.root / "_opt_outs" / name for name in ("lists.npy", "taken_down.txt")]


def _forget(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _is_there(copy: Copy, folder: Path, receipt: Receipt) -> bool:
    stats = (copy.bucket.stat(copy.name_of(folder / output.file)) for output in receipt.outputs)
    return all(
        stat and stat.size == output.bytes
        for stat, output in zip(stats, receipt.outputs, strict=True)
    )


def _send(
    copy: Copy,
    receipts: Receipts,
    outcome: Outcome,
    before: Receipt | None,
    files: Collection[str],
) -> None:
    """Send what an attempt has left here.

    Args:
        before: the receipt that the bucket has of the shard.
        files: what the bucket has, or may have, of its files.
    """
    name = outcome.shard
    for side in (Side.ERRORS, Side.REJECTED):
        path = receipts.record(side, name)
        if path.is_file():
            copy.publish(path)
        else:
            copy.discard(path)
    if outcome.receipt is None:
        return
    lease = copy.holder.number if copy.holder else None
    receipt = replace(outcome.receipt, lease=lease)
    written = [receipts.folder / output.file for output in receipt.outputs]
    removed = [copy.name_of(receipts.folder / file) for file in set(files) - files_of(receipt)]
    record = receipts.record(Side.RECEIPTS, name)
    receipts.keep(receipt)
    copy.publish(receipts.record(Side.OUTPUTS, name))
    if before:
        files_by_name = {copy.name_of(path): path for path in (*written, record)}
        replace_objects(copy, files_by_name, removed, proof=copy.name_of(record))
        return
    for path in written:
        copy.publish(path)
    copy.remove(removed)
    copy.publish(record)
