"""A lock where there is no flock: an object of a bucket that its owner renews while he lives.

Who may work is decided by the store alone: the object is created only if there is none, and
written over only as the version that was seen. How old it is, is told by the store's own clock, so
no two machines need to agree on the time. An owner that was stopped for longer than the lease
lasts, and goes on, finds that it is another's before he writes anything (``Holder.check``).
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Annotated

import psutil
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from workers.base.bucket import Bucket, ChangedError, Stat
from workers.base.ticker import Ticker

log = logging.getLogger(__name__)

NAME = "_lease.json"

#: Seconds for which a lease holds without being renewed, and how many times it is in that time.
SECONDS = 60.0
RENEWALS = 4


class HeldError(RuntimeError):
    """Somebody else holds the lease; the message says who, and since when."""


class LostError(RuntimeError):
    """The lease is not held any more: nothing may be written."""


class Terms(BaseModel):
    """What stands in the object."""

    model_config = ConfigDict(extra="forbid")

    number: Annotated[int, Field(ge=1)]  # it grows with every owner
    id: str  # of the owner
    host: str
    pid: int
    machine: str  # this boot of it, and what its processes' numbers are of
    started: float  # the process: its number may be another's by now
    since: datetime
    seconds: Annotated[float, Field(gt=0)]
    renewed: int = 0  # times; so every renewal is another version
    released: bool = False

    def owner(self) -> str:
        return (
            f"process {self.pid} on {self.host}, since {self.since.isoformat(timespec='seconds')}"
        )


@dataclass(frozen=True)
class Holder:
    """Who holds a bucket: what workers on other machines get, to ask whether it still holds."""

    bucket: Bucket
    number: int
    id: str

    def check(self) -> None:
        """Raise LostError unless the lease is its own. One request."""
        terms, _ = _read(self.bucket)
        if terms is None or terms.id != self.id:
            raise LostError(_lost(self.bucket, terms))


class Lease:
    """A lease that is held, and renewed until it is released."""

    def __init__(self, bucket: Bucket, terms: Terms, stat: Stat, asked: float) -> None:
        self.holder = Holder(bucket, terms.number, terms.id)
        self._terms, self._stat = terms, stat
        #: When what holds now was asked for: it holds so long from then at least.
        self._asked = asked
        self._lost = ""
        self._lock = threading.Lock()
        self._ticker = Ticker("lease", terms.seconds / RENEWALS, self._renew)
        self._ticker.start()

    def check(self) -> None:
        """Raise LostError where it may be another's by now. One request."""
        self._check_time()
        self.holder.check()

    def _check_time(self) -> None:
        with self._lock:
            if not self._lost and _elapsed() - self._asked > self._terms.seconds:
                self._lost = (
                    f"{self.holder.bucket.url} could not be reached for {self._terms.seconds:.0f} "
                    "s, so another process may work on it by now; give the same command again"
                )
            if self._lost:
                raise LostError(self._lost)

    def is_held(self) -> bool:
        """Whether ``check`` would raise nothing."""
        try:
            self.check()
        except (LostError, OSError):
            return False
        return True

    def _renew(self) -> None:
        with self._lock:
            if self._lost:
                return
            self._write(self._terms.model_copy(update={"renewed": self._terms.renewed + 1}))

    def _write(self, terms: Terms) -> None:
        asked = _elapsed()
        bucket = self.holder.bucket
        try:
            self._stat = bucket.write(NAME, _content(terms), self._stat)
        except ChangedError:
            self._lost = _lost(bucket, _read(bucket)[0])
            log.error("%s", self._lost)
        except OSError as error:  # the next time it may be there again
            log.warning("the lease could not be renewed: %s", error)
        else:
            self._terms, self._asked = terms, asked

    def release(self) -> None:
        """Let the next one in at once. What is lost stays with its new owner."""
        self._ticker.stop()
        with self._lock:
            if not self._lost:
                self._write(self._terms.model_copy(update={"released": True}))


@contextmanager
def holding(bucket: Bucket, seconds: float = SECONDS) -> Iterator[Lease]:
    """Hold a bucket's lease.

    Raises:
        HeldError: somebody else does, and has renewed it within its time.
    """
    lease = acquire(bucket, seconds)
    try:
        yield lease
    finally:
        lease.release()


def acquire(bucket: Bucket, seconds: float = SECONDS) -> Lease:
    """Take the lease if nobody holds it, or who did has not renewed it in its time."""
    asked = _elapsed()
    now = bucket.time()
    terms, stat = _read(bucket)
    if terms and stat and not terms.released and not _has_died(terms):
        if (now - stat.written).total_seconds() <= terms.seconds:
            raise HeldError(f"{bucket.url} is held by {terms.owner()}")
        log.warning("%s was held by %s, who has not renewed it", bucket.url, terms.owner())
    own = Terms(
        number=terms.number + 1 if terms else 1,
        id=secrets.token_hex(8),
        host=socket.gethostname(),
        pid=os.getpid(),
        machine=_machine(),
        started=psutil.Process().create_time(),
        since=datetime.now(UTC),
        seconds=seconds,
    )
    try:
        written = bucket.write(NAME, _content(own), stat)
    except ChangedError as error:
        terms, _ = _read(bucket)
        owner = terms.owner() if terms else "another process"
        raise HeldError(f"{bucket.url} is held by {owner}") from error
    return Lease(bucket, own, written, asked)


def _has_died(terms: Terms) -> bool:
    """Whether the owner was a process of this very machine and is no more: nobody need wait."""
    if terms.machine != _machine():
        return False
    try:
        process = psutil.Process(terms.pid)
        is_it = abs(process.create_time() - terms.started) < 1
        return not is_it or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@cache
def _machine() -> str:
    """What two processes share that see each other: names of hosts are given more than once."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # no Linux: the lease's time tells
        return secrets.token_hex(8)


def _read(bucket: Bucket) -> tuple[Terms | None, Stat | None]:
    """The lease that is there; one that cannot be read is nobody's, and can be taken."""
    try:
        content, stat = bucket.read(NAME)
    except FileNotFoundError:
        return None, None
    try:
        return Terms.model_validate_json(content), stat
    except ValidationError:
        return None, stat


def _content(terms: Terms) -> bytes:
    return (terms.model_dump_json(indent=2) + "\n").encode()


def _lost(bucket: Bucket, terms: Terms | None) -> str:
    owner = f"held by {terms.owner()}" if terms else "nobody's"
    return f"{bucket.url} is {owner} by now: this process was stopped or cut off for too long"


def _elapsed() -> float:
    """Seconds that have passed, also while the machine slept."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
