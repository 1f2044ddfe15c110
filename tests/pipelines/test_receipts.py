import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.receipts import Ledger, Shard, StageTotals, attempt, outcome_of, perform
from workers.tally import LostRowsError, Tally


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


def test_a_receipt_states_rows_and_outputs(tmp_path):
    receipt = perform(write_rows, shard(), tmp_path)
    assert receipt.rows == {"rows": {"in": 3, "kept": 2, "rejected": {"odd": 1}, "failed": {}}}
    (output,) = receipt.outputs
    assert (output.file, output.rows) == ("00000.parquet", 2)
    assert output.bytes == (tmp_path / output.file).stat().st_size
    assert Ledger(tmp_path).receipt("00000") == receipt
    assert '"n": 3' in (tmp_path / "_rejected" / "00000.json").read_text()


def test_a_shard_is_done_only_with_its_own_key_and_whole_outputs(tmp_path):
    ledger = Ledger(tmp_path)
    assert not ledger.is_done(shard())
    perform(write_rows, shard(), tmp_path)
    assert ledger.is_done(shard())
    assert not ledger.is_done(shard(key="another configuration"))
    output = tmp_path / "00000.parquet"
    output.write_bytes(output.read_bytes()[:-1])
    assert not ledger.is_done(shard())
    output.unlink()
    assert not ledger.is_done(shard())


def test_what_has_its_receipt_is_not_done_again_when_an_engine_asks_again(tmp_path):
    first = perform(write_rows, shard(), tmp_path)
    attempt(break_down, shard(), tmp_path)
    assert outcome_of(shard(), tmp_path).receipt == first
    attempt(break_down, shard(key="k2"), tmp_path)
    assert "disk full" in (outcome_of(shard(key="k2"), tmp_path).error or "")


def test_lost_rows_get_no_receipt_and_publish_nothing(tmp_path):
    with pytest.raises(LostRowsError):
        perform(lose_a_row, shard(), tmp_path)
    assert Ledger(tmp_path).receipts() == []
    assert not list(tmp_path.glob("*.parquet"))


def test_an_error_is_kept_and_the_next_attempt_starts_afresh(tmp_path):
    attempt(break_down, shard(), tmp_path)
    assert "disk full" in str(outcome_of(shard(), tmp_path).error)
    attempt(write_rows, shard(), tmp_path)
    outcome = outcome_of(shard(), tmp_path)
    assert outcome.error is None
    assert outcome.receipt is not None
    assert [output.file for output in outcome.receipt.outputs] == ["00000.parquet"]


def test_a_worker_that_died_without_a_word_is_an_error(tmp_path):
    assert "died" in str(outcome_of(shard(), tmp_path).error)
    perform(write_rows, shard(key="old"), tmp_path)
    assert "died" in str(outcome_of(shard(key="new"), tmp_path).error)


def test_stale_receipts_and_files_without_one_are_removed(tmp_path):
    for name in ("00000", "00001"):
        perform(write_rows, shard(name), tmp_path)
    (tmp_path / ".tmp-00002.parquet").write_bytes(b"half")
    (tmp_path / "00003.parquet").write_bytes(b"published, but killed before the receipt")
    ledger = Ledger(tmp_path)
    ledger.discard_all_but([shard("00001")])
    assert [receipt.shard for receipt in ledger.receipts()] == ["00001"]
    assert [path.name for path in tmp_path.glob("*") if path.is_file()] == ["00001.parquet"]
    assert ledger.outputs() == [tmp_path / "00001.parquet"]


def test_totals_add_up_by_kind_and_reason(tmp_path):
    receipts = [perform(write_rows, shard(name), tmp_path) for name in ("a", "b")]
    totals = StageTotals.of(receipts)
    assert totals.shards == 2
    assert totals.rows == {"rows": {"in": 6, "kept": 4, "rejected": {"odd": 2}, "failed": {}}}
