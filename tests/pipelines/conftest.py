"""What the tests of runs share."""

import os
import time
from pathlib import Path

import pytest

from pipelines.run.directory import Run
from pipelines.run.precision import machines_without_bfloat16
from tests.object_store import send_folder
from tests.processors import hide_bfloat16
from workers.base import copies


@pytest.fixture
def move(monkeypatch, tmp_path):
    """Goes on with a machine without bfloat16, and comes back to this one."""
    machines_without_bfloat16.cache_clear()

    def move_to(*, elsewhere):
        machines_without_bfloat16.cache_clear()
        monkeypatch.setattr("workers.base.hardware.CPU_INFORMATION", Path("/proc/cpuinfo"))
        if elsewhere:
            hide_bfloat16(monkeypatch, tmp_path)

    yield move_to
    machines_without_bfloat16.cache_clear()


@pytest.fixture
def bucket_of(store, tmp_path, monkeypatch):
    """Gives a run of a folder as one in a bucket of its own, and the URL."""
    (tmp_path / "copies").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "copies"))
    store.fault = None

    def sent(run):
        url = f"{store.new_bucket()}/runs/birds"
        send_folder(run.directory, url)
        return Run.open(run.config, url), url

    yield sent
    store.fault = None
    monkeypatch.setattr(copies, "_COPIES", {})


def flip_a_byte(path: Path):
    """Damage of the same size and time."""
    status, content = path.stat(), bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def wait_for(path: Path, pattern: str, process, seconds=120.0):
    """Wait until a file that matches is there; fail if the process ends before."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if list(path.glob(pattern)):
            return
        assert process.poll() is None, process.stdout.read().decode()
        time.sleep(0.01)
    raise AssertionError(f"no {pattern} in {path} after {seconds} s")
