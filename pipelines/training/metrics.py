"""What a training says: lines of JSON that depend on the data alone, and TensorBoard's files.

A line stands for the steps since the one before it. There are about a thousand in a training,
however long it is; its checkpoints hold those so far, so none stands there twice after a restart.
What depends on the clock, such as pairs a second, goes to TensorBoard and the progress line only.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workers.base.copies import publish
from workers.base.storage import write_text

if TYPE_CHECKING:
    from tensorboardX import SummaryWriter

#: The lines of a training, about.
LINES = 1000
TENSORBOARD = "tensorboard"

Line = dict[str, Any]


def write_lines(lines: Sequence[Line], path: Path) -> None:
    """Write them all, those before a restart, too."""
    write_text("".join(f"{json.dumps(line)}\n" for line in lines), path)


class Log:
    """The lines of a training, and TensorBoard's files beside them."""

    def __init__(self, folder: Path | None, total_steps: int, state: Line | None = None) -> None:
        """
        Args:
            folder: of the training; None for a worker that writes nothing.
            state: of the checkpoint that it goes on from.
        """
        self.lines: list[Line] = list(state["lines"]) if state else []
        self._losses: list[float] = list(state["losses"]) if state else []
        self._every = max(1, total_steps // LINES)
        self._board = Board(folder / TENSORBOARD, self.lines) if folder else None

    def state(self) -> Line:
        """What goes into a checkpoint: the lines, and the losses since the last one."""
        return {"lines": list(self.lines), "losses": list(self._losses)}

    def is_due(self, step: int) -> bool:
        """Whether a line ends with this step."""
        return step % self._every == 0

    def step(self, step: int, loss: float, values: Mapping[str, float]) -> None:
        """Note the loss of a step; where a line is due, the values that stand in it, too."""
        self._losses.append(loss)
        if self.is_due(step):
            mean = sum(self._losses) / len(self._losses)
            self._losses.clear()
            self.lines.append({"step": step, "loss": mean, **values})
            self.show(step, {"loss": mean, **values})

    def judged(self, step: int, scores: Mapping[str, float]) -> None:
        """Note what held-out pairs say."""
        self.lines.append({"step": step, **scores})
        self.show(step, scores)

    def show(self, step: int, values: Mapping[str, float]) -> None:
        """For TensorBoard alone: what depends on the clock."""
        if self._board:
            self._board.add(step, values)

    def flush(self) -> None:
        if self._board:
            self._board.flush()

    def close(self) -> None:
        if self._board:
            self._board.close()


class Board:
    """TensorBoard's files in a folder; of a bucket it has a copy after each ``flush``."""

    def __init__(self, folder: Path, lines: Sequence[Line]) -> None:
        """What an ended process has shown of steps after those of ``lines`` is shown no more."""
        from tensorboardX import SummaryWriter

        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        after = lines[-1]["step"] + 1 if lines else 0
        # A file's name has a time in seconds: of two in one second, the second would be the only.
        suffix = f".{secrets.token_hex(4)}"
        self._writer: SummaryWriter = SummaryWriter(
            str(folder), purge_step=after, filename_suffix=suffix
        )

    def add(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def flush(self) -> None:
        self._writer.flush()
        self._send()

    def close(self) -> None:
        self._writer.close()
        self._send()

    def _send(self) -> None:
        for path in sorted(self._folder.glob("events.*")):
            publish(path)


class Clock:
    """How fast a training is, since its process began."""

    def __init__(self, peak: float | None) -> None:
        """``peak``: FLOP/s of all workers' devices together; None where it is not known."""
        self._peak = peak
        self._started = self._asked = self._kept = time.monotonic()
        self._pairs = self._flops = 0

    def stepped(self, pairs: int, flops: int) -> None:
        """A step is done, of all workers, with what the model has computed for it."""
        self._pairs += pairs
        self._flops += flops

    def has_passed(self, seconds: float) -> bool:
        """Whether so many have since this was last true."""
        now = time.monotonic()
        if now - self._asked < seconds:
            return False
        self._asked = now
        return True

    def is_over(self, minutes: float | None) -> bool:
        """Whether so many have passed since the last checkpoint; of None, never."""
        return minutes is not None and time.monotonic() - self._kept >= 60 * minutes

    def kept(self) -> None:
        """A checkpoint was made."""
        self._kept = time.monotonic()

    def speed(self, waited: float) -> dict[str, float]:
        """Pairs a second, and what shares of the time went where.

        Args:
            waited: seconds of it in which data was waited for.
        """
        seconds = max(time.monotonic() - self._started, 1e-9)
        speed = {"pairs/s": self._pairs / seconds, "waiting for data": min(1.0, waited / seconds)}
        if self._peak:
            speed["MFU"] = self._flops / seconds / self._peak
        return speed
