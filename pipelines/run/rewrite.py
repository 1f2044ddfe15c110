"""The next state of a run: made beside it, and put in its place at once.

A command that rewrites what a run holds works on a copy of its folder, in which every file is a
link to the run's own until it is written anew or removed. A list of what is new and what goes is
written last, then obeyed. A process may be killed at any moment: before the list is there, the run
is as it was; after it, whoever locks the run next ends what was begun. Of a run in a bucket all is
fetched first, and what is new is sent beside it with such a list (``pipelines.run.staged``).
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError

from pipelines.run.attempts import finish_publishing, output_of
from pipelines.run.config import ConfigError
from pipelines.run.receipts import Again, Receipts, Side
from pipelines.run.staged import replace_objects
from pipelines.run.totals import without_rows
from workers.base.copies import Copy, bring_all, copy_of
from workers.base.storage import TEMPORARY_PREFIX, make_way, sync, write_json

if TYPE_CHECKING:
    from pipelines.run.directory import Run
    from pipelines.stages.base import Stage

#: Where the next state is made, in the run's folder, and the list of what it changes.
FOLDER = "_rewrite"
_TREE = "run"
_CHANGES = "changes.json"

#: What killed workers have left is not carried over; what holds the lock stays.
_LEFT_OUT = (FOLDER, "_work", "run.lock")


class _Changes(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    written: list[str]  # paths in the run's folder
    removed: list[str]


@contextmanager
def rewriting(run: Run, *, discard: bool = False) -> Iterator[Run]:
    """Give the run's next state; when the block ends without an error, the run becomes it.

    Not to ``discard`` it, that is: then all was done to see what it would be.

    The run must be locked. What is done to the state's files must replace or remove them, as
    everything in ``workers.base.storage`` does: to write into one would write into the run's.
    """
    finish_rewrite(run.directory)
    bring_all(run.directory)
    copy = copy_of(run.directory)
    # What is in a copy is an object's.
    folder = Path(f"{run.directory}{FOLDER}") if copy else run.directory / FOLDER
    try:
        before = _link(run.directory, folder / _TREE)
        yield replace(run, directory=folder / _TREE)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    if discard:
        shutil.rmtree(folder, ignore_errors=True)
        return
    after = dict(_files(folder / _TREE))
    changes = _Changes(
        written=sorted(name for name, path in after.items() if not path.is_symlink()),
        removed=sorted(before - after.keys()),
    )
    if copy:
        _send(copy, changes, folder / _TREE)
    write_json(changes.model_dump(), folder / _CHANGES)
    _finish(folder, run.directory)


def _send(copy: Copy, changes: _Changes, tree: Path) -> None:
    """Let the bucket become what is here; who has written a receipt stands in it."""
    names = [Path(name) for name in changes.written]
    for name in names:
        if name.parts[0] == Side.RECEIPTS and copy.holder:
            receipts = Receipts(tree / name.parts[1])
            if receipt := receipts.get(name.stem):
                receipts.keep(replace(receipt, lease=copy.holder.number))
    replace_objects(copy, {str(name): tree / name for name in names}, changes.removed)


def end_killed_work(directory: Path) -> None:
    """Put in place what killed works had ended, and remove what they had not; the run is locked."""
    for scratch in (directory / Side.SCRATCH).glob("*"):
        folder = directory / scratch.name
        finish_publishing(folder)
        Receipts(folder).clear_scratch()


def finish_rewrite(directory: Path) -> None:
    """End a rewrite that was begun: all of it, if its list is there, and else nothing of it."""
    _finish(directory / FOLDER, directory)


def _finish(folder: Path, directory: Path) -> None:
    try:
        changes = _Changes.model_validate_json((folder / _CHANGES).read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValidationError):
        changes = None
    if changes:
        _obey(changes, folder / _TREE, directory)
        (folder / _CHANGES).unlink()  # nothing is left to do, and then nothing to read
    shutil.rmtree(folder, ignore_errors=True)


def _link(directory: Path, tree: Path) -> set[str]:
    """Make a folder of links to every file of a run; returns their names."""
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir(parents=True)
    names = set()
    for name, path in _files(directory):
        link = tree / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)
        names.add(name)
    return names


def _files(directory: Path) -> Iterator[tuple[str, Path]]:
    """The files of a run by their path in its folder, links among them."""
    device = directory.stat().st_dev
    for folder, folders, files in os.walk(directory, followlinks=True):
        here = Path(folder)
        if here.stat().st_dev != device:
            raise ConfigError(
                f"{here} lies on another file system than {directory}: what is rewritten could not "
                "be put in its place at once; move the run to one that holds all of it"
            )
        if here == directory:
            folders[:] = [name for name in folders if name not in _LEFT_OUT]
            files = [name for name in files if name not in _LEFT_OUT]
        for name in files:
            if not name.startswith(TEMPORARY_PREFIX):
                yield os.path.relpath(here / name, directory), here / name


def _obey(changes: _Changes, tree: Path, directory: Path) -> None:
    folders = set()
    for name in changes.written:
        new, place = tree / name, directory / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if new.exists():  # else it was put in its place before the process was killed
            make_way(place)
            new.replace(place)
        folders.add(place.parent)
    for name in changes.removed:
        (directory / name).unlink(missing_ok=True)
    for folder in folders:
        sync(folder)


@dataclass
class Removed:
    """What was removed from a file: rows by the reason that stands beside them, None for kept."""

    rows: Counter[str | None] = field(default_factory=Counter)
    #: Of lists of requests: rows by the shard in which they had failed before, and why.
    retries: Counter[tuple[str, str]] = field(default_factory=Counter)
    #: Of a WARC file: where its records were, and are.
    moved: dict[int, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return self.rows.total()


def mend_receipts(receipts: Receipts, removed: Mapping[str, Removed]) -> None:
    """Write the receipts anew of shards whose files have changed."""
    stage, directory = receipts.folder.name, receipts.folder.parent
    for receipt in receipts.all():
        changed = {
            output.file for output in receipt.outputs if is_changed(receipts.folder / output.file)
        }
        again = removed.get(f"requests/{receipt.shard}.parquet", Removed()).retries
        again = again if stage == "images" else Counter()
        if not changed and not again:
            continue
        files = [directory / os.path.normpath(f"{stage}/{file}") for file in changed]
        rows = [counted(removed[str(path.relative_to(directory))], path) for path in files]
        outputs = [
            output_of(receipts.folder / output.file, output.file)
            if output.file in changed
            else output
            for output in receipt.outputs
        ]
        receipts.write(
            replace(
                receipt,
                rows=without_rows(receipt.rows, sum(rows, Counter())),
                outputs=tuple(outputs),
                again=_less(receipt.again, again),
            )
        )


def counted(removed: Removed, path: Path) -> Counter[str | None]:
    """The rows of a file that its receipt counts: of a side table, those that have a reason."""
    is_table = Side.TABLES in path.parts
    return Counter({why: n for why, n in removed.rows.items() if why is not None or not is_table})


def _less(again: Again, removed: Counter[tuple[str, str]]) -> Again:
    return {
        shard: {why: left for why, n in reasons.items() if (left := n - removed[shard, why]) > 0}
        for shard, reasons in again.items()
    }


def rekey(kinds: Sequence[type[Stage]], before: Run, after: Run, new: Collection[str] = ()) -> None:
    """Give what is valid of a run's stages the keys that a plan of its next state gives.

    So nothing is done again for it. The stages must be given in the order of a run. Shards that
    are ``new`` were made of valid ones.
    """
    for kind in kinds:
        old, receipts = kind(before).rewritten(), after.receipts(kind.name)
        made = [shard for shard in old if before.receipts(kind.name).valid(shard)]
        valid = {*new, *(shard.name for shard in made)}
        stage = kind(after)
        for shard in stage.rewritten() if valid else []:
            name = stage.called_before(shard, made)
            receipt = receipts.get(name)
            if receipt and name in valid and (name, receipt.key) != (shard.name, shard.key):
                receipts.rename(name, shard.name)
                receipts.write(replace(receipt, shard=shard.name, key=shard.key))


def is_changed(path: Path) -> bool:
    """Whether a file of a run's next state is not the run's own any more."""
    return path.exists() and not path.is_symlink()
