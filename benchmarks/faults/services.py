"""Services that do not serve, and clusters that do not answer."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.faults.fault import Fault, Place
from benchmarks.faults.inputs import CSV, DUMP, served, text_run
from benchmarks.small_sample import free_port

_SERVE = (
    "from http.server import *; "
    "HTTPServer(('127.0.0.1', {port}), SimpleHTTPRequestHandler).serve_forever()"
)
_DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
_WITH_CHILD = "import subprocess; subprocess.Popen(['sleep', '600'], start_new_session=True); "


def _service(*command: str, timeout: float = 20.0) -> Callable[[Place], list[str]]:
    """Stages of text, one of which needs a service; `{port}` is its own."""

    def prepare(place: Place) -> list[str]:
        port = free_port()
        service = {
            "command": [word.replace("{port}", str(port)) for word in command],
            "ready": f"http://127.0.0.1:{port}/",
            "stages": ["pairs"],
            "timeout": timeout,
        }
        return text_run(place, DUMP, CSV.encode(), services={"web": service})

    return prepare


def _taken(place: Place) -> list[str]:
    """The port is somebody else's, who answers."""
    service: dict[str, Any] = {
        "command": ["python", "-c", "input()"],
        "ready": f"http://{served(place, {'/': b'x'})}/",
        "stages": ["pairs"],
    }
    return text_run(place, DUMP, CSV.encode(), services={"web": service})


def silent(place: Place) -> str:
    """Something that listens and never says a word."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(64)
    place.stack.callback(listener.close)
    return f"127.0.0.1:{listener.getsockname()[1]}"


def _cluster(address: str, *without: str, command: str = "build_dataset") -> Fault:
    """A command on a Ray cluster; `{silent}` never answers, at `{closed}` nobody listens."""

    def prepare(place: Place) -> list[str]:
        place.copy(*without)
        where = address.format(silent=silent(place), closed=f"127.0.0.1:{free_port()}")
        return place.command(command, "--set", f"ray.address={where}")

    return Fault(f"ray.address: {address}, {command}", prepare, "ray.address: ")


def _beam(*options: str) -> Callable[[Place], list[str]]:
    def prepare(place: Place) -> list[str]:
        filled = [option.replace("{port}", str(free_port())) for option in options]
        return text_run(place, DUMP, CSV.encode(), beam={"options": filled})

    return prepare


def _serving(before: str) -> Sequence[str]:
    return ("python", "-c", before + _SERVE)


FAULTS = [
    Fault("a service that ends early", _service("python", "-c", "exit('no such table')"),
          "no such table"),
    Fault("a service that is not installed", _service("/absent/program"), "/absent/program"),
    Fault("a service that may not be run", _service("/etc/passwd"), "/etc/passwd"),
    Fault("a service that never answers", _service("sleep", "600", timeout=1.0),
          "did not answer at http://127.0.0.1"),
    Fault("a service whose port is taken", _taken, "something else answers at"),
    Fault("a service that ignores SIGTERM", _service(*_serving(_DEAF)), "service web: ready", (0,)),
    Fault("a service that leaves a process", _service(*_serving(_WITH_CHILD)),
          "service web: ready", (0,)),
    _cluster("{closed}", "embeddings"),
    _cluster("ray://{closed}", "embeddings"),
    _cluster("{silent}", "embeddings"),
    _cluster("ray://{silent}", "embeddings"),
    _cluster("nonsense", "embeddings"),
    _cluster("{closed}", "model", "scores", command="train"),
    Fault("a Beam runner that is away", _beam("--runner=PortableRunner",
          "--job_endpoint=127.0.0.1:{port}", "--environment_type=LOOPBACK"),
          "--job_endpoint: nothing answers there", (3,)),
]  # fmt: skip
