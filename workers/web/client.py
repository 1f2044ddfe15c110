"""GET over http and https: to checked addresses alone, within bounds that cannot be outlived.

What an address in a pair or in a redirect may make this machine do is bounded. A name is looked up
once, each of its addresses is checked (``workers.web.addresses``), and one of them is connected to;
TLS is verified against the name. A name server that says nothing holds up its own names alone
(``workers.web.lookups``). There is no proxy, which would connect where it likes, no cookie
and no user name. An answer may be so long without a word, and so long in all; its head has so many
bytes, and its body as many as are asked for, counted while they come.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from multidict import CIMultiDictProxy
from yarl import URL

from workers.base.failures import reason_of
from workers.base.urls import DEFAULT_PORTS
from workers.web.addresses import (
    PrivateAddressError,
    check_addresses,
    check_contact,
    is_named,
    silent,
)
from workers.web.lookups import LOOKUPS

#: Names whose addresses are known at a time: about as many as a shard has hosts.
MAX_NAMES = 10_000
#: Seconds for which an address that was checked is connected to, and an idle connection is kept.
ADDRESS_SECONDS, IDLE_SECONDS = 600, 15.0
#: Of a body that comes in chunks: bytes beside it that may come, and half as many as it has.
_BESIDE_BODY = 65_536
#: Of an answer's head: bytes of a line, and lines.
MAX_LINE_BYTES, MAX_HEADERS = 16_384, 128


class OddPortError(ConnectionError):
    """A port other than those of http and https, which was not allowed by name."""


class TooLargeError(Exception):
    """A body of more bytes than are taken."""


#: What an error is called in the tally: the first class that it is of.
FAILURES: dict[type[Exception], str] = {
    TooLargeError: "too_large",
    PrivateAddressError: "private_address",
    OddPortError: "odd_port",
    aiohttp.ClientConnectorCertificateError: "bad_certificate",
    ssl.SSLCertVerificationError: "bad_certificate",
    aiohttp.ClientConnectorDNSError: "unknown_host",
    socket.gaierror: "unknown_host",
    UnicodeError: "unknown_host",  # no name to look up
    TimeoutError: "timeout",
    aiohttp.ClientPayloadError: "cut_off",
    aiohttp.ClientConnectionError: "connection",
    aiohttp.ClientError: "bad_answer",
    OSError: "connection",
    ValueError: "bad_answer",
}
#: Of the network and of servers; all else is a fault of the program.
ERRORS: tuple[type[Exception], ...] = tuple(FAILURES)


@dataclass(frozen=True)
class _Permission:
    """Whom we may ask."""

    agent: str  # who we say we are
    allowed: Collection[str]  # as in Client

    def check(self, host: str, port: int, addresses: Collection[str]) -> None:
        """Raises PrivateAddressError, OddPortError, NoContactError.

        At other ports than the web's are other services, which would be sent what a page wrote.
        """
        check_addresses(host, port, self.allowed, addresses)
        if port not in DEFAULT_PORTS.values() and not is_named(host, port, self.allowed):
            raise OddPortError(f"{host} is asked for at port {port}, which nobody has named")
        check_contact(host, addresses, self.agent, "images.user_agent")


@dataclass(frozen=True)
class Answer:
    """What a server has said; the body is empty where it was not wanted."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes


def failure_reason(error: Exception) -> str:
    """What an error of ``Client.get`` is called in the tally; one of ERRORS."""
    inner = getattr(error, "os_error", None)  # what a connector's error is about
    if isinstance(inner, PrivateAddressError | OddPortError | UnicodeError):
        return reason_of(inner, FAILURES)
    return reason_of(error, FAILURES)


class _CheckedResolver(AbstractResolver):
    def __init__(self, permission: _Permission, seconds: float) -> None:
        self._permission = permission
        self._seconds = seconds

    async def resolve(
        self,
        host: str,
        port: int = 0,
        family: socket.AddressFamily = socket.AF_INET,  # noqa: ARG002 - all are asked for
    ) -> list[ResolveResult]:
        """Raises what ``_Permission.check`` does, socket.gaierror, UnicodeError, TimeoutError."""
        try:
            async with asyncio.timeout(self._seconds):
                found = await asyncio.wrap_future(LOOKUPS.ask(host))
        except TimeoutError as error:
            raise silent(host, self._seconds) from error
        self._permission.check(host, port, found)
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in found
        ]

    async def close(self) -> None:
        """There is nothing to close: the threads are the process's."""


