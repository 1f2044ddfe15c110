"""Runs of the sample that are killed at random moments: what each ends with, and what comes out.

``python -m benchmarks.chaos --kills 200 --seed 0`` runs the sample's three commands once
undisturbed, then again and again, each killed in a random stage at a random moment: with SIGKILL
all its processes at once, or one of them (the process that was started, the worker, an actor or
task of Ray's, a raylet, the GCS, a crawler, a service or its guard), or interrupted by SIGTERM or
SIGINT. A command that was ended is given again until it completes. Held against what the
documentation says: the exit code, that no process is left five seconds later, that no trace is
printed, and that every run that completes has the bytes of the undisturbed one; where a lost
service had images asked for by another list, the same images and the same data set, similarity
within what adding floats in another order makes of it. With ``--bucket`` the runs live in a
bucket of an S3-compatible server (moto, in a process of its own), the undisturbed one in a folder.

Prints a table, and as its last line the same as JSON; exits 1 where something was not as it is
documented. 200 kills take most of an hour on two cores; Ctrl-C ends it early with the table.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.dataset

from benchmarks.commands import MARK, everything, left_by, signal_to, wait_for_stage, worker_of
from benchmarks.small_sample import SmallSample
from pipelines.stages import DATASET_STAGES, STAGES
from tests.object_store import fetched, make_bucket, serving_apart
from workers.base.bucket import Bucket
from workers.base.exit_codes import ExitCode
from workers.base.storage import file_hash
from workers.base.supervisor import interrupt
from workers.crawl.warc_writer import content_hash

#: Seconds that an interrupted command may take, and any command at all.
LONGEST_END, LONGEST_COMMAND = 20.0, 600.0
#: How far the similarity of an image may be off that was embedded beside others.
TOLERANCE = 1e-3

COMMANDS = {
    "build_dataset": DATASET_STAGES,
    "train": ("model",),
    "evaluate": ("scores",),
}


@dataclass(frozen=True)
class Victim:
    """Who is sent a signal, and what the command may then end with."""

    name: str
    find: Callable[[psutil.Process, random.Random], list[psutil.Process]]
    codes: frozenset[int]
    stages: Sequence[str] = tuple(STAGES)
    number: signal.Signals = signal.SIGKILL


def _itself(command: psutil.Process, _: random.Random) -> list[psutil.Process]:
    return [command]


def _everything(command: psutil.Process, _: random.Random) -> list[psutil.Process]:
    return everything(command)


def _worker(command: psutil.Process, _: random.Random) -> list[psutil.Process]:
    return worker_of(command)


def _named(pattern: str) -> Callable[[psutil.Process, random.Random], list[psutil.Process]]:
    """One process whose name and command line match."""

    def find(command: psutil.Process, chance: random.Random) -> list[psutil.Process]:
        found = []
        for process in command.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if re.search(pattern, " ".join([process.name(), *process.cmdline()])):
                    found.append(process)
        return [chance.choice(found)] if found else []

    return find


ON_RAY = ("pages", "candidates", "pairs", "images", "embeddings", "dataset", "model")
_ON_SITE = ("pages", "images")
_KILLED: frozenset[int] = frozenset({-signal.SIGKILL})
#: Lost workers are replaced within the command.
_GOES_ON: frozenset[int] = frozenset({ExitCode.COMPLETE})
#: What a lost service or crawler has cost is known, and done by the next run.
_PARTIAL: frozenset[int] = frozenset({ExitCode.COMPLETE, ExitCode.PARTIAL})


def _ended_by(number: signal.Signals) -> frozenset[int]:
    """The code of an interrupted command; the signal itself while Python is still importing, of
    which a shell makes the same code."""
    return frozenset({128 + number, -number})


VICTIMS = (
    Victim("all at once", _everything, _KILLED),
    Victim("started process", _itself, _KILLED),
    Victim("worker process", _worker, _GOES_ON),
    Victim("Ray task or actor", _named(r"^ray::(?!IDLE)"), _GOES_ON, ON_RAY),
    Victim("raylet", _named(r"^raylet "), _GOES_ON, ON_RAY),
    Victim("GCS", _named(r"^gcs_server "), _GOES_ON, ON_RAY),
    Victim("crawler", _named(r"workers\.crawl\.spider"), _PARTIAL, ("pages",)),
    Victim(
        "service",
        _named(r"^\S+ \S+python\S* -m examples.sample.site"),
        _PARTIAL,
        ("pages", "images"),
    ),
    Victim("guard", _named(r"pipelines\.run\.guard"), _PARTIAL, ("pages", "images")),
    Victim("SIGTERM", _itself, _ended_by(signal.SIGTERM), number=signal.SIGTERM),
    Victim("SIGINT", _itself, _ended_by(signal.SIGINT), number=signal.SIGINT),
)


@dataclass(frozen=True)
class Folders:
    """Runs that live in folders below one."""

    folder: Path

    def url(self, name: str) -> str:
        return str(self.folder / name)

    def environment(self) -> dict[str, str]:
        """What a command needs beside the own."""
        return {}

    def begun(self, name: str, stage: str) -> bool:
        """Whether a stage of a run has a receipt."""
        return (self.folder / name / "_receipts" / stage).exists()

    def waits(self, process: subprocess.Popen[bytes], name: str, stage: str) -> bool:
        """Wait until a stage of a run is at work; False if the command ends before."""
        return wait_for_stage(process, self.folder / name, stage)

    def files(self, name: str) -> Path:
        """A folder with a run's files."""
        return self.folder / name


