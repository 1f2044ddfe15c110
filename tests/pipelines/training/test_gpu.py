"""Training on a GPU: resumed to the bit, in two passes, compiled, by torchrun and NCCL."""

import json
import os
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
import torch

from clip_model import CLIP
from clip_model.objectives import Contrastive
from pipelines.training import CHECKPOINT, loop
from pipelines.training.accumulation import backward
from pipelines.training.data import Batch, sent_ahead
from pipelines.training.loop import train
from pipelines.training.parallel import Workers
from tests.pipelines.training.test_training import KilledAt, KilledError, losses, settings
from tests.pipelines.training.workers_at_work import CONFIG, ROWS, batch
from tests.processors import needs_gpu
from tests.shards import images, write_dataset

pytestmark = needs_gpu

ROOT = Path(__file__).parents[3]
HERE, CPU = torch.device("cuda"), torch.device("cpu")


@pytest.fixture
def shards(tmp_path):
    pairs = list(images(60))
    write_dataset(pairs[:40], tmp_path / "00000.parquet")
    write_dataset(pairs[40:], tmp_path / "00001.parquet")
    return [tmp_path / "00000.parquet", tmp_path / "00001.parquet"]


def run(shards, settings, folder, device=HERE, **more):
    trained = train(shards, settings, 0, folder, Workers(device), **more)
    assert trained is not None
    return trained


def test_the_losses_are_those_of_the_cpu(shards, tmp_path):
    config = settings(tmp_path, evaluate_every=4)
    ours, theirs = (run(shards, config, tmp_path / str(one), one) for one in (HERE, CPU))
    assert losses(ours) == pytest.approx(losses(theirs), abs=1e-3)
    assert ours.pairs.counts() == theirs.pairs.counts()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_compiled_it_learns_the_same(shards, tmp_path, precision):
    config = settings(tmp_path, precision=precision, evaluate_every=4)
    compiled = config.model_copy(update={"compile": True})
    eager, other = (run(shards, one, tmp_path / str(one.compile)) for one in (config, compiled))
    assert losses(other) == pytest.approx(losses(eager), abs=2e-2 if precision == "bf16" else 1e-3)


@pytest.mark.parametrize("more", [{}, {"optimizer": {"name": "muon", "average": 0.9}}], ids=str)
def test_killed_at_random_moments_it_ends_as_if_nothing_had_happened(
    shards, tmp_path, monkeypatch, more
):
    monkeypatch.setattr(loop, "SAY_EVERY", 0.0)
    values = {"batch_size": 4, "epochs": 1, "checkpoints": {"every_steps": 1}}
    config = settings(tmp_path, precision="bf16", patch_dropout=0.5, chunk=2, **values, **more)
    whole = run(shards, config, tmp_path / "whole")
    random = Random(1)
    kills = 0
    while True:
        try:
            broken = run(shards, config, tmp_path / "t", notice=KilledAt(random.randrange(3)))
            break
        except KilledError:
            kills += 1
    assert kills >= 3
    assert broken.metrics == whole.metrics
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(broken.model.state_dict()[name], weight), name


def test_two_passes_are_as_good_as_one():
    """Patch dropout is drawn on the GPU, and drawn again the second time."""
    found = []
    for chunk in (None, 4):
        torch.manual_seed(0)
        model = CLIP(CONFIG)
        model.set_patch_dropout(0.5)
        objective = Contrastive(model).double().to(HERE).train()
        inputs = [one.to(HERE) for one in batch()]
        workers = Workers(HERE)
        torch.manual_seed(1)
        if chunk is None:  # the same draws, a chunk after the other, with every graph kept
            pieces = [objective(*some) for some in zip(*(x.split(4) for x in inputs), strict=True)]
            every = tuple(torch.cat(kind) for kind in zip(*pieces, strict=True))
            loss = objective.loss(every, workers.parts((ROWS,)))
            loss.backward()
        else:
            loss = backward(workers.wrap(objective), inputs, workers.parts((ROWS,)), chunk)
        gradients = {n: p.grad for n, p in objective.named_parameters() if p.grad is not None}
        found.append(gradients | {"loss": loss.detach(), "next": torch.rand(3, device=HERE)})
    one, other = found
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=1e-9, atol=1e-12, msg=name)


def test_images_are_sent_before_their_turn_and_none_is_lost():
    asked = []

    def batches():
        for number in range(5):
            asked.append(number)
            pixels = torch.full((64, 3, 224, 224), number, dtype=torch.uint8, pin_memory=True)
            yield Batch([str(number)], pixels, torch.zeros(1, 1), 0, (1,))

    for number, sent in enumerate(sent_ahead(batches(), HERE)):
        assert asked[-1] == min(number + 1, 4)
        assert sent.images.is_cuda
        assert bool((sent.images == number).all())
        assert sent.ids == [str(number)]
    assert number == 4


@pytest.mark.parametrize("parallelism", ["ddp", "fsdp"])
def test_torchrun_trains_by_nccl_as_one_process_does(shards, tmp_path, parallelism):
    config = settings(tmp_path, evaluate_every=4, parallelism=parallelism)
    here = run(shards, config, tmp_path / "here")
    given = config.model_dump(mode="json") | {"start_from": str(config.start_from)}
    (tmp_path / "model.yaml").write_text(json.dumps(given))
    out = tmp_path / "out"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "1"]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    command += ["-m", "pipelines.training", *map(str, shards), "--out", str(out)]
    command += ["--config", str(tmp_path / "model.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert (out / CHECKPOINT).is_file()
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    found = [line["loss"] for line in lines if "loss" in line]
    assert found == pytest.approx(losses(here), abs=1e-4)
