"""A command at work in a process of its own, watched by one that does nothing else.

Ray replaces the handlers of signals, callbacks of libraries drop the exception that an interrupt
raises, and C++ ends a process without a word, Ray's for example when its raylet has died. None of
that may decide how a command ends. So the process that was started does no work. It starts the
worker, passes on signals and insists on them, starts a worker that was lost again, and in the end
kills whatever is left of what was started, and removes the temporary files. Should it be killed
itself, a third process, the reaper, does that.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

from workers.base.exit_codes import ExitCode, explain
from workers.base.output import open_streams
from workers.base.processes import (
    adopt_orphans,
    end_with_parent,
    kill_descendants,
    kill_marked,
    lock,
    reap_orphans,
)

#: A worker that died is started again so many times.
RESTARTS = 5
#: Seconds that an interrupted worker has to end; after the first of them it is asked again.
GRACE, INSISTENCE = 8.0, 3.0
#: Seconds between two looks at the worker.
_INTERVAL = 0.02

#: The environment's names for the folder of temporary files and for how the last worker ended.
_SESSION, _LAST_END = "CLIP_SESSION", "CLIP_LAST_END"
_PREFIX = "clip-"
#: Stands in such a folder, so that nobody else's is ever taken for one.
_MARK = "clip-from-scratch-session"
#: Ray's sockets are in it, and a socket's path has 107 bytes at most.
_LONGEST_FOLDER = 24

#: The note that a worker is deaf.
_DEAF = "deaf"

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def supervised(
    command: Callable[[], int], restarts: int = RESTARTS, lost: int = ExitCode.PARTIAL
) -> int:
    """Run a command in a child process; returns its exit code, in the parent and in the child.

    Args:
        restarts: how often a child that was killed, or ended without an exit code of its own,
            is started again.
        lost: the exit code when the last one was, too.

    Returns:
        128 + the signal's number when it was interrupted (130 for SIGINT, 143 for SIGTERM).
    """
    this = os.getpid()
    open_streams()
    adopt_orphans()
    _remove_leftovers()
    folder = _open_session()
    watch = _Watch(folder)
    try:
        return watch.run(command, restarts, lost)
    finally:
        if os.getpid() == this:
            kill_descendants()
            if folder:
                shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def temporary_files() -> Iterator[None]:
    """Have those of this process, which nobody watches, in a folder that goes with it.

    What one that was killed has left goes with the next one.
    """
    _remove_leftovers()
    before = tempfile.tempdir
    _keep_compiled(tempfile.gettempdir())
    with tempfile.TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True) as name:
        held = lock(Path(name))
        (Path(name) / _MARK).touch()
        tempfile.tempdir = name
        try:
            yield
        finally:
            tempfile.tempdir = before
            os.close(held)


def last_end() -> str | None:
    """How the worker before this one ended, where this one was started in its place."""
    return os.environ.get(_LAST_END)


def session_folder() -> Path | None:
    """The folder of temporary files of this command; None where it is not supervised."""
    return Path(folder) if (folder := os.environ.get(_SESSION)) else None


def deaths(task: str) -> int:
    """How many workers of this command have died between `begin` and `end` of a task."""
    note = _note(task)
    return int(note.read_text()) if note and note.exists() else 0


def begin(task: str) -> None:
    """Note that this worker begins a task that may kill it."""
    if note := _note(task):
        note.write_text(str(deaths(task) + 1))


def end(task: str) -> None:
    """Note that a task is over, whatever came out."""
    if note := _note(task):
        note.unlink(missing_ok=True)


@contextmanager
def deaf() -> Iterator[None]:
    """Kill this worker at an interrupt that comes meanwhile: for calls that take our handlers."""
    note = _note(_DEAF)
    if note:
        note.touch()
    try:
        yield
    finally:
        end(_DEAF)


def begin_anew(why: str) -> None:
    """End this worker as if it had been killed, so that another one goes on in its place.

    Returns where nobody watches.
    """
    if session_folder():
        _say(why.partition("\n")[0])
        os._exit(1)


def _note(task: str) -> Path | None:
    """The file of a note in the session's folder; None where nobody watches."""
    folder = session_folder()
    return folder / f"task-{hashlib.sha256(task.encode()).hexdigest()}" if folder else None


