"""What each process of a group does in the tests of several workers; one start does it all."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import FileStore
from torch.distributed.tensor import DTensor

import clip_model.loss
from clip_model import CLIP, ClipConfig
from clip_model.config import ModifiedResNetConfig, TextConfig, VisionTransformerConfig
from clip_model.distillation import Distilled
from clip_model.locking import Locked
from clip_model.loss import OnePart
from clip_model.objectives import OBJECTIVES, Objective
from clip_model.optimisation import adam_constants, make_optimizer
from pipelines.training.accumulation import backward
from pipelines.training.parallel import Parallel, Sharding, Workers

CONFIG = ClipConfig(
    embed_dim=16,
    image_resolution=32,
    vision=VisionTransformerConfig(layers=2, width=64, patch_size=16),
    text=TextConfig(width=32, layers=2, heads=2, context_length=9, vocab_size=101),
)
RESNET = replace(CONFIG, vision=ModifiedResNetConfig(layers=(1, 1, 1, 1), width=8))
ROWS = 12
#: Names of the weights that are locked.
LOCKED = {
    "image": r"model\.visual\..*",
    "image_trunk": r"model\.visual\.(?!proj$|attnpool\.).*",
    "text": r"model\.(?!visual\.|logit_scale$).*",
}
WEIGHT, TEMPERATURE = 0.7, 0.05  # of the distillation
SIZES: dict[int, list[tuple[int, ...]]] = {
    1: [(12,)],
    2: [(6, 6), (4, 8)],
    4: [(3, 3, 3, 3), (1, 4, 2, 5)],
}


@dataclass(frozen=True)
class Case:
    objective: str = "contrastive"
    sharding: Sharding = "ddp"
    chunk: int | None = None
    blocks: bool = False
    equal: bool = True
    resnet: bool = False
    checkpointed: bool = False
    locked: Locked | None = None

    def sizes(self, workers: int) -> tuple[int, ...]:
        """Rows of each worker."""
        return SIZES[workers][0 if self.equal else -1]

    def chunks(self, workers: int) -> list[Tensor]:
        """The rows that are passed through at the same time, by all workers together."""
        sizes = self.sizes(workers)
        count = 1 if self.chunk is None else -(-max(sizes) // self.chunk)
        of_workers = (rows.tensor_split(count) for rows in torch.arange(ROWS).split(sizes))
        return [torch.cat(some) for some in zip(*of_workers, strict=True)]


CASES = [
    Case(),
    Case(blocks=True),
    Case(chunk=2),
    Case(chunk=2, blocks=True, equal=False),
    Case(equal=False),
    Case(sharding="fsdp", chunk=2, equal=False, blocks=True),
    Case(sharding="fsdp"),
    Case("sigmoid", blocks=True, equal=False),
    Case("sigmoid", "fsdp", chunk=3),
    Case("distilled", blocks=True, equal=False),
    Case("distilled", chunk=2, equal=False),
    Case("distilled", "fsdp", chunk=2, blocks=True),
    Case(resnet=True, equal=False, blocks=True),
    Case(sharding="fsdp", resnet=True, equal=False),
    Case("distilled", resnet=True, chunk=4, equal=False, checkpointed=True),
    Case(resnet=True, chunk=2, equal=False, locked="image"),
    Case(resnet=True, chunk=4, equal=False, checkpointed=True, locked="image_trunk"),
    Case(chunk=2, checkpointed=True, locked="text"),
    Case("distilled", "fsdp", chunk=2, locked="image"),
    Case(sharding="fsdp", resnet=True, equal=False, locked="image_trunk"),
    Case("sigmoid", "fsdp", chunk=3, checkpointed=True, locked="text"),
    Case("caption", chunk=2, equal=False),
    Case("caption", "fsdp"),
    Case("bag_of_words", equal=False),
    Case("bag_of_words", "fsdp", chunk=2),
]


def make(
    name: str, dtype: torch.dtype = torch.float64, seed: int = 0, resnet: bool = False
) -> Objective:
    torch.manual_seed(seed)
    model = CLIP(RESNET if resnet else CONFIG)
    for gain, weight in model.named_parameters():
        if gain.endswith("bn3.weight"):  # which start at 0, and let no gradient into the block
            nn.init.ones_(weight)
    made = Distilled(model, WEIGHT, TEMPERATURE) if name == "distilled" else OBJECTIVES[name](model)
    return made.to(dtype).train()


def batch(step: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """The whole batch: images [12, 3, 32, 32], and tokens [12, 9] of several lengths."""
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(ROWS, 3, 32, 32, generator=generator, dtype=dtype)
    tokens = torch.randint(1, 99, (ROWS, 9), generator=generator)
    ends = torch.randint(2, 9, (ROWS, 1), generator=generator)
    places = torch.arange(9)
    tokens = tokens.where(places < ends, 0)
    tokens[:, 0] = 99
    return images, tokens.scatter(1, ends, 100)


def teacher() -> tuple[Tensor, Tensor]:
    """Its embeddings of the whole batch, as they are stored: float16 [12, 5] each."""
    images, texts = torch.randn(2, ROWS, 5, generator=torch.Generator().manual_seed(9))
    return nn.functional.normalize(images).half(), nn.functional.normalize(texts).half()


def own_rows(workers: Workers, sizes: tuple[int, ...], inputs: tuple[Tensor, ...]) -> list[Tensor]:
    first = sum(sizes[: workers.rank])
    return [one[first : first + sizes[workers.rank]] for one in inputs]


def inputs_of(name: str) -> tuple[Tensor, ...]:
    return batch() + (teacher() if name == "distilled" else ())


def whole(value: Tensor) -> Tensor:
    return value.full_tensor() if isinstance(value, DTensor) else value


def learnt(objective: Objective) -> dict[str, Tensor]:
    """The gradient by each weight, and the running statistics, as this worker has them."""
    names = objective.named_parameters()
    gradients = {name: whole(p.grad).clone() for name, p in names if p.grad is not None}
    buffers = objective.named_buffers()
    return gradients | {name: value for name, value in buffers if "running" in name}


def gradients_of(case: Case, workers: Workers) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss, and what has been learnt of it."""
    clip_model.loss.MIN_BLOCK = clip_model.loss.BLOCK_LOGITS = 2 if case.blocks else ROWS**2
    sizes = case.sizes(workers.size)
    objective = make(case.objective, seed=workers.rank, resnet=case.resnet)
    if case.locked:
        objective.model.lock_part(case.locked)
    objective.model.set_grad_checkpointing(case.checkpointed)
    parallel = workers.wrap(objective, case.sharding)
    inputs = own_rows(workers, sizes, inputs_of(case.objective))
    loss = workers.sum(backward(parallel, inputs, workers.parts(sizes), case.chunk))
    return loss, learnt(parallel.objective)


