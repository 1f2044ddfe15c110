"""Processes that must not outlive others or work beside them: death signals, trees, locks."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

#: Linux's prctl: the signal that a process gets when its parent dies; that the orphans below a
#: process become its children.
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36

#: Rounds of killing, each of a second at most: a process may start others while it is killed.
_ROUNDS = 10


def lock(path: Path, flags: int = os.O_RDONLY) -> int:
    """Lock a folder until this process and its forks end, or the descriptor that this gives closes.

    Where only files that are written to have locks (NFS), it locks a file in the folder. Raises
    BlockingIOError where another process holds it, and OSError where there are no locks.
    """
    descriptor = os.open(path, flags)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if error.errno != errno.EBADF or not path.is_dir():
            raise
        return lock(path / "run.lock", os.O_RDWR | os.O_CREAT)
    return descriptor


def end_with_parent(parent: int) -> None:
    """Have this process killed when its parent, ``parent``, dies in whatever way.

    Holds for the thread of the parent that started it. Elsewhere than on Linux it does nothing.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has died meanwhile
        os._exit(1)


def end_at_interrupts() -> None:
    """Let Ctrl-C end this process without the trace of an import, until it has handlers."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def adopt_orphans() -> None:
    """Make descendants whose parents die children of this process, so that it can end them."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def reap_orphans(child: int) -> None:
    """Let go of adopted processes that have ended, but for ``child``, which somebody waits for."""
    if sys.platform == "linux":  # nothing is adopted elsewhere
        with contextlib.suppress(ChildProcessError):
            while True:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
                if ended is None or ended.si_pid == child:
                    return
                os.waitpid(ended.si_pid, 0)


def kill_descendants(spared: int = 0) -> None:
    """Kill all processes below this one but ``spared``, until there are none."""
    import psutil

    this = psutil.Process()
    _kill(lambda: [child for child in this.children(recursive=True) if child.pid != spared])


def marked(name: str, value: str) -> Iterator[psutil.Process]:
    """The processes that run and have a variable of this value in their environments."""
    import psutil

    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            is_alive = process.status() != psutil.STATUS_ZOMBIE
            if is_alive and process.environ().get(name) == value:
                yield process


def kill_marked(name: str, value: str) -> None:
    """Kill all of them but this one."""
    _kill(lambda: [process for process in marked(name, value) if process.pid != os.getpid()])


def _kill(find: Callable[[], list[psutil.Process]]) -> None:
    """Kill what is found, until nothing is: a process may start others while it is killed."""
    import psutil

    for _ in range(_ROUNDS):
        processes = find()
        if not processes:
            return
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, timeout=1.0)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
