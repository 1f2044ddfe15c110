"""A training as a job: what it leaves, what it is begun again for, alone and by several workers."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch.multiprocessing.spawn import ProcessExitedException, spawn

import clip_model
from pipelines.stages.model import remove_trainings
from pipelines.training import CHECKPOINT, loop
from pipelines.training import job as jobs
from pipelines.training.checkpoints import Checkpoints
from pipelines.training.job import MOST_BEGINNINGS, TrainingJob
from pipelines.training.loop import DivergedError, Unnoticed
from pipelines.training.parallel import Workers
from tests.pipelines.training.test_training import KilledAt, KilledError, settings
from tests.shards import images, write_dataset
from workers.base.copies import open_copy
from workers.base.failures import NeedsMendingError
from workers.base.storage import file_hash

ROOT = Path(__file__).parents[3]
ALONE = Workers(torch.device("cpu"))


def say(_note, _share):
    pass


@pytest.fixture
def job(tmp_path):
    write_dataset(list(images(60)), tmp_path / "00000.parquet")
    return TrainingJob(
        (tmp_path / "00000.parquet",), settings(tmp_path, epochs=1), 0, tmp_path / "training"
    )


def test_it_leaves_the_model_the_metrics_and_the_tally(job, tmp_path):
    job.work(ALONE, say, Unnoticed())
    tally = job.collect(tmp_path / "out")
    assert (tally.rows_in, tally.kept + tally.rejected["held_out"]) == (60, 60)
    clip_model.load(str(tmp_path / "out" / CHECKPOINT))
    lines = (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, len(lines) + 1))


def test_what_no_further_attempt_changes_is_not_begun_again_until_it_is_asked_for(
    job, tmp_path, monkeypatch
):
    begun = []

    def diverging(*_arguments):
        begun.append(1)
        raise DivergedError("the loss is nan in step 3; lower model.optimizer.learning_rate")

    monkeypatch.setattr(jobs, "train", diverging)
    for _ in range(2):
        job.work(ALONE, say, Unnoticed())
        with pytest.raises(NeedsMendingError, match=r"^the loss is nan .* lower model"):
            job.collect(tmp_path / "out")
    assert begun == [1]
    assert not (tmp_path / "out" / CHECKPOINT).exists()
    job.renew()
    job.work(ALONE, say, Unnoticed())
    assert begun == [1, 1]


def test_of_several_workers_one_that_refuses_ends_the_others_too(job, monkeypatch):
    """They wait for it in a collective."""

    def diverging(*_arguments):
        raise DivergedError("the loss is nan")

    monkeypatch.setattr(jobs, "train", diverging)
    with pytest.raises(DivergedError):
        job.work(Workers(torch.device("cpu"), rank=1, size=2), say, Unnoticed())
    with pytest.raises(NeedsMendingError, match="the loss is nan"):
        job.collect(job.folder)


def test_whoever_is_lost_at_one_step_again_and_again_is_not_begun_for_ever(
    job, tmp_path, monkeypatch
):
    def lost(*_arguments):
        raise OSError("the machine is gone")

    monkeypatch.setattr(jobs, "train", lost)
    for _ in range(MOST_BEGINNINGS):
        with pytest.raises(OSError, match="gone"):
            job.work(ALONE, say, Unnoticed())
    job.work(ALONE, say, Unnoticed())
    with pytest.raises(NeedsMendingError, match=r"lost 3 times after step 0.*model\.chunk"):
        job.collect(tmp_path / "out")


def test_whoever_gets_further_each_time_may_be_lost_any_number_of_times(job, monkeypatch):
    def one_more_step(_shards, _settings, _seed, folder, *_more):
        checkpoints = Checkpoints(folder)
        done = max((entry.step for entry in checkpoints.entries()), default=0)
        checkpoints.save({"step": done + 1})
        raise OSError("the machine is gone")

    monkeypatch.setattr(jobs, "train", one_more_step)
    for _ in range(3 * MOST_BEGINNINGS):
        with pytest.raises(OSError, match="gone"):
            job.work(ALONE, say, Unnoticed())


class DiesAt(Unnoticed):
    """Ends its process when it is asked for the so manieth time."""

    def __init__(self, times):
        self.left = times

    def given(self):
        self.left -= 1
        if self.left < 0:
            os._exit(9)
        return False


def _as_one_of(rank, size, job, dies_at=None):
    loop.SAY_EVERY = 0.0  # asks after each step
    method = f"file://{job.folder}/store-{dies_at}"
    dist.init_process_group("gloo", init_method=method, rank=rank, world_size=size)
    notice = Unnoticed() if dies_at is None else DiesAt(dies_at)
    job.work(Workers.of_group(torch.device("cpu")), say, notice)
    dist.destroy_process_group()


def test_several_workers_train_as_one_does(tmp_path):
    """By 1, 2 and 4: the same losses and scores, which are those of the average."""
    write_dataset(list(images(60)), tmp_path / "00000.parquet")
    values = {"epochs": 7, "batch_size": 12, "evaluate_every": 7, "optimizer": {"average": 0.9}}
    config = settings(tmp_path, **values)
    lines = {}
    for size in (1, 2, 4):
        job = TrainingJob((tmp_path / "00000.parquet",), config, 0, tmp_path / str(size))
        job.folder.mkdir()
        spawn(_as_one_of, (size, job), nprocs=size)
        job.collect(tmp_path / f"out-{size}")
        text = (tmp_path / f"out-{size}" / "metrics.jsonl").read_text()
        lines[size] = [json.loads(line) for line in text.splitlines()]
    assert len([line for line in lines[1] if "loss" in line]) >= 20
    for size in (2, 4):
        for one, other in zip(lines[1], lines[size], strict=True):
            assert one.keys() == other.keys()
            assert list(one.values()) == pytest.approx(list(other.values()), abs=1e-4)


def test_several_workers_that_were_killed_end_as_if_nothing_had_happened(tmp_path):
    """Two go on to the bit; one, where two were, to the rounding of sums."""
    write_dataset(list(images(60)), tmp_path / "00000.parquet")
    config = settings(tmp_path, epochs=2, checkpoints={"every_steps": 2})
    weights = {}
    for name, dies_at, then in (("whole", None, 2), ("two", 3, 2), ("one", 3, 1)):
        job = TrainingJob((tmp_path / "00000.parquet",), config, 0, tmp_path / name)
        job.folder.mkdir()
        if dies_at:
            with pytest.raises(ProcessExitedException):
                spawn(_as_one_of, (2, job, dies_at), nprocs=2)
            assert [entry.step for entry in Checkpoints(job.folder).entries()] == [2]
        spawn(_as_one_of, (then, job), nprocs=then)
        job.collect(tmp_path / f"out-{name}")
        weights[name] = load_file(tmp_path / f"out-{name}" / CHECKPOINT)
    for name, weight in weights["whole"].items():
        assert torch.equal(weights["two"][name], weight), name
        torch.testing.assert_close(weights["one"][name], weight, atol=1e-4, rtol=1e-3)


def test_in_a_bucket_another_machine_goes_on_with_it(store, tmp_path, monkeypatch):
    """It has nothing of it here, and leaves the result there."""
    monkeypatch.setattr(loop, "SAY_EVERY", 0.0)
    write_dataset(list(images(60)), tmp_path / "0.parquet")
    config = settings(tmp_path, epochs=1, batch_size=8, checkpoints={"every_steps": 2})
    here = TrainingJob((tmp_path / "0.parquet",), config, 0, tmp_path / "training")
    here.work(ALONE, say, Unnoticed())
    here.collect(tmp_path / "here")
    with store.reached():
        copy = open_copy(f"{store.new_bucket()}/run")
        shard = copy.root / "dataset" / "0.parquet"
        with copy.owned():
            write_dataset(list(images(60)), shard)
            copy.publish(shard)
            sums = (file_hash(shard),)
            job = TrainingJob((shard,), config, 0, copy.root / "_training/model/1", sums)
            for dies_at in (3, None):
                shutil.rmtree(copy.root)
                copy.root.mkdir()
                if dies_at:
                    with pytest.raises(KilledError):
                        job.work(ALONE, say, KilledAt(dies_at))
                    assert "_training/model/1/step-000000002.pt" in copy.bucket.list()
                else:
                    job.work(ALONE, say, Unnoticed())
            shutil.rmtree(copy.root)
            job.collect(tmp_path / "there")
            copy.sizes.clear()  # as a process has it that has written none of them
            remove_trainings(copy.root / "1")
            assert [n for n in copy.bucket.list() if n.startswith("_training")]
            remove_trainings(copy.root / "model")
            assert not [n for n in copy.bucket.list() if n.startswith("_training")]
    for name in (CHECKPOINT, "metrics.jsonl"):
        assert (tmp_path / "there" / name).read_bytes() == (tmp_path / "here" / name).read_bytes()
