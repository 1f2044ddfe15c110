"""What servers do, in words that the tables of cases are made of."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from email.utils import formatdate
from http import HTTPStatus

from benchmarks.hostile_web.case import MAX_BYTES, Doing
from benchmarks.hostile_web.server import Exchange

#: Header fields of an answer, in order; a name may stand there twice.
Fields = Mapping[str, str] | Sequence[tuple[str, str]]

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
#: Bytes that are far more than should be taken of anything.
ENOUGH = 16 * MAX_BYTES
#: What is sent at a time where it never ends.
BLOCK = b"\0" * 65_536


def message(body: bytes = b"", status: int = 200, fields: Fields = ()) -> bytes:
    """A whole answer as HTTP has it."""
    pairs = list(fields.items() if isinstance(fields, Mapping) else fields)
    names = {name.lower() for name, _ in pairs}
    if "content-type" not in names:
        pairs.append(("Content-Type", "image/png"))
    if not names & {"content-length", "transfer-encoding"}:
        pairs.append(("Content-Length", str(len(body))))
    phrase = HTTPStatus(status).phrase if status in set(HTTPStatus) else "Odd"
    lines = [f"HTTP/1.1 {status} {phrase}", *(f"{name}: {text}" for name, text in pairs)]
    return "\r\n".join(lines).encode("utf-8") + b"\r\n\r\n" + body


def answer(body: bytes = b"", status: int = 200, fields: Fields = ()) -> Doing:
    """A flawless answer, whatever it says; the connection may be used again."""
    return kept_open(message(body, status, fields))


def kept_open(*parts: bytes) -> Doing:
    """These bytes; the connection may be used again."""

    async def do(exchange: Exchange) -> None:
        for part in parts:
            await exchange.send(part)
        exchange.may_go_on = True

    return do


def raw(*parts: bytes) -> Doing:
    """These bytes, and the end of the connection."""

    async def do(exchange: Exchange) -> None:
        for part in parts:
            await exchange.send(part)

    return do


def held(first: bytes = b"") -> Doing:
    """These bytes, and then not a word more, but no end either."""

    async def do(exchange: Exchange) -> None:
        if first:
            await exchange.send(first)
        await exchange.hold()

    return do


def endless(first: bytes, again: bytes = BLOCK, pause: float = 0.0) -> Doing:
    """These bytes, and others over and over, with seconds between them."""

    async def do(exchange: Exchange) -> None:
        await exchange.send(first)
        while True:
            # Whoever takes so much has shown what it does, and need not fill the machine's time.
            await exchange.pause(max(pause, 0.1 if exchange.visit.sent > ENOUGH else 0.0))
            await exchange.send(again)

    return do


def reset(first: bytes = b"") -> Doing:
    """These bytes, and a reset."""

    async def do(exchange: Exchange) -> None:
        if first:
            await exchange.send(first)
            await exchange.pause(0.05)  # a reset overtakes what was not read yet
        exchange.reset()

    return do


def late(seconds: float, then: Doing) -> Doing:
    """The same after a while."""

    async def do(exchange: Exchange) -> None:
        await exchange.pause(seconds)
        await then(exchange)

    return do


def moved(to: str, status: int = 302, fields: Fields = ()) -> Doing:
    """A redirect to a URL, with names as `Web.filled` knows them."""

    async def do(exchange: Exchange) -> None:
        assert exchange.case is not None
        to_here = exchange.web.filled(to, exchange.case)
        pairs = fields.items() if isinstance(fields, Mapping) else fields
        await exchange.send(message(b"", status, [("Location", to_here), *pairs]))
        exchange.may_go_on = True

    return do


def first_then(first: Doing, then: Doing, times: int = 1) -> Doing:
    """One for the first requests for a path, another for all later ones."""

    async def do(exchange: Exchange) -> None:
        await (first if exchange.number < times else then)(exchange)

    return do


def by_path(paths: Mapping[str, Doing], other: Doing) -> Doing:
    """By the end of the path; whatever has none of these ends gets the last one."""

    async def do(exchange: Exchange) -> None:
        found = (doing for end, doing in paths.items() if exchange.path.endswith(end))
        await next(found, other)(exchange)

    return do


def hops(number: int, then: Doing, seconds: float = 0.0) -> Doing:
    """So many redirects, each to another URL of the host, each after a while."""

    async def do(exchange: Exchange) -> None:
        at = int(exchange.path.rpartition("/")[2].partition(".")[0])
        hop = moved(f"/{{slug}}/{at + 1}.png") if at < number else then
        await late(seconds, hop)(exchange)

    return do


def robots(*lines: str, status: int = 200) -> Doing:
    """A robots.txt of these lines."""
    text = "".join(f"{line}\n" for line in lines)
    return answer(text.encode(), status, {"Content-Type": "text/plain"})


def busy(status: int, seconds: float, *, as_date: bool = False) -> Doing:
    """An answer that says when to come again."""

    async def do(exchange: Exchange) -> None:
        said = formatdate(time.time() + seconds, usegmt=True) if as_date else f"{seconds:.0f}"
        await exchange.send(message(b"", status, {"Retry-After": said}))
        exchange.may_go_on = True

    return do
