"""Checkpoints: whole or not there, the last ones and the best kept."""

from __future__ import annotations

import logging

import pytest
import torch

from pipelines.training.checkpoints import LIST, Checkpoints
from workers.base import storage
from workers.base.copies import open_copy


def state(step):
    return {"step": step, "weights": torch.full((4,), float(step))}


def steps(checkpoints):
    return [entry.step for entry in checkpoints.entries()]


def latest_of(folder):
    latest = Checkpoints(folder).latest()
    assert latest is not None
    return latest


def test_nothing_is_there_at_first(tmp_path):
    checkpoints = Checkpoints(tmp_path / "none")
    assert (checkpoints.latest(), checkpoints.entries()) == (None, [])


def test_the_newest_comes_back_as_it_was(tmp_path):
    for step in (10, 20):
        Checkpoints(tmp_path).save(state(step))
    latest = latest_of(tmp_path)
    assert latest["step"] == 20
    assert torch.equal(latest["weights"], state(20)["weights"])


def test_the_last_and_the_best_are_kept_and_no_file_beside_them(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step, score in ((10, 0.1), (20, 0.5), (30, 0.3), (40, None), (50, 0.5), (60, 0.2)):
        checkpoints.save(state(step), score)
        if step == 40:
            assert steps(checkpoints) == [20, 30, 40]
    assert steps(checkpoints) == [50, 60], "of two that are alike the newer is the better"
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {LIST, "step-000000050.pt", "step-000000060.pt"}


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: b"x" + data[1:], None])
def test_a_damaged_one_is_passed_over_and_said(tmp_path, damage, caplog):
    checkpoints = Checkpoints(tmp_path)
    for step in (10, 20):
        checkpoints.save(state(step))
    newest = tmp_path / "step-000000020.pt"
    if damage:
        newest.write_bytes(damage(newest.read_bytes()))
    else:
        newest.unlink()
    with caplog.at_level(logging.WARNING):
        assert latest_of(tmp_path)["step"] == 10
    assert "step-000000020.pt is damaged" in caplog.text


@pytest.mark.parametrize("content", [b"", b"{", b'{"entries": [{"step": 1}]}'])
def test_a_damaged_list_is_none_and_said(tmp_path, content, caplog):
    Checkpoints(tmp_path).save(state(10))
    (tmp_path / LIST).write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert Checkpoints(tmp_path).latest() is None
    assert "begins anew" in caplog.text


def test_a_step_that_is_done_again_takes_the_place_of_what_is_later(tmp_path):
    """After a damaged one the training goes on from an earlier step, and comes by again."""
    checkpoints = Checkpoints(tmp_path, keep=3)
    for step in (10, 20, 30):
        checkpoints.save(state(step))
    checkpoints.save(state(20))
    assert steps(checkpoints) == [10, 20]
    assert not (tmp_path / "step-000000030.pt").exists()


def test_whoever_is_killed_between_two_writes_leaves_a_whole_one(tmp_path, monkeypatch):
    """Cut off at each rename in turn: what the list names can be read."""

    class CutOffError(Exception):
        pass

    Checkpoints(tmp_path, keep=1).save(state(10))
    for renames in range(3):
        left = renames
        sync = storage.sync

        def counted(path, sync=sync):
            nonlocal left
            if left == 0:
                raise CutOffError
            left -= 1
            sync(path)

        monkeypatch.setattr(storage, "sync", counted)
        with pytest.raises(CutOffError):
            Checkpoints(tmp_path, keep=1).save(state(20))
        monkeypatch.undo()
        assert latest_of(tmp_path)["step"] == 10


def test_in_a_bucket_they_are_objects_and_no_disk_fills_with_them(store):
    with store.reached():
        here = open_copy(f"{store.new_bucket()}/run")
        with here.owned():
            checkpoints = Checkpoints(here.root / "training", keep=1)
            for step in (10, 20):
                checkpoints.save(state(step))
        names = {name for name in here.bucket.list() if name.startswith("training/")}
        assert names == {f"training/{LIST}", "training/step-000000020.pt"}
        assert [path.name for path in (here.root / "training").iterdir()] == [LIST]
        assert latest_of(here.root / "training")["step"] == 20
        assert [path.name for path in (here.root / "training").iterdir()] == [LIST]
