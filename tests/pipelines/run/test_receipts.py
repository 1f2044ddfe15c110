import itertools
import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.run.attempts import attempt, damaged, finish_publishing, outcome_of, perform
from pipelines.run.config import ConfigError
from pipelines.run.receipts import Outcome, Receipts, Shard, Side, Source
from pipelines.run.totals import StageTotals
from tests.pipelines.conftest import flip_a_byte
from tests.tools import rows_by_tool
from workers.base.storage import file_hash
from workers.base.tally import LostRowsError, Tally
from workers.embedding.samples import ShardError


@pytest.fixture
def folder(tmp_path):
    """Of a stage's shards, in a run."""
    return tmp_path / "pairs"


def shard(name="00000", key="k1"):
    return Shard(name, key)


def write_rows(shard, out):
    """Work that keeps two rows and rejects one."""
    pq.write_table(pa.table({"n": [1, 2]}), out / f"{shard.name}.parquet")
    tally = Tally()
    tally.keep(2)
    tally.reject("odd", "3", {"n": 3})
    return {"rows": tally}


def lose_a_row(shard, out):
    pq.write_table(pa.table({"n": [1]}), out / f"{shard.name}.parquet")
    return {"rows": Tally(rows_in=2, kept=1)}


def break_down(shard, out):
    (out / "half.parquet").write_bytes(b"PAR1")
    raise OSError("disk full")


def test_a_receipt_states_rows_and_outputs(folder):
    receipt = perform(write_rows, shard(), folder)
    assert receipt.rows == {"rows": {"in": 3, "kept": 2, "rejected": {"odd": 1}, "failed": {}}}
    (output,) = receipt.outputs
    assert (output.file, output.rows) == ("00000.parquet", 2)
    assert output.bytes == (folder / output.file).stat().st_size
    assert Receipts(folder).get("00000") == receipt
    assert '"n": 3' in (folder.parent / "_rejected/pairs/00000.json").read_text()


def test_a_shard_is_done_only_with_its_own_key_and_whole_outputs(folder):
    receipts = Receipts(folder)
    assert not receipts.is_done(shard())
    perform(write_rows, shard(), folder)
    assert receipts.is_done(shard())
    assert not receipts.is_done(shard(key="another configuration"))
    output = folder / "00000.parquet"
    output.write_bytes(output.read_bytes()[:-1])
    assert not receipts.is_done(shard())
    output.unlink()
    assert not receipts.is_done(shard())


def test_what_has_its_receipt_is_not_done_again_when_an_engine_asks_again(folder):
    first = perform(write_rows, shard(), folder)
    attempt(break_down, shard(), folder)
    assert outcome_of(shard(), folder).receipt == first
    attempt(break_down, shard(key="k2"), folder)
    assert "disk full" in (outcome_of(shard(key="k2"), folder).error or "")


def test_a_further_attempt_takes_the_place_of_the_one_before_it(folder):
    first = perform(write_rows, shard(), folder)
    again = replace(shard(), attempt=2)
    assert Receipts(folder).is_done(shard())
    assert not Receipts(folder).is_done(again)

    attempt(break_down, again, folder)
    assert "disk full" in str(outcome_of(again, folder).error)
    assert Receipts(folder).get("00000") == first, "what was there is valid all the same"

    def write_more(shard, out):
        pq.write_table(pa.table({"n": [1, 2, 3]}), out / f"{shard.name}.parquet")
        return {"rows": Tally(rows_in=3, kept=3)}

    attempt(write_more, again, folder)
    attempt(break_down, again, folder)  # asked for once more, and done already
    receipt = outcome_of(again, folder).receipt
    assert receipt
    assert (receipt.attempt, receipt.rows["rows"]["kept"]) == (2, 3)
    assert pq.read_table(folder / "00000.parquet").num_rows == 3
    assert not (folder.parent / "_rejected/pairs/00000.json").exists(), "nothing is rejected now"