@dataclass(frozen=True)
class Buckets(Folders):
    """Runs that live in a bucket; each by its name."""

    bucket: str

    def url(self, name: str) -> str:
        return f"{self.bucket}/{name}"

    def environment(self) -> dict[str, str]:
        self._scratch.mkdir(exist_ok=True)
        return {"TMPDIR": str(self._scratch)}

    @property
    def _scratch(self) -> Path:
        return self.folder / "t"  # Ray takes no long name

    def begun(self, name: str, stage: str) -> bool:
        return bool(Bucket(self.url(name)).list(f"_receipts/{stage}"))

    def waits(self, process: subprocess.Popen[bytes], name: str, stage: str) -> bool:  # noqa: ARG002 - one command is at work
        return wait_for_stage(process, self._scratch, stage, above="*/copy-*/")

    def files(self, name: str) -> Path:
        return fetched(self.url(name), self.folder / name)


@dataclass
class Count:
    """What has been seen of one kind of victim."""

    kills: int = 0
    codes: Counter[int] = field(default_factory=Counter)
    slowest: float = 0.0  # seconds from the signal to the end, where it ends the command


@dataclass
class Chaos:
    """Kills runs of a sample and compares what comes out with an undisturbed run."""

    sample: SmallSample
    undisturbed: Path  # the directory of a run that nothing happened to
    random: random.Random
    runs: Folders
    victims: Sequence[Victim] = VICTIMS
    counts: dict[str, Count] = field(default_factory=lambda: defaultdict(Count))
    stages: Counter[str] = field(default_factory=Counter)
    completed: int = 0
    by_other_lists: int = 0  # of them, whose images were asked for in other lists
    faults: list[str] = field(default_factory=list)
    tell: Callable[[str], object] = lambda _: None

    def go(self, kills: int) -> None:
        """Kill so many times, and let the last run complete."""
        left, number = kills, 0
        while left:
            name = f"run-{number}"
            number += 1
            for command, stages in COMMANDS.items():
                while not self._completes(command, stages, name, disturb=left > 0):
                    left = kills - sum(count.kills for count in self.counts.values())
                    self.tell(f"{kills - left} of {kills} kills, {len(self.faults)} faults")
                left = kills - sum(count.kills for count in self.counts.values())
            self.completed += 1
            self._compare(name)

    def _completes(self, command: str, stages: Sequence[str], name: str, *, disturb: bool) -> bool:
        """Give a command, disturbed perhaps; True when it has ended well."""
        mark = f"{os.getpid()}-{time.monotonic_ns()}"
        said = self.runs.folder / f"{name}.out"
        env = {**os.environ, **self.runs.environment(), MARK: mark}
        with said.open("wb") as output:
            process = self.sample.start(
                f"pipelines.{command}", self.runs.url(name), env=env, output=output
            )
        try:
            victim = self._disturb(process, stages, name) if disturb else None
            signalled = time.monotonic()
            code = process.wait(timeout=LONGEST_COMMAND)
        except subprocess.TimeoutExpired:
            self._fault(f"{command} hangs after {victim and victim.name}", said)
            process.kill()
            code = process.wait()
        except KeyboardInterrupt:
            process.terminate()
            process.wait()
            raise
        took = time.monotonic() - signalled
        self._check(command, victim, code, took, said)
        self._check_orphans(command, victim, mark)
        return code == ExitCode.COMPLETE

    def _disturb(
        self, process: subprocess.Popen[bytes], stages: Sequence[str], name: str
    ) -> Victim | None:
        """Wait for a random moment of a random stage, and send a signal there; None if it ended."""
        begun = [n for n, stage in enumerate(stages) if self.runs.begun(name, stage)]
        # From the last one on that has begun; those before it are complete.
        open_stages = stages[begun[-1] if begun else 0 :]
        victim = self.random.choice([v for v in self.victims if set(v.stages) & set(open_stages)])
        # Rather an early one: of a run whose last stage was hit first, little is left to hit.
        candidates = [stage for stage in open_stages if stage in victim.stages]
        weights = [2.0**-number for number in range(len(candidates))]
        (stage,) = self.random.choices(candidates, weights)
        if not self.runs.waits(process, name, stage):
            return None
        pause = self.random.uniform(0, self._seconds(stage))
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=pause)
            return None
        command = psutil.Process(process.pid)
        with contextlib.suppress(psutil.NoSuchProcess):
            targets = victim.find(command, self.random)
            signal_to(targets, victim.number)
            if targets:
                self.stages[stage] += 1
                self.counts[victim.name].kills += 1
                return victim
        return None

    def _seconds(self, stage: str) -> float:
        """About what a stage takes, so that a kill falls anywhere in it, and a bit behind."""
        return {"scores": 6.0, "selection": 1.0, "dataset": 3.0, "model": 25.0}.get(stage, 8.0)

    def _check(
        self, command: str, victim: Victim | None, code: int, took: float, said: Path
    ) -> None:
        allowed = _GOES_ON
        if victim:
            count = self.counts[victim.name]
            count.codes[code] += 1
            if code != ExitCode.COMPLETE:
                count.slowest = max(count.slowest, took)
            # It may have been at its end already.
            allowed = victim.codes | {ExitCode.COMPLETE}
        name = victim.name if victim else "nothing"
        if code not in allowed:
            self._fault(f"{command} ended with {code} after {name}", said)
        if b"Traceback" in said.read_bytes():
            self._fault(f"{command} printed a trace after {name}", said)
        if victim and victim.number != signal.SIGKILL and took > LONGEST_END:
            self._fault(f"{command} took {took:.0f} s to end after {name}", said)

    def _check_orphans(self, command: str, victim: Victim | None, mark: str) -> None:
        if left := left_by(mark):
            self._fault(f"{command} left after {victim and victim.name}: {', '.join(left)}")

    def _compare(self, name: str) -> None:
        run_dir = self.runs.files(name)
        self.by_other_lists += not _asked_alike(run_dir, self.undisturbed)
        for what in differences(run_dir, self.undisturbed):
            self._fault(f"{name}: {what} is not that of the undisturbed run")

    def _fault(self, text: str, said: Path | None = None) -> None:
        if said:
            lines = said.read_text(errors="replace").splitlines()
            traces = [n for n, line in enumerate(lines) if "Traceback" in line]
            shown = lines[traces[0] : traces[0] + 40] if traces else lines[-5:]
            text += "\n    " + "\n    ".join(shown)
        self.faults.append(text)
        self.tell(text)


