"""A command in a process that is watched: interrupted, lost, started again, cleaned up after."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

#: A command whose worker does what is asked for, after it has said that it has started.
PROGRAM = """
import os, signal, subprocess, sys, tempfile, time
from pathlib import Path
from workers.base import supervisor

supervisor.GRACE, supervisor.INSISTENCE = 2.0, 0.3

def leave_behind():
    return subprocess.Popen(["sleep", "600"], start_new_session=True).pid

def drop_an_interrupt():
    try:
        time.sleep(600)
    except KeyboardInterrupt:
        pass
    time.sleep(600)

class Finalised:
    def __del__(self):
        print("finalised", flush=True)
        time.sleep(600)

def lose_an_interrupt():
    Finalised()
    time.sleep(600)

def ignore_everything():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    time.sleep(600)

def other_peoples_handler():
    with supervisor.deaf():
        signal.signal(signal.SIGTERM, lambda *_: print("a trace", flush=True))
        print("deaf", flush=True)
        time.sleep(600)

def heard_again():
    with supervisor.deaf():
        pass
    try:
        print("hears", flush=True)
        time.sleep(600)
    except KeyboardInterrupt:
        print("heard", flush=True)

def die_twice():
    deaths = supervisor.deaths("task")
    supervisor.begin("task")
    if deaths < 2:
        os.kill(os.getpid(), signal.SIGSEGV)
    supervisor.end("task")
    assert supervisor.deaths("task") == 0
    print(deaths, supervisor.last_end())

def full_disk():
    raise OSError(28, "No space left on device", "shard")

def command():
    print(os.getpid(), tempfile.gettempdir(), leave_behind(), flush=True)
    exec(sys.argv[1])
    return 0

sys.exit(supervisor.supervised(command, restarts=3, lost=70))
"""


@pytest.fixture
def start(tmp_path):
    """Starts the program; gives the process, its worker's id, its folder and an orphan's id."""

    def started(action, **more):
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, action],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[3],
            # Beneath nohup this process ignores it.
            **{"preexec_fn": lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL), **more},
        )
        assert process.stdout is not None
        worker, folder, orphan = process.stdout.readline().split()
        return process, int(worker), Path(folder), int(orphan)

    return started


def ends(pid, seconds=10.0):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.02)
    return False


def test_an_interrupt_that_is_lost_in_a_finaliser_comes_again_without_a_trace(start):
    process, _, _, _ = start("lose_an_interrupt()")
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=10)
    assert (process.returncode, said) == (143, "")


@pytest.mark.parametrize(
    ("action", "said"), [("other_peoples_handler()", "deaf\n"), ("heard_again()", "hears\nheard\n")]
)
def test_an_interrupt_is_left_to_nobody_elses_handler(start, action, said):
    process, _, folder, orphan = start(action)
    begun = process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=30)
    assert begun + output == said
    assert process.returncode == (0 if said.endswith("heard\n") else 128 + signal.SIGTERM)
    assert ends(orphan)
    assert not folder.exists()


@pytest.mark.parametrize(
    ("action", "code"),
    [
        ("pass", 0),
        ("sys.exit(4)", 4),
        ("1 / 0", 70),
        ("full_disk()", 3),
        ("Path('/no/such/folder/x').touch()", 2),
        ("os._exit(1)", 70),  # without a word, as Ray does it; it is given up after three times
        ("os.kill(os.getpid(), signal.SIGABRT)", 70),
    ],
)
def test_the_exit_code_is_the_workers_and_nothing_is_left(start, action, code):
    process, _, folder, orphan = start(action)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == code
    assert "Traceback" not in errors
    assert ends(orphan)
    assert not folder.exists()


@pytest.mark.parametrize(
    "action", ["time.sleep(600)", "drop_an_interrupt()", "ignore_everything()"]
)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_ends_it_whatever_the_worker_makes_of_it(start, action, number):
    process, worker, folder, orphan = start(action)
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert "Traceback" not in errors
    assert ends(worker)
    assert ends(orphan)
    assert not folder.exists()


def test_a_worker_that_was_lost_is_started_again_and_told_so(start):
    process, *_ = start("die_twice()")
    said, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    assert said.splitlines()[-1] == "2 was killed by SIGSEGV"
    assert errors.count("was killed by SIGSEGV; starting it again") == 2


def test_nothing_outlives_a_parent_that_was_killed(start):
    process, worker, folder, orphan = start("time.sleep(600)")
    process.kill()
    process.wait()
    assert ends(worker)
    assert ends(orphan)
    deadline = time.monotonic() + 10
    while folder.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not folder.exists()


def test_the_next_command_removes_what_one_that_was_killed_as_a_whole_has_left(start):
    process, _, folder, _ = start("time.sleep(600)")
    for one in (psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)):
        one.kill()
    process.wait()
    assert folder.exists()
    other, *_ = start("pass")
    assert other.wait(timeout=30) == 0
    assert not folder.exists()


def test_a_signal_that_nohup_ignores_stays_ignored(start):
    process, *_ = start(
        "time.sleep(2)", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)
    )
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=30) == 0


def test_a_folder_of_somebody_else_is_left_alone(start, tmp_path):
    other = tmp_path / "clip-photographs"
    other.mkdir()
    process, *_ = start("pass", env={**os.environ, "TMPDIR": str(tmp_path)})
    assert process.wait(timeout=30) == 0
    assert other.exists()
