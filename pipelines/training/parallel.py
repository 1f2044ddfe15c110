"""The processes of a training: how they share a batch, its loss, gradients and weights.

`Workers` is one process's view of all of them. Alone, without torch.distributed, everything here
is a no-op, so that the loop is the same for one and for many. Gradients end as the sum over the
workers, since their shares of the loss sum to the loss.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel

from clip_model.flops import peak_flops
from clip_model.loss import OnePart, Parts
from clip_model.model import BLOCKS
from clip_model.objectives import Objective
from pipelines.training.batch_norm import join_batch_norms
from workers.base.hardware import computes_bfloat16

Sharding = Literal["ddp", "fsdp"]
Value = TypeVar("Value")


@dataclass(frozen=True)
class Workers:
    """All processes, seen from one of them.

    Args:
        device: that this process computes on.
        rank: which of them this is.
        size: how many there are; with more than one, torch.distributed has been initialised.
    """

    device: torch.device
    rank: int = 0
    size: int = 1

    @staticmethod
    def of_group(device: torch.device) -> Workers:
        """Those of torch.distributed's default group; one alone, if it is not initialised."""
        if not dist.is_initialized():
            return Workers(device)
        return Workers(device, dist.get_rank(), dist.get_world_size())

    def parts(self, sizes: Sequence[int]) -> Parts:
        """A batch of which each worker has so many rows, in the order of their ranks.

        Raises:
            ValueError: there are not as many sizes as workers.
        """
        if len(sizes) != self.size:
            raise ValueError(f"{len(sizes)} sizes of parts for {self.size} workers")
        return OnePart(sizes[0]) if self.size == 1 else GroupParts(tuple(sizes), self.rank)

    def wrap(
        self,
        objective: Objective,
        sharding: Sharding = "ddp",
        autocast: torch.dtype | None = None,
    ) -> Parallel:
        """Start from the first worker's weights, and add up gradients from now on.

        Args:
            sharding: every worker holds all weights (DDP), or a share of each (FSDP2).
            autocast: the type to compute features in.
        """
        if self.size == 1:
            return Parallel(objective, self, objective, autocast)
        join_batch_norms(objective, self.device)
        if sharding == "ddp":
            return Parallel(objective, self, _replicated(objective, self.device), autocast)
        return Parallel(objective, self, _sharded(objective, self), autocast)

    def sum(self, values: Tensor) -> Tensor:
        """Over all workers, element by element."""
        if self.size > 1:
            values = values.detach().clone()
            dist.all_reduce(values)
        return values

    def broadcast(self, value: Any) -> Any:
        """The first worker's, which can be pickled."""
        box = [value]
        if self.size > 1:
            dist.broadcast_object_list(box, src=0, device=self.device)
        return box[0]

    def copy_first(self, values: Iterable[Tensor]) -> None:
        """Write the first worker's values over those of the others."""
        if self.size > 1:
            for value in values:
                dist.broadcast(value.detach(), src=0)

    def barrier(self) -> None:
        """Wait until all have come here."""
        if self.size > 1:
            dist.barrier()

    def any(self, flag: bool) -> bool:
        """Whether it is so on any worker."""
        return bool(self.sum(torch.tensor(float(flag), device=self.device)))

    def gather(self, values: Sequence[Value]) -> list[Value]:
        """All workers' together, in the order of their ranks; what can be pickled."""
        if self.size == 1:
            return list(values)
        every: list[list[Value]] = [[] for _ in range(self.size)]
        dist.all_gather_object(every, list(values))
        return [value for some in every for value in some]

    def agreed_precision(self, wanted: str) -> str:
        """fp32 or bf16; of auto, what all workers compute in without emulating it."""
        if wanted != "auto":
            return wanted
        return "fp32" if self.any(not computes_bfloat16(self.device)) else "bf16"

    def peak_flops(self) -> float | None:
        """FLOP/s of all workers' GPUs together; None on CPUs, or where it is not known."""
        if self.device.type != "cuda":
            return None
        peak = peak_flops(torch.cuda.get_device_name(self.device))
        return peak and peak * self.size


@dataclass(frozen=True)
class GroupParts:
    """A batch of which each process of the default group has a part, not always of one size."""

    sizes: tuple[int, ...]
    rank: int

    @property
    def first(self) -> int:
        return sum(self.sizes[: self.rank])

    @property
    def total(self) -> int:
        return sum(self.sizes)

    @property
    def largest(self) -> int:
        return max(self.sizes)

    def gather(self, rows: Tensor) -> Tensor:
        return cast(Tensor, _Gather.apply(rows, self))  # type: ignore[no-untyped-call]

    def logsumexp(self, partial: Tensor) -> Tensor:
        every = [torch.empty_like(partial) for _ in self.sizes]  # W times N
        dist.all_gather(every, partial)
        return torch.stack(every).logsumexp(dim=0)


