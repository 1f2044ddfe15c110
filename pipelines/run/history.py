"""The history of a run: what each command did, in lines that are only ever added; and its state.

`logs/history.jsonl` has a line for a command's start, one for each stage that it worked on, one
for its end. A command without an end was killed. `logs/state.json` says what the command that is
at work does now; it is written anew every few seconds.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import psutil
from pydantic import TypeAdapter, ValidationError

from pipelines.run import clock
from pipelines.run.directory import HISTORY, Run, code_in_use
from pipelines.run.progress import Snapshot
from pipelines.run.receipts import Outcome, Receipt, RowCounts, Side
from pipelines.run.totals import StageTotals
from workers.base.exit_codes import PASSING, ExitCode
from workers.base.storage import replacing, write_json
from workers.base.supervisor import session_folder

log = logging.getLogger(__name__)

STATE = "logs/state.json"
#: A file that is longer loses the older half of its lines: years of nights are shorter.
LONGEST = 64 << 20
#: Bytes at the end of the file that hold what a night is held against, and more.
RECENT = 4 << 20
#: Seconds without a word after which a command on another host is said to be gone, perhaps.
SILENCE = 60.0


#: Rows kept and failed of each source, a host or a file.
Sources = dict[str, tuple[int, int]]


@dataclass(frozen=True)
class Work:
    """What a command did in a stage: the sum of the receipts that it has written."""

    shards: int
    failed_shards: int
    rows: RowCounts
    bytes: int
    seconds: float
    sources: Sources = field(default_factory=dict)


@dataclass(frozen=True)
class Start:
    """Who began what, when and where."""

    command: str
    time: datetime
    host: str
    pid: int  # that somebody would send a signal to, not the worker's
    process_start: float  # of that process: its number may be another's by now
    code: dict[str, str | None]  # version and commit
    configuration_hash: str

    def is_alive(self) -> bool | None:
        """Whether the command's process lives; None where that cannot be told, on another host."""
        if self.host != socket.gethostname():
            return None
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.pid)
            is_it = abs(process.create_time() - self.process_start) < 1
            return is_it and process.status() != psutil.STATUS_ZOMBIE
        return False


@dataclass(frozen=True)
class Entry:
    """A command of the history. What stood in a damaged line is None."""

    id: str
    start: Start | None = None
    stages: dict[str, Work] = field(default_factory=dict)
    end: datetime | None = None
    exit_code: int | None = None


@dataclass(frozen=True)
class _Line:
    """A line of the file: of the command with this id, its start, a stage or its end."""

    id: str
    start: Start | None = None
    stage: str | None = None
    work: Work | None = None
    end: datetime | None = None
    exit_code: int | None = None


_LINE = TypeAdapter(_Line)


def read_history(home: Path, *, recent: bool = False) -> list[Entry]:
    """The commands of a run, in the order of their starts; a damaged line costs itself.

    Args:
        recent: only those at the end of the file: years of nights take seconds to read.
    """
    entries: dict[str, Entry] = {}
    try:
        with (home / HISTORY).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - RECENT) if recent else 0)
            lines = file.read().splitlines()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return []
    for text in lines:
        with suppress(ValidationError):
            line = _LINE.validate_json(text)
            entries[line.id] = _with_line(entries.get(line.id, Entry(line.id)), line)
    return list(entries.values())


def _with_line(entry: Entry, line: _Line) -> Entry:
    if line.stage and line.work:
        return replace(entry, stages={**entry.stages, line.stage: line.work})
    if line.start:
        return replace(entry, start=line.start)
    return replace(entry, end=line.end, exit_code=line.exit_code)