class _Watch:
    """The parent's side."""

    def __init__(self, folder: Path | None) -> None:
        self._asked = 0  # the signal that came
        self._times = 0  # how often it came
        # The reaper notices by the pipe that this process has ended, in whatever way.
        read_end, self._lifeline = os.pipe()
        self._reaper = os.fork()
        if not self._reaper:
            os.close(self._lifeline)
            _reap(read_end, folder)
        os.close(read_end)

    def run(self, command: Callable[[], int], restarts: int, lost: int) -> int:
        for attempt in range(restarts + 1):
            sys.stdout.flush()
            sys.stderr.flush()
            parent = os.getpid()
            end(_DEAF)
            # What comes between the fork and the handlers waits.
            signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
            worker = os.fork()
            if not worker:
                os.close(self._lifeline)
                return _work(command, parent)
            self._listen()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            code = self._wait(worker)
            if self._asked and code:
                return 128 + self._asked
            if code not in (1, *range(-64, 0)):
                return code
            kill_descendants(spared=self._reaper)
            ended = _describe(code)
            os.environ[_LAST_END] = ended
            again = f"starting it again, {attempt + 1} of {restarts} times"
            _say(f"the worker process {ended}; {again if attempt < restarts else 'giving up'}")
        return lost

    def _listen(self) -> None:
        for number in _SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:  # nohup and & of shells ignore some
                signal.signal(number, self._note_signal)

    def _note_signal(self, number: int, _frame: FrameType | None) -> None:
        self._asked = number
        self._times += 1

    def _wait(self, worker: int) -> int:
        """Wait for the worker's end, and see to it once a signal has come; its exit code."""
        asked_at = again_at = 0.0
        while True:
            with suppress(ChildProcessError):
                ended, status = os.waitpid(worker, os.WNOHANG)
                if ended:
                    return os.waitstatus_to_exitcode(status)
            now = time.monotonic()
            if self._asked and not asked_at:
                asked_at = again_at = now
            if asked_at and now >= again_at:
                # Of its own handlers only SIGTERM's is sure to be ours: Ray Train takes SIGINT's.
                note = _note(_DEAF)
                os.kill(worker, signal.SIGKILL if note and note.exists() else signal.SIGTERM)
                again_at = now + INSISTENCE
            if asked_at and (now > asked_at + GRACE or self._times > 1):
                os.kill(worker, signal.SIGKILL)
            reap_orphans(worker)
            time.sleep(_INTERVAL)


def _reap(read_end: int, folder: Path | None) -> NoReturn:
    """The third process: it outlives a parent that was killed, and ends what that has left.

    The worker dies with the parent, but not at once all that the worker has started: Ray's agents
    wait for a GCS that is gone.
    """
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    os.setsid()
    os.read(read_end, 1)
    if folder:
        kill_marked(_SESSION, str(folder))
        shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)


def _work(command: Callable[[], int], parent: int) -> int:
    """The child's side."""
    # A group of its own: Ctrl-C reaches the parent alone, which passes it on.
    os.setpgid(0, 0)
    end_with_parent(parent)
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, interrupt)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    sys.unraisablehook = _ignored
    try:
        return command()
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the last resort, below every command
        code, text = explain(error)
        _say(text)
        return code
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it is ending, and soon killed if it hangs


def interrupt(_signal: int, _frame: FrameType | None) -> None:
    """A handler that makes any signal what Ctrl-C is."""
    raise KeyboardInterrupt


def _ignored(error: sys.UnraisableHookArgs) -> None:
    """What Python prints of an exception that it ignores, but for interrupts: one that meets a
    finaliser is lost in it, and the parent asks again."""
    if not isinstance(error.exc_value, KeyboardInterrupt):
        sys.__unraisablehook__(error)


def _describe(code: int) -> str:
    if code >= 0:
        return f"ended without a word (exit code {code}), as when Ray's raylet or GCS has died"
    name = signal.Signals(-code).name
    return f"was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")


def _say(text: str) -> None:
    with suppress(OSError):  # nobody may be reading any more
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def _open_session() -> Path | None:
    """Make the folder that all temporary files of the command go into, and hold its lock.

    None where there is no place for it: a finished run has no need of one.
    """
    try:
        before = tempfile.gettempdir()
        short = before if len(before) <= _LONGEST_FOLDER else "/tmp"
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=short))
        with suppress(OSError):
            lock(folder)  # held until this process and the worker have ended
        (folder / _MARK).touch()
    except OSError:
        return None
    os.environ[_SESSION] = os.environ["TMPDIR"] = str(folder)
    _keep_compiled(before)
    os.environ.setdefault("RAY_TMPDIR", before)  # where Ray looks for a cluster of this machine
    tempfile.tempdir = None
    return folder


def _keep_compiled(folder: str) -> None:
    """Let the next command have what torch.compile makes: it lies where temporary files do."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", f"{folder}/torchinductor_{os.getuid()}")


def _remove_leftovers() -> None:
    """Remove the folders of commands that were killed together with their parents."""
    for place in {os.environ.get("TMPDIR", "/tmp"), "/tmp"}:
        for mark in Path(place).glob(f"{_PREFIX}*/{_MARK}"):
            with suppress(OSError):  # another user's, or another command removes it, too
                if mark.stat().st_uid == os.getuid():
                    held = lock(mark.parent)
                    shutil.rmtree(mark.parent, ignore_errors=True)
                    os.close(held)
