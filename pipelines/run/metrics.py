"""A run's figures for Prometheus: ``logs/metrics.prom``, which each command writes twice.

When it starts, and when it ends. It is what node_exporter's textfile collector reads. All of it
stands in the run's history and record; neither hosts, files nor URLs are named in it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from prometheus_client import generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pipelines.run.directory import Run
from pipelines.run.health import findings
from pipelines.run.history import Entry, Work, read_history
from pipelines.run.receipts import RowCounts
from workers.base.exit_codes import ExitCode
from workers.base.settings import printable
from workers.base.storage import make_way, write_text

log = logging.getLogger(__name__)

METRICS = "logs/metrics.prom"

_ROWS = ("stage", "rows", "outcome", "reason")
#: The gauges: what each says, and its labels beside the run. Times are seconds since 1970.
GAUGES = {
    "clip_command_start_time_seconds": ("when the command was last started", ("command",)),
    "clip_command_end_time_seconds": ("when it last ended", ("command",)),
    "clip_command_success_time_seconds": ("when it last ended with exit code 0", ("command",)),
    "clip_command_exit_code": ("the exit code that it last ended with", ("command",)),
    "clip_command_at_work": ("1 from its start to its end, and when killed", ("command",)),
    "clip_night_rows": ("rows of the last work on a stage, by what became of them", _ROWS),
    "clip_night_shards": ("shards of the last work on a stage", ("stage", "outcome")),
    "clip_night_seconds": ("seconds that the last work on a stage took", ("stage",)),
    "clip_run_rows": ("rows of all that a stage has done, by what became of them", _ROWS),
    "clip_run_bytes": ("bytes of all that a stage has done", ("stage",)),
    "clip_unlike_nights_before": ("in how many ways the last work is unlike that before it", ()),
}

#: A gauge, the values of its labels, its value.
Sample = tuple[str, tuple[str, ...], float]


def write_metrics(run: Run) -> None:
    """Write the file anew; the run must be locked. A disk that is full for it ends nothing."""
    path = run.home / METRICS
    # An exporter reads whatever ends with .prom: no temporary file may.
    whole = path.with_suffix(".new")
    try:
        write_text(metrics_text(run), whole)
        make_way(path)
        whole.replace(path)
    except OSError as error:
        log.warning("the figures for Prometheus are not written: %s", error)


def metrics_text(run: Run) -> str:
    """The figures in Prometheus' text format, under the name of the run's directory."""
    return generate_latest(_Figures(run)).decode()


class _Figures(Collector):
    def __init__(self, run: Run) -> None:
        self._run = run

    def collect(self) -> Iterable[Metric]:
        run = printable(self._run.directory.name)
        families = {
            name: GaugeMetricFamily(name, text, labels=("run", *labels))
            for name, (text, labels) in GAUGES.items()
        }
        for name, labels, value in self._samples():
            families[name].add_metric((run, *labels), value)
        return families.values()

    def _samples(self) -> Iterator[Sample]:
        entries = read_history(self._run.home, recent=True)
        yield from _of_commands(entries)
        yield from _of_nights(entries)
        yield from _of_all(self._run.record.get("stages", {}))
        unlike = findings(entries, self._run.config.health)
        yield "clip_unlike_nights_before", (), len(unlike)


def _of_commands(entries: Sequence[Entry]) -> Iterator[Sample]:
    """When each command was last started, ended and succeeded, and with which exit code."""
    last: dict[tuple[str, str], float] = {}
    for entry in entries:
        if not entry.start:
            continue
        command = entry.start.command
        last["clip_command_start_time_seconds", command] = entry.start.time.timestamp()
        last["clip_command_at_work", command] = entry is entries[-1] and not entry.end
        if entry.end and entry.exit_code is not None:
            last["clip_command_end_time_seconds", command] = entry.end.timestamp()
            last["clip_command_exit_code", command] = entry.exit_code
            if entry.exit_code == ExitCode.COMPLETE:
                last["clip_command_success_time_seconds", command] = entry.end.timestamp()
    for (name, command), value in last.items():
        yield name, (command,), value


def _of_nights(entries: Sequence[Entry]) -> Iterator[Sample]:
    """What the last work on each stage has done."""
    last: dict[str, Work] = {}
    for entry in entries:
        last |= entry.stages
    for stage, work in last.items():
        yield from _of_rows("clip_night_rows", stage, work.rows)
        yield "clip_night_shards", (stage, "done"), work.shards
        yield "clip_night_shards", (stage, "failed"), work.failed_shards
        yield "clip_night_seconds", (stage,), work.seconds


def _of_all(stages: Mapping[str, Mapping[str, Any]]) -> Iterator[Sample]:
    """What each stage has done in all, by the run's record."""
    for stage, totals in stages.items():
        yield from _of_rows("clip_run_rows", stage, totals.get("rows", {}))
        yield "clip_run_bytes", (stage,), totals.get("bytes", 0)


def _of_rows(name: str, stage: str, rows: RowCounts) -> Iterator[Sample]:
    for kind, counts in rows.items():
        yield name, (stage, kind, "kept", ""), counts["kept"]
        for outcome in ("rejected", "failed"):
            for reason, number in counts[outcome].items():
                yield name, (stage, kind, outcome, reason), number
