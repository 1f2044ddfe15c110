"""A link with delay: loopback in a network namespace of its own, where the kernel waits."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

#: What the link is called where packets are delayed by the kernel, and where answers are late.
NETEM, SITE = "netem in a network namespace", "late answers (this kernel has no netem)"
#: Bytes of a packet, as on the internet: else a picture would be two packets of loopback.
_MTU = 1500


@dataclass(frozen=True)
class Link:
    """How the site and a contender are started."""

    command: tuple[str, ...] = ()  # goes before theirs
    site_round_trip: float = 0.0  # seconds that the site waits, where the link does not
    kind: str = ""  # of its delay


@contextmanager
def linked(round_trip: float) -> Iterator[Link]:
    """A link whose round trip takes so many seconds; 0 for loopback as it is.

    Where the namespace cannot be had, the site waits instead: a round trip for each connection and
    one for each request. That is less than a link does, on which long answers take several.
    """
    if not round_trip:
        yield Link()
        return
    name = f"benchmark-{os.getpid()}"
    if not _is_done("ip", "netns", "add", name):
        yield Link(site_round_trip=round_trip, kind=SITE)
        return
    inside = ("ip", "netns", "exec", name)
    delay = f"{round_trip / 2 * 1000:g}ms"  # there and back, all go through loopback once
    try:
        if (
            _is_done(*inside, "ip", "link", "set", "lo", "up", "mtu", str(_MTU))
            and _is_done(*inside, "tc", "qdisc", "add", "dev", "lo", "root",
                         "netem", "delay", delay, "limit", "100000")
        ):  # fmt: skip
            yield Link(inside, kind=NETEM)
        else:
            yield Link(site_round_trip=round_trip, kind=SITE)
    finally:
        _is_done("ip", "netns", "delete", name)


def _is_done(*command: str) -> bool:
    if shutil.which(command[0]) is None:
        return False
    return subprocess.run(command, check=False, capture_output=True).returncode == 0