def differences(run_dir: Path, other: Path) -> Iterator[str]:
    """What of a run is not as in another one that was given the same."""
    alike = _asked_alike(run_dir, other)
    stages = STAGES if alike else ("queries", "pages", "candidates", "pairs")
    made, wanted = (_files_of(folder, stages) for folder in (run_dir, other))
    yield from (name for name in sorted(made.keys() | wanted) if made.get(name) != wanted.get(name))
    if alike:
        return
    for stage, read in {"images": _images_of, "dataset": _exact_columns_of}.items():
        if read(run_dir) != read(other):
            yield stage
    similarity, before = (_table_of(run, "dataset")["similarity"] for run in (run_dir, other))
    if not np.allclose(similarity, before, rtol=0, atol=TOLERANCE):
        yield "the similarity in dataset"


def _asked_alike(run_dir: Path, other: Path) -> bool:
    """Whether two runs asked for their images by the same lists."""
    names = [{path.name for path in (run / "requests").iterdir()} for run in (run_dir, other)]
    return names[0] == names[1]


def _table_of(run_dir: Path, stage: str) -> pa.Table:
    return pyarrow.dataset.dataset(run_dir / stage, format="parquet").to_table()


def _images_of(run_dir: Path) -> dict[str, str]:
    """Their hashes by pair_id."""
    table = _table_of(run_dir, "images")
    return dict(zip(*(table[name].to_pylist() for name in ("pair_id", "sha256")), strict=True))