class _Gather(torch.autograd.Function):
    """Collectives take parts of one size, so smaller ones are padded and cut again."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, parts: GroupParts) -> Tensor:
        ctx.parts = parts
        padded = [rows.new_zeros(parts.largest, *rows.shape[1:]) for _ in parts.sizes]
        mine = torch.zeros_like(padded[0])
        mine[: len(rows)] = rows
        dist.all_gather(padded, mine)
        return torch.cat([part[:size] for part, size in zip(padded, parts.sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        parts: GroupParts = ctx.parts
        shape = parts.largest, *gradient.shape[1:]
        padded = [gradient.new_zeros(shape) for _ in parts.sizes]
        for part, values in zip(padded, gradient.split(parts.sizes), strict=True):
            part[: len(values)] = values
        mine = gradient.new_empty(shape)
        dist.reduce_scatter(mine, padded)
        return mine[: parts.sizes[parts.rank]], None


@dataclass(frozen=True)
class Parallel:
    """An objective whose gradients meet those of the other workers.

    Calling it gives the features of this worker's examples.
    """

    objective: Objective
    workers: Workers
    module: nn.Module  # the objective, or what DDP or FSDP2 made of it
    autocast: torch.dtype | None = None

    def __call__(self, *inputs: Tensor, **known: Sequence[Tensor]) -> tuple[Tensor, ...]:
        kind = self.workers.device.type
        with torch.autocast(kind, self.autocast, enabled=self.autocast is not None):
            return self.module(*inputs, **known)

    @contextmanager
    def gradients_meet(self, now: bool) -> Iterator[None]:
        """Whether a backward pass within sums up with the other workers, or a later one will."""
        if isinstance(self.module, FSDPModule):
            self.module.set_requires_gradient_sync(now)
        is_ddp = isinstance(self.module, DistributedDataParallel)
        with self.module.no_sync() if is_ddp and not now else nullcontext():  # type: ignore[operator]
            yield

    def sum_shared(self) -> None:
        """Add up the gradients of what the loss uses beside features, which nobody else does."""
        for parameter in self.objective.shared():
            if parameter.grad is not None:
                parameter.grad = self.workers.sum(parameter.grad)

    def state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Whole weights and the optimizer's state by the weights' names, on the CPU.

        All workers must ask at once; the first gets it, the others an empty one. It does not
        depend on their number, nor on how they share the weights. Its tensors may be those that
        are trained: save it before the next step.
        """
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        weights, state = get_state_dict(self.module, optimizer, options=options)
        return {"objective": weights, "optimizer": state}

    def load_state(self, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        """Take back what `state` gave; only the first worker's counts."""
        several = self.workers.size > 1
        options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=several)
        state = _copied(state)  # dictionaries are written over, tensors kept and trained
        # Not set_state_dict, which takes an empty state for a wish to load no weights, and hangs.
        set_model_state_dict(self.module, state.get("objective", {}), options=options)
        optimizer_state = state.get("optimizer", {})
        set_optimizer_state_dict(self.module, optimizer, optimizer_state, options=options)
        for parameter, kept in optimizer.state.items():
            for name, value in kept.items():
                if value.shape == parameter.shape and value.stride() != parameter.stride():
                    # AdamW's kernel for GPUs wants them as their weight lies in memory.
                    kept[name] = torch.empty_like(parameter).copy_(value)


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _copied(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_copied(one) for one in value]
    if not isinstance(value, Tensor):
        return value
    # It is sent as it lies in memory, to where rows lie one after the other: a convolution's
    # weights with the channels innermost would arrive in another order.
    return value.clone(memory_format=torch.contiguous_format)


def _replicated(objective: Objective, device: torch.device) -> DistributedDataParallel:
    """DDP; on a CPU a step's result does not depend on how many it has done before.

    Usually DDP sorts its buckets anew after the first step. Where a weight lies in a bucket
    decides in which order its gradients are added up, so a resumed training would differ in the
    last bit. `find_unused_parameters` keeps the buckets, at the price of a walk over the graph, and
    of DDP's warning, once, that there are no unused parameters.
    """
    shared = objective.shared()
    # DDP takes the weights that want a gradient when it is made.
    wanted = [parameter.requires_grad for parameter in shared]
    for parameter in shared:
        parameter.requires_grad_(False)
    module = DistributedDataParallel(
        objective,
        device_ids=[device] if device.type == "cuda" else None,
        gradient_as_bucket_view=True,
        find_unused_parameters=device.type == "cpu",
    )
    for parameter, wants in zip(shared, wanted, strict=True):
        parameter.requires_grad_(wants)
    module.register_comm_hook(None, lambda _state, bucket: _sum(bucket))  # by default, a mean
    return module


def _sum(bucket: Any) -> torch.futures.Future[Tensor]:
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    assert work is not None
    return work.get_future().then(lambda future: future.value()[0])


def _sharded(objective: Objective, workers: Workers) -> nn.Module:
    """FSDP2: each block's weights are whole only while they are used."""
    workers.copy_first([*objective.parameters(), *objective.buffers()])
    mesh = init_device_mesh(workers.device.type, (workers.size,))
    modules: list[nn.Module] = [
        module for module in objective.modules() if isinstance(module, BLOCKS)
    ]
    for module in modules:
        fully_shard(module, mesh=mesh)
    scalars = {parameter for parameter in objective.parameters() if not parameter.ndim}
    fully_shard(objective, mesh=mesh, ignored_params=scalars)
    for module in [*modules, objective]:
        assert isinstance(module, FSDPModule)
        module.set_gradient_divide_factor(1.0)  # a sum, no mean
    return objective
