"""The site's process: many hosts at addresses of loopback, some of which misbehave.

``python -m benchmarks.download.site FOLDER`` serves what `Site` says in FOLDER/site.json, with the
pictures of FOLDER/pictures. It prints its port, makes FOLDER/asked at the first request, ends when
its standard input does, and prints what it has `Seen`. It is started by
``benchmarks.download.measure``.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

from pydantic import BaseModel

from benchmarks.download.case import LATE_SECONDS, MAX_BYTES, SLOW_SECONDS, Conduct
from examples.sample.server import listen

SITE, PICTURES, ASKED = "site.json", "pictures", "asked"
_END_OF_HEAD = b"\r\n\r\n"
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\n"
_NOTHING = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
_BUSY = b"HTTP/1.1 503 Busy\r\nRetry-After: 120\r\nContent-Length: 0\r\n\r\n"
_BLOCK = bytes(65_536)
#: Whoever takes so much of a body without end has shown what it does, and is sent no more than a
#: byte at a time, lest it fill the machine's memory.
_ENOUGH = 2 * MAX_BYTES
_DRIP_SECONDS = 0.5


class Site(BaseModel):
    """What the process has to serve."""

    conducts: dict[str, Conduct]  # of an address
    round_trip: float  # seconds that are waited where the link itself has no delay


class Seen(BaseModel):
    """What has happened at the site; times are seconds since the epoch."""

    first: float = 0.0  # request
    last_good: float = 0.0  # picture of a host that is good
    good: int = 0  # pictures that were sent at least once, late and slow ones among them
    requests: int = 0
    at_once: int = 0  # requests that one host has had in hand, at most
    megabytes: float = 0.0
    cpu_seconds: float = 0.0


class _Notes:
    """What all connections write down."""

    def __init__(self, asked: Path) -> None:
        self.seen, self._asked = Seen(), asked
        self.in_hand = Counter[str]()
        self.good = set[tuple[str, int]]()

    def request(self, address: str) -> None:
        """One has come."""
        if not self.seen.requests:
            self.seen.first = time.time()
            self._asked.touch()
        self.seen.requests += 1
        self.in_hand[address] += 1
        self.seen.at_once = max(self.seen.at_once, self.in_hand[address])


class _Connection(asyncio.Protocol):
    """One client's connection: requests are answered one after the other."""

    def __init__(
        self, address: str, conduct: Conduct, site: Site, pictures: list[bytes], notes: _Notes
    ) -> None:
        self._address, self._conduct, self._site = address, conduct, site
        self._pictures, self._notes = pictures, notes
        self._buffer = b""
        self._transport: asyncio.Transport | None = None
        self._later: asyncio.TimerHandle | None = None
        self._sent = 0
        self._is_fresh, self._is_open = True, False
        self._can_write = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._transport = None
        if self._later is not None:
            self._later.cancel()
        self._done()

    def pause_writing(self) -> None:
        self._can_write = False

    def resume_writing(self) -> None:
        self._can_write = True
        if self._is_open and self._conduct == "endless":
            self._pour()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if _END_OF_HEAD not in self._buffer or self._is_open:
            return
        head, _, self._buffer = self._buffer.partition(_END_OF_HEAD)
        target = head.split(b" ", 2)[1].decode("latin-1")
        self._notes.request(self._address)
        self._is_open = True
        # A connection takes one round trip, and each request another.
        wait = self._site.round_trip * (2 if self._is_fresh else 1)
        self._is_fresh = False
        wait += {"slow": SLOW_SECONDS, "late": LATE_SECONDS}.get(self._conduct, 0.0)
        if wait:
            self._wait(wait, partial(self._answer, target))
        else:
            self._answer(target)

    def _wait(self, seconds: float, then: partial[None]) -> None:
        self._later = asyncio.get_running_loop().call_later(seconds, then)

    def _answer(self, target: str) -> None:
        number = target.removeprefix("/").partition(".jpg")[0]
        if not number.isdecimal():
            self._say(_NOTHING)
        elif self._conduct == "busy":
            self._say(_BUSY)
        elif self._conduct == "circle":
            hops = target.count("?") + target.count("+") + 1
            to = f"/{number}.jpg?" + "+" * (hops - 1)
            self._say(f"HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n".encode())
        elif self._conduct == "drip":
            self._write(_HEAD + b"Content-Length: 99999\r\n\r\n")
            self._drip()
        elif self._conduct == "endless":
            self._write(_HEAD + b"\r\n")
            self._pour()
        elif self._conduct != "silence":
            self._send_picture(int(number))

    def _send_picture(self, number: int) -> None:
        picture = self._pictures[number % len(self._pictures)]
        head = _HEAD + b"Content-Length: %d\r\n\r\n" % len(picture)
        if self._conduct == "cut":
            self._write(head + picture[: len(picture) // 2])
            if self._transport is not None:
                self._transport.close()
            return
        self._notes.good.add((self._address, number))
        if self._conduct == "good":
            self._notes.seen.last_good = time.time()
        self._say(head + picture)

    def _say(self, answer: bytes) -> None:
        """An answer with an end: another request may follow."""
        self._write(answer)
        self._done()

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)
            self._sent += len(data)
            self._notes.seen.megabytes += len(data) / 1e6

    def _done(self) -> None:
        self._notes.in_hand[self._address] -= self._is_open
        self._is_open = False

    def _drip(self) -> None:
        self._write(b"x")
        self._wait(_DRIP_SECONDS, partial(self._drip))

    def _pour(self) -> None:
        while self._transport is not None and self._can_write and self._sent < _ENOUGH:
            self._write(_BLOCK)
        if self._sent >= _ENOUGH:
            self._drip()


async def _serve(site: Site, pictures: list[bytes], asked: Path) -> Seen:
    loop, notes = asyncio.get_running_loop(), _Notes(asked)
    sockets = listen(list(site.conducts), 0)
    for listener, (address, conduct) in zip(sockets, site.conducts.items(), strict=True):
        await loop.create_server(
            partial(_Connection, address, conduct, site, pictures, notes), sock=listener
        )
    sys.stdout.write(f"{sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    began = time.process_time()
    await asyncio.to_thread(sys.stdin.read)
    seen = notes.seen
    return seen.model_copy(
        update={"good": len(notes.good), "cpu_seconds": time.process_time() - began}
    )


def main(folder: Path) -> None:
    """Serve what the folder says."""
    site = Site.model_validate_json((folder / SITE).read_text())
    pictures = [path.read_bytes() for path in sorted((folder / PICTURES).iterdir())]
    seen = asyncio.run(_serve(site, pictures, folder / ASKED))
    sys.stdout.write(seen.model_dump_json() + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
