"""Labels from stored embeddings: the same as when an image is embedded, and nothing is lost."""

import math

import pyarrow.parquet as pq
import pytest
import torch

from tests.shards import images, save_tiny_model, write_images
from workers.embedding.embedder import Embedder
from workers.embedding.labeller import Labeller
from workers.embedding.settings import Attribute, EmbedSettings, Head, LabelSet

ROWS = 60


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    path = folder / "head.pt"
    torch.save({"weight": torch.randn(1, 32, generator=torch.manual_seed(0))}, path)
    return EmbedSettings(
        model=save_tiny_model(folder / "tiny.safetensors"),
        label_sets={"size": LabelSet(classes=("large", "small"))},
        attributes={"cat": Attribute(present=("a cat",), absent=("a dog",))},
        heads={"nice": Head(path=str(path))},
    )


@pytest.fixture(scope="module")
def labelled(settings, tmp_path_factory):
    """Images that were labelled as they were embedded."""
    folder = tmp_path_factory.mktemp("labelled")
    write_images(images(ROWS), folder / "00000.parquet")
    Embedder(settings).embed_shard(folder / "00000.parquet", folder / "e.parquet")
    return folder


def test_labels_are_the_same_afterwards_byte_for_byte(settings, labelled, tmp_path):
    embedder = Embedder(settings.without_labels())
    embedder.embed_shard(labelled / "00000.parquet", tmp_path / "e.parquet")
    bare = pq.read_table(tmp_path / "e.parquet")
    assert bare.column_names[-1] == "image_hash"
    tallies = Labeller(settings).label_shard(tmp_path / "e.parquet", tmp_path / "l.parquet")
    tallies["images"].check()
    assert tallies["images"].kept == ROWS
    labels, at_once = pq.read_table(tmp_path / "l.parquet"), pq.read_table(labelled / "e.parquet")
    assert labels.column_names == ["pair_id", "labels", "score_cat", "score_nice"]
    assert at_once.select(bare.column_names).equals(bare)
    assert at_once.select(labels.column_names).equals(labels)


def test_a_score_that_is_not_finite_costs_its_row(settings, labelled, tmp_path):
    labeller = Labeller(settings)
    (classifier,) = labeller._labels.sets
    with torch.inference_mode():  # in which they were made
        classifier.features[0, 0] = math.nan
    (tally,) = labeller.label_shard(labelled / "e.parquet", tmp_path / "l.parquet").values()
    assert tally.failed == {"not_finite": ROWS}
    sample = next(iter(tally.samples["not_finite"].values()))
    assert sample["error"].startswith("labels: not finite")
    assert pq.read_metadata(tmp_path / "l.parquet").num_rows == 0
