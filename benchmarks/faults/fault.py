"""A fault: something that goes wrong, what the documentation says of it, and how it is tried."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from benchmarks.commands import MARK, left_by, wait_for_stage
from benchmarks.small_sample import SmallSample

#: Seconds that a command may take.
LIMIT = 180.0

ROOT = Path(__file__).parents[2]

#: Held by who starts the sample's site, which has one port.
_SITE = threading.Lock()


class NotHereError(RuntimeError):
    """This machine or this user cannot have the fault."""


@dataclass
class Place:
    """Where a fault happens: a folder of its own, and what is needed to make it happen."""

    folder: Path
    sample: SmallSample
    finished: Path  # a finished run of the sample, not to be changed
    stack: ExitStack  # closed when the fault is over
    environment: dict[str, str] = field(default_factory=dict)
    #: What is done to the command while it runs.
    disturb: Callable[[subprocess.Popen[bytes]], None] | None = None
    run_dir: Path = field(init=False)

    def __post_init__(self) -> None:
        self.run_dir = self.folder / "run"

    def copy(self, *without: str) -> Path:
        """A copy of the finished run in `run_dir`, without what is known of some stages."""
        if {"pages", "images"} & set(without):
            self.stack.enter_context(_SITE)
        shutil.copytree(self.finished, self.run_dir)
        for stage in without:
            for folder in (self.run_dir / stage, *self.run_dir.glob(f"_*/{stage}")):
                shutil.rmtree(folder)
        return self.run_dir

    def command(self, name: str, *more: str) -> list[str]:
        """One of the commands on the sample, in `run_dir`."""
        return self.sample.arguments(f"pipelines.{name}", self.run_dir, *more)

    def build(self, *more: str) -> list[str]:
        return self.command("build_dataset", *more)

    def configured(self, tree: Mapping[str, Any] | str | bytes, *more: str) -> list[str]:
        """`pipelines.build_dataset` with a configuration of its own."""
        path = self.folder / "config.yaml"
        if not isinstance(tree, bytes):
            text = tree if isinstance(tree, str) else yaml.safe_dump(dict(tree), allow_unicode=True)
            tree = text.encode()
        path.write_bytes(tree)
        run_dir = ["--run-dir", str(self.run_dir)]
        return [sys.executable, "-m", "pipelines.build_dataset", str(path), *run_dir, *more]

    def on_stage(self, stage: str, action: Callable[[subprocess.Popen[bytes]], None]) -> None:
        """Do something to the command as soon as a stage is at work."""

        def disturb(process: subprocess.Popen[bytes]) -> None:
            if wait_for_stage(process, self.run_dir, stage):
                action(process)

        self.disturb = disturb

    def disk(self, size: str, name: str = "disk") -> Path:
        """An empty disk of this size. Raises NotHereError where this user may mount none."""
        place = self.folder / name
        place.mkdir()
        self._mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", place)
        return place

    def read_only(self, folder: Path) -> None:
        """Let nobody write to a folder, root included."""
        self._mount("--bind", folder, folder)
        mount("-o", "remount,bind,ro", folder)

    def _mount(self, *arguments: str | Path) -> None:
        mount(*arguments)
        self.stack.callback(subprocess.run, ["umount", str(arguments[-1])], check=True)

    def without_module(self, *names: str) -> None:
        """Let the import of modules fail, as where they are not installed."""
        folder = self.folder / "modules"
        folder.mkdir(exist_ok=True)
        for name in names:
            (folder / f"{name}.py").write_text(f"raise ImportError('there is no {name} here')\n")
        self.environment["PYTHONPATH"] = os.pathsep.join([str(folder), str(ROOT)])


def mount(*arguments: str | Path) -> None:
    """Raises NotHereError where this user may mount nothing."""
    done = subprocess.run(["mount", *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        raise NotHereError(f"mount: {done.stderr.strip()}")


@dataclass(frozen=True)
class Fault:
    """What goes wrong, and what must come of it.

    Whatever it is, no trace is printed, nothing ends with an exit code that is not documented, no
    process is left five seconds later, and nothing in the folder of temporary files.
    """

    name: str
    #: Makes the fault and gives the command that meets it.
    prepare: Callable[[Place], Sequence[str]]
    says: str  # stands in what the command prints
    codes: Sequence[int] = (2,)
    again: tuple[int, str] | None = None  # code and phrase of the same command, given once more
    #: What else is not as it should be, from all that was printed; "" if nothing.
    check: Callable[[Place, str], str] | None = None


@dataclass
class Finding:
    """What has happened."""

    name: str
    codes: list[int] = field(default_factory=list)
    seconds: float = 0.0
    said: str = ""  # the line that holds the phrase
    problems: list[str] = field(default_factory=list)
    is_here: bool = True

    def code_text(self) -> str:
        return ", then ".join(map(str, self.codes))


def try_fault(fault: Fault, sample: SmallSample, finished: Path) -> Finding:
    """Make a fault happen, and compare."""
    finding = Finding(fault.name)
    # Short, as Ray's sockets have long names.
    with tempfile.TemporaryDirectory(prefix="f-") as folder, ExitStack() as stack:
        place = Place(Path(folder), sample, finished, stack)
        try:
            command = fault.prepare(place)
        except NotHereError as error:
            finding.is_here, finding.said = False, str(error)
            return finding
        output = _run(command, place, finding, fault.codes, fault.says)
        finding.said = next((line for line in output.splitlines() if fault.says in line), "")
        if fault.again:
            place.disturb = None
            code, says = fault.again
            output += _run(command, place, finding, [code], says)
        if fault.check and (problem := fault.check(place, output)):
            finding.problems.append(problem)
    return finding


def _run(
    command: Sequence[str], place: Place, finding: Finding, codes: Sequence[int], says: str
) -> str:
    """Run a command, and note what is not as it should be; what it has printed."""
    mark = f"{os.getpid()}-{time.monotonic_ns()}"
    temporary = place.folder / "t"
    temporary.mkdir(exist_ok=True)
    environment = {"TMPDIR": str(temporary), **os.environ, **place.environment, MARK: mark}
    environment["TMPDIR"] = place.environment.get("TMPDIR", str(temporary))
    started = time.monotonic()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            command, stdout=said, stderr=subprocess.STDOUT, env=environment, cwd=ROOT
        )
        if place.disturb:
            place.disturb(process)
        try:
            code = process.wait(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            finding.problems.append(f"it takes more than {LIMIT:.0f} s")
            process.kill()
            code = process.wait()
        finding.seconds += time.monotonic() - started
        said.seek(0)
        output = said.read().decode(errors="replace")
    finding.codes.append(code)
    problems = []
    if code not in codes:
        problems.append(f"ended with {code}, not {' or '.join(map(str, codes))}")
    if says not in output:
        problems.append(f"does not say {says!r}")
    if "Traceback" in output:
        problems.append("prints a trace")
    problems += [f"leaves a process: {name}" for name in left_by(mark)]
    if code >= 0:  # who is killed can tidy nothing; the next command does
        problems += [f"leaves {path.name} in the temporary folder" for path in temporary.iterdir()]
    if problems:
        problems += [f"    {line}" for line in output.splitlines()[-12:]]
    finding.problems += problems
    return output
