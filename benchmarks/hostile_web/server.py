"""The servers of the hostile web: raw sockets on loopback, and notes of all that happens at them.

Each host is a loopback address of its own, all at one port. A connection is read and written by
hand, since what has to be sent is mostly no HTTP. Time is counted for each exchange: from the
connection's opening, or the end of a later request on it, until all has been said or one of the two
has gone. A connection that is kept open between two requests counts for nobody.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import Message
from functools import partial

from benchmarks.hostile_web.case import MAX_SECONDS, Case, Doing
from examples.sample.server import listen

#: Seconds after which a server has had enough, so that nothing goes on for ever.
LIMIT = 4 * MAX_SECONDS
#: Seconds after which it is seen that the other side has gone.
_TICK = 0.02
_END_OF_HEAD = b"\r\n\r\n"

#: The address that no case may lead to: its port is the hosts', and a second one.
INSIDE = "127.0.0.1"
ROBOTS, TDM = "/robots.txt", "/.well-known/tdmrep.json"


#: What reading a request raises where none comes.
_NO_REQUEST = (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ssl.SSLError)


class GoneError(ConnectionError):
    """The other side has closed the connection."""


@dataclass
class Visit:
    """One exchange."""

    host: str
    path: str
    began: float  # seconds of a monotonic clock
    ended: float | None = None
    agent: str = ""
    sent: int = 0  # bytes

    def is_of(self, case: Case) -> bool:
        """Whether it is for a picture of the case."""
        return self.path.startswith(f"/{case.slug}/")


@dataclass
class Seen:
    """What was seen at all servers."""

    visits: list[Visit] = field(default_factory=list)
    connections: list[str] = field(default_factory=list)  # the host of each
    hosts: dict[str, str] = field(default_factory=dict)  # of a case's slug

    def of(self, case: Case) -> list[Visit]:
        """The requests for a case's pictures, in their order."""
        return [visit for visit in self.visits if visit.is_of(case)]

    def at_host_of(self, case: Case) -> list[Visit]:
        return [visit for visit in self.visits if visit.host == self.hosts[case.slug]]

    def for_path(self, case: Case, path: str) -> list[Visit]:
        """The requests for a path of a case's host."""
        return [visit for visit in self.at_host_of(case) if visit.path == path]

    def trespasses(self, case: Case) -> int:
        """Requests of a case at the address that none may lead to."""
        return sum(visit.host == INSIDE for visit in self.of(case))

    def most_at_once(self, case: Case) -> int:
        """Exchanges for pictures that the case's host had at a time."""
        visits = [visit for visit in self.at_host_of(case) if visit.is_of(case)]
        return max(
            (
                sum(one.began <= visit.began and visit.began < _end(one) for one in visits)
                for visit in visits
            ),
            default=0,
        )


def _end(visit: Visit) -> float:
    return time.monotonic() if visit.ended is None else visit.ended


class Reader(asyncio.StreamReader):
    """What the other side sends; that it has ended is known before all of it is read."""

    has_ended = False

    def feed_eof(self) -> None:
        self.has_ended = True
        super().feed_eof()


