import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.shards import pictures, write_images
from workers.contracts import DATASET, PAIRS, embeddings_schema
from workers.select import select_shard
from workers.settings import SelectSettings
from workers.storage import write_table


@pytest.fixture
def shards(tmp_path):
    """One shard of pairs, images and embeddings; the last picture was not embedded."""
    rows = write_images(pictures(6), tmp_path / "images.parquet")
    pairs = [
        {
            "pair_id": row["pair_id"],
            "url": row["url"],
            "caption": row["caption"],
            "page_url": f"http://pages/{number}",
            "source": "test@0",
            "query_ids": [number, 100],
        }
        for number, row in enumerate(rows)
    ]
    write_table(pa.Table.from_pylist(pairs, schema=PAIRS), tmp_path / "pairs.parquet")
    embeddings = [
        {
            "pair_id": row["pair_id"],
            "image_embedding": [1.0, 0.0],
            "text_embedding": [0.0, 1.0],
            "similarity": number / 10,
            "labels": [],
        }
        for number, row in enumerate(rows[:5])
    ]
    table = pa.Table.from_pylist(embeddings, schema=embeddings_schema(2))
    write_table(table, tmp_path / "embeddings.parquet")
    return {name: tmp_path / f"{name}.parquet" for name in ("pairs", "images", "embeddings")}


def test_similar_pairs_are_kept_with_what_every_stage_knows(shards, tmp_path):
    settings = SelectSettings(min_similarity=0.25)
    tally = select_shard(**shards, out=tmp_path / "out.parquet", settings=settings)["pairs"]
    tally.check()
    assert tally.counts() == {
        "in": 5,
        "kept": 2,
        "rejected": {"low_similarity": 3},
        "failed": {},
    }
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.schema.equals(DATASET)
    assert table["page_url"].to_pylist() == ["http://pages/3", "http://pages/4"]
    assert table["query_ids"].to_pylist() == [[3, 100], [4, 100]]
    images = {row["pair_id"]: row for row in pq.read_table(shards["images"]).to_pylist()}
    for row in table.to_pylist():
        assert row["jpg"] == images[row["pair_id"]]["jpg"]
        assert row["caption"] == images[row["pair_id"]]["caption"]


def test_a_pair_on_the_threshold_is_kept(shards, tmp_path):
    settings = SelectSettings(min_similarity=0.0)
    assert select_shard(**shards, out=tmp_path / "o.parquet", settings=settings)["pairs"].kept == 5


def test_shards_of_different_pairs_are_refused(shards, tmp_path):
    write_images(list(pictures(3)), shards["images"])
    with pytest.raises(ValueError, match="embedded pairs are not in"):
        select_shard(**shards, out=tmp_path / "o.parquet", settings=SelectSettings())
