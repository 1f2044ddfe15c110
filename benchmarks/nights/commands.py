"""The project's commands on a site that the benchmark serves, under names where that can be."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.nights.site import AGENT
from benchmarks.small_sample import SmallSample
from examples.sample.site import DEFAULT_HOSTS

NAMES = ("one.example", "two.example", "three.example")

_MOUNTED = (
    'mount --bind "$1" /etc/hosts && mount --bind "$2" /etc/resolv.conf && shift 2 && exec "$@"'
)


@dataclass(frozen=True)
class Names:
    """Names of the hosts that the commands alone know, from files mounted over the machine's.

    Every other name is asked of a server that is none: a hosts file without the names is what a
    machine without DNS has.
    """

    folder: Path

    def prefix(self, *, up: bool = True) -> list[str]:
        """What is put before a command."""
        hosts = Path("/etc/hosts").read_text()
        if up:
            pairs = zip(DEFAULT_HOSTS, NAMES, strict=True)
            hosts += "".join(f"\n{address} {name}" for address, name in pairs) + "\n"
        files = self.folder / ("hosts" if up else "no-hosts"), self.folder / "resolv.conf"
        for path, text in zip(files, (hosts, "nameserver 127.0.0.1\n"), strict=True):
            path.write_text(text)
        as_root = [] if os.geteuid() == 0 else ["--map-root-user"]
        return ["unshare", *as_root, "--mount", "sh", "-c", _MOUNTED, "sh", *map(str, files)]

    def work(self) -> bool:
        """Whether this user may mount files."""
        try:
            command = [*self.prefix(), "getent", "hosts", NAMES[0]]
            return subprocess.run(command, capture_output=True).returncode == 0
        except OSError:
            return False


@dataclass(frozen=True)
class NightlySample(SmallSample):
    """The sample without its service; ``dns`` gives its hosts names."""

    dns: Names | None = None
    dns_is_up: bool = True

    @property
    def names(self) -> Sequence[str]:
        return NAMES if self.dns else DEFAULT_HOSTS

    def arguments(self, module: str, run_dir: Path | str, *more: str) -> list[str]:
        command = super().arguments(module, run_dir, *more)
        return [*self.dns.prefix(up=self.dns_is_up), *command] if self.dns else command

    def site(self) -> dict[str, Any]:
        # What failed for a passing reason is asked for again every night, four times at most.
        again = {"images.retry_hours": [0, 0, 0, 0]}
        # In float32 an image is embedded nearly the same in whatever batch it comes.
        whole: dict[str, Any] = {
            "services": {},
            "report.truth": None,
            "embeddings.precision": "fp32",
        }
        return {**whole, **again, "images.user_agent": AGENT}
