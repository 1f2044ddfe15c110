"""Passes: what must be learnt of all of a stage's input before the first of its shards is done.

A pass is shards of work with receipts, like a stage, in a folder of the run. One that was cut off
is gone on with; one whose input has changed is done anew. A stage that never reads them again once
it is complete removes what they have written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pipelines.run.attempts import Work
from pipelines.run.progress import Progress
from pipelines.run.receipts import Outcome, Receipts, Shard, Side

#: The folder of a run that has them.
FOLDER = "_passes"

#: Does a work on shards of a folder and gives an outcome for each.
Engine = Callable[[Work, Sequence[Shard], Path], Iterator[Outcome]]


class PassError(RuntimeError):
    """A shard of a pass failed, so no shard of its stage can be done."""

    def __init__(self, name: str, failed: Outcome) -> None:
        super().__init__(f"{name}: {failed.failure()}")
        self.name, self.failed = name, failed

    def outcome_of(self, shard: Shard) -> Outcome:
        """How a shard of the stage ended."""
        text = f"{self.name}, which comes before it, failed in {self.failed.shard}:\n"
        return Outcome(shard.name, None, f"{text}{self.failed.error}", self.failed.mend_first)


def do_pass(
    stage: Path, name: str, work: Work, shards: Sequence[Shard], engine: Engine
) -> Receipts:
    """Do a pass of a stage's folder, as far as it is not done; returns the receipts.

    Raises PassError for the first that failed, once all were tried.
    """
    folder = stage.parent / FOLDER / f"{stage.name}_{name}"
    receipts = Receipts(folder)
    done = [shard for shard in shards if receipts.is_done(shard)]
    receipts.keep_only(done)
    failed = []
    names = {shard.name for shard in done}
    todo = [shard for shard in shards if shard.name not in names]
    with Progress(f"{stage.name}, {name}", len(shards), len(done), folder) as progress:
        for outcome in engine(work, todo, folder):
            progress.advance(outcome)
            if outcome.receipt:
                receipts.note(outcome.receipt)
            else:
                failed.append(outcome)
    if failed:
        raise PassError(folder.name, failed[0])
    return receipts


def remove_passes(stage: Path) -> None:
    """Remove what the passes of a stage have left, which nobody reads once it is complete."""
    passes = stage.parent / FOLDER
    for records in sorted((passes / Side.RECEIPTS).glob(f"{stage.name}_*")):
        Receipts(passes / records.name).keep_only([])
