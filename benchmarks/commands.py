"""What benchmarks that disturb the project's commands have to see of them: stages and leftovers."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

from workers.base.processes import marked

#: Stands in the environment of everything that a command starts.
MARK = "CHAOS_RUN"
#: Seconds after a command's end when none of its processes may be left.
PATIENCE = 5.0


def wait_for_stage(
    process: subprocess.Popen[bytes], run_dir: Path, stage: str, above: str = ""
) -> bool:
    """Wait until a stage is at work; False if the command ends before.

    Args:
        above: a glob for the folders of ``run_dir`` in which the work may be done; "": itself.
    """
    started = time.time()  # what stands there already was left by a command that was killed
    while process.poll() is None:
        if any(_made_since(started, path) for path in run_dir.glob(f"{above}_work/{stage}/*")):
            return True
        time.sleep(0.02)
    return False


def _made_since(moment: float, path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_mtime >= moment
    return False


def worker_of(command: psutil.Process) -> list[psutil.Process]:
    """The process that does a command's work; none before it has been started.

    It leads a group in the command's session; the reaper beside it has a session of its own.
    """
    found = []
    for child in command.children():
        with contextlib.suppress(ProcessLookupError):
            is_leader = os.getpgid(child.pid) == child.pid
            if is_leader and os.getsid(child.pid) == os.getsid(command.pid):
                found.append(child)
    return found


def everything(command: psutil.Process) -> list[psutil.Process]:
    """A command's process and all that it has started."""
    return [command, *command.children(recursive=True)]


def signal_to(processes: Iterable[psutil.Process], number: signal.Signals) -> None:
    """Send a signal to each that has not ended yet."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def left_by(mark: str) -> list[str]:
    """What is left of a command some seconds after its end, as command lines. It is killed then."""
    deadline = time.monotonic() + PATIENCE
    while left := list(marked(MARK, mark)):
        if time.monotonic() > deadline:
            names = [" ".join(process.cmdline())[:100] for process in left]
            for process in left:
                process.kill()
            return names
        time.sleep(0.1)
    return []


def fill(disk: Path) -> None:
    """Leave no byte on a disk."""
    with (disk / "filler").open("wb", buffering=0) as file:
        while True:
            try:
                file.write(bytes(4096))
            except OSError:
                return
