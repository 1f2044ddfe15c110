"""A small run of the real thing: Beam, Scrapy, img2dataset over HTTP, Ray, CLIP, Parquet."""

import os
import time
from pathlib import Path

import pytest

from benchmarks.small_sample import SmallSample
from pipelines.precision import machines_without_bfloat16
from tests.processors import hide_bfloat16


@pytest.fixture
def move(monkeypatch, tmp_path):
    """Goes on with a machine without bfloat16, and comes back to this one."""
    machines_without_bfloat16.cache_clear()

    def move_to(*, elsewhere):
        machines_without_bfloat16.cache_clear()
        monkeypatch.setattr("workers.hardware.CPU_INFORMATION", Path("/proc/cpuinfo"))
        if elsewhere:
            hide_bfloat16(monkeypatch, tmp_path)

    yield move_to
    machines_without_bfloat16.cache_clear()


@pytest.fixture(scope="session")
def commands():
    """The project's commands on a small sample site, all runs on the same port."""
    return SmallSample()


@pytest.fixture(scope="session")
def finished(commands, tmp_path_factory):
    """The directory of a finished run: data set, model and scores."""
    run_dir = tmp_path_factory.mktemp("finished")
    for module in ("build_dataset", "train", "evaluate"):
        result = commands.run(f"pipelines.{module}", run_dir)
        assert result.returncode == 0, result.stdout + result.stderr
    return run_dir


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