class Training:
    """A few steps, which can be broken off and gone on with."""

    def __init__(
        self,
        workers: Workers,
        sharding: Sharding,
        dtype: torch.dtype,
        seed: int,
        locked: Locked | None = None,
    ) -> None:
        self.workers, self.dtype = workers, dtype
        objective = make("contrastive", dtype, seed)
        if locked:
            objective.model.lock_part(locked)
        self.parallel: Parallel = workers.wrap(objective, sharding)
        constants = adam_constants(CONFIG)
        self.optimizer = make_optimizer(objective, constants, 1e-2, 0.2, "adamw")

    def run(self, first: int, last: int) -> Training:
        sizes = SIZES[self.workers.size][-1]
        for step in range(first, last):
            self.optimizer.zero_grad()
            inputs = own_rows(self.workers, sizes, batch(step, self.dtype))
            backward(self.parallel, inputs, self.workers.parts(sizes), chunk=4)
            self.optimizer.step()
            self.parallel.objective.after_step()
        return self

    def state(self) -> dict[str, Any]:
        return self.parallel.state(self.optimizer)

    def load(self, state: dict[str, Any]) -> Training:
        self.parallel.load_state(self.optimizer, state)
        return self


def trainings(workers: Workers, start: Path) -> dict[str, Any]:
    """States after six steps that should be the same."""

    def training(sharding: Sharding = "ddp", dtype: torch.dtype = torch.float64) -> Training:
        return Training(workers, sharding, dtype, seed=0)

    def locked(seed: int) -> Training:
        return Training(workers, "fsdp", torch.float64, seed, "image_trunk")

    half = training(dtype=torch.float32).run(0, 3).state()
    # Another seed: what is not loaded shows.
    resumed = Training(workers, "ddp", torch.float32, seed=1).load(half).run(3, 6)
    given = torch.load(start) if workers.rank == 0 else {}
    return {
        "unbroken": training(dtype=torch.float32).run(0, 6).state(),
        "resumed": resumed.state(),
        "locked": {
            "begun": locked(0).state(),
            "unbroken": locked(0).run(0, 6).state(),
            "resumed": locked(1).load(locked(0).run(0, 3).state()).run(3, 6).state(),
        },
        "from one, as loaded": training("fsdp").load(given).state(),
        "from one": {
            "ddp": training("ddp").load(given).run(3, 6).state(),
            "fsdp": training("fsdp").load(given).run(3, 6).state(),
        },
    }


