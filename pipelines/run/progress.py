"""Progress of a stage: workers say how far they are, its command shows it while it goes on.

An outcome comes when a shard ends, which can take an hour. Until then whoever works on it writes
every few seconds what it has done into the stage's scratch folder, on whatever machine it runs.
The command reads that, and shows a bar on a terminal, elsewhere one line every 30 seconds.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from pydantic import TypeAdapter, ValidationError
from tqdm import tqdm

from pipelines.run.attempts import under_way
from pipelines.run.receipts import Outcome, Side
from workers.base.copies import copy_of
from workers.base.storage import write_json
from workers.base.ticker import Ticker
from workers.embedding.meter import Activity

log = logging.getLogger(__name__)

#: Seconds between two lines where there is no terminal: enough to see life, not to fill a log.
LINE_INTERVAL = 30.0
#: Seconds after which a terminal, and whoever asks for the status, sees how far it is.
BAR_INTERVAL = 2.0
#: Open shards that are named.
NAMED = 20
BAR = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} shards [{elapsed}{postfix}]"
#: Seconds between two reports of a worker.
REPORT_INTERVAL = 2.0
#: A worker that says nothing for so long is gone, and its open shard is begun anew by another.
SILENCE = 15.0

#: Ray puts "ray_" before a counter's name and "_total" behind it.
METRICS = {
    "rows": "rows embedded",
    "thread_seconds": "seconds that the threads of embedding had",
    "gpu_seconds": "seconds that the GPUs of embedding had",
    "decoding_seconds": "seconds of threads that decoding took",
    "computing_seconds": "seconds of GPUs or, without any, of threads that the model took",
}

_ACTIVITY = TypeAdapter(Activity)


class Reporter:
    """A worker's end: says what ``activity`` gives, from a thread of its own.

    To the command by a file, and to Ray's metrics, which Ray offers to Prometheus on every machine.
    Use it as a context manager, or let it go on until the process ends.
    """

    def __init__(self, activity: Callable[[], Activity], folder: Path, worker: str) -> None:
        self._activity = activity
        copy = copy_of(folder)
        is_seen = copy is None or copy.is_owner  # nobody looks into what another process has here
        self._file = _reports(folder) / f"{worker}.json" if is_seen else None
        self._counters = {}
        if _in_ray():
            from ray.util.metrics import Counter

            self._counters = {name: Counter(f"clip_{name}", text) for name, text in METRICS.items()}
        self._counted = Activity()
        self._lock = threading.Lock()
        self._ticker = Ticker("report", REPORT_INTERVAL, self.report)
        self._ticker.start()

    def report(self) -> None:
        """Say it now: at the end of a shard, lest the process be gone before it is said."""
        with self._lock:
            activity = self._activity()
            if self._file:
                with suppress(OSError):  # the disk may be full; work that needs none of it goes on
                    write_json(asdict(activity), self._file)
            for name, counter in self._counters.items():
                if more := getattr(activity, name) - getattr(self._counted, name):
                    counter.inc(more)
            self._counted = activity

    def __enter__(self) -> Reporter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ticker.stop()
        self.report()


def _in_ray() -> bool:
    if "ray" not in sys.modules:
        return False
    import ray

    return ray.is_initialized()


def _reports(folder: Path) -> Path:
    """Where the workers of a stage's folder say how far they are."""
    return Side.SCRATCH.of(folder)


def activity_of(folder: Path) -> Activity:
    """What all workers on a stage's folder have done so far."""
    total, now = Activity(), time.time()
    for file in _reports(folder).glob("[!.]*.json"):
        try:
            activity = _ACTIVITY.validate_json(file.read_bytes())
            is_gone = now - file.stat().st_mtime > SILENCE
        except (OSError, ValidationError):  # it has just ended
            continue
        total += replace(activity, under_way=0.0) if is_gone else activity
    return total


