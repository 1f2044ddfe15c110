"""``python -m pipelines.run.guard COMMAND...``: run a command that must not outlive its parent.

The parent holds the other end of standard input. When it closes, because the parent is done or
was killed in whatever way, the command is ended, and killed if it does not end by itself;
otherwise a killed run would leave its services behind, and the next run would find their ports
taken. The command dies with the guard, too: whoever kills it kills both.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from functools import partial
from types import FrameType
from typing import NoReturn

from workers.base.processes import adopt_orphans, end_with_parent, kill_descendants

#: Seconds that a command has to end by itself before it is killed.
GRACE = 5.0


def end(process: subprocess.Popen[bytes], grace: float = GRACE) -> None:
    """Ask a process to end, then make it."""
    process.terminate()
    try:
        process.wait(timeout=grace)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def main() -> NoReturn:
    """Run the command until it ends, standard input closes or SIGTERM comes."""
    adopt_orphans()
    try:
        process = subprocess.Popen(
            sys.argv[1:],
            stdin=subprocess.DEVNULL,
            preexec_fn=partial(end_with_parent, os.getpid()),  # no thread has been started yet
        )
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{sys.argv[1]} cannot be started: {error}\n")
        sys.exit(127)  # as a shell says it
    ending = threading.Event()

    def end_at_sigterm(_signal: int, _frame: FrameType | None) -> None:
        ending.set()

    def end_with_input() -> None:
        while os.read(sys.stdin.fileno(), 1):
            pass
        ending.set()

    def end_command() -> None:
        ending.wait()
        end(process)

    # Ctrl-C reaches the whole group; the run ends its services in its own order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, end_at_sigterm)
    for action in (end_with_input, end_command):
        threading.Thread(target=action, daemon=True).start()
    code = process.wait()
    kill_descendants()  # what the command has left
    os._exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    main()