def gathered(workers: Workers) -> dict[str, Any]:
    """What each worker has after a gather of parts of several sizes, none among them."""
    sizes = tuple(range(workers.size))
    rows = torch.full((workers.rank, 2), float(workers.rank), requires_grad=True)
    every = workers.parts(sizes).gather(rows)
    weights = torch.arange(len(every), dtype=torch.float32)[:, None] * (1 + workers.rank)
    (every * weights).sum().backward()
    return {"rows": every.detach(), "gradient": rows.grad}


def work(rank: int, size: int, folder: Path) -> None:
    """Everything above in one process of a group; the results are written to the folder."""
    torch.set_num_threads(1)
    if size > 1:
        store = FileStore(str(folder / f"store{size}"), size)
        dist.init_process_group(
            "gloo", store=store, rank=rank, world_size=size, timeout=timedelta(minutes=2)
        )
    workers = Workers.of_group(torch.device("cpu"))
    assert (workers.rank, workers.size) == (rank, size)
    results = {
        "gradients": {case: gradients_of(case, workers) for case in CASES},
        "trainings": trainings(workers, folder / "start.pt"),
        "gathered": gathered(workers),
        "broadcast": workers.broadcast({"from": rank}),
    }
    workers.barrier()
    torch.save(results, folder / f"{size}-{rank}.pt")
    if size > 1:
        dist.destroy_process_group()


def reference(case: Case, workers: int) -> tuple[Tensor, dict[str, Tensor]]:
    """The definition of the loss over the whole batch in one process, and what is learnt of it.

    Args:
        workers: on whose number it depends which rows are in a chunk, and see each other's norms.
    """
    name, objective = case.objective, make(case.objective, resnet=case.resnet)
    if case.locked in ("image", "image_trunk"):  # where BatchNorms are
        objective.model.visual.eval()
    inputs = inputs_of(name)
    chunks = [objective(*(one[rows] for one in inputs)) for rows in case.chunks(workers)]
    features = tuple(torch.cat(kind) for kind in zip(*chunks, strict=True))
    if objective.separable:
        loss = objective.loss(features, OnePart(ROWS))
    else:
        logits = objective.model.logit_scale.exp() * cosines(*features[:2])
        loss = naive_loss(logits, getattr(objective, "logit_bias", None))
    if name == "distilled":
        loss = loss + WEIGHT * naive_distance(logits, cosines(*features[2:]) / TEMPERATURE)
    loss.backward()
    locked = re.compile(LOCKED.get(case.locked or "", "(?!)"))
    found = learnt(objective).items()
    return loss.detach(), {k: v for k, v in found if "running" in k or not locked.fullmatch(k)}


def cosines(images: Tensor, texts: Tensor) -> Tensor:
    images, texts = (nn.functional.normalize(one.double(), dim=-1) for one in (images, texts))
    return images @ texts.t()


def naive_distance(logits: Tensor, teachers: Tensor) -> Tensor:
    rows, columns = (
        (q.log_softmax(dim) - p.log_softmax(dim)).neg() * p.softmax(dim)
        for q, p, dim in ((logits, teachers, 1), (logits, teachers, 0))
    )
    return (rows + columns).sum() / (2 * ROWS)


def naive_loss(logits: Tensor, bias: Tensor | None) -> Tensor:
    if bias is not None:
        belong = 2 * torch.eye(ROWS, dtype=logits.dtype) - 1
        return -nn.functional.logsigmoid(belong * (logits + bias)).sum() / ROWS
    targets = torch.arange(ROWS)
    of_images = nn.functional.cross_entropy(logits, targets)
    return (of_images + nn.functional.cross_entropy(logits.t(), targets)) / 2
