"""A night as a job: a real Ray cluster with a token, machines that share no folder, a bucket."""

import hashlib
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import psutil

from benchmarks.small_sample import SmallSample, free_port
from tests.object_store import serving_objects
from workers.base.bucket import Bucket

ROOT = Path(__file__).parents[2]
STAGES = ("queries", "pairs", "requests", "images", "embeddings", "labels", "selection", "dataset")


class Machines:
    """Raylets of one cluster, each with a folder of temporary files of its own."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self._stack = folder, stack
        self.port, self.dashboard = free_port(), free_port()
        self.environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": "a" * 64,
            "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{self.dashboard}",
        }

    def start(self, name: str, *options: str) -> subprocess.Popen[bytes]:
        """A machine: all that works on it, and the folder of its temporary files."""
        temporary = self.folder / name
        temporary.mkdir()
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *options]
        with (self.folder / f"{name}.out").open("wb") as said:
            machine = subprocess.Popen(
                [*command, "--disable-usage-stats", *own_ports()],
                env={**self.environment, "TMPDIR": str(temporary)},
                stdout=said,
                stderr=subprocess.STDOUT,
            )
        self._stack.callback(switch_off, machine)
        return machine

    def head(self) -> None:
        options = [f"--port={self.port}", f"--dashboard-port={self.dashboard}", "--num-cpus=0"]
        options.append(f"--ray-client-server-port={free_port()}")
        self.start("h", "--head", *options, f"--temp-dir={self.folder / 'r'}")
        deadline = time.monotonic() + 90
        address = self.environment["RAY_API_SERVER_ADDRESS"]
        submit = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit"]
        while True:
            command = [*submit, "--address", address, "--", "true"]
            done = subprocess.run(command, env=self.environment, capture_output=True, text=True)
            if not done.returncode:
                return
            assert time.monotonic() < deadline, done.stdout + done.stderr

    def worker(self, name: str) -> subprocess.Popen[bytes]:
        return self.start(name, f"--address=127.0.0.1:{self.port}", "--num-cpus=2")


def own_ports() -> list[str]:
    """Ray's agents have fixed ports by default, which another cluster of this machine may have."""
    agents = ("dashboard-agent-listen-port", "dashboard-agent-grpc-port", "metrics-export-port")
    return [f"--{agent}={free_port()}" for agent in agents]


def switch_off(machine: subprocess.Popen[bytes]) -> None:
    """End all processes of a machine, as a power cut does."""
    try:
        processes = [*psutil.Process(machine.pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        processes = []
    machine.kill()
    for process in processes:
        if process.is_running():
            process.kill()
    machine.wait()


def short_folder() -> tempfile.TemporaryDirectory[str]:
    """Ray's sockets have long names."""
    return tempfile.TemporaryDirectory(prefix="j-", dir="/tmp", ignore_cleanup_errors=True)


def objects(bucket: Bucket) -> dict[str, str]:
    return {
        name: hashlib.sha256(bucket.read(name)[0]).hexdigest()
        for name in bucket.list()
        if name.partition("/")[0] in STAGES
    }


def test_a_night_in_a_bucket_on_machines_that_come_and_go(tmp_path):
    sample = SmallSample(images=60)
    config = tmp_path / "night" / "sample.yaml"
    config.parent.mkdir()
    text = (ROOT / "examples/sample/sample.yaml").read_text()
    config.write_text(text)
    with serving_objects() as store, ExitStack() as stack:
        made = Machines(Path(stack.enter_context(short_folder())), stack)
        made.head()
        doomed = made.worker("1")
        url = f"{store.make_bucket('nights')}/job"
        flags = [word for word in sample.arguments("x", "y")[5:] if "ray.num_cpus" not in word]
        submit = [sys.executable, str(ROOT / "infra/ray/submit.py"), str(config), url, *flags]
        job = subprocess.Popen(
            submit, env=made.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        stack.callback(job.kill)
        deadline = time.monotonic() + 150
        while not any("/_receipts/images/" in path for _, path in store.requests):
            assert job.poll() is None, job.communicate()[0].decode()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        switch_off(doomed)
        made.worker("2")
        said = job.communicate(timeout=240)[0].decode()
        assert job.returncode == 0, said
        bucket = Bucket(url)
        there = objects(bucket)
        assert {name.partition("/")[0] for name in there} == set(STAGES)
        deadline = time.monotonic() + 30
        while left := list((made.folder / "2").glob("copy-*")):  # of a worker that is at its end
            assert time.monotonic() < deadline, left
            time.sleep(0.1)

        again = subprocess.run(submit, env=made.environment, capture_output=True, text=True)
        assert again.returncode == 0, again.stdout + again.stderr
        assert f"nothing to do: {url} is complete" in again.stdout
        assert objects(bucket) == there
        wrong = subprocess.run(
            [*submit, "--set", "seeed=1"], env=made.environment, capture_output=True, text=True
        )
        assert wrong.returncode == 2, wrong.stdout + wrong.stderr
