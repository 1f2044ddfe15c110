"""What tasks that work at a time have in common: they ask one host one after the other, and read
what it says of itself (robots.txt, tdmrep.json) once for all.

A task keeps a host as long as no other wants it, or for LEASE seconds once one does, and hands on
how long the host is to be left alone. So what ``requests_per_host`` and ``delay`` say holds for all
tasks together, wherever they run. One book has it all in memory; a task that says nothing for
LOST seconds is dead, and a book that begins anew grants anew.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, Protocol

from workers.web.robots import RuleFile

#: Seconds for which a task keeps a host that others wait for.
LEASE = 5.0
#: Seconds for which a request keeps its connection while another task has the host.
PATIENCE = 1.0
#: Seconds between two words of a task with the book: while it waits for a host, and else.
ASKING, RENEWAL = 0.25, 0.5
#: Seconds after which a task that waits has given up, and one that says nothing is dead.
STALE, LOST = 1.0, 15.0
#: Seconds for which the book knows of a pause, at most.
_LONGEST = 86_400.0
#: Seconds between the times at which the book forgets what is over.
_SWEEP = 5.0
#: Bytes of rules of hosts that the book knows; what was wanted longest ago goes for more.
RULE_BYTES = 256 << 20
#: Seconds after which what a host has said is asked for again (RFC 9309, section 2.4).
RULE_SECONDS = 86_400.0


class Reply(NamedTuple):
    """What the book says to a task."""

    book: str  # another one: what it had granted is forgotten
    granted: dict[str, float]  # by host: seconds for which it is to be left alone before
    wanted: list[str]  # hosts of this task for which others wait


@dataclass
class _Entry:
    """What the book knows of a host."""

    holders: set[str] = field(default_factory=set)
    waiting: dict[str, float] = field(default_factory=dict)  # tasks as they came: last asked at
    not_before: float = 0.0


class LeaseBook:
    """Which tasks ask which host now, and what hosts have said of all that they have.

    Args:
        most: tasks that may ask a host at a time.
        clock: seconds.
        rule_bytes: of what hosts have said.
    """

    def __init__(
        self,
        most: int = 1,
        clock: Callable[[], float] = time.monotonic,
        rule_bytes: int = RULE_BYTES,
    ) -> None:
        self._most, self._clock = most, clock
        self._rules = OrderedDict[str, tuple[RuleFile, float]]()  # by URL, and since when
        self._rule_bytes, self._most_rule_bytes = 0, rule_bytes
        self._name = uuid.uuid4().hex
        self._hosts = defaultdict[str, _Entry](_Entry)
        self._seen: dict[str, float] = {}  # tasks
        self._contended = defaultdict[str, set[str]](set)  # by task: hosts that others asked for
        self._swept = clock()

    def exchange(self, task: str, asked: Sequence[str], given: Mapping[str, float]) -> Reply:
        """A task's word: the hosts that it waits for, and those that it gives back.

        Args:
            asked: asked for again and again until they are granted.
            given: by host, the seconds for which nobody is to ask it.
        """
        now = self._clock()
        self._seen[task] = now
        self._sweep(now)
        for host, pause in given.items():
            entry = self._hosts[host]
            entry.holders.discard(task)
            entry.not_before = max(entry.not_before, now + min(pause, _LONGEST))
        granted = {}
        for host in asked:
            entry = self._hosts[host]
            entry.waiting[task] = now
            if self._is_next(entry, task, now):
                del entry.waiting[task]
                entry.holders.add(task)
                granted[host] = max(0.0, entry.not_before - now)
            for holder in entry.holders - {task}:
                self._contended[holder].add(host)
        return Reply(self._name, granted, self._wanted(task, now))

    def rules(self, url: str) -> RuleFile | None:
        """What a task has read there, while this book is open."""
        said, since = self._rules.get(url, (None, 0.0))
        if said is None or self._clock() - since > RULE_SECONDS:
            return None
        self._rules.move_to_end(url)
        return said

    def note_rules(self, url: str, said: RuleFile) -> None:
        """Keep what a task has read, for the others."""
        before, _ = self._rules.pop(url, (None, 0.0))
        self._rules[url] = said, self._clock()
        self._rule_bytes += _size(said) - _size(before)
        while self._rule_bytes > self._most_rule_bytes:
            _, (oldest, _) = self._rules.popitem(last=False)
            self._rule_bytes -= _size(oldest)

    def _is_next(self, entry: _Entry, task: str, now: float) -> bool:
        entry.holders = {holder for holder in entry.holders if self._is_alive(holder, now)}
        if task in entry.holders or len(entry.holders) >= self._most:
            return False
        return next(some for some, at in entry.waiting.items() if now - at < STALE) == task

    def _wanted(self, task: str, now: float) -> list[str]:
        if task not in self._contended:
            return []
        wanted = []
        for host in self._contended[task]:
            entry = self._hosts[host]
            others = (at for some, at in entry.waiting.items() if some != task)
            if task in entry.holders and any(now - at < STALE for at in others):
                wanted.append(host)
        self._contended[task] = set(wanted)
        return sorted(wanted)

    def _is_alive(self, task: str, now: float) -> bool:
        return now - self._seen.get(task, float("-inf")) < LOST

    def _sweep(self, now: float) -> None:
        if now - self._swept < _SWEEP:
            return
        self._swept = now
        self._seen = {task: at for task, at in self._seen.items() if self._is_alive(task, now)}
        for task in [task for task in self._contended if task not in self._seen]:
            del self._contended[task]
        for host, entry in list(self._hosts.items()):
            entry.holders &= self._seen.keys()
            entry.waiting = {task: at for task, at in entry.waiting.items() if now - at < STALE}
            if not (entry.holders or entry.waiting or entry.not_before > now):
                del self._hosts[host]


def _size(said: RuleFile | None) -> int:
    """Bytes that it takes, with what a short one costs beside its text."""
    return len(said.body) + 1000 if said else 0


class Book(Protocol):
    """A ``LeaseBook``, wherever it is."""

    async def exchange(
        self, task: str, asked: Sequence[str], given: Mapping[str, float]
    ) -> Reply: ...

    async def rules(self, url: str) -> RuleFile | None: ...

    async def note_rules(self, url: str, said: RuleFile) -> None: ...


class Lease:
    """A task's time at one host; all of the time where no other task works.

    Args:
        ask: called when it is to be asked for; None: it need not be.
    """

    def __init__(self, ask: Callable[[], None] | None = None) -> None:
        self.is_wanted = False  # by other tasks
        self.waiting = 0  # requests that need nothing but this
        self._ask = ask
        self._running = 0
        self._not_before = 0.0  # when the host may be asked
        self._is_ours = asyncio.Event()
        self._since = self._earlier = 0.0

    @property
    def pause(self) -> float:
        """Seconds for which the host is to be left alone."""
        return max(0.0, self._not_before - _now())

    def leave_alone(self, seconds: float) -> None:
        """Let nothing be asked for so long."""
        self._not_before = max(self._not_before, _now() + seconds)

    @property
    def seconds(self) -> float:
        """For which it has been ours."""
        return self._earlier + (_now() - self._since if self._is_ours.is_set() else 0.0)

    async def get(self) -> bool:
        """Whether the host may be asked; waits for that, but not for long."""
        if self._is_ours.is_set() and self.is_wanted and _now() - self._since >= LEASE:
            self.lose()
        if not self._is_ours.is_set():
            await self._wait()
        return self._is_ours.is_set()

    async def _wait(self) -> None:
        if self._ask is None:
            self.grant()
            return
        self.waiting += 1
        self._ask()
        try:
            async with asyncio.timeout(PATIENCE):
                await self._is_ours.wait()
        except TimeoutError:
            pass
        finally:
            self.waiting -= 1

    @contextmanager
    def used(self) -> Iterator[None]:
        """The time of a request."""
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1

    def grant(self, pause: float = 0.0) -> None:
        """It is ours, but nothing may be asked for so many seconds."""
        self.leave_alone(pause)
        self.is_wanted, self._since = False, _now()
        self._is_ours.set()

    def let_go(self) -> bool:
        """Whether others may have it: nothing is being asked, nor about to be."""
        if self._running or (self.waiting and self._is_ours.is_set()):
            return False
        self.lose()
        return True

    def lose(self) -> None:
        """It is not ours any more; what is being asked may end."""
        self._earlier = self.seconds
        self._is_ours.clear()


class Leases:
    """A task's leases of all hosts. Without a book there are no other tasks."""

    def __init__(self, book: Book | None = None) -> None:
        self._book, self._book_name = book, ""
        self._task = uuid.uuid4().hex
        self._of: dict[str, Lease] = {}
        self._held, self._asking, self._wanted = set[str](), set[str](), set[str]()
        self._asks = asyncio.Event()

    def of(self, host: str) -> Lease:
        """The lease of a host."""
        if host not in self._of:
            self._of[host] = Lease(partial(self._ask, host) if self._book else None)
        return self._of[host]

    def _ask(self, host: str) -> None:
        if host not in self._asking:
            self._asking.add(host)
            self._asks.set()

    async def rules(self, url: str) -> RuleFile | None:
        """What another task has read there."""
        return await self._book.rules(url) if self._book else None

    async def note_rules(self, url: str, said: RuleFile) -> None:
        """Tell other tasks what this one has read."""
        if self._book:
            await self._book.note_rules(url, said)

    async def keep(self) -> None:
        """Talk with the book until this is cancelled."""
        while self._book:
            await self._exchange(
                self._book, {host for host in self._wanted if self._of[host].let_go()}
            )
            with suppress(TimeoutError):
                async with asyncio.timeout(ASKING if self._asking else RENEWAL):
                    await self._asks.wait()

    async def leave(self) -> None:
        """Give all back: nothing more is asked."""
        if self._book:
            await self._exchange(self._book, set(self._held))

    async def _exchange(self, book: Book, given: set[str]) -> None:
        self._asks.clear()
        self._held -= given
        self._asking = {host for host in self._asking if self._of[host].waiting}
        pauses = {host: self._of[host].pause for host in sorted(given)}
        reply = await book.exchange(self._task, sorted(self._asking), pauses)
        if reply.book != self._book_name:
            self._book_name = reply.book
            for host in self._held:
                self._of[host].lose()
            self._held.clear()
        for host, pause in reply.granted.items():
            self._of[host].grant(pause)
            self._held.add(host)
            self._asking.discard(host)
        for host in self._wanted.symmetric_difference(reply.wanted):
            self._of[host].is_wanted = host in reply.wanted
        self._wanted = set(reply.wanted)


def _now() -> float:
    return asyncio.get_running_loop().time()
