"""The figures that each command leaves for Prometheus."""

import os
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from pipelines.cli import at_work
from pipelines.run.config import Config, ConfigError
from pipelines.run.directory import Run
from pipelines.run.history import Journal
from pipelines.run.metrics import GAUGES, METRICS, metrics_text
from pipelines.run.receipts import Outcome, Receipt
from pipelines.run.totals import StageTotals
from workers.base import storage
from workers.base.exit_codes import ExitCode
from workers.base.settings import printable
from workers.base.tally import Tally


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.cli.logs.configure", lambda _: None)
    return opened(tmp_path / "birds")


def opened(directory):
    return Run.open(Config.model_validate({"name": "test", "queries": "none"}), directory)


def figures(text):
    """The samples by name and labels."""
    return {
        (
            sample.name,
            *sorted(f"{name}={value}" for name, value in sample.labels.items() if value),
        ): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def figure(name, run="birds", **labels):
    return name, *sorted(f"{name}={value}" for name, value in {"run": run, **labels}.items())


def of(run):
    return figures((run.home / METRICS).read_text())


def receipt(kept, **failed):
    tally = Tally(rows_in=kept + sum(failed.values()), kept=kept)
    tally.failed.update(failed)
    return Receipt("00000", "key", {"images": tally.counts()}, (), 1.5)


def night(run, made, failed_shards=0, code=ExitCode.COMPLETE, hosts=None):
    """A command that has made a receipt."""
    with at_work(run, "build_dataset") as journal:
        with journal.work_on("images", lambda _: hosts or {}) as outcomes:
            outcomes += [Outcome("00000", made), *[Outcome("1", error="no")] * failed_shards]
        run.note_stage("images", StageTotals.of([made]))
        run.save()
        journal.code = code


def test_a_command_leaves_what_it_did_and_what_the_run_has(run):
    night(run, receipt(8, timeout=2))
    night(run, receipt(3, timeout=1, http_404=4), failed_shards=1, code=ExitCode.PARTIAL)
    found = of(run)
    for name in ("clip_night_rows", "clip_run_rows"):
        images = {"name": name, "stage": "images", "rows": "images"}
        assert found[figure(**images, outcome="kept")] == 3
        assert found[figure(**images, outcome="failed", reason="timeout")] == 1
        assert found[figure(**images, outcome="failed", reason="http_404")] == 4
    for outcome in ("done", "failed"):
        assert found[figure("clip_night_shards", stage="images", outcome=outcome)] == 1
    assert found[figure("clip_command_exit_code", command="build_dataset")] == 3
    assert found[figure("clip_command_at_work", command="build_dataset")] == 0
    start, end, success = (
        found[figure(f"clip_command_{what}_time_seconds", command="build_dataset")]
        for what in ("start", "end", "success")
    )
    assert 1.6e9 < success <= start <= end
    assert found[figure("clip_unlike_nights_before")] == 0


def test_rows_that_went_in_are_those_that_are_told_of(run):
    night(run, receipt(8, timeout=2, http_404=5))
    for name in ("clip_night_rows", "clip_run_rows"):
        assert sum(value for (found, *_), value in of(run).items() if found == name) == 15


def test_while_a_command_is_at_work_it_says_so(run):
    with at_work(run, "train"):
        found = of(run)
        assert found[figure("clip_command_at_work", command="train")] == 1
        assert figure("clip_command_exit_code", command="train") not in found
    assert of(run)[figure("clip_command_at_work", command="train")] == 0


@pytest.mark.parametrize(
    ("error", "code"), [(KeyboardInterrupt(), 130), (ConfigError("no"), 2), (ValueError("no"), 70)]
)
def test_a_command_that_an_error_ends_leaves_its_exit_code(run, error, code):
    with suppress(type(error)), at_work(run, "train"):
        raise error
    found = of(run)
    assert found[figure("clip_command_exit_code", command="train")] == code
    assert figure("clip_command_success_time_seconds", command="train") not in found


def test_one_that_was_killed_is_at_work_until_the_next_begins(run):
    Journal(run, "train").begin()
    assert figures(metrics_text(run))[figure("clip_command_at_work", command="train")] == 1
    night(run, receipt(1))
    assert of(run)[figure("clip_command_at_work", command="train")] == 0


def test_a_night_unlike_those_before_is_counted(run):
    for _ in range(4):
        night(run, receipt(5000, timeout=1))
    night(run, receipt(2000, timeout=3001))
    assert of(run)[figure("clip_unlike_nights_before")] == 1


def test_no_host_and_no_place_is_told(run):
    night(run, receipt(1), hosts={"birds.example": (1, 0)})
    text = (run.home / METRICS).read_text()
    assert "birds.example" in (run.home / "logs/history.jsonl").read_text()
    assert "birds.example" not in text
    assert str(run.directory.parent) not in text


def test_an_exporter_never_meets_a_file_that_is_not_whole(run, monkeypatch):
    seen = set[str]()

    def sync(path):
        seen.update(str(file) for file in (run.home / "logs").glob("*.prom"))
        seen.update(str(file) for file in (run.home / "logs").glob(".*.prom"))

    monkeypatch.setattr(storage, "sync", sync)
    night(run, receipt(1))
    night(run, receipt(1))
    assert seen == {str(run.home / METRICS)}


def test_a_folder_in_its_place_makes_way(run):
    (run.home / METRICS).mkdir(parents=True)
    night(run, receipt(1))
    assert of(run)


def test_a_disk_that_is_full_for_it_ends_nothing(run, monkeypatch, caplog):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pipelines.run.metrics.write_text", full)
    night(run, receipt(1))
    assert "the figures for Prometheus are not written: [Errno 28]" in caplog.text


#: Names of folders, of any bytes.
NAMES = (
    st.binary(min_size=1).filter(lambda name: not {*b"/\0"} & {*name} and name.strip(b"."))
).map(os.fsdecode)


@given(NAMES, st.text(), st.integers(0, 2**53))
def test_any_name_of_a_run_and_of_a_step_can_be_read_back(name, reason, number):
    run = opened(Path("/nowhere") / name)
    counts = {"in": number, "kept": 0, "rejected": {reason: number}, "failed": {}}
    vars(run)["record"] = {"stages": {"selection": {"rows": {"pairs": counts}}}}
    samples = [
        sample
        for family in text_string_to_metric_families(metrics_text(run))
        for sample in family.samples
        if sample.labels.get("outcome") == "rejected"
    ]
    (sample,) = samples
    assert (sample.labels["run"], sample.labels["reason"]) == (printable(name), reason)
    assert sample.value == number


def test_every_gauge_is_written_with_its_help(run):
    night(run, receipt(1, timeout=1))
    families = {family.name: family for family in text_string_to_metric_families(metrics_text(run))}
    assert {name: family.documentation for name, family in families.items()} == {
        name: text for name, (text, _) in GAUGES.items()
    }
    for name, (_, labels) in GAUGES.items():
        for sample in families[name].samples:
            assert set(sample.labels) == {"run", *labels}