@dataclass
class Exchange:
    """What a server has in its hands while it answers: a request, unless it has not read one."""

    web: Web
    case: Case | None
    path: str
    fields: Message
    number: int  # of earlier requests for the same path
    visit: Visit
    _reader: Reader
    _writer: asyncio.StreamWriter
    may_go_on: bool = False  # the connection, with another request

    async def send(self, data: bytes) -> None:
        """Raises ConnectionError where the other side has gone."""
        if self._is_gone():
            raise GoneError
        self._writer.write(data)
        self.visit.sent += len(data)
        await self._writer.drain()

    async def pause(self, seconds: float) -> None:
        """Wait. Raises ConnectionError as soon as the other side has gone."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if self._is_gone():
                raise GoneError
            await asyncio.sleep(min(left, _TICK))

    async def hold(self) -> None:
        """Say nothing until the other side has gone."""
        await self.pause(2 * LIMIT)

    def reset(self) -> None:
        """End the connection with a reset, as a machine does that knows nothing of it."""
        peer: socket.socket = self._writer.get_extra_info("socket")
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self._writer.transport.abort()

    def _is_gone(self) -> bool:
        return self._reader.has_ended or self._writer.transport.is_closing()


@dataclass
class Web:
    """The running servers."""

    cases: Sequence[Case]
    port: int
    other_port: int
    addresses: Mapping[str, str]  # of a host's word
    seen: Seen = field(default_factory=Seen)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)  # one a connection

    def authority(self, case: Case) -> str:
        return f"{self.addresses[host_of(case)]}:{self.port}"

    def urls(self, case: Case) -> list[str]:
        """Those that are asked for."""
        if case.url:
            return [self.filled(case.url, case, number) for number in range(case.urls)]
        scheme = "https" if case.is_tls else "http"
        at = f"{scheme}://{self.authority(case)}/{case.slug}"
        return [f"{at}/{number}.png" for number in range(case.urls)]

    def filled(self, text: str, case: Case, number: int = 0) -> str:
        """A text with names in it: {host} is the case's HOST:PORT, {address} its host, {inside} the
        one that none may lead to, {other} the second port, {slug} the case's name in URLs,
        {number} the URL's in the case, and {hosts[NAME]} the HOST:PORT of the cases of a word."""
        return text.format(
            number=number,
            host=self.authority(case),
            address=self.addresses[host_of(case)],
            inside=f"{INSIDE}:{self.port}",
            port=self.port,
            other=self.other_port,
            slug=case.slug,
            hosts={name: f"{address}:{self.port}" for name, address in self.addresses.items()},
        )

    def case_at(self, host: str, path: str) -> Case | None:
        """Whose a path at a host is; robots.txt and its like are of the first that says anything
        about them."""
        there = [case for case in self.cases if self.addresses[host_of(case)] == host]
        if path in (ROBOTS, TDM):
            return next((case for case in there if case.robots or case.tdm), None)
        return next((case for case in self.cases if path.startswith(f"/{case.slug}/")), None)

    async def serve(self, reader: Reader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        host = writer.get_extra_info("sockname")[0]
        self.seen.connections.append(host)
        began = time.monotonic()
        try:
            here = (case for case in self.cases if self.addresses[host_of(case)] == host)
            if case := next((case for case in here if case.at_accept), None):
                exchange = Exchange(
                    self, case, "", Message(), 0, Visit(host, "", began), reader, writer
                )
                self.seen.visits.append(exchange.visit)
                assert case.at_accept is not None
                await self._bounded(case.at_accept, exchange)
                if not exchange.may_go_on:
                    return
            while await self._exchange(reader, writer, host, began):
                began = 0.0
        except (ConnectionError, TimeoutError, *_NO_REQUEST):
            return  # one of the two has gone, or the server has had enough
        finally:
            writer.close()

    async def _exchange(
        self, reader: Reader, writer: asyncio.StreamWriter, host: str, began: float
    ) -> bool:
        """Read a request and answer it; whether another may follow."""
        head = await reader.readuntil(_END_OF_HEAD)
        line, _, fields = head.partition(b"\r\n")
        path = line.split(b" ")[1].decode("latin-1")
        number = sum(visit.path == path and visit.host == host for visit in self.seen.visits)
        visit = Visit(host, path, began or time.monotonic())
        message = message_from_bytes(fields)
        visit.agent = message.get("User-Agent", "")
        self.seen.visits.append(visit)
        case = self.case_at(host, path)
        exchange = Exchange(self, case, path, message, number, visit, reader, writer)
        await self._bounded(_doing(case, host, path), exchange)
        return exchange.may_go_on

    async def _bounded(self, doing: Doing, exchange: Exchange) -> None:
        try:
            await asyncio.wait_for(doing(exchange), LIMIT)
        finally:
            exchange.visit.ended = time.monotonic()


def host_of(case: Case) -> str:
    """The word that says at which host a case is."""
    return case.host or case.slug


async def nothing_here(exchange: Exchange) -> None:
    """A plain 404."""
    await exchange.send(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
    exchange.may_go_on = True


def _doing(case: Case | None, host: str, path: str) -> Doing:
    if case is None or host == INSIDE:
        return nothing_here
    if path == ROBOTS:
        return case.robots or nothing_here
    if path == TDM:
        return case.tdm or nothing_here
    return case.does


@contextmanager
def serving(cases: Sequence[Case], certificate: ssl.SSLContext | None = None) -> Iterator[Web]:
    """Serve all cases until the block ends, in a thread; ``certificate`` is of those with TLS."""
    words = list(dict.fromkeys(map(host_of, cases)))
    addresses = {word: f"127.0.{1 + n // 200}.{1 + n % 200}" for n, word in enumerate(words)}
    sockets = listen([INSIDE, *addresses.values()], 0)
    sockets += listen([INSIDE], 0)
    port, other = (sockets[place].getsockname()[1] for place in (0, -1))
    web = Web(cases, port, other, addresses)
    web.seen.hosts.update({case.slug: addresses[host_of(case)] for case in cases})
    encrypted = {addresses[host_of(case)] for case in cases if case.is_tls}
    loop = asyncio.new_event_loop()
    for listener in sockets:
        context = certificate if listener.getsockname()[0] in encrypted else None
        loop.run_until_complete(
            loop.create_server(partial(_protocol, web), sock=listener, ssl=context)
        )
    thread = threading.Thread(target=loop.run_forever, name="hostile-web", daemon=True)
    thread.start()
    try:
        yield web
    finally:
        asyncio.run_coroutine_threadsafe(_stop(web.tasks), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
        for listener in sockets:
            listener.close()


def _protocol(web: Web) -> asyncio.StreamReaderProtocol:
    reader = Reader()

    def connected(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(web.serve(reader, writer))
        web.tasks.add(task)
        task.add_done_callback(web.tasks.discard)

    return asyncio.StreamReaderProtocol(reader, connected)


async def _stop(tasks: Collection[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
