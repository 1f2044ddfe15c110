"""An attempt at a shard of a run that lives in a bucket: fetch, work here, send, the receipt last.

Nothing is renamed there and no list is relied on. Where a shard had a receipt, what it was is kept
until what it becomes is there in full: new files are sent beside the old ones, then a list of
them, and the store itself copies them into place. Whoever takes the bucket next ends that.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection, Iterable
from dataclasses import asdict, replace
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

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
from workers.base.copies import Copy, bring, copy_of

#: Where new files wait, and the list of them, which is written last.
_STAGED = "_staged"
_SEAL = "seal.json"


class _Seal(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    stage: str
    receipt: dict[str, object]
    removed: list[str]  # names of objects


def attempt_anywhere(work: Work, shard: Shard, folder: Path) -> Outcome:
    """``attempt``, on whichever machine, wherever the run lives."""
    copy = copy_of(folder)
    return _attempt_in_copy(copy, work, shard, folder) if copy else attempt(work, shard, folder)


def _attempt_in_copy(copy: Copy, work: Work, shard: Shard, folder: Path) -> Outcome:
    receipts = Receipts(folder)
    records = [receipts.record(side, shard.name) for side in (Side.RECEIPTS, Side.OUTPUTS)]
    read = {*(path for some in shard.files.values() for path in some)}
    read |= {source.path for source in shard.sources}
    read = {path for path in read if copy_of(path)}
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
    if before:
        _stage(copy, receipts, receipt, written, removed)
        return
    copy.publish(receipts.record(Side.OUTPUTS, name))
    for path in written:
        copy.publish(path)
    copy.may_write()
    copy.bucket.delete(removed)
    receipts.keep(receipt)
    copy.publish(record)


def _stage(
    copy: Copy, receipts: Receipts, receipt: Receipt, written: Iterable[Path], removed: list[str]
) -> None:
    token = f"{_STAGED}/{secrets.token_hex(8)}"
    for path in written:
        name = f"{token}/{copy.name_of(path)}"
        copy.bucket.write_over(name, path.read_bytes(), copy.may_write)
    seal = _Seal(stage=receipts.folder.name, receipt=asdict(receipt), removed=removed)
    content = json.dumps(seal.model_dump()).encode()
    copy.bucket.write_over(f"{token}/{_SEAL}", content, copy.may_write)
    copy.publish(receipts.record(Side.OUTPUTS, receipt.shard))
    _put_in_place(copy, receipts, receipt, token, removed)


def _put_in_place(
    copy: Copy, receipts: Receipts, receipt: Receipt, token: str, removed: Iterable[str]
) -> None:
    record = receipts.record(Side.RECEIPTS, receipt.shard)
    copy.discard(record)
    names = [copy.name_of(receipts.folder / output.file) for output in receipt.outputs]
    for name, output in zip(names, receipt.outputs, strict=True):
        copy.may_write()
        copy.bucket.copy(f"{token}/{name}", name)
        copy.sizes[name] = output.bytes
    copy.may_write()
    copy.bucket.delete(removed)
    receipts.keep(receipt)
    copy.publish(record)
    copy.bucket.delete([*(f"{token}/{name}" for name in names), f"{token}/{_SEAL}"])


def finish_staged(copy: Copy) -> None:
    """End what killed attempts were putting into place; the lease is held, and records are here."""
    tokens: dict[str, list[str]] = {}
    for name in copy.sizes:
        if name.startswith(f"{_STAGED}/"):
            tokens.setdefault("/".join(name.split("/")[:2]), []).append(name)
    for token, names in sorted(tokens.items()):
        if f"{token}/{_SEAL}" in names:
            _finish(copy, token)
        copy.bucket.delete([name for name in names if copy.bucket.stat(name)])
        for name in names:
            copy.sizes.pop(name, None)


def _finish(copy: Copy, token: str) -> None:
    content, _ = copy.bucket.read(f"{token}/{_SEAL}")
    try:
        seal = _Seal.model_validate_json(content)
    except ValidationError:
        return
    receipts = Receipts(copy.root / seal.stage)
    receipt = receipts.parsed(json.dumps(seal.receipt).encode())
    if receipt and receipts.get(receipt.shard) is None:  # else it had not begun, or was through
        _put_in_place(copy, receipts, receipt, token, seal.removed)
