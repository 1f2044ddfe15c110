"""Fetching one image: over http and https from checked addresses, or from a local root.

What an address in a pair or in a redirect may make this machine do is bounded: it connects to the
public internet and to hosts named openly (``workers.crawl.addresses``), through no proxy, which
would connect where it likes; it takes so many bytes, and so many seconds in all, however slowly
they come. A failure is ``REASON: text``, the reason as the tally has it.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import socket
import ssl
import time
import zlib
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from http.client import (
    HTTPConnection,
    HTTPException,
    HTTPResponse,
    HTTPSConnection,
    IncompleteRead,
)
from typing import Any
from urllib.parse import urlsplit

from workers.base.failures import is_passing, reason_of
from workers.base.opt_outs import Kind, OptOuts
from workers.base.robots_directives import is_opted_out
from workers.base.settings import DownloadSettings, product_token
from workers.base.urls import DEFAULT_PORTS, REDIRECTS, UrlError, absolute_url, from_header
from workers.crawl.addresses import PrivateAddressError, permitted_addresses
from workers.fetch.local_images import FetchError, LocalImages

MAX_REDIRECTS = 10
GZIP = b"\x1f\x8b"  # its first bytes

#: As img2dataset has it, whose users' servers know it.
USER_AGENT = (
    "Mozilla/5.0 (X11; Ubuntu; Linux x86_64; rv:72.0) Gecko/20100101 Firefox/72.0 "
    "(compatible; {}; +https://github.com/rom1504/img2dataset)"
)

#: What an error is called in the tally: the first class that it is of.
FAILURES: dict[type[Exception], str] = {
    PrivateAddressError: "private_address",
    ssl.SSLCertVerificationError: "bad_certificate",
    socket.gaierror: "unknown_host",
    UnicodeError: "unknown_host",  # no name to look up
    TimeoutError: "timeout",
    IncompleteRead: "cut_off",
    ConnectionError: "connection",  # one of http.client's is an HTTPException, too
    HTTPException: "bad_answer",
    OSError: "connection",
    ValueError: "bad_answer",
}

#: The reasons that are a decision of ours or the server's, not a failure.
REJECTIONS = frozenset(
    {
        "private_address", "opted_out", "taken_down", "not_http", "data_uri", "bad_url",
        "url_too_long",
    }
)  # fmt: skip


class ListedError(FetchError):
    """A URL or an image stands on a list of what is not to be used."""

    def __str__(self) -> str:
        return "it stands on a list (opt_outs) or was taken down"


class ImageFetcher:
    """Fetches images in any number of threads."""

    def __init__(self, settings: DownloadSettings, opt_outs: Sequence[OptOuts] = ()) -> None:
        self._settings = settings
        self._opt_outs = opt_outs
        self._local = LocalImages(settings.local_roots, settings.max_bytes)
        self._tls = ssl.create_default_context()
        self._tls.set_alpn_protocols(["http/1.1"])
        self._agent = USER_AGENT.format(settings.user_agent.strip().lower())

    def img2dataset_fetch(
        self, row: tuple[int, str], **_: Any
    ) -> tuple[int, io.BytesIO | None, str | None]:
        """In the place of img2dataset's ``download_image_with_retry``: key, content, error."""
        key, url = row
        text = ""
        for _attempt in range(self._settings.retries + 1):
            try:
                return key, io.BytesIO(self.fetch(url)), None
            except (FetchError, OSError, HTTPException, ValueError) as error:
                reason = failure_reason(error)
                text = reason if str(error) in ("", reason) else f"{reason}: {error}"
            if not is_passing(reason):
                break
        return key, None, text

    def fetch(self, url: str) -> bytes:
        """The image at a URL. Raises what FAILURES names, UrlError and FetchError.

        Nothing is asked of a URL that is listed, be it that of a redirect.
        """
        content = self._fetch(url)
        if self._opt_outs:
            self._refuse(Kind.SHA256, hashlib.sha256(content).hexdigest())
        return content

    def _refuse(self, kind: Kind, value: str) -> None:
        """Raise FetchError for what is listed."""
        for listed in self._opt_outs:
            if listed.has_url(value) if kind is Kind.URL else listed.has(kind, value):
                raise ListedError(listed.reason)

    def _fetch(self, url: str) -> bytes:
        if url.startswith("file:"):
            self._refuse(Kind.URL, url)
            return self._local.read(url)
        deadline = time.monotonic() + self._settings.max_seconds
        url = absolute_url(url)
        for _ in range(MAX_REDIRECTS + 1):
            self._refuse(Kind.URL, url)
            with closing(self._connection(url)) as connection:
                clock = _Clock(self._settings.timeout, deadline)
                with self._answer(connection, url, clock) as answer:
                    to = answer.headers.get("Location") if answer.status in REDIRECTS else None
                    if to is None:
                        return self._image(answer)
                    self._check_opt_out(answer)
            url = absolute_url(from_header(to.encode("latin-1", "replace")), url)
        raise FetchError("redirect_loop")

    def _connection(self, url: str) -> HTTPConnection:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
        if parts.scheme == "https":
            return HTTPSConnection(host, port or DEFAULT_PORTS["https"], context=self._tls)
        return HTTPConnection(host, port or DEFAULT_PORTS["http"])

    def _answer(self, connection: HTTPConnection, url: str, clock: _Clock) -> HTTPResponse:
        """The head of what the server says to a request; its body is still to come."""
        host, port = connection.host, connection.port
        addresses = permitted_addresses(host, port, self._settings.allow_private_hosts)
        # The socket has the address that was checked; TLS and the Host header have the name.
        connection.sock = _connected(addresses, port, clock)
        connection.sock.settimeout(clock.left())
        if isinstance(connection, HTTPSConnection):
            connection.sock = self._tls.wrap_socket(connection.sock, server_hostname=host)
        path = url.split("/", 3)[3]
        headers = {"User-Agent": self._agent, "Connection": "close"}
        connection.request("GET", f"/{path}", headers=headers)
        connection.response_class = partial(_TimedResponse, clock=clock)  # type: ignore[assignment]
        return connection.getresponse()

    def _image(self, answer: HTTPResponse) -> bytes:
        """The content of the last answer."""
        if not 200 <= answer.status < 300:
            raise FetchError(f"http_{answer.status}")
        self._check_opt_out(answer)
        limit = self._settings.max_bytes
        if answer.length is not None and answer.length <= limit:
            content = answer.read()  # raises IncompleteRead where it is cut off
        else:
            content = b"" if answer.length else answer.read(limit + 1)
            if answer.length or len(content) > limit:
                raise FetchError("too_large")
        return _unpacked(content, answer, limit)

    def _check_opt_out(self, answer: HTTPResponse) -> None:
        """A redirect may say it as well: it is the address that the page names."""
        said = map(str, answer.headers.get_all("X-Robots-Tag", []))
        if is_opted_out(said, product_token(self._settings.user_agent)):
            raise FetchError("opted_out")


