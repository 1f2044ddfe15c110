"""Embedding on a GPU: streams and fixed shapes give what a CPU gives, in order."""

import random

import pyarrow.parquet as pq
import pytest
import torch
from torch.nn import functional as F

import clip_model
from tests.processors import needs_gpu
from tests.shards import images, save_tiny_model, write_images
from workers.base.gpu_copies import Sender
from workers.embedding.embedder import Embedder
from workers.embedding.meter import Meter
from workers.embedding.overlap import overlap
from workers.embedding.settings import EmbedSettings, LabelSet

pytestmark = needs_gpu

SIZES = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
COLOURS = LabelSet(classes=("red", "green", "blue"), templates=("{}", "a {} picture"))


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("model") / "tiny.safetensors")


def test_tensors_are_there_for_what_is_computed_after_them_however_many_are_under_way():
    """Large ones, through buffers that are filled again at once."""
    sender = Sender(torch.device("cuda"))
    count = 64

    def started():
        for number in range(count):
            pinned = torch.full((4_000_000,), number, dtype=torch.uint8, pin_memory=True)
            yield number, sender.send(pinned)

    sums = [(n, there.sum(dtype=torch.int64)) for n, there in overlap(started(), 3)]
    assert [(n, int(total)) for n, total in sums] == [(n, 4_000_000 * n) for n in range(count)]


def in_batches(encoder, levels, tokens):
    """Features by the encoder, several batches under way and the last of each kind part-full."""

    def started():
        for first in range(0, len(levels), encoder.batch_size):
            batch, some = encoder.new_batch(), levels[first : first + encoder.batch_size]
            batch[: len(some)] = some
            yield None, encoder.encode_images(batch, len(some))
        for first in range(0, len(tokens), encoder.batch_size):
            yield None, encoder.encode_texts(tokens[first : first + encoder.batch_size])

    found = torch.cat([one for _, one in overlap(started(), encoder.depth)])
    return found[: len(levels)], found[len(levels) :]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_features_are_the_models_own(model_path, precision):
    generator = torch.Generator().manual_seed(0)
    levels = torch.randint(0, 256, (1000, 3, 32, 32), dtype=torch.uint8, generator=generator)
    words = ["red", "green", "blue", "and", "a", "cat"]
    rng = random.Random(0)
    captions = [" ".join(rng.choices(words, k=rng.randint(1, 40))) for _ in range(300)]
    tokens = clip_model.tokenize(captions)
    embedder = Embedder(EmbedSettings(model=model_path, batch_size=64, precision=precision))
    image, text = in_batches(embedder.encoder, levels, tokens)
    model, _ = clip_model.load(model_path, "cpu")
    with torch.inference_mode():
        pixels = clip_model.preprocess.normalised(levels)
        expected = [model.encode_image(pixels), model.encode_text(tokens)]
    atol = {"fp32": 1e-5, "bf16": 2e-2}[precision]
    for ours, theirs in zip((image, text), expected, strict=True):
        torch.testing.assert_close(ours, F.normalize(theirs, dim=-1), rtol=0, atol=atol)


def test_a_shard_is_embedded_and_labelled_twice_with_the_same_bytes(model_path, tmp_path):
    shard = tmp_path / "00000.parquet"
    rows = write_images(images(150), shard)
    settings = EmbedSettings(model=model_path, batch_size=64, label_sets={"colour": COLOURS})
    for name in ("1", "2"):
        tally = Embedder(settings).embed_shard(shard, tmp_path / name)["images"]
        assert (tally.kept, tally.rows_in) == (150, 150)
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()
    table = pq.read_table(tmp_path / "1")
    assert table["pair_id"].to_pylist() == [row["pair_id"] for row in rows]
    assert all(
        label["label"] in COLOURS.classes for row in table["labels"].to_pylist() for label in row
    )


def test_the_meter_knows_how_long_the_gpu_worked(model_path, tmp_path):
    write_images(images(150), tmp_path / "00000.parquet")
    embedder = Embedder(EmbedSettings(model=model_path, batch_size=64))
    assert isinstance(embedder.meter, Meter)
    embedder.embed_shard(tmp_path / "00000.parquet", tmp_path / "e.parquet")
    activity = embedder.meter.activity()
    assert 0 < activity.computing_seconds <= activity.gpu_seconds
