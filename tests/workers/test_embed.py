from io import BytesIO

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

import clip_model
from tests.shards import pictures, save_tiny_model, write_images
from workers.contracts import embeddings_schema
from workers.embed import Embedder
from workers.settings import EmbedSettings, LabelSet

COLOURS = LabelSet(classes=("red", "green", "blue"), templates=("{}", "a {} picture"), top_k=2)
SIZES = LabelSet(classes=("large", "small"))


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("model") / "tiny.safetensors")


@pytest.fixture(scope="module")
def shard(tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "00000.parquet"
    return path, write_images(pictures(50), path)


def embed(model, images, out, **settings):
    tally = Embedder(EmbedSettings(model=model, **settings)).embed_shard(images, out)["images"]
    tally.check()
    return tally, pq.read_table(out)


def test_embeddings_and_similarity_are_the_models_own(model_path, shard, tmp_path):
    path, rows = shard
    tally, table = embed(model_path, path, tmp_path / "e.parquet", batch_size=16)
    assert tally.kept == 50
    assert table.schema.equals(embeddings_schema(32))
    assert table["pair_id"].to_pylist() == [row["pair_id"] for row in rows]

    model, preprocess = clip_model.load(model_path)
    with torch.inference_mode():
        pixels = torch.stack([preprocess(Image.open(BytesIO(row["jpg"]))) for row in rows])
        image = F.normalize(model.encode_image(pixels), dim=-1)
        text = F.normalize(
            model.encode_text(clip_model.tokenize([row["caption"] for row in rows])), dim=-1
        )
    stored = np.array(table["image_embedding"].to_pylist(), dtype=np.float32)
    np.testing.assert_allclose(stored, image.numpy(), atol=1e-3)
    similarity = (image * text).sum(dim=-1).numpy()
    np.testing.assert_allclose(table["similarity"].to_numpy(), similarity, atol=1e-5)


def test_labels_are_the_most_probable_classes_of_each_set(model_path, shard, tmp_path):
    path, _ = shard
    label_sets = {"colour": COLOURS, "size": SIZES}
    _, table = embed(model_path, path, tmp_path / "e.parquet", label_sets=label_sets)
    for labels in table["labels"].to_pylist():
        assert [label["set"] for label in labels] == ["colour", "colour", "size"]
        assert {label["label"] for label in labels[:2]} <= set(COLOURS.classes)
        assert labels[0]["probability"] >= labels[1]["probability"]
        assert labels[2]["probability"] >= 0.5


def test_damaged_pictures_fail_with_a_reason_and_the_others_go_on(model_path, tmp_path):
    pairs = list(pictures(20))
    for number in (3, 4):
        caption, jpg = pairs[number]
        pairs[number] = (caption, jpg[: len(jpg) // 2])
    pairs[7] = (pairs[7][0], b"not a picture")
    write_images(pairs, tmp_path / "00000.parquet")
    tally, table = embed(model_path, tmp_path / "00000.parquet", tmp_path / "e.parquet")
    assert tally.counts() == {"in": 20, "kept": 17, "rejected": {}, "failed": {"undecodable": 3}}
    assert table.num_rows == 17


def test_a_shard_of_nothing_but_damage_is_an_empty_shard(model_path, tmp_path):
    write_images([("a", b"x"), ("b", b"")], tmp_path / "00000.parquet")
    tally, table = embed(model_path, tmp_path / "00000.parquet", tmp_path / "e.parquet")
    assert (tally.kept, table.num_rows) == (0, 0)
    assert table.schema.equals(embeddings_schema(32))


def test_the_same_shard_gives_the_same_bytes_and_batches_hardly_matter(model_path, shard, tmp_path):
    path, _ = shard
    _, first = embed(model_path, path, tmp_path / "a.parquet", decode_threads=1)
    embed(model_path, path, tmp_path / "b.parquet", decode_threads=4)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    _, other = embed(model_path, path, tmp_path / "c.parquet", batch_size=7)
    difference = first["similarity"].to_numpy() - other["similarity"].to_numpy()
    assert np.abs(difference).max() < 1e-5


def test_captions_longer_than_the_context_are_cut(model_path, tmp_path):
    caption, jpg = next(pictures(1))
    write_images([(caption * 100, jpg)], tmp_path / "00000.parquet")
    tally, _ = embed(model_path, tmp_path / "00000.parquet", tmp_path / "e.parquet")
    assert tally.kept == 1
