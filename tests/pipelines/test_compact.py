"""Compaction: fewer and fuller shards, nothing that is needed lost, and nothing made again."""

import shutil
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipelines import compact
from pipelines.report import plan_text
from pipelines.run.directory import Run
from pipelines.run.receipts import Side
from pipelines.run.removal import rewrite_table
from pipelines.run.rewrite import mend_receipts, rekey, rewriting
from pipelines.run.runner import Plan
from pipelines.run.totals import StageTotals
from pipelines.stages import STAGES
from tests.object_store import fetched
from tests.pipelines.synthetic_run import ask_once_more, make_run, same_but_for_records
from tests.pipelines.test_takedown import problems
from workers.base.preferences import RULES

#: What is tried again on further nights.
NIGHTS = {1: ["a gone bird", "a lost fish"], 2: ["a gone bird"]}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of three lists of four pairs and fewer, and one of what was tried once more."""
    run = make_run(tmp_path_factory.mktemp("compact") / "run")
    ask_once_more(run, ["a gone bird"])
    return run


@pytest.fixture
def run(finished, tmp_path):
    """A copy, for which lists of eight are full."""
    shutil.copytree(finished.directory, tmp_path / "run")
    images = finished.config.images.model_copy(update={"pairs_per_shard": 8})
    return Run(finished.config.model_copy(update={"images": images}), tmp_path / "run")


def compacted(run, monkeypatch):
    monkeypatch.setattr(compact, "open_run", lambda _: run)
    return compact.main([])


def names(run, stage):
    return [path.stem for path in run.outputs(stage)]


def data_set(run):
    return {path.name: path.read_bytes() for path in run.outputs("dataset")}


def totals(run):
    return StageTotals.of(run.receipts("images").all()).rows


def test_a_joined_shard_has_the_rules_of_all_that_it_was_joined_from(run, monkeypatch):
    receipts = run.receipts("images")
    first, second, third = (r for r in receipts.all() if not r.shard.endswith("-2"))
    newer = {**first.rules, "TDMRep": "version 2"}
    receipts.write(replace(second, rules=newer, agents=("clip-from-scratch", "ccbot")))
    receipts.write(replace(third, rules={}, agents=()))
    assert compacted(run, monkeypatch) == 0
    (joined,) = (r for r in receipts.all() if not r.shard.endswith("-2"))
    assert joined.rules == {
        **{name: f"{said}; not said of some" for name, said in first.rules.items()},
        "TDMRep": f"{RULES['TDMRep']}; version 2; not said of some",
    }
    assert joined.agents == ()


def test_small_shards_become_full_ones_and_nothing_is_made_again(run, monkeypatch, capsys):
    before, rows = data_set(run), totals(run)
    retried = next(name for name in names(run, "requests") if name.endswith("-2"))
    assert len(names(run, "images")) == 4
    assert compacted(run, monkeypatch) == 0
    new, kept = sorted(names(run, "images"), key=lambda name: name == retried)
    assert kept == retried
    for stage in compact.LISTED:
        assert sorted(names(run, stage)) == sorted([new, retried])
    assert "| images | 4 | 2 | 8 | 8 |" in capsys.readouterr().out
    assert {name: Plan.of(STAGES[name](run)).todo for name in compact.KEPT} == {
        name: [] for name in compact.KEPT
    }
    assert problems(run) == []
    assert data_set(run) == before
    assert totals(run) == rows
    (receipt,) = [r for r in run.receipts("images").all() if r.shard == retried]
    assert receipt.again == {new: {"http_404": 1}}
    (row,) = pq.read_table(run.directory / f"requests/{retried}.parquet").to_pylist()
    assert row["failed_in"] == row["image_in"] == new


def test_what_no_pair_refers_to_goes(run, monkeypatch, capsys):
    path = next(p for p in run.outputs("pairs") if "a carp" in captions(p))
    with rewriting(run) as state:
        here = state.directory / "pairs" / path.name
        gone = np.array([caption == "a carp" for caption in captions(here)])
        removed = {f"pairs/{path.name}": rewrite_table(here, gone)}
        mend_receipts(state.receipts("pairs"), removed)
        rekey([STAGES["pairs"], STAGES["requests"]], run, state)
    monkeypatch.setattr(compact, "is_complete", lambda *_: True)
    assert compacted(run, monkeypatch) == 0
    assert "| embeddings | 4 | 2 | 8 | 7 |" in capsys.readouterr().out
    left = [caption for path in run.outputs("images") for caption in captions(path)]
    assert "a carp" not in left
    assert len(left) == 7
    assert totals(run)["images"] == {"in": 9, "kept": 7, "rejected": {}, "failed": {"http_404": 2}}
    assert [p for p in problems(run) if p[0] != "dataset"] == []


def captions(path):
    return pq.read_table(path, columns=["caption"])["caption"].to_pylist()


def test_a_second_one_has_nothing_to_do(run, monkeypatch, capsys):
    compacted(run, monkeypatch)
    before = contents(run)
    capsys.readouterr()
    assert compacted(run, monkeypatch) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert contents(run) == before


def contents(run):
    """All files but the logs."""
    paths = [path for path in run.directory.rglob("*") if path.is_file()]
    return {path: path.read_bytes() for path in paths if path.parent.name != "logs"}


@pytest.mark.parametrize("why", ["spoiled", "outage"])
def test_what_is_tried_again_soon_is_left_as_it_is(run, monkeypatch, why):
    receipts = run.receipts("images")
    receipt = next(r for r in receipts.all() if r.shard.endswith("-1"))
    if why == "spoiled":
        receipts.spoil(receipt)
    else:
        monkeypatch.setattr(compact, "is_outage", lambda some, _: some.shard == receipt.shard)
    assert compacted(run, monkeypatch) == 0
    assert receipt.shard in names(run, "images")
    assert len(names(run, "images")) == 3


def test_of_what_was_tried_several_times_the_last_answer_stays(tmp_path, monkeypatch):
    run = make_run(tmp_path / "run")
    first, second = (ask_once_more(run, some, night) for night, some in NIGHTS.items())
    rows = totals(run)
    assert rows["images"]["failed"] == {"http_404": 2}
    images = run.config.images.model_copy(update={"pairs_per_shard": 8})
    run = Run(run.config.model_copy(update={"images": images}), run.directory)
    assert compacted(run, monkeypatch) == 0
    once, again = sorted(names(run, "requests"), key=lambda name: name.endswith("-2"))
    assert {first, second} & {once, again} == set()
    asked = pq.read_table(run.directory / f"requests/{again}.parquet").to_pylist()
    assert sorted((row["caption"], row["tries"], row["failed_in"]) for row in asked) == [
        ("a gone bird", 2, once),
        ("a lost fish", 1, once),
    ]
    without = pq.read_table(Side.TABLES.of(run.directory / "images") / f"{again}.parquet")
    assert sorted((row["caption"], row["tries"]) for row in without.to_pylist()) == [
        ("a gone bird", 2),
        ("a lost fish", 1),
    ]
    assert totals(run) == rows
    assert problems(run) == []


def test_labels_that_are_not_done_are_left_for_later_and_nothing_waits_for_them(run, monkeypatch):
    for receipt in run.receipts("labels").all()[:1]:
        run.receipts("labels").drop(receipt.shard)
    assert compacted(run, monkeypatch) == 0
    (new,) = {plan.name for plan in Plan.of(STAGES["labels"](run)).todo}
    assert new in names(run, "embeddings")
    assert not Plan.of(STAGES["embeddings"](run)).todo
    assert set(names(run, "labels")) <= set(names(run, "embeddings"))


def test_in_a_bucket_it_becomes_what_it_does_in_a_folder(
    run, bucket_of, store, monkeypatch, tmp_path
):
    there, url = bucket_of(run)
    asked = len(store.requests)
    plan = plan_text(there, compact.KEPT)
    assert plan.count(" 0 shards to do") == len(compact.KEPT)
    assert {method for method, _ in store.requests[asked:]} <= {"GET", "HEAD"}
    assert compacted(there, monkeypatch) == 0
    assert compacted(run, monkeypatch) == 0
    after = fetched(url, tmp_path / "after")
    assert same_but_for_records(after, run.directory)
    assert problems(Run(run.config, after)) == []
