"""Something done every few seconds while other work goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Ticker:
    """Calls ``action`` every so many ``seconds``, in a thread of its own, until it is stopped.

    The thread ends with the process, stopped or not.
    """

    def __init__(self, name: str, seconds: float, action: Callable[[], object]) -> None:
        self._seconds, self._action = seconds, action
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._go_on, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Wait until ``action`` is at work no more, and will not be again."""
        self._stop.set()
        self._thread.join()

    def _go_on(self) -> None:
        while not self._stop.wait(self._seconds):
            self._action()
