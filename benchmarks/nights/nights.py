"""Nights: commands on a growing site, what each has cost and brought, and what it must not do."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil

from benchmarks.commands import MARK, everything, left_by, signal_to
from benchmarks.nights.commands import NightlySample
from benchmarks.nights.remains import Remains
from benchmarks.nights.site import MOVED, GrowingSite, Request
from benchmarks.nights.standing import (
    Standing,
    asked_again,
    compare,
    files_of,
    receipts,
    redone,
)
from pipelines.stages import DATASET_STAGES
from workers.base.exit_codes import ExitCode

BUILD = "pipelines.build_dataset"
#: What a command may end with.
WHOLE = frozenset({int(ExitCode.COMPLETE)})
OUTAGE = frozenset({int(ExitCode.PARTIAL)})
PARTIAL_OR_NOT = WHOLE | OUTAGE
#: The stages that hold what the web gave, and what follows from it alone.
CAPITAL = ("pages", "pairs", "requests", "images")
#: The host that is down for a night, and the one that is taken down.
DOWN, TAKEN = 2, 1
EVERY_NIGHT = "--set=pages.recrawl_hours=0"
NOTHING_AGAIN = ("--set=pages.recrawl_hours=null", "--set=images.retry_hours=[]")
THRESHOLD = "--set=selection.steps=[{filter: similarity, min: 0.34}]"
LABELS = "--set=embeddings.label_sets.style={classes: [a drawing, a photograph], top_k: 1}"


@dataclass
class Night:
    """What a command has cost and brought."""

    night: int
    what: str
    code: int = 0
    seconds: float = 0.0
    pages: int = 0  # requests for anything but images
    unchanged: int = 0  # of these answered with 304
    images: int = 0  # requests for images, without those that redirects lead to
    new: int = 0  # images that are there, and were not before
    again: list[str] = field(default_factory=list)  # asked for, though there or failed for good
    rows: int = 0  # of the data set


@dataclass
class Nights:
    """One run over all nights, and what is held against it."""

    site: GrowingSite
    sample: NightlySample
    folder: Path
    tell: Callable[[str], object]
    kills: random.Random | None = None
    nights: list[Night] = field(default_factory=list)
    seen: Sequence[Request] = ()  # what the last command has asked for
    faults: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def run_dir(self) -> Path:
        return self.folder / "run"

    @property
    def last(self) -> int:
        return self.site.nights

    def grow(self) -> None:
        """All nights: one host is down on one, names or images are on others."""
        for night in range(1, self.last + 1):
            if night == self.last - self.last // 4:
                self._without_images(night)
            if night == self.last and self.sample.dns:
                down = replace(self.sample, dns_is_up=False)
                self._outage(night, "no DNS", EVERY_NIGHT, sample=down)
            down_hosts = [DOWN] if night == self.last // 2 + 1 else []
            codes = PARTIAL_OR_NOT if down_hosts else WHOLE
            what = "a host down" if down_hosts else ""
            ended = self.command(night, what, EVERY_NIGHT, away=down_hosts, codes=codes)
            if down_hosts and not ended.new:
                self.fault(f"night {night} {what}: what the other hosts have new has not come")

    def _without_images(self, night: int) -> None:
        """The pages are there, but then no host answers."""
        pages = [f"--stage={stage}" for stage in ("queries", "pages", "candidates", "pairs")]
        self.command(night, "pages alone", EVERY_NIGHT, *pages)
        self._outage(night, "all hosts down", *NOTHING_AGAIN, away=(0, 1, 2))

    def _outage(
        self,
        night: int,
        what: str,
        *more: str,
        away: Sequence[int] = (),
        sample: NightlySample | None = None,
    ) -> None:
        """A command that must end as an outage, and lose nothing."""
        before = files_of(self.run_dir, CAPITAL)
        self.command(night, what, *more, away=away, sample=sample, codes=OUTAGE)
        if lost := sorted(before - files_of(self.run_dir, CAPITAL)):
            self.fault(f"night {night} {what} lost {lost[:5]}")

    def command(
        self,
        night: int,
        what: str,
        *more: str,
        away: Sequence[int] = (),
        sample: NightlySample | None = None,
        codes: frozenset[int] = WHOLE,
    ) -> Night:
        """Give the command, if so wished after one that is killed; count what it does."""
        with self.site.serve(night, away) as seen:
            if self.kills and self.nights:
                longest = max(ended.seconds for ended in self.nights[-2:])
                self._killed(night, self.kills.uniform(0, longest), seen, *more)
            first, before = len(seen), Standing.of(self.run_dir)
            started = time.monotonic()
            result = (sample or self.sample).run(BUILD, self.run_dir, *more)
            ended = Night(night, what, result.returncode, time.monotonic() - started)
            self._count(ended, seen[first:], before)
        self.seen = seen
        if ended.code not in codes:
            tail = "\n    ".join(result.stderr.splitlines()[-8:])
            self.fault(f"night {night} {what}: exit code {ended.code}\n    {tail}")
        return ended

    def _killed(self, night: int, after: float, seen: list[Request], *more: str) -> None:
        """Give the command and kill it, so many seconds later, with all that it has started."""
        before, first = Standing.of(self.run_dir), len(seen)
        mark, started = f"{os.getpid()}-{time.monotonic_ns()}", time.monotonic()
        env = {**os.environ, MARK: mark}
        process = self.sample.start(BUILD, self.run_dir, *more, env=env, output=subprocess.DEVNULL)
        try:
            process.wait(timeout=after)
        except subprocess.TimeoutExpired:
            signal_to(everything(psutil.Process(process.pid)), signal.SIGKILL)
            process.wait()
        ended = Night(night, "killed", process.returncode, time.monotonic() - started)
        self._count(ended, seen[first:], before)
        if left := left_by(mark):
            self.fault(f"night {night}: left after a kill: {', '.join(left)}")

    def _count(self, night: Night, seen: Sequence[Request], before: Standing) -> None:
        now = Standing.of(self.run_dir)
        asked = [r.url for r in seen if r.is_download and not r.target.startswith(MOVED)]
        night.pages = sum(not request.is_download for request in seen)
        night.unchanged = sum(request.status == 304 for request in seen)
        night.images = len(asked)
        night.new = len(now.there.keys() - before.there.keys())
        night.rows = now.rows
        night.again = asked_again(set(asked), before, now)
        self.nights.append(night)
        name = f"night {night.night} {night.what}".strip()
        if night.again:
            self.fault(f"{name}: {len(night.again)} asked for again: {night.again[:5]}")
        if lost := before.there.keys() - now.there.keys():
            self.fault(f"{name}: {len(lost)} images are not there any more")
        self.tell(f"{name}: {night.seconds:.0f} s, {night.images} asked for, {night.new} new")

    def from_nothing(self) -> None:
        """A run over the last night's site must give the same data set."""
        fresh = self.folder / "fresh"
        with self.site.serve(self.last) as seen:
            started = time.monotonic()
            result = self.sample.run(BUILD, fresh)
            seconds = time.monotonic() - started
        if result.returncode:
            self.fault(f"from nothing: exit code {result.returncode}\n{result.stderr[-500:]}")
            return
        compared = compare(self.run_dir, fresh)
        for difference in compared.differences:
            self.fault(f"the data set is not that of a run from nothing: {difference}")
        self.figures["from_nothing"] = {
            "seconds": round(seconds, 1),
            "images": sum(request.is_download for request in seen),
            "rows": Standing.of(fresh).rows,
            "similarity_apart": compared.similarity,
            "embeddings_apart": compared.embedding,
        }

    def change(self, what: str, setting: str, allowed: Sequence[str]) -> None:
        """A changed setting must ask for no image and redo the ``allowed`` stages alone."""
        before = receipts(self.run_dir)
        night = self.command(self.last, what, *NOTHING_AGAIN, setting)
        again = redone(before, receipts(self.run_dir))
        self.figures[what] = {"seconds": round(night.seconds, 1), "stages": again}
        if not again or set(again) - set(allowed):
            self.fault(f"{what} redid {', '.join(again) or 'nothing'}, not {', '.join(allowed)}")
        if night.pages or night.images:
            self.fault(f"{what} made {night.pages + night.images} requests")

    def take_down(self) -> None:
        """A host's images and URLs must be nowhere any more, and never asked for again."""
        name = self.site.names[TAKEN]
        remains = Remains.of(self.run_dir, name)
        result = self.sample.run("pipelines.takedown", self.run_dir, "--domain", name)
        if result.returncode:
            self.fault(f"takedown: exit code {result.returncode}\n{result.stderr[-500:]}")
        found = [("after the takedown", path) for path in remains.find(self.run_dir)]
        self.command(self.last, "after a takedown", EVERY_NIGHT)
        asked = [r.url for r in self.seen if r.url.startswith(f"http://{name}:")]
        # The pages of other hosts are theirs, and may name it again.
        later = (p for p in remains.find(self.run_dir) if not p.startswith("pages/"))
        found += [("a night later", path) for path in later]
        self.figures["takedown"] = {"images": len(remains.images), "asked_again": len(asked)}
        for when, path in found:
            self.fault(f"{when} there is something of {name} in {path}")
        if asked:
            self.fault(f"{len(asked)} requests to {name} after its takedown: {asked[:5]}")

    def fault(self, text: str) -> None:
        """Note a goal that is missed."""
        self.faults.append(text)
        self.tell(f"FAULT {text}")


#: What a changed threshold and a changed label set may redo.
CHANGES = (
    ("a threshold", THRESHOLD, DATASET_STAGES[DATASET_STAGES.index("selection") :]),
    ("a label set", LABELS, DATASET_STAGES[DATASET_STAGES.index("embeddings") + 1 :]),
)
