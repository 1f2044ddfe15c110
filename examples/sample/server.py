"""A small HTTP/1.1 server for answers that are computed beforehand: GET, HEAD, keep-alive.

One thread and one event loop serve every address, so hundreds of connections at a time cost
little. An answer with an ETag or a Last-Modified is given to a client that has it already as 304.
The server can also misbehave on purpose: answer late, or send less than it promised.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from email import message_from_string
from email.message import Message
from email.utils import formatdate, parsedate_to_datetime
from functools import partial
from http import HTTPStatus

MAX_REQUEST_BYTES = 64 * 1024
BACKLOG = 512
_END_OF_HEAD = b"\r\n\r\n"
_EPHEMERAL_ATTEMPTS = 20


@dataclass(frozen=True)
class Answer:
    """One HTTP response."""

    body: bytes = b""
    content_type: str = "text/html; charset=utf-8"
    status: int = HTTPStatus.OK
    headers: tuple[tuple[str, str], ...] = ()
    delay: float = 0.0  # seconds before the answer
    missing_bytes: int = 0  # promised by Content-Length, never sent


#: (host, request target) to answer.
Answerer = Callable[[str, str], Answer]
#: Told of each request: host, target, the request's fields and the status of the answer.
Witness = Callable[[str, str, Message, int], None]


class BindError(OSError):
    """An address that cannot be listened on, with what to do about it."""


class _Connection(asyncio.Protocol):
    """One client's connection: requests are answered one by one, in order."""

    def __init__(
        self, host: str, answerer: Answerer, witness: Witness, all_open: set[asyncio.Transport]
    ) -> None:
        self._host = host
        self._all_open = all_open
        self._answerer = answerer
        self._witness = witness
        self._buffer = b""
        self._is_waiting = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._all_open.add(transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        if self._transport is not None:
            self._all_open.discard(self._transport)
        self._transport = None

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._answer_next()

    def _answer_next(self) -> None:
        while not self._is_waiting and _END_OF_HEAD in self._buffer:
            head, _, self._buffer = self._buffer.partition(_END_OF_HEAD)
            self._answer(head.decode("latin-1"))
        if len(self._buffer) > MAX_REQUEST_BYTES:
            self._send(Answer(status=HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE), close=True)

    def _answer(self, head: str) -> None:
        request_line, _, fields = head.partition("\r\n")
        match request_line.split(" "):
            case ["GET" | "HEAD" as method, target, version]:
                target, asked = _origin_form(target), message_from_string(fields)
                answer = _unless_known(self._answerer(self._host, target), asked)
                self._witness(self._host, target, asked, answer.status)
                close = version == "HTTP/1.0" or asked.get("Connection", "").lower() == "close"
                send = partial(self._send, answer, close=close, without_body=method == "HEAD")
            case [_, _, _]:
                send = partial(self._send, Answer(status=HTTPStatus.METHOD_NOT_ALLOWED), close=True)
            case _:
                send = partial(self._send, Answer(status=HTTPStatus.BAD_REQUEST), close=True)
        if send.args[0].delay:
            self._is_waiting = True
            asyncio.get_running_loop().call_later(send.args[0].delay, self._send_late, send)
        else:
            send()

    def _send_late(self, send: Callable[[], None]) -> None:
        self._is_waiting = False
        send()
        self._answer_next()

    def _send(self, answer: Answer, *, close: bool, without_body: bool = False) -> None:
        if self._transport is None:
            return
        close = close or answer.missing_bytes > 0
        head = _head(answer, close=close)
        self._transport.write(head if without_body else head + answer.body)
        if close:
            self._buffer = b""
            self._transport.close()


def _origin_form(target: str) -> str:
    """The path and query of a target, which a proxy's client writes as a whole URL."""
    if target.startswith("http://"):
        return "/" + target.removeprefix("http://").partition("/")[2]
    return target


def _unless_known(answer: Answer, asked: Message) -> Answer:
    """The answer, or 304 where the client says that it has it (RFC 9110, section 13.2.2)."""
    has = {name.lower(): text for name, text in answer.headers}
    if tags := asked.get("If-None-Match"):
        is_known = has.get("etag") in [tag.strip().removeprefix("W/") for tag in tags.split(",")]
    else:
        since, changed = asked.get("If-Modified-Since"), has.get("last-modified")
        is_known = bool(since and changed and _is_since(since, changed))
    if not is_known or answer.status != HTTPStatus.OK:
        return answer
    return Answer(status=HTTPStatus.NOT_MODIFIED, headers=answer.headers, delay=answer.delay)


def _is_since(since: str, changed: str) -> bool:
    """Whether nothing has changed since; a date that is none says nothing."""
    try:
        return parsedate_to_datetime(since) >= parsedate_to_datetime(changed)
    except ValueError:
        return False


def _head(answer: Answer, *, close: bool) -> bytes:
    has_body = answer.status != HTTPStatus.NOT_MODIFIED
    lines = [
        f"HTTP/1.1 {int(answer.status)} {HTTPStatus(answer.status).phrase}",
        "Server: sample-site",
        f"Date: {formatdate(usegmt=True)}",
        *([f"Content-Type: {answer.content_type}"] if has_body else []),
        *([f"Content-Length: {len(answer.body) + answer.missing_bytes}"] if has_body else []),
        *(f"{name}: {value}" for name, value in answer.headers),
        *(["Connection: close"] if close else []),
    ]
    return "\r\n".join(lines).encode("latin-1") + _END_OF_HEAD


def listen(hosts: Sequence[str], port: int) -> list[socket.socket]:
    """Listening sockets, all on one port; port 0 takes one that is free on every host.

    Connections wait until ``running`` answers them. Raises BindError with what to do.
    """
    for attempt in range(_EPHEMERAL_ATTEMPTS):
        try:
            return _listen_once(hosts, port)
        except BindError:
            if port != 0 or attempt + 1 == _EPHEMERAL_ATTEMPTS:
                raise
    raise AssertionError("unreachable")


def _listen_once(hosts: Sequence[str], port: int) -> list[socket.socket]:
    with ExitStack() as opened:
        sockets: list[socket.socket] = []
        for host in hosts:
            sockets.append(opened.enter_context(_listening_socket(host, port)))
            port = sockets[0].getsockname()[1]
        opened.pop_all()
        return sockets


def _listening_socket(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise BindError(error.errno, _advice(host, port, error)) from error
    return listener


def _advice(host: str, port: int, error: OSError) -> str:
    problem = f"cannot listen on {host}:{port}: {error.strerror}"
    if error.errno == errno.EADDRINUSE:
        return (
            f"{problem}. Choose another port with --port; in a run's configuration, change it in "
            "the service's command, its ready URL and the crawl's seeds"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return (
            f"{problem}. On macOS add the address with `sudo ifconfig lo0 alias {host}`, or "
            "name fewer addresses with --hosts"
        )
    return problem


@contextmanager
def running(
    sockets: Sequence[socket.socket], answerer: Answerer, witness: Witness = lambda *_: None
) -> Iterator[None]:
    """Answer on listening sockets, in a thread, until the block ends; then close them.

    ``witness`` is told of each request, in that thread.
    """
    loop = asyncio.new_event_loop()
    connections: set[asyncio.Transport] = set()
    servers = loop.run_until_complete(_start(sockets, answerer, witness, connections))
    thread = threading.Thread(target=loop.run_forever, name="sample-site", daemon=True)
    thread.start()
    try:
        yield
    finally:
        asyncio.run_coroutine_threadsafe(_stop(servers, connections), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _start(
    sockets: Sequence[socket.socket],
    answerer: Answerer,
    witness: Witness,
    connections: set[asyncio.Transport],
) -> list[asyncio.Server]:
    loop = asyncio.get_running_loop()
    return [
        await loop.create_server(
            partial(_Connection, listener.getsockname()[0], answerer, witness, connections),
            sock=listener,
        )
        for listener in sockets
    ]


async def _stop(servers: Sequence[asyncio.Server], connections: set[asyncio.Transport]) -> None:
    for server in servers:
        server.close()
    for transport in list(connections):
        transport.abort()
    await asyncio.sleep(0)  # aborted transports close their sockets in the loop's next round
