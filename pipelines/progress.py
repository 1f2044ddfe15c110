"""Progress of a stage: a bar on a terminal, elsewhere one line every 30 seconds."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType

from tqdm import tqdm

from pipelines.receipts import Outcome

log = logging.getLogger(__name__)

#: Seconds between two lines where there is no terminal: enough to see life, not to fill a log.
LINE_INTERVAL = 30.0


class Progress:
    """Counts shards as they end and says how far a stage is. Use it as a context manager."""

    def __init__(
        self, stage: str, total: int, done: int, note: Callable[[], str] = lambda: ""
    ) -> None:
        self.stage, self.total, self.done, self.kept = stage, total, done, 0
        self.note = note
        self.at_start = done
        self.started = time.monotonic()
        self._bar = tqdm(
            desc=stage, total=total, initial=done, unit="shard", disable=not sys.stderr.isatty()
        )
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._say_lines, name="progress", daemon=True)

    def __enter__(self) -> Progress:
        if self._bar.disable:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        self._bar.close()

    def advance(self, outcome: Outcome) -> None:
        self.done += 1
        if outcome.receipt:
            # A stage's last kind of row is the one that goes on to the next stage.
            *_, rows = outcome.receipt.rows.values()
            self.kept += rows["kept"]
        parts = (f"{self.kept:,} rows kept", self.note())
        self._bar.set_postfix_str(", ".join(filter(None, parts)), refresh=False)
        self._bar.update()

    def line(self) -> str:
        """For example ``images: 3 of 8 shards, 2,412 rows kept, 41 s, about 68 s left``."""
        seconds = time.monotonic() - self.started
        text = f"{self.stage}: {self.done} of {self.total} shards, {self.kept:,} rows kept"
        text += f", {seconds:.0f} s"
        if new := self.done - self.at_start:
            text += f", about {seconds / new * (self.total - self.done):.0f} s left"
        note = self.note()
        return f"{text}, {note}" if note else text

    def _say_lines(self) -> None:
        while not self._stop.wait(LINE_INTERVAL):
            log.info(self.line(), extra={"fields": {"stage": self.stage, "done": self.done}})
