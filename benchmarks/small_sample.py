"""The embedded sample with fewer images on a port of its own, for what needs many runs of it."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

IMAGES = 240


@dataclass(frozen=True)
class SmallSample:
    """The project's commands on a small sample site.

    The port is part of every URL, and so of every pair's identity: runs that are to be equal
    share it.
    """

    port: int = field(default_factory=lambda: free_port())
    images: int = IMAGES

    @property
    def names(self) -> Sequence[str]:
        """What the site's hosts are called."""
        return [f"127.0.0.{n}" for n in (1, 2, 3)]

    def arguments(self, module: str, run_dir: Path | str, *more: str) -> list[str]:
        """The command line of one of the commands, with options of its own behind it."""
        flags = [f"--set={key}={json.dumps(value)}" for key, value in self.overrides().items()]
        return [sys.executable, "-m", module, "--run-dir", str(run_dir), *flags, *more]

    def overrides(self) -> dict[str, Any]:
        """What is another than in the sample's configuration, by key."""
        hosts = [f"{name}:{self.port}" for name in self.names]
        return {
            "pages.seeds": [f"http://{host}/" for host in hosts],
            "pages.allow_private_hosts": hosts,
            "images.allow_private_hosts": hosts,
            **self.site(),
            "gates.dataset": {"min_kept": 20},
            "pairs.shards": 3,
            "images.pairs_per_shard": self.images // 3,
            "model.epochs": 2,
            "model.batch_size": 16,
            "ray.num_cpus": 2,
        }

    def site(self) -> dict[str, Any]:
        """Who serves the pages."""
        command = ["python", "-m", "examples.sample.site", "--port", str(self.port)]
        command += ["--images", str(self.images), "--truth", "{run_dir}/truth.parquet"]
        ready = f"http://{self.names[0]}:{self.port}/"
        return {"services.site.command": command, "services.site.ready": ready}

    def run(
        self, module: str, run_dir: Path | str, *more: str, timeout: float = 900
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            self.arguments(module, run_dir, *more), capture_output=True, text=True, timeout=timeout
        )

    def start(
        self,
        module: str,
        run_dir: Path | str,
        *more: str,
        env: Mapping[str, str] | None = None,
        output: IO[bytes] | int = subprocess.PIPE,
    ) -> subprocess.Popen[bytes]:
        """Start a command; all that it says goes to ``output``."""
        return subprocess.Popen(
            self.arguments(module, run_dir, *more),
            stdout=output,
            stderr=subprocess.STDOUT,
            env=env,
        )


def free_port() -> int:
    """A port of loopback that nothing listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port