def _unpacked(content: bytes, answer: HTTPResponse, limit: int) -> bytes:
    """The image in an answer that is compressed, though nobody asked for that.

    gzip is undone where it is there; what only says so is as it came. Raises FetchError.
    """
    said = ",".join(map(str, answer.headers.get_all("Content-Encoding", [])))
    codings = {coding.strip().lower() for coding in said.split(",")} - {"", "identity"}
    if not codings:
        return content
    if codings - {"gzip", "x-gzip"}:
        raise FetchError("content_encoding")
    if not content.startswith(GZIP):
        return content
    try:
        unpacked = gzip.GzipFile(fileobj=io.BytesIO(content)).read(limit + 1)
    except (EOFError, OSError, zlib.error) as error:
        raise FetchError("content_encoding") from error
    if len(unpacked) > limit:
        raise FetchError("too_large")
    return unpacked


def failure_reason(error: Exception) -> str:
    """What an error of ``ImageFetcher.fetch`` is called in the tally."""
    if isinstance(error, FetchError | UrlError):
        return error.reason
    return reason_of(error, FAILURES)


class _Clock:
    """How long the next step may take: seconds without an answer, and what is left in all."""

    def __init__(self, timeout: float, deadline: float) -> None:
        self._timeout, self._deadline = timeout, deadline

    def left(self) -> float:
        """Seconds. Raises TimeoutError when there are none."""
        left = min(self._timeout, self._deadline - time.monotonic())
        if left <= 0:
            raise TimeoutError("images.max_seconds have passed")
        return left


class _TimedReader(io.RawIOBase):
    """What comes from a socket, each reading on the clock: single bytes do not prolong it."""

    def __init__(self, sock: socket.socket, raw: io.RawIOBase, clock: _Clock) -> None:
        self._sock, self._raw, self._clock = sock, raw, clock

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(self._clock.left())
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _TimedResponse(HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, clock: _Clock, **more: Any) -> None:
        super().__init__(sock, *args, **more)
        self.fp = io.BufferedReader(_TimedReader(sock, self.fp.detach(), clock))


def _connected(addresses: Sequence[str], port: int, clock: _Clock) -> socket.socket:
    """A socket connected to the first address that answers; the last one's error if none does."""
    for place, address in enumerate(addresses, start=1):
        try:
            return socket.create_connection((address, port), clock.left())
        except OSError:
            if place == len(addresses):
                raise
    raise socket.gaierror(socket.EAI_NONAME, "the name has no address")