def _exact_columns_of(run_dir: Path) -> pa.Table:
    return _table_of(run_dir, "dataset").drop_columns(["similarity", "labels"])


def _files_of(run_dir: Path, stages: Iterable[str]) -> dict[str, str]:
    """The sha256 of all that stages have made, of WARC files without their dates."""
    return {
        str(path.relative_to(run_dir)): (content_hash if path.suffix == ".warc" else file_hash)(
            path
        )
        for stage in stages
        for path in sorted((run_dir / stage).rglob("*"))
        if path.is_file()
    }


def run_undisturbed(sample: SmallSample, run_dir: Path) -> None:
    """Run the three commands."""
    for command in COMMANDS:
        result = sample.run(f"pipelines.{command}", run_dir)
        if result.returncode:
            raise RuntimeError(f"{command} ended with {result.returncode}:\n{result.stderr}")


def table(chaos: Chaos) -> Iterator[str]:
    """A line for each kind of victim."""
    yield "| signal to | kills | exit codes | slowest end, s |"
    yield "|---|--:|---|--:|"
    for victim in VICTIMS:
        count = chaos.counts[victim.name]
        codes = ", ".join(f"{code}: {number}" for code, number in sorted(count.codes.items()))
        yield f"| {victim.name} | {count.kills} | {codes} | {count.slowest:.1f} |"


def summary(chaos: Chaos) -> dict[str, Any]:
    """The same as plain data."""
    counts = {
        name: {"kills": count.kills, "codes": count.codes, "slowest_s": round(count.slowest, 1)}
        for name, count in chaos.counts.items()
    }
    return {
        "victims": counts,
        "stages": chaos.stages,
        "completed_runs": chaos.completed,
        "by_other_lists": chaos.by_other_lists,
        "faults": chaos.faults,
    }


def _tell(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def main() -> int:
    """Parse the options, kill, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=200, metavar="N", help="default: 200")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of all that is random")
    parser.add_argument(
        "--bucket", action="store_true", help="let the killed runs live in a bucket"
    )
    options = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell's background ignores the first
        signal.signal(number, interrupt)
    write = sys.stdout.write
    # In a bucket it waits for what a command does in its TMPDIR, which must have a short name.
    place = "/tmp" if options.bucket else None
    with (
        tempfile.TemporaryDirectory(prefix="chaos-", dir=place) as name,
        contextlib.ExitStack() as stack,
    ):
        folder, sample = Path(name), SmallSample()
        runs = Folders(folder)
        if options.bucket:
            endpoint = stack.enter_context(serving_apart())
            runs = Buckets(folder, make_bucket(endpoint, "chaos"))
        undisturbed = folder / "undisturbed"
        run_undisturbed(sample, undisturbed)
        chaos = Chaos(sample, undisturbed, random.Random(options.seed), runs, tell=_tell)
        with contextlib.suppress(KeyboardInterrupt):  # what has been seen until then is printed
            chaos.go(options.kills)
    write("\n".join(table(chaos)) + "\n\n")
    in_stages = ", ".join(f"{stage} {number}" for stage, number in chaos.stages.most_common())
    write(f"Kills in stages: {in_stages}.\n")
    write(
        f"{chaos.completed} runs completed, compared with the undisturbed one byte for byte; of "
        f"{chaos.by_other_lists}, which lost a service, images and data set were compared.\n"
    )
    write("\n".join([f"{len(chaos.faults)} faults", *chaos.faults]) + "\n")
    write(json.dumps(summary(chaos)) + "\n")
    return bool(chaos.faults)


if __name__ == "__main__":
    sys.exit(main())
