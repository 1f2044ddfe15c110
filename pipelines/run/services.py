"""Programs that run beside the stages that need them: started before, ended after."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import IO

import requests

from pipelines.run.config import Service
from pipelines.run.directory import Run
from pipelines.run.guard import GRACE, end

log = logging.getLogger(__name__)


class ServiceError(RuntimeError):
    """A service could not be started."""


class ServiceKilledError(RuntimeError):
    """A service was killed while it started, which is not the configuration's fault."""


class Services(dict[str, subprocess.Popen[bytes]]):
    """The guards of the services that run, by name."""

    def lost(self) -> list[str]:
        """The names of those that have ended by themselves, or were killed."""
        return [name for name, guard in self.items() if guard.poll() is not None]


@contextmanager
def services_of(run: Run, stage: str) -> Iterator[Services]:
    """Run the services that a stage needs while the block runs."""
    with ExitStack() as stack:
        services = Services()
        for name, service in run.config.services.items():
            if stage in service.stages:
                services[name] = stack.enter_context(_running(name, service, run))
        yield services


@contextmanager
def _running(name: str, service: Service, run: Run) -> Iterator[subprocess.Popen[bytes]]:
    command = [
        sys.executable if word == "python" else run.resolve(word) for word in service.command
    ]
    guarded = [sys.executable, "-m", "pipelines.run.guard", *command]
    _wait_until_free(name, service)
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            guarded, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            _wait_until_ready(name, service, process, output)
            log.info("service %s: ready", name)
            yield process
        finally:
            end(process, 2 * GRACE)  # the guard itself waits for the service


def _wait_until_free(name: str, service: Service) -> None:
    """Wait for the service of a run that was just killed to end."""
    deadline = time.monotonic() + 2 * GRACE
    while _answers(service.ready):
        if time.monotonic() > deadline:
            raise ServiceError(
                f"service {name}: something else answers at {service.ready}; end it, or choose "
                f"another port in services.{name}"
            )
        time.sleep(0.1)


def _wait_until_ready(
    name: str, service: Service, process: subprocess.Popen[bytes], output: IO[bytes]
) -> None:
    deadline = time.monotonic() + service.timeout
    while time.monotonic() < deadline:
        if (code := process.poll()) is not None:
            # A negative code is the guard's, which was killed; as a shell has it, its command's.
            number = -code if code < 0 else code - 128
            if 0 < number < signal.NSIG:
                raise ServiceKilledError(
                    f"service {name} was killed by signal {number} before it was ready; the same "
                    f"command starts it again. It printed:\n{_tail(output)}"
                )
            raise ServiceError(
                f"service {name} ended with exit code {code} before it was ready:\n{_tail(output)}"
            )
        if _answers(service.ready):
            return
        time.sleep(0.1)
    raise ServiceError(
        f"service {name} did not answer at {service.ready} within {service.timeout:.0f} s; it "
        f"printed:\n{_tail(output)}"
    )


def _answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=2.0).ok
    except requests.RequestException:
        return False


def _tail(output: IO[bytes]) -> str:
    output.seek(0)
    return output.read()[-2000:].decode(errors="replace").strip()
