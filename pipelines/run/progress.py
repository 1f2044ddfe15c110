"""Progress of a stage: a bar on a terminal, elsewhere one line every 30 seconds."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

from tqdm import tqdm

from pipelines.run.receipts import Outcome

log = logging.getLogger(__name__)

#: Seconds between two lines where there is no terminal: enough to see life, not to fill a log.
LINE_INTERVAL = 30.0
#: Seconds after which a terminal shows how far it is within the open shards.
BAR_INTERVAL = 2.0
BAR = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} shards [{elapsed}{postfix}]"


@dataclass(frozen=True)
class Status:
    """What work says between the ends of two shards."""

    note: str = ""
    under_way: float = 0.0  # what is done of the open shards, in shards
    rows: int = 0  # done, of the open shards too


class Progress:
    """Counts shards as they end and says how far a stage is. Use it as a context manager."""

    def __init__(
        self, stage: str, total: int, done: int, status: Callable[[], Status] = Status
    ) -> None:
        self.stage, self.total, self.done, self.kept = stage, total, done, 0
        self.status = status
        self.at_start = done
        self.started = time.monotonic()
        self._bar = tqdm(
            desc=stage,
            total=total,
            initial=done,
            bar_format=BAR,
            disable=not sys.stderr.isatty(),
        )
        self._stop = threading.Event()
        say = self._say_lines if self._bar.disable else self._refresh_bar
        self._thread = threading.Thread(target=say, name="progress", daemon=True)

    def __enter__(self) -> Progress:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._bar.close()

    def advance(self, outcome: Outcome) -> None:
        self.done += 1
        if outcome.receipt:
            # A stage's last kind of row is the one that goes on to the next stage.
            *_, rows = outcome.receipt.rows.values()
            self.kept += rows["kept"]
        self._bar.update()

    def line(self) -> str:
        """For example ``images: 3 of 8 shards, 41 s, 2,412 rows, 58.8 rows/s, about 68 s left``."""
        seconds = time.monotonic() - self.started
        text = f"{self.stage}: {self.done} of {self.total} shards, {seconds:.0f} s"
        return ", ".join((text, *self._details(seconds)))

    def _details(self, seconds: float) -> list[str]:
        """What is known beside the number of shards, of the open ones too."""
        status = self.status()
        details = []
        if rows := max(self.kept, status.rows):
            details += [f"{rows:,} rows", f"{rows / max(seconds, 1e-9):,.1f} rows/s"]
        ahead = min(self.done + status.under_way, self.total)
        if ahead > self.at_start:
            left = seconds / (ahead - self.at_start) * (self.total - ahead)
            details.append(f"about {left:.0f} s left")
        return [*details, status.note] if status.note else details

    def _say_lines(self) -> None:
        while not self._stop.wait(LINE_INTERVAL):
            log.info(self.line(), extra={"fields": {"stage": self.stage, "done": self.done}})

    def _refresh_bar(self) -> None:
        while not self._stop.wait(BAR_INTERVAL):
            details = self._details(time.monotonic() - self.started)
            self._bar.set_postfix_str(", ".join(details))
