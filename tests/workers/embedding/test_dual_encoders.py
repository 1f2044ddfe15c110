"""Dual encoders of other libraries embed, label and filter as a CLIP does."""

import hashlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch.nn import functional as F

from clip_model.dual_encoders import load_dual_encoder
from clip_model.preprocess import image_bytes_transform
from tests.dual_encoder_models import (
    OPEN_CLIP,
    TRANSFORMERS,
    named,
    save_open_clip,
    save_transformers,
)
from tests.processors import needs_bfloat16
from tests.shards import images, write_images
from workers.base.contracts import PAIRS
from workers.base.storage import write_table
from workers.embedding.embedder import Embedder
from workers.embedding.matrix import embedding_matrix
from workers.embedding.settings import EmbedSettings, LabelSet
from workers.selection.select import EmbeddedShard, select
from workers.selection.settings import SelectionSettings

COLOURS = LabelSet(classes=("red", "green"), templates=("a photo of {}",))


@pytest.fixture(scope="module")
def shard(tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "00000.parquet"
    # Without the first one, which is black: a network without biases sees nothing of it.
    return path, write_images([*images(13)][1:], path)


def save(name, folder):
    return (save_open_clip if name in OPEN_CLIP else save_transformers)(name, folder)


def embedded(model, shard, tmp_path, **settings):
    out = tmp_path / "embeddings.parquet"
    embedder = Embedder(EmbedSettings(model=model, label_sets={"c": COLOURS}, **settings))
    tally = embedder.embed_shard(shard, out)["images"]
    assert (tally.rows_in, tally.kept) == (12, 12)
    return pq.read_table(out)


@pytest.mark.parametrize("name", [*OPEN_CLIP, *TRANSFORMERS])
def test_each_embeds_and_filters(name, shard, tmp_path):
    path, rows = shard
    saved = save(name, tmp_path / name)
    table = embedded(saved, path, tmp_path, precision="fp32")
    which = named(saved)
    encoder = load_dual_encoder(which)
    transform = image_bytes_transform(encoder.preprocessing)
    with torch.inference_mode():
        levels = torch.stack([transform(row["jpg"]) for row in rows])
        tokens = encoder.tokenize([row["caption"] for row in rows])
        seen, read = encoder.encode_image(levels), encoder.encode_text(tokens)
    for column, features in (("image_embedding", seen), ("text_embedding", read)):
        stored = torch.from_numpy(embedding_matrix(table[column]))
        torch.testing.assert_close(stored, F.normalize(features, dim=-1), rtol=0, atol=1e-3)
    similarity = torch.from_numpy(table["similarity"].to_numpy())
    cosines = F.cosine_similarity(seen, read)
    torch.testing.assert_close(similarity, cosines, rtol=0, atol=2e-3)
    assert table.schema.metadata[b"preprocessing"].decode() == encoder.preprocessing.text()
    weights = (tmp_path / name).glob("*.safetensors")
    label = table.schema.metadata[b"model"].decode()
    assert label.startswith(f"{which.library} ")
    assert all(hashlib.sha256(file.read_bytes()).hexdigest() in label for file in weights)

    middle = float(similarity.median())
    reasons = filtered(tmp_path, path, rows, middle)
    kept = {row for row, reason in reasons.items() if reason is None}
    enough = similarity >= torch.tensor(middle)
    ids = table["pair_id"].to_pylist()
    assert kept == {name for name, is_kept in zip(ids, enough.tolist(), strict=True) if is_kept}
    assert 0 < len(kept) < 12


def filtered(tmp_path, path, rows, threshold):
    pairs = [{name: row.get(name) for name in PAIRS.names} | {"query_ids": []} for row in rows]
    for row in pairs:
        row |= {"page_url": "http://a/", "source": "a@0"}
    write_table(pa.Table.from_pylist(pairs, schema=PAIRS), tmp_path / "pairs.parquet")
    shard = EmbeddedShard(tmp_path / "pairs.parquet", [tmp_path / "embeddings.parquet"], [path])
    step = {"filter": "similarity", "min": threshold}
    steps = SelectionSettings.model_validate({"steps": [step]})
    select([shard], tmp_path / "selection", steps, 0)
    verdicts = pq.read_table(tmp_path / "selection/pairs.parquet")
    return dict(zip(*(verdicts[name].to_pylist() for name in ("pair_id", "reason")), strict=True))


@needs_bfloat16
@pytest.mark.parametrize("name", ["ViT-B-16-SigLIP", "siglip"])
def test_bfloat16_is_near_float32(name, shard, tmp_path):
    saved = save(name, tmp_path / name)
    exact = embedded(saved, shard[0], tmp_path, precision="fp32")
    rounded = embedded(saved, shard[0], tmp_path, precision="bf16")
    for column in ("image_embedding", "text_embedding"):
        first, second = (embedding_matrix(table[column]) for table in (exact, rounded))
        assert 0 < abs(first - second).max() < 0.05