@dataclass(frozen=True)
class Snapshot:
    """How far a stage is."""

    stage: str
    done: int  # shards, of this many
    total: int
    seconds: float  # that this command has worked on it
    rows: int
    seconds_left: float | None
    note: str
    open_shards: dict[str, datetime]  # the longest open ones by name, and since when

    def line(self) -> str:
        """For example ``images: 3 of 8 shards, 41 s, 2,412 rows, 58.8 rows/s, about 68 s left``."""
        text = f"{self.stage}: {self.done} of {self.total} shards, {self.seconds:.0f} s"
        return ", ".join((text, *self.details()))

    def details(self) -> list[str]:
        """What is known beside the number of shards, of the open ones too."""
        details = []
        if self.rows:
            pace = self.rows / max(self.seconds, 1e-9)
            details += [f"{self.rows:,} rows", f"{pace:,.1f} rows/s"]
        if self.seconds_left is not None:
            details.append(f"about {self.seconds_left:.0f} s left")
        return [*details, self.note] if self.note else details


class Progress:
    """Counts shards as they end and says how far a stage is. Use it as a context manager.

    Args:
        folder: of the stage, whose workers say how far they are within the open shards.
        tell: is told as well, every few seconds, in a thread of its own.
    """

    def __init__(
        self,
        stage: str,
        total: int,
        done: int,
        folder: Path | None = None,
        tell: Callable[[Snapshot], None] = lambda _: None,
    ) -> None:
        self.stage, self.total, self.done, self.kept = stage, total, done, 0
        self.folder, self._tell = folder, tell
        self.at_start = done
        self.started = time.monotonic()
        self._ended: set[str] = set()
        self._open: dict[str, datetime] = {}
        self._bar = tqdm(
            desc=stage,
            total=total,
            initial=done,
            bar_format=BAR,
            disable=not sys.stderr.isatty(),
        )
        self._said = self.started
        self._ticker = Ticker("progress", min(BAR_INTERVAL, LINE_INTERVAL), self._say)

    def __enter__(self) -> Progress:
        self._ticker.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ticker.stop()
        self._bar.close()
        if self.folder:
            for file in _reports(self.folder).glob("*.json"):
                file.unlink(missing_ok=True)

    def advance(self, outcome: Outcome) -> None:
        self.done += 1
        self._ended.add(outcome.shard)
        if outcome.receipt and outcome.receipt.rows:  # a pass has none
            # A stage's last kind of row is the one that goes on to the next stage.
            *_, rows = outcome.receipt.rows.values()
            self.kept += rows["kept"]
        self._bar.update()

    def line(self) -> str:
        return self.snapshot().line()

    def snapshot(self) -> Snapshot:
        seconds = time.monotonic() - self.started
        activity = activity_of(self.folder) if self.folder else Activity()
        ahead = min(self.done + activity.under_way, self.total)
        left = None
        if ahead > self.at_start and self.done < self.total:
            left = seconds / (ahead - self.at_start) * (self.total - ahead)
        return Snapshot(
            self.stage,
            self.done,
            self.total,
            seconds,
            max(self.kept, activity.rows),
            left,
            activity.remark(),
            self._open_shards(),
        )

    def _open_shards(self) -> dict[str, datetime]:
        """Those that are worked on, and when each was first seen."""
        names = under_way(self.folder) - self._ended if self.folder else set()
        now = datetime.now(UTC).replace(microsecond=0)
        self._open = {name: self._open.get(name, now) for name in names}
        return dict(sorted(self._open.items(), key=lambda item: (item[1], item[0]))[:NAMED])

    def _say(self) -> None:
        snapshot = self.snapshot()
        self._tell(snapshot)
        if not self._bar.disable:
            self._bar.set_postfix_str(", ".join(snapshot.details()))
        elif time.monotonic() - self._said >= LINE_INTERVAL:
            self._said = time.monotonic()
            fields = {"stage": self.stage, "done": self.done}
            log.info(snapshot.line(), extra={"fields": fields})
