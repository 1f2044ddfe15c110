"""Services as real processes: started, ready, ended, whatever happens to the run."""

import socket
import subprocess
import sys
import time

import psutil
import pytest
import requests

from pipelines.cli import run_command
from pipelines.run.config import Config
from pipelines.run.directory import Run
from pipelines.run.services import ServiceError, ServiceKilledError, services_of
from workers.base.exit_codes import ExitCode

RUN_A_SERVICE_AND_HANG = """
import sys, time
from pipelines.cli import run_command
from pipelines.run.config import Config
from pipelines.run.directory import Run
from pipelines.run.services import services_of
from workers.base.exit_codes import ExitCode
run = Run(Config.model_validate_json(sys.argv[1]), None)
with services_of(run, "pages"):
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def config(port, command, timeout=20.0):
    service = {
        "command": command,
        "ready": f"http://127.0.0.1:{port}/",
        "stages": ["pages"],
        "timeout": timeout,
    }
    return Config.model_validate({"name": "test", "queries": {}, "services": {"web": service}})


def serving(port):
    return ["python", "-m", "http.server", str(port), "--bind", "127.0.0.1"]


def answers(port):
    try:
        return requests.get(f"http://127.0.0.1:{port}/", timeout=2).ok
    except requests.RequestException:
        return False


def test_a_service_runs_for_its_stages_only(port, tmp_path):
    run = Run(config(port, serving(port)), tmp_path)
    with services_of(run, "pairs"):
        assert not answers(port)
    with services_of(run, "pages"):
        assert answers(port)
    assert not answers(port)


def test_a_service_that_ends_early_says_why(port, tmp_path):
    command = ["python", "-c", "import sys; sys.exit('no such table')"]
    run = Run(config(port, command), tmp_path)
    with pytest.raises(ServiceError, match="exit code 1 .*\n.*no such table"):
        services_of(run, "pages").__enter__()


@pytest.mark.parametrize("program", ["/absent/program", "/etc/passwd"])
def test_a_service_that_cannot_be_started_says_so_in_a_line(port, tmp_path, program):
    run = Run(config(port, [program]), tmp_path)
    with pytest.raises(ServiceError) as error:
        services_of(run, "pages").__enter__()
    assert f"exit code 127 before it was ready:\n{program} cannot be started" in str(error.value)
    assert "Traceback" not in str(error.value)


@pytest.mark.parametrize("victim", ["os.getpid()", "os.getppid()"], ids=["service", "guard"])
def test_a_service_that_is_killed_before_it_is_ready_is_no_fault_of_the_configuration(
    port, tmp_path, victim
):
    command = ["python", "-c", f"import os; print('here', flush=True); os.kill({victim}, 9)"]
    run = Run(config(port, command), tmp_path)

    def build() -> ExitCode:
        with services_of(run, "pages"):
            return ExitCode.COMPLETE

    with pytest.raises(ServiceKilledError, match="killed by signal 9 .*\nhere"):
        build()
    assert run_command(build) == ExitCode.PARTIAL


def test_a_service_that_never_answers_is_given_up(port, tmp_path):
    run = Run(config(port, ["python", "-c", "input()"], timeout=0.5), tmp_path)
    with pytest.raises(ServiceError):
        services_of(run, "pages").__enter__()


def ends(port, seconds=10):
    """Whether the service ends within some seconds."""
    deadline = time.monotonic() + seconds
    while answers(port):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


IGNORE_SIGTERM = "import signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
SERVE = (
    "from http.server import *; "
    "HTTPServer(('127.0.0.1', int(sys.argv[1])), SimpleHTTPRequestHandler).serve_forever()"
)


def test_a_service_that_ignores_sigterm_does_not_outlive_its_stages(port, tmp_path):
    run = Run(config(port, ["python", "-c", IGNORE_SIGTERM + SERVE, str(port)]), tmp_path)
    with services_of(run, "pages"):
        assert answers(port)
    assert not answers(port)


def test_a_service_does_not_outlive_its_guard(port, tmp_path):
    run = Run(config(port, serving(port)), tmp_path)
    with services_of(run, "pages"):
        (guard,) = [p for p in psutil.Process().children() if "pipelines.run.guard" in p.cmdline()]
        guard.kill()
        assert ends(port)


def test_a_service_does_not_outlive_a_run_that_was_killed(port):
    settings = config(port, serving(port)).model_dump_json()
    command = [sys.executable, "-c", RUN_A_SERVICE_AND_HANG, settings]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        assert answers(port)
        process.kill()
    assert ends(port)
