"""Checks of shards without rows; those of damage stand in whole_run/."""

import pytest

from pipelines.run.attempts import perform
from pipelines.run.checks import CONTENT, Checker
from pipelines.run.receipts import Receipts, Shard
from workers.base.contracts import DATASET, IMAGES, PAIRS, SELECTION, embeddings_schema
from workers.base.storage import write_table
from workers.base.tally import Tally

EMPTY = {
    "pairs": PAIRS,
    "images": IMAGES,
    "embeddings": embeddings_schema(4, labels=True, scores=["photo"]),
    "selection": SELECTION,
    "dataset": DATASET,
}


@pytest.mark.filterwarnings("error")
def test_a_shard_without_rows_is_as_good_as_any(tmp_path):
    checker = Checker(tmp_path)
    for stage, schema in EMPTY.items():

        def work(shard, out, schema=schema):
            write_table(schema.empty_table(), out / "00000.parquet")
            return {"rows": Tally()}

        perform(work, Shard("00000", "k"), tmp_path / stage)
        (receipt,) = Receipts(tmp_path / stage).all()
        assert list(checker.shard(stage, receipt)) == []
    assert set(EMPTY) < set(CONTENT)
