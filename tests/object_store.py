"""A real S3-compatible server on loopback, and what can go wrong with one."""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.small_sample import free_port
from workers.base.bucket import Bucket
from workers.base.lease import NAME as LEASE

Answer = Iterable[bytes]
Start = Callable[..., Any]
Application = Callable[[dict[str, Any], Start], Answer]
#: Gives an answer of its own, or None where the server is to answer.
Fault = Callable[[dict[str, Any], Start, Application], Answer | None]


#: Of this process; two servers are reached in turn.
_ENVIRONMENT = threading.RLock()


_numbers = itertools.count()


def environment(endpoint: str) -> dict[str, str]:
    """What a process needs to reach a server."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "somebody",
        "AWS_SECRET_ACCESS_KEY": "S3CRET",
        "AWS_REGION": "us-east-1",
    }


def make_bucket(endpoint: str, name: str) -> str:
    """Make a bucket on a server; its URL."""
    import requests

    requests.put(f"{endpoint}/{name}", timeout=10).raise_for_status()
    return f"s3://{name}"


class ObjectStore:
    """moto's server, which enforces conditional writes, in a thread of this process.

    What one has, every other of this process has, too: give buckets names of their own.
    """

    def __init__(self) -> None:
        from moto.moto_server.werkzeug_app import (
            DomainDispatcherApplication,
            create_backend_app,
        )
        from werkzeug.serving import make_server

        self._application = DomainDispatcherApplication(create_backend_app)
        self._make = partial(make_server, app=self._answer, threaded=True)
        self.fault: Fault | None = None
        #: Method and path of every request.
        self.requests: list[tuple[str, str]] = []
        self._serve(0)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def _serve(self, port: int) -> None:
        self._server = self._make("127.0.0.1", port)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def away(self, seconds: float) -> None:
        """End, and serve again after a while."""
        port = self._server.server_port
        self.close()
        time.sleep(seconds)
        self._serve(port)

    def _answer(self, environ: dict[str, Any], start: Start) -> Answer:
        self.requests.append((environ["REQUEST_METHOD"], environ["PATH_INFO"]))
        answer = self.fault and self.fault(environ, start, self._application)
        return self._application(environ, start) if answer is None else answer

    def environment(self) -> dict[str, str]:
        """What a process needs to reach it."""
        return environment(self.endpoint)

    @contextmanager
    def reached(self) -> Iterator[None]:
        """Let this process, and those that it starts, reach it by their environment."""
        with _ENVIRONMENT, patch.dict(os.environ, self.environment()):
            yield

    def new_bucket(self) -> str:
        """The URL of a bucket that no other has seen."""
        return self.make_bucket(f"bucket{next(_numbers)}")

    def make_bucket(self, name: str) -> str:
        """Its URL."""
        return make_bucket(self.endpoint, name)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def serving_apart() -> Iterator[str]:
    """The same server in a process of its own, which this one reaches, too; its endpoint."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            while not _answers(port):
                if server.poll() is not None:
                    raise RuntimeError(f"{' '.join(command)} ended with {server.returncode}")
                time.sleep(0.1)
            endpoint = f"http://127.0.0.1:{port}"
            with patch.dict(os.environ, environment(endpoint)):
                yield endpoint
        finally:
            server.terminate()


def _answers(port: int) -> bool:
    with socket.socket() as client:
        return not client.connect_ex(("127.0.0.1", port))


@contextmanager
def serving_objects() -> Iterator[ObjectStore]:
    """A server that this process, and those that it starts, reach by their environment."""
    store = ObjectStore()
    with store.reached():
        try:
            yield store
        finally:
            store.close()


def send_folder(folder: Path, url: str) -> None:
    """Let a bucket have a folder's files."""
    for path in filter(Path.is_file, folder.rglob("*")):
        Bucket(url).write(str(path.relative_to(folder)), path.read_bytes(), None)


def fetched(url: str, folder: Path) -> Path:
    """A folder with all objects, but for the lease."""
    for name in objects_below(url):
        Bucket(url).download(name, folder / name)
    return folder


def objects_below(url: str) -> dict[str, bytes]:
    """Contents by name, but for the lease."""
    bucket = Bucket(url)
    return {name: bucket.read(name)[0] for name in bucket.list().keys() - {LEASE}}


def refuse(status: str, start: Start, headers: Mapping[str, str] | None = None) -> Answer:
    """Answer with an error."""
    start(status, [*(headers or {}).items(), ("Content-Length", "0")])
    return [b""]
