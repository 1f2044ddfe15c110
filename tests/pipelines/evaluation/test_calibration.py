import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.evaluation.calibration import calibrate
from workers.base.contracts import embeddings_schema
from workers.base.pair_ids import make_pair_id
from workers.base.storage import write_table

AXES = np.eye(4)
# (caption, name of the image, correct, image, text)
PAIRS = [
    ("a cat", "cat", True, AXES[0], AXES[0]),
    ("kitten", "cat", True, AXES[0], 0.9 * AXES[0] + 0.1 * AXES[3]),
    ("a dog", "dog", True, AXES[1], AXES[1]),
    ("a bird", "bird", True, AXES[1], AXES[2]),  # looks like a dog to the model
    ("a dog ", "cat", False, AXES[0], AXES[1]),
]


@pytest.fixture
def shards(tmp_path):
    truth, embedded = [], []
    for number, (caption, name, correct, image, text) in enumerate(PAIRS):
        url = f"http://a/{number}"
        truth.append({"url": url, "caption": caption, "name": name, "correct": correct})
        embedded.append(
            {
                "pair_id": make_pair_id(url, caption.strip()),
                "image_embedding": image.tolist(),
                "text_embedding": text.tolist(),
                "similarity": float(image @ text),
                "image_hash": 0,
                "labels": [],
            }
        )
    pq.write_table(pa.Table.from_pylist(truth), tmp_path / "truth.parquet")
    write_table(pa.Table.from_pylist(embedded, schema=embeddings_schema(4)), tmp_path / "e.parquet")
    selected = [row["pair_id"] for row in embedded if row["similarity"] > 0.5]
    pq.write_table(pa.table({"pair_id": selected}), tmp_path / "d.parquet")
    return tmp_path / "truth.parquet", [tmp_path / "e.parquet"], [tmp_path / "d.parquet"]


def test_figures_by_hand(shards):
    result = calibrate(*shards)
    assert result is not None
    assert (result.right, result.wrong) == (4, 1)
    # The wrong pair has similarity 0: below three right ones, equal to one.
    assert result.roc_auc == pytest.approx(3.5 / 4)
    assert (result.right_selected, result.wrong_selected) == (3, 0)
    assert result.precision == 1.0
    assert result.recall == 0.75
    assert result.names == 4
    assert result.top1 == 0.75  # the bird's nearest caption is the dog's
    assert result.chance == pytest.approx((2 + 2 + 1 + 1) / 4 / 4)


def test_without_both_right_and_wrong_pairs_there_is_nothing_to_say(shards, tmp_path):
    truth, embeddings, selected = shards
    rows = [row for row in pq.read_table(truth).to_pylist() if row["correct"]]
    pq.write_table(pa.Table.from_pylist(rows), truth)
    assert calibrate(truth, embeddings, selected) is None
