"""A web server on loopback whose answers a test writes down, with a log of what was asked."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HTML = "text/html; charset=utf-8"

#: Seconds after which what should have come long ago is given up.
PATIENCE = 60.0


@dataclass(frozen=True)
class Answer:
    """A response; ``seconds`` is waited first, ``claimed`` overrides its Content-Length.

    It waits, too, until so many requests as ``at_once`` have been there at a time.
    """

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=lambda: {"Content-Type": HTML})
    seconds: float = 0.0
    claimed: int | None = None
    at_once: int = 1


def page(*links: str, text: str = "") -> Answer:
    anchors = "".join(f'<a href="{link}">link</a>' for link in links)
    return Answer(f"<html><body>{text}{anchors}</body></html>".encode())


def tagged(answer: Answer) -> Answer:
    """An answer with an ETag that says what is in it."""
    tag = f'"{hashlib.sha1(answer.body).hexdigest()}"'
    return replace(answer, headers={**answer.headers, "ETag": tag})


def robots(text: str) -> Answer:
    return Answer(text.encode(), headers={"Content-Type": "text/plain"})


def moved(to: str) -> Answer:
    """A redirect; characters of ``to`` are bytes of the header."""
    return Answer(status=302, headers={"Location": to})


@dataclass
class Web:
    """A running server: ``host`` is HOST:PORT, ``asked`` the paths in the order of requests.

    A path's value may be a list: its answers one after the other, the last for ever.
    """

    answers: dict[str, Answer | list[Answer]]
    host: str = ""
    asked: list[str] = field(default_factory=list)
    asked_at: list[float] = field(default_factory=list)  # seconds, of a monotonic clock
    unchanged: list[str] = field(default_factory=list)  # those that were answered by a 304
    agents: set[str] = field(default_factory=set)
    most_at_once: int = 0

    def url(self, path: str) -> str:
        return f"http://{self.host}{path}"

    def answer(self, path: str) -> Answer:
        found = self.answers.get(path, Answer(b"no", status=404))
        if isinstance(found, list):
            return found.pop(0) if len(found) > 1 else found[0]
        return found


def _is_known(answer: Answer, request: Message) -> bool:
    """Whether whoever asks has it already (RFC 9110, section 13.2.2)."""
    if answer.status != 200:
        return False
    if (tag := request.get("If-None-Match")) is not None:
        return tag == answer.headers.get("ETag")
    since = request.get("If-Modified-Since")
    return since is not None and since == answer.headers.get("Last-Modified")


@contextmanager
def serving(answers: Mapping[str, Answer | list[Answer]]) -> Iterator[Web]:
    """Serve ``answers`` on a free port of 127.0.0.1; every other path is a 404."""
    web = Web(dict(answers))
    changed = threading.Condition()
    running = 0

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            nonlocal running
            with changed:
                running += 1
                web.most_at_once = max(web.most_at_once, running)
                changed.notify_all()
                web.asked.append(self.path)
                web.asked_at.append(time.monotonic())
                web.agents.add(self.headers.get("User-Agent", ""))
                answer = web.answer(self.path)
                if _is_known(answer, self.headers):
                    web.unchanged.append(self.path)
                    answer = replace(answer, body=b"", status=304)
            stopped.wait(answer.seconds)
            with changed:
                changed.wait_for(lambda: web.most_at_once >= answer.at_once, PATIENCE)
                running -= 1
            try:
                self._send(answer)
            except ConnectionError:  # the crawler has seen enough
                self.close_connection = True

        def _send(self, answer: Answer) -> None:
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                if answer.status != 304 or name not in ("Content-Type", "Last-Modified"):
                    self.send_header(name, value)
            length = len(answer.body) if answer.claimed is None else answer.claimed
            if answer.status != 304:
                self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(answer.body)
            self.close_connection = answer.claimed is not None

    stopped = threading.Event()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    web.host = f"127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield web
    finally:
        stopped.set()
        server.shutdown()
        thread.join()
        server.server_close()
