"""A training as a job: what it is of, and what it leaves for whoever has given it.

Its folder holds its checkpoints and, in the end, `result/`. It may be of a bucket: who has given
the job need not be on a machine that works on it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfile

import clip_model
from pipelines.training import CHECKPOINT, METRICS
from pipelines.training.checkpoints import Checkpoints
from pipelines.training.loop import Notice, Say, train
from pipelines.training.metrics import write_lines
from pipelines.training.parallel import Workers
from pipelines.training.settings import TrainSettings
from workers.base.copies import bring, discard, publish
from workers.base.failures import NeedsMendingError
from workers.base.opt_outs import OptOuts
from workers.base.storage import replacing, write_json, write_text
from workers.base.tally import Tally

_TALLY = "tally.json"
#: Why there is no model, where no further attempt would change it.
_REFUSAL = "refusal.txt"
_BEGUN = "begun.json"
#: Beginnings from one step: who gets no further in as many has a fault that is not its machine's.
MOST_BEGINNINGS = 3


@dataclass(frozen=True)
class TrainingJob:
    """A training of ``shards`` in a folder of its own."""

    shards: tuple[Path, ...]
    settings: TrainSettings
    seed: int
    folder: Path
    contents: tuple[str, ...] | None = None  # the sha256 of each shard, where they are known
    opt_outs: tuple[OptOuts, ...] = ()  # whose rows are neither trained on nor judged by

    def renew(self) -> None:
        """Forget what earlier attempts have failed of: called once by who gives the job."""
        for file in (_REFUSAL, _BEGUN):
            bring([self.folder / file])
            if (self.folder / file).is_file():
                discard(self.folder / file)

    def work(self, workers: Workers, say: Say, notice: Notice) -> None:
        """What each worker does. The first one leaves the result; whoever refuses leaves why.

        Whatever else is raised is a worker's end, after which others may go on.
        """
        if self._refusal() is not None:
            return
        try:
            if workers.rank == 0:
                self._count_beginnings()
            trained = train(
                self.shards,
                self.settings,
                self.seed,
                self.folder,
                workers,
                say,
                notice,
                self.contents,
                self.opt_outs,
            )
        except NeedsMendingError as error:
            text = str(error)
            self._leave(_REFUSAL, lambda path: write_text(text, path))
            if workers.size == 1:
                return
            raise  # the others wait for this one; who is begun in their place finds the refusal
        if trained:
            self._leave(CHECKPOINT, lambda path: clip_model.save(trained.model, path))
            self._leave(METRICS, lambda path: write_lines(trained.metrics, path))
            self._leave(_TALLY, lambda path: write_json(trained.pairs.counts(), path))
        workers.barrier()

    def _refusal(self) -> str | None:
        bring([self.folder / _REFUSAL])
        path = self.folder / _REFUSAL
        return path.read_text(encoding="utf-8") if path.is_file() else None

    def _count_beginnings(self) -> None:
        """Raise NeedsMendingError where workers have been lost too often without a step between.

        A machine of the night is lost now and then; what is lost at one step again and again is
        ended by what it does there.
        """
        step = max((entry.step for entry in Checkpoints(self.folder).entries()), default=0)
        path = self.folder / _BEGUN
        bring([path])
        begun = json.loads(path.read_bytes()) if path.is_file() else {"step": step, "times": 0}
        times = begun["times"] + 1 if begun["step"] == step else 1
        self._leave(_BEGUN, lambda path: write_json({"step": step, "times": times}, path))
        if times > MOST_BEGINNINGS:
            raise NeedsMendingError(
                f"the workers were lost {MOST_BEGINNINGS} times after step {step}, the last that "
                "is kept: see their end in the log; a smaller model.chunk needs less memory, and a "
                "smaller model.checkpoints.every_steps keeps more of a short life"
            )

    def _leave(self, file: str, write: Callable[[Path], object]) -> None:
        path = self.folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path)
        publish(path)

    def collect(self, out: Path) -> Tally:
        """Put the result into ``out``. Raises NeedsMendingError where the training refused."""
        if (refusal := self._refusal()) is not None:
            raise NeedsMendingError(refusal)
        bring(self.folder / file for file in (_TALLY, CHECKPOINT, METRICS))
        out.mkdir(parents=True, exist_ok=True)
        for file in (METRICS, CHECKPOINT):
            with replacing(out / file) as temporary:
                copyfile(self.folder / file, temporary)
        return Tally.from_counts(json.loads((self.folder / _TALLY).read_bytes()))