class Client:
    """Connections to any number of hosts, kept while they are of use.

    Args:
        agent: who we say we are; with a contact, where anybody on the public internet is asked.
        allowed: hosts (HOST or HOST:PORT) that may have a private address, or another port than
            those of http and https.
        timeout: seconds without any answer, of a name server either.
        connections: at a time.
    """

    def __init__(
        self, agent: str, allowed: Collection[str], timeout: float, connections: int
    ) -> None:
        self._permission = _Permission(agent, allowed)
        self._checked = set[tuple[str, str]]()  # schemes and authorities that may be asked
        connector = aiohttp.TCPConnector(
            resolver=_CheckedResolver(self._permission, timeout),
            ttl_dns_cache=ADDRESS_SECONDS,
            dns_cache_max_size=MAX_NAMES,
            keepalive_timeout=IDLE_SECONDS,
            limit=connections,
            ssl=ssl.create_default_context(),
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            headers={"User-Agent": agent, "Accept-Encoding": "identity"},
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=timeout, sock_read=timeout, ceil_threshold=60
            ),
            auto_decompress=False,
            max_line_size=MAX_LINE_BYTES,
            max_field_size=MAX_LINE_BYTES,
            max_headers=MAX_HEADERS,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        await self._session.close()

    async def get(
        self,
        url: str,
        most: int,
        seconds: float,
        is_wanted: Callable[[int, CIMultiDictProxy[str]], bool],
    ) -> Answer:
        """Ask for a normal URL once; a redirect is an answer like others.

        Args:
            most: bytes of the body that are taken.
            seconds: for all of it.
            is_wanted: whether the body is, by status and headers; what it raises ends the request.

        Raises:
            One of ERRORS, or NoContactError, which is no fault of the URL's.
        """
        async with asyncio.timeout(seconds):
            self._check_number(url)
            async with self._session.get(URL(url, encoded=True), allow_redirects=False) as answer:
                body = b""
                if is_wanted(answer.status, answer.headers):
                    body = await _body(answer, most)
                elif answer.content_length != 0:
                    answer.close()  # what was not wanted is not read to be rid of it
                return Answer(answer.status, answer.headers, body)

    def _check_number(self, url: str) -> None:
        """A host that is a number is not looked up, so it is checked here, the first time."""
        parts = urlsplit(url)
        if (parts.scheme, parts.netloc) in self._checked:
            return
        host, port = parts.hostname or "", parts.port or DEFAULT_PORTS[parts.scheme]
        try:
            ipaddress.ip_address(host)
        except ValueError:
            pass
        else:
            self._permission.check(host, port, [host])
        if len(self._checked) < MAX_NAMES:
            self._checked.add((parts.scheme, parts.netloc))


async def _body(answer: aiohttp.ClientResponse, most: int) -> bytes:
    """Raises TooLargeError."""
    if (answer.content_length or 0) > most:
        answer.close()
        raise TooLargeError
    parts, size = list[bytes](), 0
    with _counted(answer, most + most // 2 + _BESIDE_BODY):
        async for part in answer.content.iter_any():
            size += len(part)
            if size > most:
                answer.close()
                raise TooLargeError
            parts.append(part)
    return b"".join(parts)


@contextmanager
def _counted(answer: aiohttp.ClientResponse, most: int) -> Iterator[None]:
    """Close an answer's connection when more bytes have come than these.

    Not all that comes is body: an extension of a chunk may have no end (RFC 9112, section 7.1.1).
    Raises TooLargeError.
    """
    protocol = answer.connection.protocol if answer.connection else None
    if protocol is None:  # all of it has come
        yield
        return
    take, left = protocol.data_received, most

    def count(data: bytes) -> None:
        nonlocal left
        left -= len(data)
        if left < 0:
            answer.close()
        else:
            take(data)

    # asyncio's transports look the method up each time.
    protocol.data_received = count  # type: ignore[method-assign]
    try:
        yield
    except aiohttp.ClientError as error:
        if left < 0:
            raise TooLargeError from error
        raise
    finally:
        del protocol.data_received
