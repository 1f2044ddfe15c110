"""A known share of wrong captions, planted in embeddings."""

import tracemalloc
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.workers.selection.test_select import make_shard, unit
from workers.base.sampling import draws
from workers.embedding.matrix import embedding_matrix
from workers.selection.planted_noise import plant_noise


@pytest.fixture
def shards(tmp_path):
    angles = np.linspace(0, np.pi, 60)
    rows = [
        {
            "image_embedding": unit(angle),
            "text_embedding": unit(angle),
            "similarity": 1.0,
            "caption": f"angle {number % 55}",  # a few pairs share their words
        }
        for number, angle in enumerate(angles)
    ]
    return [make_shard(tmp_path, "a", rows[:20]), make_shard(tmp_path, "b", rows[20:])]


def test_a_share_gets_somebody_elses_caption_and_the_others_keep_theirs(shards, tmp_path):
    noisy, wrong = plant_noise(shards, 0.5, 3, tmp_path / "noisy")
    before, after = (
        pa.concat_tables([pq.read_table(shard.embeddings[0]) for shard in some])
        for some in (shards, noisy)
    )
    is_wrong = np.concatenate(wrong)
    ids = before["pair_id"].to_pylist()
    chosen = draws(3, ids) < 0.5
    texts = [embedding_matrix(table["text_embedding"]) for table in (before, after)]
    moved = (texts[0] != texts[1]).any(axis=1)
    assert (moved == chosen).all()
    assert 20 < is_wrong.sum() <= moved.sum()
    assert not (is_wrong & ~moved).any()
    # Nothing but the order of the captions has changed, and similarities are those they have.
    assert sorted(map(tuple, texts[0])) == sorted(map(tuple, texts[1]))
    assert after.drop_columns(["text_embedding", "similarity"]).equals(
        before.drop_columns(["text_embedding", "similarity"])
    )
    expected = (embedding_matrix(after["image_embedding"]) * texts[1]).sum(axis=1)
    assert np.allclose(after["similarity"].to_numpy(), expected, atol=1e-6)


def test_who_gets_whose_caption_follows_from_the_pairs_and_not_from_their_shards(tmp_path):
    rows = [
        {"pair_id": f"{n:02d}", "caption": f"{n}", "text_embedding": unit(n)} for n in range(40)
    ]
    found = []
    for number, cuts in enumerate([(0, 40), (0, 7, 7, 30, 40)]):
        folder = tmp_path / str(number)
        parts = [make_shard(folder, f"{at}-{end}", rows[at:end]) for at, end in pairwise(cuts)]
        noisy, wrong = plant_noise(parts[::-1], 0.5, 3, folder / "noisy")
        table = pa.concat_tables([pq.read_table(shard.embeddings) for shard in noisy])
        table = table.append_column("wrong", pa.array(np.concatenate(wrong)))
        found.append(table.sort_by("pair_id").to_pylist())
    assert found[0] == found[1]
    assert 10 < sum(row["wrong"] for row in found[0]) < 30


def test_the_same_words_are_no_wrong_caption(tmp_path):
    rows = [{"caption": "the same", "text_embedding": unit(number)} for number in range(10)]
    _, wrong = plant_noise([make_shard(tmp_path, "s", rows)], 0.9, 0, tmp_path / "noisy")
    assert not np.concatenate(wrong).any()


def test_memory_does_not_grow_with_the_longest_caption(tmp_path):
    rows = [
        {"caption": f"caption {number}", "text_embedding": unit(number)} for number in range(500)
    ]
    rows[7]["caption"] = "x" * 50_000
    shard = make_shard(tmp_path, "s", rows)
    tracemalloc.start()
    _, wrong = plant_noise([shard], 0.5, 0, tmp_path / "noisy")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert np.concatenate(wrong).any()
    assert peak < 10_000_000  # padded to the longest, the captions alone would be 100 MB
