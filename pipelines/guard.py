"""``python -m pipelines.guard COMMAND...``: run a command that must not outlive its parent.

The parent holds the other end of standard input. When it closes, because the parent is done or
was killed in whatever way, the command is ended; otherwise a killed run would leave its services
behind, and the next run would find their ports taken.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from types import FrameType
from typing import NoReturn

#: Seconds that a command has to end by itself before it is killed.
GRACE = 5.0


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask a process to end, then make it."""
    process.terminate()
    try:
        process.wait(timeout=GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def main() -> NoReturn:
    """Run the command until it ends, standard input closes or SIGTERM comes."""
    process = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)

    def end_at_sigterm(_signal: int, _frame: FrameType | None) -> None:
        process.terminate()

    def end_with_parent() -> None:
        while os.read(sys.stdin.fileno(), 1):
            pass
        end(process)

    # Ctrl-C reaches the whole group; the run ends its services in its own order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, end_at_sigterm)
    threading.Thread(target=end_with_parent, daemon=True).start()
    sys.exit(process.wait())


if __name__ == "__main__":
    main()
