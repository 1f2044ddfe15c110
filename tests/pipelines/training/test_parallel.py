"""One, two and four workers: the loss and gradients of one process, and the same training."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch.multiprocessing.spawn import spawn

from pipelines.training import parallel
from pipelines.training.parallel import Workers
from tests.pipelines.training.workers_at_work import (
    CASES,
    LOCKED,
    Training,
    reference,
    work,
)

WORLDS = (1, 2, 4)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def start() -> dict[str, Any]:
    """The state of one worker's training after three steps."""
    return Training(Workers(CPU), "ddp", torch.float64, seed=0).run(0, 3).state()


@pytest.fixture(scope="module")
def results(tmp_path_factory, start) -> dict[int, list[dict[str, Any]]]:
    """By the number of workers, what each of them has."""
    folder = tmp_path_factory.mktemp("workers")
    torch.save(start, folder / "start.pt")
    for size in WORLDS:
        spawn(work, (size, folder), nprocs=size)
    return {
        size: [torch.load(folder / f"{size}-{rank}.pt", weights_only=False) for rank in range(size)]
        for size in WORLDS
    }


def largest_error(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """Of any weight, relative to the largest number in its gradient.

    A bias of all keys has none: it moves all of a softmax's logits, and what is there is rounding.
    """
    assert found.keys() == expected.keys()
    return max(
        ((found[name] - expected[name]).abs().max() / expected[name].abs().max().clamp_min(1e-9))
        for name in expected
    ).item()


@pytest.mark.parametrize("size", WORLDS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients_are_those_of_one_process(results, case, size):
    loss, gradients = reference(case, size)
    for of_worker in results[size]:
        found_loss, found = of_worker["gradients"][case]
        assert found_loss.item() == pytest.approx(loss.item(), rel=1e-12)
        assert largest_error(found, gradients) < 1e-6


def assert_same(found, expected, tolerance: float) -> None:
    torch.testing.assert_close(
        (found["objective"], found["optimizer"]["state"]),
        (expected["objective"], expected["optimizer"]["state"]),
        rtol=tolerance,
        atol=tolerance,
    )


@pytest.mark.parametrize("size", WORLDS)
def test_a_resumed_training_is_the_unbroken_one_to_the_bit(results, size):
    trainings = results[size][0]["trainings"]
    assert trainings["unbroken"]["objective"]
    assert_same(trainings["resumed"], trainings["unbroken"], tolerance=0)


@pytest.mark.parametrize("size", WORLDS)
def test_a_locked_part_is_kept_and_comes_back_and_the_rest_goes_on(results, size):
    states = results[size][0]["trainings"]["locked"]
    assert_same(states["resumed"], states["unbroken"], tolerance=0)
    begun, ended = (states[name]["objective"] for name in ("begun", "unbroken"))
    same = {name for name, weight in begun.items() if torch.equal(weight, ended[name])}
    assert same == {name for name in begun if re.fullmatch(LOCKED["image_trunk"], name)}
    assert not same & states["unbroken"]["optimizer"]["state"].keys()


@pytest.mark.parametrize("size", WORLDS)
def test_a_state_is_the_same_whoever_holds_it(results, start, size):
    assert_same(results[size][0]["trainings"]["from one, as loaded"], start, tolerance=0)


@pytest.mark.parametrize("size", WORLDS)
@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
def test_a_training_goes_on_with_another_number_of_workers(results, start, size, sharding):
    alone = Training(Workers(CPU), "ddp", torch.float64, seed=1).load(start).run(3, 6).state()
    assert_same(results[size][0]["trainings"]["from one"][sharding], alone, tolerance=1e-9)


@pytest.mark.parametrize("size", WORLDS)
def test_parts_of_several_sizes_are_gathered(results, size):
    ranks = [float(rank) for rank in range(size) for _ in range(rank)]
    everybody = size * (size + 1) / 2
    gradients = torch.cat([one["gathered"]["gradient"] for one in results[size]])
    expected = torch.arange(len(ranks), dtype=torch.float32) * everybody
    assert torch.equal(gradients, expected[:, None].expand(-1, 2))
    for one in results[size]:
        assert one["gathered"]["rows"].tolist() == [[rank, rank] for rank in ranks]
        assert one["broadcast"] == {"from": 0}


@pytest.mark.parametrize("computes", [True, False])
def test_a_precision_is_what_was_asked_for_or_what_the_processor_computes_in(monkeypatch, computes):
    monkeypatch.setattr(parallel, "computes_bfloat16", lambda _device: computes)
    assert Workers(CPU).agreed_precision("auto") == ("bf16" if computes else "fp32")
    for wanted in ("bf16", "fp32"):
        assert Workers(CPU).agreed_precision(wanted) == wanted


def test_there_are_as_many_sizes_as_workers():
    with pytest.raises(ValueError, match="2 sizes of parts for 1 workers"):
        Workers(CPU).parts((3, 4))
