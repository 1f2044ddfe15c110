"""When a host may be asked: so many requests at a time, so long apart, and not before it has said.

A host is one HOST:PORT. What is known of it lasts as long as a shard is worked on. One that wants
to be left alone for longer than MAX_PAUSE, or does not answer, is left to another run. Tasks that
work at a time ask it one after the other (``workers.web.leases``).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

from workers.base.failures import FetchError
from workers.web.leases import PATIENCE, Lease
from workers.web.pauses import MAX_PAUSE

#: Requests in a row without an answer, after which a host is not asked any more.
MAX_FAILURES = 10


@dataclass(frozen=True)
class Manners:
    """How hosts are treated."""

    at_once: int  # requests
    delay: float  # seconds between the beginnings of two
    seconds: float  # for which a task asks one host, its turns together


#: What a request needs beside its host's turn, such as a free connection.
Room = Callable[[], AbstractAsyncContextManager[object]]


class Host:
    """The turns of one host, while it is this task's."""

    def __init__(self, manners: Manners, lease: Lease) -> None:
        self._delay = manners.delay
        self._seconds = manners.seconds
        self._free = asyncio.Semaphore(manners.at_once)
        self._lease = lease
        self._failures = 0
        self._is_left = False

    @asynccontextmanager
    async def turn(self, room: Room) -> AsyncIterator[None]:
        """A request's time, once there is room for it. Raises FetchError if there is none any more.

        Who waits for a host holds no room, and who waits for room may come too early after another
        that has found it, or find the host with another task.
        """
        async with self._free:
            while True:
                while pause := self._lease.pause:
                    self._check()
                    await asyncio.sleep(min(pause, 1.0))  # it may grow, or the host go
                self._check()
                async with room():
                    is_ours = await self._lease.get()
                    if is_ours and not self._lease.pause:
                        self._lease.leave_alone(self._delay)
                        with self._lease.used():
                            yield
                        return
                if not is_ours:
                    await asyncio.sleep(PATIENCE)

    def _check(self) -> None:
        self._is_left |= self._lease.pause > MAX_PAUSE
        if self._is_left or self._failures >= MAX_FAILURES:
            raise FetchError("host_away", pause=math.inf)
        if self._lease.seconds > self._seconds:
            raise FetchError("host_slow", pause=math.inf)

    def want_delay(self, seconds: float) -> None:
        """It wants so long between two requests."""
        self._delay = max(self._delay, min(seconds, MAX_PAUSE))

    def pause(self, seconds: float) -> None:
        """Leave it alone for so long, or for good."""
        self._is_left |= seconds > MAX_PAUSE
        self._lease.leave_alone(seconds)

    def answered(self) -> None:
        """There was an answer, whatever it says."""
        self._failures = 0

    def failed(self) -> None:
        """There was none."""
        self._failures += 1
