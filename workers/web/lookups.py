"""Names looked up in threads, none of which holds up another name or the end of the process.

The system's resolver knows the machine's files, search domains and name servers, and cannot be told
to stop: a thread that asks a name server which never answers is lost for as long as the system
likes. So whoever asks waits as long as he wants to, while the thread goes on: there is one for each
name, however often it is asked for, and they are bounded for the whole process, since what hangs
outlives the client that has asked. At the end of the process nobody waits for them.
"""

from __future__ import annotations

import socket
import threading
from concurrent.futures import Future

#: Names that are looked up at a time in a process, hanging ones among them.
MAX_THREADS = 256

#: The addresses of a name, IPv4 first.
Addresses = list[str]


class Lookups:
    """Look-ups of any number of names, ``most`` at a time; for any threads and event loops."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        # Who waits for a name: for its thread, and for one that is free.
        self._running: dict[str, list[Future[Addresses]]] = {}
        self._waiting: dict[str, list[Future[Addresses]]] = {}

    def ask(self, name: str) -> Future[Addresses]:
        """The addresses of a name or number; socket.gaierror or UnicodeError where there are none.

        Whoever waits no longer cancels it.
        """
        answer = Future[Addresses]()
        with self._lock:
            if name in self._running:
                self._running[name] = [*_still_wanted(self._running[name]), answer]
            elif len(self._running) < self._most:
                thread = threading.Thread(
                    target=self._work, args=(name,), name="lookup", daemon=True
                )
                thread.start()  # what it finds is given out once the lock is free
                self._running[name] = [answer]
            else:
                waiting = {name: _still_wanted(some) for name, some in self._waiting.items()}
                self._waiting = {name: some for name, some in waiting.items() if some}
                self._waiting.setdefault(name, []).append(answer)
        return answer

    def _work(self, name: str | None) -> None:
        while name is not None:
            found = _look_up(name)
            with self._lock:
                answers = self._running.pop(name)
                name = self._next()
            for answer in answers:
                if not answer.set_running_or_notify_cancel():
                    continue
                if isinstance(found, Exception):
                    answer.set_exception(found)
                else:
                    answer.set_result(found)

    def _next(self) -> str | None:
        """The name that has waited longest for a thread, if anybody still wants it."""
        while self._waiting:
            name = next(iter(self._waiting))
            if answers := _still_wanted(self._waiting.pop(name)):
                self._running[name] = answers
                return name
        return None


def _still_wanted(answers: list[Future[Addresses]]) -> list[Future[Addresses]]:
    return [answer for answer in answers if not answer.cancelled()]


def _look_up(name: str) -> Addresses | Exception:
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, ValueError) as error:  # a UnicodeError is a ValueError
        return error
    addresses = {(family != socket.AF_INET, str(ip[0])) for family, *_, ip in found}
    return [address for _, address in sorted(addresses)]


#: Those of this process.
LOOKUPS = Lookups(MAX_THREADS)