class Journal:
    """What one command writes into a run's history; the run must be locked."""

    def __init__(self, run: Run, command: str) -> None:
        pid = os.getppid() if session_folder() else os.getpid()
        self._run = run
        self.start = Start(
            command=command,
            time=now(),
            host=socket.gethostname(),
            pid=pid,
            process_start=psutil.Process(pid).create_time(),
            code=code_in_use(),
            configuration_hash=run.configuration_hash,
        )
        self._id = secrets.token_hex(6)
        #: What the command ends with, unless an exception ends it.
        self.code = ExitCode.COMPLETE
        #: Those that it has worked on.
        self.stages: list[str] = []

    def begin(self) -> None:
        """Write the command's first line, and before it what one that was killed could not."""
        _shorten(self._run.home / HISTORY)
        if (entries := read_history(self._run.home, recent=True)) and not entries[-1].end:
            for stage, work in _unsaid(self._run, entries[-1]):
                self._add(_Line(entries[-1].id, stage=stage, work=work))
        self._add(_Line(self._id, start=self.start))

    @contextmanager
    def work_on(
        self, stage: str, sources_of: Callable[[Sequence[Receipt]], Sources]
    ) -> Iterator[list[Outcome]]:
        """Write what is done in a stage, whatever ends it: put the outcomes into the list."""
        started = time.monotonic()
        self.stages.append(stage)
        outcomes: list[Outcome] = []
        sources: Sources = {}
        try:
            yield outcomes
            sources = sources_of([outcome.receipt for outcome in outcomes if outcome.receipt])
        finally:
            made = [outcome.receipt for outcome in outcomes if outcome.receipt]
            failed = len(outcomes) - len(made)
            work = work_of(made, failed, round(time.monotonic() - started, 3), sources)
            self._add(_Line(self._id, stage=stage, work=work))
            self.note_state(None)

    def end(self, code: ExitCode) -> None:
        """Write the command's last line."""
        self._add(_Line(self._id, end=now(), exit_code=int(code)))
        (self._run.home / STATE).unlink(missing_ok=True)

    def note_state(self, stage: Snapshot | None) -> None:
        """Say what the command does now; None: it is between two stages."""
        state = _STATE.dump_python(State(self._id, now(), stage), mode="json")
        with suppress(OSError):  # a full disk ends nothing that needs no more of it
            write_json(state, self._run.home / STATE)

    def _add(self, line: _Line) -> None:
        try:
            _append(_LINE.dump_json(line, exclude_defaults=True), self._run.home / HISTORY)
        except OSError as error:
            if error.errno not in PASSING:
                raise
            log.warning("the history of the run lacks a line: %s", error)


def now() -> datetime:
    return datetime.fromtimestamp(int(clock.now()), UTC)


def _unsaid(run: Run, entry: Entry) -> Iterator[tuple[str, Work]]:
    """What a command that was killed did in the stage that it was killed in, by its receipts."""
    if not entry.start:
        return
    for folder in sorted((run.directory / Side.RECEIPTS).glob("[!.]*/")):
        receipts = [] if folder.name in entry.stages else run.receipts(folder.name).all()
        if made := [r for r in receipts if r.ended >= entry.start.time.timestamp()]:
            yield folder.name, work_of(made)


def work_of(
    made: Sequence[Receipt],
    failed_shards: int = 0,
    seconds: float | None = None,
    sources: Sources | None = None,
) -> Work:
    """The sum of receipts.

    Args:
        seconds: that passed; without, those that the shards took together.
    """
    totals = StageTotals.of(made)
    seconds = totals.seconds if seconds is None else seconds
    return Work(totals.shards, failed_shards, totals.rows, totals.bytes, seconds, sources or {})


def _append(text: bytes, path: Path) -> None:
    """Add a line, in one write; one that was torn before it ends where it was torn."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        size = os.fstat(descriptor).st_size
        is_torn = size and os.pread(descriptor, 1, size - 1) != b"\n"
        line = (b"\n" if is_torn else b"") + text + b"\n"
        written = os.write(descriptor, line)
        if written < len(line):  # raises what kept it from the rest
            os.write(descriptor, line[written:])
    finally:
        os.close(descriptor)


def _shorten(path: Path) -> None:
    with suppress(FileNotFoundError):
        if path.stat().st_size > LONGEST:
            lines = path.read_bytes().splitlines(keepends=True)
            with suppress(OSError), replacing(path) as temporary:
                temporary.write_bytes(b"".join(lines[len(lines) // 2 :]))


@dataclass(frozen=True)
class State:
    """What a command that is at work does."""

    id: str  # of the command, as in the history
    said: datetime
    stage: Snapshot | None  # none: it plans, or writes its report


_STATE = TypeAdapter(State)


def read_state(home: Path) -> State | None:
    """What the command at work has said last; None where there is none."""
    try:
        return _STATE.validate_json((home / STATE).read_bytes())
    except (OSError, ValidationError):
        return None
