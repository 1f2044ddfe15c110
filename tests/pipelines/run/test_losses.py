"""A changed setting throws away no hours of work unasked."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.build_dataset import main
from pipelines.report import plan_text
from pipelines.run.config import ConfigError
from pipelines.run.directory import Run
from tests.pipelines.stages.test_candidates_and_pairs import (
    NAMES,
    built,
    in_this_process,  # noqa: F401 - a fixture
    lists,  # noqa: F401
    run_of,
)

pytestmark = pytest.mark.usefixtures("in_this_process")


@pytest.fixture
def run(tmp_path, lists):  # noqa: F811
    """A run whose pairs took hours, as their receipts say."""
    run = built(run_of(tmp_path / "run", lists))
    make_dear(run)
    return run


def make_dear(run, seconds=7200.0):
    receipts = run.receipts("pairs")
    for receipt in receipts.all():
        receipts.write(replace(receipt, seconds=seconds))
    run.save()


def again(run, lists, **pairs):  # noqa: F811
    return run_of(run.directory, lists, **pairs)


def test_a_changed_setting_that_discards_hours_of_work_is_to_be_meant(run, lists):  # noqa: F811
    changed = again(run, lists, pairs_per_query=5)
    before = {path: path.stat().st_mtime_ns for path in run.outputs("pairs")}
    with pytest.raises(ConfigError) as refused:
        built(changed)
    said = str(refused.value)
    assert "4 finished shards would be discarded" in said
    assert "8.0 hours of work" in said
    assert "pairs_per_query: 40 -> 5" in said
    assert "--discard" in said
    assert {path: path.stat().st_mtime_ns for path in run.outputs("pairs")} == before
    plan = plan_text(again(run, lists, pairs_per_query=5), NAMES)
    assert "4 finished shards would be discarded" in plan
    assert "pairs_per_query: 40 -> 5" in plan
    assert "8.00 core hours" in plan, "as the shards that are there went"
    built(replace(again(run, lists, pairs_per_query=5), discard=True))
    assert {path: path.stat().st_mtime_ns for path in run.outputs("pairs")} != before


def test_what_changes_with_the_input_is_not_asked_for(run, lists):  # noqa: F811
    table = pa.table({"url": ["http://b.example/1.jpg"], "caption": ["a red cat"]})
    pq.write_table(table, lists / "list9.parquet")
    assert "would be discarded" not in plan_text(again(run, lists), NAMES)
    built(again(run, lists))


def test_little_work_is_not_asked_for_nor_what_is_damaged(run, lists):  # noqa: F811
    first = run.outputs("pairs")[0]
    first.write_bytes(first.read_bytes()[:-1])
    built(again(run, lists))
    make_dear(run, seconds=1.0)
    built(again(run, lists, pairs_per_query=5))


def test_an_input_that_is_named_no_more_takes_its_candidates_with_it(tmp_path, lists):  # noqa: F811
    run = built(run_of(tmp_path / "run", lists))
    receipts = run.receipts("candidates")
    for receipt in receipts.all():
        receipts.write(replace(receipt, seconds=7200.0))
    fewer = run_of(tmp_path / "run", lists, inputs=[str(lists / "list1.parquet")])
    with pytest.raises(ConfigError, match=r"candidates: .* inputs: .*list1\.parquet"):
        built(fewer)


def test_shards_of_a_version_that_noted_no_settings_are_asked_for(run, lists):  # noqa: F811
    for stage in run.record["stages"].values():
        stage.pop("made_with", None)
    run.save()
    with pytest.raises(ConfigError, match="did not note its settings"):
        built(again(run, lists, pairs_per_query=5))


def test_the_command_takes_the_option(run, lists, monkeypatch):  # noqa: F811
    seen = []

    def run_locked(run: Run, *_arguments):
        seen.append(run.discard)
        return 0

    monkeypatch.setattr("pipelines.build_dataset.run_locked", run_locked)
    monkeypatch.setattr("pipelines.build_dataset.open_run", lambda _: run)
    for arguments in ([], ["--discard"]):
        main(arguments)
    assert seen == [False, True]
