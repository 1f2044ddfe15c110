"""Shards of a run in a bucket: what is sent, in which order, by whom, whatever is killed."""

import itertools
import pickle
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.run.attempts import outcome_of
from pipelines.run.bucket_attempts import attempt_anywhere
from pipelines.run.lock import is_record, lock_folder
from pipelines.run.progress import Reporter
from pipelines.run.receipts import Receipts, Shard, Side, Source
from pipelines.run.staged import FOLDER, finish_staged
from tests.object_store import refuse
from workers.base import copies
from workers.base.bucket import Bucket
from workers.base.copies import open_copy
from workers.base.lease import NAME, Lease, acquire
from workers.base.storage import file_hash
from workers.base.tally import Tally
from workers.embedding.meter import Activity


@pytest.fixture
def copy(store, tmp_path, monkeypatch):
    """A new run in a bucket, as its driver has it."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    store.fault = None
    made = open_copy(f"{store.new_bucket()}/run")
    yield made
    store.fault = None
    monkeypatch.setattr(copies, "_COPIES", {})


def objects(copy):
    """Contents by name, but for the lease."""
    names = copy.bucket.list().keys() - {NAME}
    return {name: copy.bucket.read(name)[0] for name in names}


class Write:
    """Writes a row, and rejects one."""

    def __init__(self, text, *more):
        self.text, self.more = text, more

    def __call__(self, shard, out):
        tally = Tally()
        for name in (shard.name, *self.more):
            pq.write_table(pa.table({"text": [self.text]}), out / f"{name}.parquet")
        (out / Side.TABLES).mkdir()
        (out / Side.TABLES / f"{shard.name}.txt").write_text(self.text)
        tally.keep()
        tally.reject("dull", "key", {"text": self.text})
        return {"rows": tally}


FILES = ["_tables/stage/a.txt", "stage/a.parquet"]
RECORDS = ["_outputs/stage/a.json", "_receipts/stage/a.json", "_rejected/stage/a.json"]


def test_a_shards_files_are_there_before_its_receipt_and_nothing_of_it_stays_here(copy, store):
    with lock_folder(copy.root, ""):
        before = len(store.requests)
        outcome = attempt_anywhere(Write("one"), Shard("a", "key"), copy.root / "stage")
        assert outcome.receipt
        sent = [path for method, path in store.requests[before:] if method == "PUT"]
        assert sent[-1].endswith("run/_receipts/stage/a.json")
        assert sorted(objects(copy)) == sorted([*FILES, *RECORDS])
        assert not any(path.suffix == ".parquet" for path in copy.root.rglob("*"))
        receipts = Receipts(copy.root / "stage")
        (receipt,) = receipts.all()
        assert receipt.lease == 1
        assert receipts.is_done(Shard("a", "key"))
        asked = len(store.requests)
        assert attempt_anywhere(Write("two"), Shard("a", "key"), copy.root / "stage").receipt
        assert not [method for method, _ in store.requests[asked:] if method == "PUT"]
    again = open_copy(copy.bucket.url)
    again.look(is_record)
    assert Receipts(again.root / "stage").is_done(Shard("a", "key"))
    again.bring(again.root / "stage/a.parquet")
    assert pq.read_table(again.root / "stage/a.parquet")["text"].to_pylist() == ["one"]


ELSEWHERE = """
import os, pickle, sys
work, shard, folder = pickle.load(sys.stdin.buffer)
from pipelines.run.bucket_attempts import attempt_anywhere
outcome = attempt_anywhere(work, shard, folder)
assert str(folder).startswith(os.environ["TMPDIR"]), folder
left = [path.name for path in folder.parent.parent.iterdir()]
sys.stdout.buffer.write(pickle.dumps((outcome, left)))
"""


def elsewhere(tmp_path, *what):
    """An attempt in a process that shares neither memory nor folders with this one."""
    folder = tmp_path / "another machine"
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE],
        input=pickle.dumps(what),
        capture_output=True,
        env={**__import__("os").environ, "TMPDIR": str(folder)},
    )
    assert not done.returncode, done.stderr.decode()
    return pickle.loads(done.stdout)


def test_a_worker_elsewhere_fetches_what_it_reads_and_sends_what_it_writes(copy, tmp_path):
    with lock_folder(copy.root, ""):
        attempt_anywhere(Write("one"), Shard("a", "key"), copy.root / "stage")
        (source,) = [
            source
            for source in Receipts(copy.root / "stage").sources()
            if source.path.suffix == ".parquet"
        ]
        shard = Shard("b", "key", {"rows": (source.path,)}, sources=(source,))
        outcome, left = elsewhere(tmp_path, count_rows, shard, copy.root / "next")
        assert outcome.receipt, outcome.error
        assert left == []
        receipts = Receipts(copy.root / "next")
        assert not receipts.is_done(shard)
        receipts.note(outcome.receipt)
        assert receipts.is_done(shard)
    assert objects(copy)["next/b.txt"] == b"1"


def count_rows(shard, out):
    rows = pq.read_metadata(shard.file("rows")).num_rows
    (out / f"{shard.name}.txt").write_text(str(rows))
    tally = Tally()
    tally.keep(rows)
    return {"rows": tally}


def test_an_owner_that_has_lost_the_lease_commits_nothing(copy, tmp_path):
    with lock_folder(copy.root, ""):
        attempt_anywhere(Write("one"), Shard("a", "key"), copy.root / "stage")
        before = objects(copy)
        folder = pickle.loads(pickle.dumps(copy.root / "stage"))
        assert folder == copy.root / "stage"
        shard = Shard("a", "other key")
        taken = take(copy.bucket)
        outcome, _ = elsewhere(tmp_path, Write("two"), shard, copy.root / "stage")
        assert "this process was stopped or cut off for too long" in str(outcome.error)
        assert objects(copy) == before
        taken.release()


def test_an_owner_that_is_overtaken_before_the_last_step_puts_nothing_in_place(
    copy, store, tmp_path
):
    """What it has sent beside the shard is there by then, with the list of it."""
    with lock_folder(copy.root, ""):
        attempt_anywhere(Write("one"), Shard("a", "key"), copy.root / "stage")
        before = objects(copy)
        taken: list[Lease] = []

        def overtake(environ, start, application):
            is_last = environ["PATH_INFO"].endswith("/seal.json")
            if is_last and environ["REQUEST_METHOD"] == "PUT" and not taken:
                store.fault = None
                answer = list(application(environ, start))
                taken.append(take(copy.bucket))
                return answer
            return None

        store.fault = overtake
        shard = Shard("a", "other key")
        outcome, _ = elsewhere(tmp_path, Write("two"), shard, copy.root / "stage")
        assert "this process was stopped or cut off for too long" in str(outcome.error)
        there = objects(copy)
        assert {name: there[name] for name in FILES} == {name: before[name] for name in FILES}
        assert there["_receipts/stage/a.json"] == before["_receipts/stage/a.json"]
        taken[0].release()


def take(bucket):
    """The lease, as whoever comes when its time is over takes it."""
    bucket.delete([NAME])
    return acquire(bucket)


@pytest.mark.parametrize("requests", range(1, 40))
def test_cut_off_at_any_request_a_shard_is_what_it_was_or_what_it_has_become(copy, store, requests):
    """Where a receipt was, its files stay until the new ones are there in full."""
    with lock_folder(copy.root, ""):
        attempt_anywhere(Write("one", "a-more"), Shard("a", "key"), copy.root / "stage")
        count = itertools.count(1)
        store.fault = lambda _environ, start, _application: (
            refuse("403 Forbidden", start) if next(count) > requests else None
        )
        new = Shard("a", "other key")
        outcome = attempt_anywhere(Write("two"), new, copy.root / "stage")
        # As the driver of a Beam pipeline learns of it.
        seen = outcome_of(new, copy.root / "stage")
        assert (seen.receipt is None, seen.error) == (outcome.receipt is None, outcome.error)
        assert Receipts(copy.root / "stage").is_done(new) == bool(outcome.receipt)
        store.fault = None
        copy.look(is_record)
        finish_staged(copy)
        copy.look(is_record)
        assert not [name for name in objects(copy) if name.startswith(FOLDER)]
        receipts = Receipts(copy.root / "stage")
        (receipt,) = receipts.all()
        assert receipt.key == "other key" or not outcome.receipt
        is_new = receipt.key == "other key"
        assert receipts.is_valid(receipt, receipt.key)
        names = {"stage/a.parquet", "_tables/stage/a.txt"} | (
            set() if is_new else {"stage/a-more.parquet"}
        )
        there = objects(copy)
        assert {name for name in there if "stage/a" in name and "json" not in name} - names in (
            set(),
            {"_errors/stage/a.txt"},
        )
        assert there["_tables/stage/a.txt"] == (b"two" if is_new else b"one")
        for output in receipt.outputs:
            path = receipts.folder / output.file
            copy.bring(path)
            assert file_hash(path) == output.sha256


def test_a_damaged_object_drops_its_receipt(copy):
    with lock_folder(copy.root, ""):
        attempt_anywhere(Write("one"), Shard("a", "key"), copy.root / "stage")
        name = "stage/a.parquet"
        content, stat = copy.bucket.read(name)
        copy.bucket.write(name, content[:-9] + b"X" + content[-8:], stat)
        source: Source = next(
            source
            for source in Receipts(copy.root / "stage").sources()
            if source.path.suffix == ".parquet"
        )
        shard = Shard("b", "key", {"rows": (source.path,)}, sources=(source,))
        outcome = attempt_anywhere(count_rows, shard, copy.root / "next")
        assert "a.parquet is damaged" in str(outcome.error)
        assert "_receipts/stage/a.json" not in objects(copy)
        assert not Receipts(copy.root / "stage").all()


def test_what_is_of_no_use_any_more_is_removed_and_what_is_not_the_runs_stays(copy):
    with lock_folder(copy.root, ""):
        for name in "ab":
            attempt_anywhere(Write(name), Shard(name, "key"), copy.root / "stage")
        copy.bucket.write("stage/NOTES.md", b"mine", None)
        copy.look(is_record)
        receipts = Receipts(copy.root / "stage")
        receipts.keep_only([Shard("b", "key")])
        assert [path.name for path in receipts.foreign()] == ["NOTES.md"]
        names = objects(copy).keys()
        assert not [name for name in names if "/a." in name]
        assert {"stage/b.parquet", "_receipts/stage/b.json", "stage/NOTES.md"} <= names
        spoiled = replace(receipts.all()[0], spoiled=True)
        receipts.write(spoiled)
        assert b'"spoiled": true' in objects(copy)["_receipts/stage/b.json"]


def test_without_the_lease_nothing_is_written(copy):
    outcome = attempt_anywhere(Write("one"), Shard("a", "key"), copy.root / "stage")
    assert "holds no lease" in str(outcome.error)
    assert objects(copy) == {}


def test_how_far_a_worker_is_is_written_where_the_command_sees_it_alone(copy):
    for is_seen in (False, True):
        with lock_folder(copy.root, "") if is_seen else nullcontext():
            Reporter(Activity, copy.root / "stage", "worker").report()
        assert any((copy.root / "_work").rglob("worker.json")) == is_seen


def test_a_copy_knows_its_paths_only(copy, tmp_path):
    assert copies.copy_of(copy.root / "a") == copy
    assert copies.as_urls(f"{copy.root}/a and {tmp_path}") == f"{copy.bucket.url}/a and {tmp_path}"
    assert copies.copy_of(tmp_path) is None
    beside = copy.root.with_name(f"{copy.root.name}0")
    assert copies.copy_of(beside) is None
    assert pickle.loads(pickle.dumps(beside)) == beside
    assert Bucket(copy.bucket.url) == copy.bucket


def test_what_has_not_changed_since_the_last_look_is_not_fetched_again(copy, store):
    with lock_folder(copy.root, ""):
        for name in "abc":
            attempt_anywhere(Write(name), Shard(name, "key"), copy.root / "stage")
    again = open_copy(copy.bucket.url)
    again.look(is_record)
    before = objects(again)
    again.bucket.write_over("_receipts/stage/a.json", b"another", lambda: None)
    again.bucket.delete(["_receipts/stage/b.json"])
    (again.root / "_receipts/stage/c.json").write_text("written here")
    asked = len(store.requests)
    again.look(is_record)
    fetched = [path for method, path in store.requests[asked:] if method == "GET"]
    assert sorted(path.rpartition("/")[2] for path in fetched[1:]) == ["a.json", "c.json"]
    receipts = again.root / "_receipts/stage"
    assert sorted(path.name for path in receipts.iterdir()) == ["a.json", "c.json"]
    assert (receipts / "a.json").read_bytes() == b"another"
    assert (receipts / "c.json").read_bytes() == before["_receipts/stage/c.json"]
