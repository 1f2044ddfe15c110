"""The sample of held-out pairs that a training is judged by."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from clip_model import CLIP
from clip_model.objectives import Contrastive
from pipelines.training import retrieval
from pipelines.training.held_out import is_held_out
from pipelines.training.order import DataSettings
from pipelines.training.parallel import Workers
from pipelines.training.retrieval import HeldOutRetrieval
from tests.shards import TINY, images, jpeg, write_dataset, write_tar
from workers.base.copies import open_copy
from workers.base.failures import NeedsMendingError
from workers.base.opt_outs import Kind, OptOuts

DATA = DataSettings(batch_size=4, held_out=0.5, seed=3)


def held_out(pairs):
    return [pair for pair in pairs if is_held_out(pair[1], DATA.seed, DATA.held_out)]


def test_it_is_of_held_out_pairs_each_image_and_caption_once(tmp_path, monkeypatch):
    pairs = list(images(20))
    twice = [*pairs, ("another caption", held_out(pairs)[0][1])]
    write_dataset(twice, tmp_path / "0.parquet")
    found = HeldOutRetrieval([tmp_path / "0.parquet"], DATA, TINY)
    assert len(found._images) == len(held_out(pairs)) < len(held_out(twice))
    monkeypatch.setattr(retrieval, "SAMPLE", 3)
    assert len(HeldOutRetrieval([tmp_path / "0.parquet"], DATA, TINY)._images) == 3


@pytest.mark.parametrize("kind", ["columns", "tar"])
def test_shards_of_others_are_read_as_they_are_trained_on(tmp_path, kind):
    pairs = list(images(20))
    if kind == "tar":
        members = [
            member
            for number, (caption, jpg) in enumerate(pairs)
            for member in ((f"{number}.jpg", jpg), (f"{number}.txt", caption.encode()))
        ]
        path = write_tar([*members, ("x.jpg", b"none"), ("x.txt", b"no image")], tmp_path / "0.tar")
    else:
        path = tmp_path / "0.parquet"
        rows = {"IMAGE": [jpg for _, jpg in pairs], "text": [[c, "more"] for c, _ in pairs]}
        pq.write_table(pa.table(rows), path)
    found = HeldOutRetrieval([path], DATA, TINY)
    assert len(found._images) == len(held_out(pairs)) > 3


def test_nobody_is_judged_by_what_a_list_names(tmp_path):
    write_dataset(list(images(20)), tmp_path / "0.parquet")
    rows = pq.read_table(tmp_path / "0.parquet").to_pylist()
    asked = [row for row in rows if is_held_out(row["jpg"], DATA.seed, DATA.held_out)]
    by_image = (Kind.SHA256, hashlib.sha256(asked[0]["jpg"]).hexdigest())
    listed = OptOuts.of([by_image, (Kind.PAIR_ID, asked[1]["pair_id"])])
    found = HeldOutRetrieval([tmp_path / "0.parquet"], DATA, TINY, [listed])
    assert len(found._images) == len(asked) - 2


def test_a_shard_in_a_bucket_is_fetched_and_does_not_stay(store):
    with store.reached():
        copy = open_copy(f"{store.new_bucket()}/run")
        path = copy.root / "dataset" / "0.parquet"
        with copy.owned():
            write_dataset(list(images(20)), path)
            copy.publish(path)
            path.unlink()
        assert len(HeldOutRetrieval([path], DATA, TINY)._images) > 3
        assert not path.exists()


def test_nothing_held_out_is_refused(tmp_path):
    write_dataset(list(images(4)), tmp_path / "0.parquet")
    with pytest.raises(NeedsMendingError, match=r"raise model\.held_out"):
        HeldOutRetrieval([tmp_path / "0.parquet"], replace(DATA, held_out=0.0), TINY)


def test_a_model_is_judged_as_it_will_be_used_and_trained_on(tmp_path):
    """Without what is done in training alone, such as leaving patches out."""
    write_dataset(list(images(20)), tmp_path / "0.parquet")
    modes = []

    class Noted(Contrastive):
        def forward(self, images, tokens, *, known=()):
            modes.append((self.training, self.model.visual.training, torch.is_grad_enabled()))
            return super().forward(images, tokens, known=known)

    alone = Workers(torch.device("cpu"))
    objective = Noted(CLIP(TINY)).train()
    found = HeldOutRetrieval([tmp_path / "0.parquet"], DATA, TINY)
    recall = found.recall(alone.wrap(objective), alone)
    assert recall.keys() == {"image_to_text@1", "text_to_image@1"}
    assert set(modes) == {(False, False, False)}
    assert all(module.training for module in objective.modules())


def test_levels_are_those_of_the_images(tmp_path):
    write_dataset([("red", jpeg((255, 0, 0)))], tmp_path / "0.parquet")
    found = HeldOutRetrieval([tmp_path / "0.parquet"], replace(DATA, held_out=1.0), TINY)
    assert found._images.shape == (1, 3, 32, 32)
    assert (found._images[0, 0] > 250).all()
    assert found._images.dtype == torch.uint8