def test_lost_rows_get_no_receipt_and_publish_nothing(folder):
    with pytest.raises(LostRowsError):
        perform(lose_a_row, shard(), folder)
    assert Receipts(folder).all() == []
    assert not list(folder.glob("*.parquet"))


def test_an_error_is_kept_and_the_next_attempt_starts_afresh(folder):
    attempt(break_down, shard(), folder)
    assert "disk full" in str(outcome_of(shard(), folder).error)
    attempt(write_rows, shard(), folder)
    outcome = outcome_of(shard(), folder)
    assert outcome.error is None
    assert outcome.receipt is not None
    assert [output.file for output in outcome.receipt.outputs] == ["00000.parquet"]


def test_a_worker_that_died_without_a_word_is_an_error(folder):
    assert "died" in str(outcome_of(shard(), folder).error)
    perform(write_rows, shard(key="old"), folder)
    assert "died" in str(outcome_of(shard(key="new"), folder).error)


def files_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_what_is_left_of_other_shards_and_of_killed_writers_is_removed(folder, tmp_path):
    for name in ("00000", "00001"):
        perform(write_rows, shard(name), folder)
    receipts = Receipts(folder)
    receipts.announce("00003", ["00003.parquet"])
    (folder / "00003.parquet").write_bytes(b"published, but killed before the receipt")
    for place in (
        *("pairs/.tmp-1-ab.parquet", "_receipts/pairs/.tmp-2-cd.json"),
        "_work/pairs/00004-x/00004.parquet",
    ):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_bytes(b"half")
    attempt(break_down, shard("00005"), folder)
    receipts.keep_only([shard("00001")])
    assert [receipt.shard for receipt in receipts.all()] == ["00001"]
    sides = [f"{side}/pairs/00001.json" for side in ("_outputs", "_receipts", "_rejected")]
    assert files_in(tmp_path) == [*sides, "pairs/00001.parquet"]
    assert receipts.outputs() == [folder / "00001.parquet"]


def write_two_files(shard, out):
    for name in "ab":
        (out / f"{name}.txt").write_text(shard.key)
    tally = Tally()
    tally.reject("odd", "1", {})
    return {"rows": tally}


def die_before(number):
    """Let this process be killed before it changes names in folders for the ``number``-th time."""
    steps = itertools.count(1)

    def stepping(original):
        def step(self, *arguments, **named):
            if next(steps) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(self, *arguments, **named)

        return step

    for name in ("replace", "unlink", "rmdir", "mkdir"):
        setattr(Path, name, stepping(getattr(Path, name)))


def killed_everywhere(tmp_path, prepare, work):
    """Folders on which ``work`` was killed before its first step, its second, and so on to none."""
    for number in itertools.count(1):
        folder = tmp_path / str(number) / "pairs"
        prepare(folder)
        child = os.fork()
        if not child:
            die_before(number)
            work(folder)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        yield folder
        if not status:
            break
        assert status == signal.SIGKILL
    assert number > 10


def keep_and_perform(folder):
    """A stage's clean-up and work."""
    finish_publishing(folder)
    receipts = Receipts(folder)
    receipts.keep_only([shard()] if receipts.is_done(shard()) else [])
    attempt(write_two_files, shard(), folder)


def test_killed_before_any_change_of_a_name_the_next_run_leaves_the_same_files(tmp_path):
    keep_and_perform(tmp_path / "whole" / "pairs")

    def prepare(folder):
        perform(write_two_files, shard(key="of an older configuration"), folder)

    for folder in killed_everywhere(tmp_path, prepare, keep_and_perform):
        keep_and_perform(folder)
        assert outcome_of(shard(), folder).receipt, folder
        assert files_in(folder.parent) == files_in(tmp_path / "whole"), folder


