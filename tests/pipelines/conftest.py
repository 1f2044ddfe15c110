"""A small run of the real thing: Beam, Scrapy, img2dataset over HTTP, Ray, CLIP, Parquet."""

import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipelines.precision import machines_without_bfloat16
from tests.processors import hide_bfloat16

PICTURES = 240


@dataclass
class Commands:
    """Starts the project's commands on a small sample site, all runs on the same port.

    The port is part of every URL, and so of every pair's identity.
    """

    port: int

    def arguments(self, module, run_dir, *more):
        hosts = [f"127.0.0.{n}:{self.port}" for n in (1, 2, 3)]
        command = ["python", "-m", "examples.sample.site", "--port", str(self.port)]
        command += ["--pictures", str(PICTURES), "--truth", "{run_dir}/truth.parquet"]
        overrides = {
            "pages.seeds": [f"http://{host}/" for host in hosts],
            "pages.allow_private_hosts": hosts,
            "services.site.command": command,
            "services.site.ready": f"http://{hosts[0]}/",
            "gates.dataset": {"min_kept": 20},
            "pairs.shards": 3,
            "model.epochs": 2,
            "model.batch_size": 16,
            "ray.num_cpus": 2,
        }
        flags = [f"--set={key}={json.dumps(value)}" for key, value in overrides.items()]
        return [sys.executable, "-m", module, "--run-dir", str(run_dir), *flags, *more]

    def run(self, module, run_dir, *more, timeout=900):
        return subprocess.run(
            self.arguments(module, run_dir, *more), capture_output=True, text=True, timeout=timeout
        )

    def start(self, module, run_dir, *more):
        return subprocess.Popen(
            self.arguments(module, run_dir, *more),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )


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
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return Commands(port)


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
