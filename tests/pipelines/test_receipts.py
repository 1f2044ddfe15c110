import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.receipts import Ledger, Shard, Side, StageTotals, attempt, outcome_of, perform
from tests.tools import rows_by_tool
from workers.tally import LostRowsError, Tally


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
    assert Ledger(folder).receipt("00000") == receipt
    assert '"n": 3' in (folder.parent / "_rejected/pairs/00000.json").read_text()


def test_a_shard_is_done_only_with_its_own_key_and_whole_outputs(folder):
    ledger = Ledger(folder)
    assert not ledger.is_done(shard())
    perform(write_rows, shard(), folder)
    assert ledger.is_done(shard())
    assert not ledger.is_done(shard(key="another configuration"))
    output = folder / "00000.parquet"
    output.write_bytes(output.read_bytes()[:-1])
    assert not ledger.is_done(shard())
    output.unlink()
    assert not ledger.is_done(shard())


def test_what_has_its_receipt_is_not_done_again_when_an_engine_asks_again(folder):
    first = perform(write_rows, shard(), folder)
    attempt(break_down, shard(), folder)
    assert outcome_of(shard(), folder).receipt == first
    attempt(break_down, shard(key="k2"), folder)
    assert "disk full" in (outcome_of(shard(key="k2"), folder).error or "")


def test_lost_rows_get_no_receipt_and_publish_nothing(folder):
    with pytest.raises(LostRowsError):
        perform(lose_a_row, shard(), folder)
    assert Ledger(folder).receipts() == []
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


def test_stale_receipts_and_files_without_one_are_removed(folder):
    for name in ("00000", "00001"):
        perform(write_rows, shard(name), folder)
    (folder / ".tmp-00002.parquet").write_bytes(b"half")
    (folder / "00003.parquet").write_bytes(b"published, but killed before the receipt")
    ledger = Ledger(folder)
    ledger.discard_all_but([shard("00001")])
    assert [receipt.shard for receipt in ledger.receipts()] == ["00001"]
    assert [path.name for path in folder.glob("*") if path.is_file()] == ["00001.parquet"]
    assert ledger.outputs() == [folder / "00001.parquet"]


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
    ledger = Ledger(folder)
    table = tmp_path / "_tables/pairs/counts.parquet"
    perform(write_rows_and_a_table, shard(), folder)
    ledger.discard_all_but([shard()])
    assert ledger.is_done(shard())
    table.unlink()
    assert not ledger.is_done(shard())
    perform(write_rows_and_a_table, shard(), folder)
    ledger.discard_all_but([])
    assert not table.exists()
