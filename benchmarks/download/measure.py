"""One contender at one case: the site and the contender as processes, and what they have taken."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.commands import everything
from benchmarks.download.case import Case
from benchmarks.download.contender import HOSTS, REPORT, REQUESTS, Report
from benchmarks.download.link import Link
from benchmarks.download.site import ASKED, SITE, Seen, Site
from benchmarks.memory import anonymous_bytes
from workers.base.contracts import REQUESTS as COLUMNS

#: Seconds between two looks at a contender's processes.
_LOOK = 0.5
#: Seconds that a contender may take to import what it needs, before its time is counted.
_START = 120.0


@dataclass(frozen=True)
class Measured:
    """What a contender did at a case."""

    case: str
    contender: str
    images: int  # on the list
    kept: int  # in files that can be read
    served: int  # pictures that the site has sent, at least once
    seconds: float  # from the first request to the last file; the limit, where that was reached
    good_seconds: float  # until the last picture of a healthy host was sent
    cpu_seconds: float  # of all of its processes, in these seconds
    start_cpu_seconds: float  # before them: imports
    peak_bytes: int  # that they have written to, all together
    wall_seconds: float  # from start to end of the process
    requests: int
    at_once: int  # requests that one host had in hand, at most
    site_cpu_seconds: float
    link: str  # "" without delay
    was_ended: bool  # by us, at the limit
    pictures: frozenset[tuple[str, str]]  # path of the URL, and sha256, of what was kept

    @property
    def fetched(self) -> int:
        """Pictures that may be counted: of one that was ended, those that it was sent at least."""
        return self.served if self.was_ended else self.kept


@dataclass
class _Taken:
    """What a contender's processes have taken."""

    cpu_seconds: list[tuple[float, float]]  # until a time, since the epoch
    peak_bytes: int = 0

    def cpu_seconds_until(self, when: float) -> float:
        """Between two looks, in proportion."""
        times, taken = zip(*self.cpu_seconds, strict=True)
        return float(np.interp(when, times, np.maximum.accumulate(taken)))


def measure(case: Case, contender: str, link: Link, folder: Path, limit: float) -> Measured:
    """Run a contender at a case.

    Args:
        folder: with the pictures; used for this run alone.
        limit: seconds after its first request when the contender is ended.
    """
    conducts = {_address(number): does for number, does in enumerate(case.conducts())}
    site = Site(conducts=conducts, round_trip=link.site_round_trip)
    (folder / SITE).write_text(site.model_dump_json())
    server = subprocess.Popen(
        [*link.command, sys.executable, "-m", "benchmarks.download.site", str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        pq.write_table(_requests(case, port), folder / REQUESTS)
        (folder / HOSTS).write_text(json.dumps([f"{address}:{port}" for address in conducts]))
        started = time.time()
        was_ended, taken = _run(contender, link, folder, limit)
        wall = time.time() - started
        said, _ = server.communicate("")
    finally:
        server.kill()
        server.wait()
    seen = Seen.model_validate_json(said)
    report = folder / REPORT
    if was_ended or not report.exists():
        ended, kept = started + wall, dict[str, str]()
    else:
        done = Report.model_validate_json(report.read_text())
        seen.first = seen.first or done.began
        ended, kept = done.ended, done.kept
    return Measured(
        case=case.name,
        contender=contender,
        images=case.images,
        kept=len(kept),
        served=seen.good,
        seconds=ended - seen.first,
        good_seconds=max(0.0, seen.last_good - seen.first),
        cpu_seconds=taken.cpu_seconds_until(ended) - taken.cpu_seconds_until(seen.first),
        start_cpu_seconds=taken.cpu_seconds_until(seen.first),
        peak_bytes=taken.peak_bytes,
        wall_seconds=wall,
        requests=seen.requests,
        at_once=seen.at_once,
        site_cpu_seconds=seen.cpu_seconds,
        link=link.kind,
        was_ended=was_ended,
        pictures=frozenset((url.partition(f":{port}")[2], sha) for url, sha in kept.items()),
    )


def _address(host: int) -> str:
    return f"127.0.{1 + host // 200}.{1 + host % 200}"


def _requests(case: Case, port: int) -> pa.Table:
    rows = [
        {
            "pair_id": f"{number:08d}",
            "url": f"http://{_address(host)}:{port}/{number}.jpg",
            "caption": f"picture {number}",
            "tries": 0,
            "failed_in": None,
            "failed_for": None,
        }
        for host, number in case.places()
    ]
    return pa.Table.from_pylist(rows, schema=COLUMNS)


def _run(contender: str, link: Link, folder: Path, limit: float) -> tuple[bool, _Taken]:
    """Whether the contender had to be ended, and what it took."""
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            [*link.command, sys.executable, "-m", "benchmarks.download.contender",
             str(folder), contender],
            stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
        taken, began, has_asked = _Taken([(time.time(), 0.0)]), time.monotonic(), False
        while True:
            _look(process.pid, taken)
            ended, _, used = os.wait4(process.pid, os.WNOHANG)
            if ended:
                taken.cpu_seconds.append((time.time(), used.ru_utime + used.ru_stime))
                _end(process.pid)
                return False, taken
            if not has_asked and (folder / ASKED).exists():
                began, has_asked = time.monotonic(), True
            if time.monotonic() - began > limit + (0 if has_asked else _START):
                _end(process.pid)
                os.wait4(process.pid, 0)
                return True, taken
            time.sleep(_LOOK)


def _look(pid: int, taken: _Taken) -> None:
    cpu, memory = 0.0, 0
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in everything(psutil.Process(pid)):
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                cpu += times.user + times.system
                if process.pid == pid:
                    cpu += times.children_user + times.children_system
                memory += anonymous_bytes(process.pid)
    taken.cpu_seconds.append((time.time(), cpu))
    taken.peak_bytes = max(taken.peak_bytes, memory)


def _end(group: int) -> None:
    """End what a contender has started: it leads a session of its own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