def test_killed_at_any_moment_what_a_shard_had_is_there_or_what_it_has_now(tmp_path):
    def write(text):
        def work(shard, out):
            (out / Side.TABLES).mkdir()
            for path in (out / "a.txt", out / Side.TABLES / "a.txt"):
                path.write_text(text)  # as long as that of the other attempt
            return {"rows": Tally()}

        return work

    found = set()
    again = replace(shard(), attempt=2)
    for folder in killed_everywhere(
        tmp_path,
        lambda folder: perform(write("old"), shard(), folder),
        lambda folder: attempt(write("new"), again, folder),
    ):
        finish_publishing(folder)
        receipt = Receipts(folder).valid(shard())
        assert receipt, folder
        assert not damaged(Receipts(folder).sources_of(receipt)), folder
        found.add((receipt.attempt, (folder / "a.txt").read_text()))
        attempt(write("new"), again, folder)
        assert Receipts(folder).is_done(again)
    assert found == {(1, "old"), (2, "new")}


def test_an_attempt_that_follows_a_lost_one_removes_what_that_one_left(folder):
    Receipts(folder).announce("00000", ["00000.parquet", "00000-001.parquet"])
    folder.mkdir()
    (folder / "00000-001.parquet").write_bytes(b"of an attempt whose worker died")
    perform(write_rows, shard(), folder)
    assert [path.name for path in folder.iterdir()] == ["00000.parquet"]


def test_a_file_that_is_not_the_runs_is_never_replaced(folder):
    folder.mkdir()
    (folder / "00000.parquet").write_bytes(b"somebody's")
    attempt(write_rows, shard(), folder)
    assert "is not the run's" in str(outcome_of(shard(), folder).error)
    assert (folder / "00000.parquet").read_bytes() == b"somebody's"


def test_what_is_not_the_runs_is_left_alone_and_said_once(folder, caplog):
    for name in ("00000", "00001"):
        perform(write_rows, shard(name), folder)
    (folder / "NOTES.md").write_text("mine")
    (folder / "sketches").mkdir()
    (folder / "sketches" / "a.png").touch()
    receipts = Receipts(folder)
    receipts.refuse_foreign_data()
    receipts.keep_only([shard("00001")])
    assert caplog.text.count("not the run's, left alone: NOTES.md, sketches") == 1
    names = {path.name for path in folder.iterdir()}
    assert names == {"00001.parquet", "NOTES.md", "sketches"}


@pytest.mark.parametrize("place", ["extra.parquet", "0/1/extra.PARQUET", "_a.parquet", "a.warc"])
def test_what_readers_would_take_for_the_runs_data_is_refused(folder, place):
    receipts = Receipts(folder)
    receipts.refuse_foreign_data()
    perform(write_rows, shard(), folder)
    receipts.announce("00001", ["00001.parquet"])
    (folder / "00001.parquet").touch()  # of a killed run
    receipts.refuse_foreign_data()
    (folder / place).parent.mkdir(parents=True, exist_ok=True)
    (folder / place).write_bytes(b"somebody's")
    with pytest.raises(ConfigError, match=f"{place} is not the run's.*move it elsewhere"):
        receipts.refuse_foreign_data()


def _with(**fields):
    def _damage(path):
        receipt = json.loads(path.read_text())
        receipt.update(fields)
        path.write_text(json.dumps(receipt))

    return _damage


def _folder(path):
    path.unlink()
    path.mkdir()
    (path / "notes").touch()


COUNTS = {"in": 3, "kept": 2, "rejected": {"odd": 1}, "failed": {}}
OUTPUT = {"file": "00000.parquet", "bytes": 1, "sha256": "0" * 64, "rows": 2}
DAMAGE = {
    "empty": lambda path: path.write_bytes(b""),
    "half": lambda path: path.write_bytes(path.read_bytes()[:100]),
    "null": lambda path: path.write_text("null"),
    "a list": lambda path: path.write_text("[]"),
    "not UTF-8": lambda path: path.write_bytes(path.read_bytes().replace(b"odd", b"\xff\xfe\xfd")),
    "a folder": _folder,
    "another key": _with(colour="red"),
    "another shard's": _with(shard="00001"),
    "a text for a number": _with(seconds="soon"),
    "no number": _with(seconds=float("nan")),
    "rows that are a list": _with(rows=[]),
    "rows below zero": _with(rows={"rows": {**COUNTS, "in": -1, "kept": -2}}),
    "lost rows": _with(rows={"rows": {**COUNTS, "in": 4}}),
    "counts without a reason": _with(rows={"rows": {**COUNTS, "rejected": 1}}),
    "outputs that are none": _with(outputs=[None]),
    "a sum that is none": _with(outputs=[{**OUTPUT, "sha256": "0"}]),
    "an output elsewhere": _with(outputs=[{**OUTPUT, "file": "../00000.parquet"}]),
    "an output at the root": _with(outputs=[{**OUTPUT, "file": "/00000.parquet"}]),
    "an output in a sub-folder": _with(outputs=[{**OUTPUT, "file": "a/00000.parquet"}]),
    "an output of another stage": _with(outputs=[{**OUTPUT, "file": "../_tables/images/00000"}]),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_receipt_that_cannot_be_read_is_none_and_its_shard_is_done_again(
    tmp_path, folder, kind, caplog
):
    before = perform(write_rows, shard(), folder)
    perform(write_rows, shard("00001"), folder)
    outside = tmp_path / "00000.parquet"
    outside.touch()
    DAMAGE[kind](tmp_path / "_receipts" / "pairs" / "00000.json")
    receipts = Receipts(folder)
    assert receipts.get("00000") is None
    assert [receipt.shard for receipt in receipts.all()] == ["00001"]
    assert not receipts.is_done(shard())
    assert outcome_of(shard(), folder).receipt is None
    receipts.keep_only([shard("00001")])
    assert "00000.json cannot be read" in caplog.text
    assert [path.name for path in folder.iterdir()] == ["00001.parquet"]
    assert outside.exists()
    attempt(write_rows, shard(), folder)
    receipt = outcome_of(shard(), folder).receipt
    assert receipt is not None
    assert receipt.outputs == before.outputs


@pytest.mark.parametrize("place", ["pairs", "_receipts", "_receipts/pairs", "_work/pairs"])
def test_a_file_in_the_place_of_a_folder_is_named(folder, place):
    path = folder.parent / place
    path.parent.mkdir(exist_ok=True)
    path.touch()
    with pytest.raises(ConfigError, match=f"{path}: a file stands"):
        Receipts(folder).keep_only([])


@pytest.fixture
def reader(folder):
    """A shard of another stage that reads what this one has made, and something from outside."""
    perform(write_rows, shard(), folder)
    outside = folder.parent / "model.pt"
    outside.write_bytes(b"weights")
    sources = (*Receipts(folder).sources(), Source(outside, file_hash(outside)))
    files = {"rows": tuple(source.path for source in sources)}
    return Shard("a", "k", files, {}, sources)


def read_rows(shard, out):
    """Work that does not notice a byte."""
    (out / "copy.txt").write_bytes(shard.files["rows"][0].read_bytes())
    return {"rows": Tally()}


def test_what_is_read_is_compared_with_its_receipt(folder, reader):
    images = folder.parent / "images"
    attempt(read_rows, reader, images)
    assert outcome_of(reader, images).receipt
    Receipts(images).keep_only([])
    flip_a_byte(folder / "00000.parquet")
    assert Receipts(folder).is_done(shard()), "its size is right"
    attempt(read_rows, reader, images)
    error = outcome_of(reader, images).error or ""
    assert f"{folder / '00000.parquet'} is damaged" in error
    assert "pipelines.build_dataset makes it again" in error
    assert "Traceback" not in error
    assert not list(images.iterdir())
    assert not Receipts(folder).is_done(shard()), "the stage that made it does it again"


def test_a_damaged_file_from_outside_is_named(folder, reader):
    outside = folder.parent / "model.pt"
    flip_a_byte(outside)
    attempt(read_rows, reader, folder.parent / "images")
    assert f"{outside} does not hold what it held" in str(
        outcome_of(reader, folder.parent / "images").error
    )
    assert Receipts(folder).is_done(shard())


def test_a_file_that_is_gone_is_damaged(folder, reader):
    (folder / "00000.parquet").unlink()
    attempt(read_rows, reader, folder.parent / "images")
    assert "is damaged" in str(outcome_of(reader, folder.parent / "images").error)


def read_footer(shard, out):
    pq.read_metadata(shard.files["rows"][0])
    return {"rows": Tally()}


def test_where_it_was_not_asked_for_damage_is_looked_for_after_a_failure(folder, reader):
    images, path = folder.parent / "images", folder / "00000.parquet"
    unasked = replace(reader, verify=False)
    flip_a_byte(path)
    attempt(read_rows, unasked, images)
    assert outcome_of(unasked, images).receipt
    Receipts(images).keep_only([])
    path.write_bytes(b"\0" * path.stat().st_size)
    attempt(read_footer, unasked, images)
    error = outcome_of(unasked, images).error or ""
    assert error.startswith(f"{path} is not a whole Parquet file\n{path} is damaged")
    assert not Receipts(folder).is_done(shard())


def test_totals_add_up_by_kind_and_reason(folder):
    receipts = [perform(write_rows, shard(name), folder) for name in ("a", "b")]
    totals = StageTotals.of(receipts)
    assert totals.shards == 2
    assert totals.rows == {"rows": {"in": 6, "kept": 4, "rejected": {"odd": 2}, "failed": {}}}


def write_rows_and_a_table(shard, out):
    (out / Side.TABLES).mkdir()
    pq.write_table(pa.table({"query_id": [7]}), out / Side.TABLES / "counts.parquet")
    return write_rows(shard, out)


def test_a_folder_of_shards_opens_in_every_tool_whatever_stands_beside_it(folder, tmp_path):
    perform(write_rows_and_a_table, shard(), folder)
    attempt(write_rows, shard("00001"), folder)
    attempt(break_down, shard("00002"), folder)  # leaves an error, and half a file at work
    assert {path.name for path in folder.iterdir()} == {"00000.parquet", "00001.parquet"}
    assert set(rows_by_tool(folder, tmp_path / "cache").values()) == {4}
    assert pq.read_table(tmp_path / "_tables/pairs/counts.parquet").num_rows == 1


def test_a_side_table_is_part_of_its_shard(folder, tmp_path):
    receipts = Receipts(folder)
    table = tmp_path / "_tables/pairs/counts.parquet"
    perform(write_rows_and_a_table, shard(), folder)
    receipts.keep_only([shard()])
    assert receipts.is_done(shard())
    table.unlink()
    assert not receipts.is_done(shard())
    perform(write_rows_and_a_table, shard(), folder)
    receipts.keep_only([])
    assert not table.exists()


def test_a_failure_is_one_line_with_what_is_to_blame_and_without_its_trace():
    trace = 'Traceback (most recent call last):\n  File "x.py", line 1\nValueError: no picture\n'
    outcome = Outcome("00001", error=f"images/00001.parquet is damaged\n{trace}")
    assert outcome.failure() == (
        "shard 00001 failed; a rerun tries it again: images/00001.parquet is damaged; "
        "ValueError: no picture"
    )
    assert Outcome("a", error="lost").failure().endswith("again: lost")


def test_a_rerun_is_advised_only_where_it_may_help(folder):
    def fail(_shard, _out):
        raise ShardError("a.tar holds links")

    outcome = attempt(fail, shard(), folder)
    assert outcome == outcome_of(shard(), folder)  # as another process reads it
    assert outcome.failure().endswith(
        "failed; once it is mended, a rerun goes on: a.tar holds links"
    )
