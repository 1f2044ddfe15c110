"""BatchNorm over the rows of all workers: a ResNet is trained as by one process with the batch."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from clip_model.loss import full_precision

#: Of [N, C, H, W], all but the channels.
_ROWS = (0, 2, 3)


def join_batch_norms(module: nn.Module, device: torch.device) -> None:
    """Let a module's BatchNorms take their statistics over all workers; names stay as they are.

    On GPUs they are torch.nn.SyncBatchNorm, which refuses a CPU.
    """
    if device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(module)
        return
    for one in module.modules():
        if type(one) is nn.BatchNorm2d:
            one.__class__ = WholeBatchNorm


class WholeBatchNorm(nn.BatchNorm2d):
    """Of a batch of which each process of the default group has a part, not always of one size."""

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        inputs = x, self.weight, self.bias, self.eps
        y, mean, variance = cast(
            tuple[Tensor, Tensor, Tensor],
            _Normalise.apply(*inputs),  # type: ignore[no-untyped-call]
        )
        if self.num_batches_tracked is not None:  # it rests otherwise, and so does momentum
            self.num_batches_tracked.add_(1)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        self.running_var.lerp_(variance.to(self.running_var.dtype), self.momentum)
        return y


class _Normalise(torch.autograd.Function):
    """Gives the mean and the unbiased variance of the whole batch, [C] each, beside the result."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        values = full_precision(x)
        count, mean, squares = _of_all(values)
        scale = (squares / count + eps).rsqrt()  # C
        ctx.save_for_backward(x, weight, mean, scale)
        ctx.count = count
        y = (values - _wide(mean)) * _wide(scale * weight) + _wide(bias)
        variance = squares / max(count - 1, 1)
        ctx.mark_non_differentiable(mean, variance)
        return y.to(x.dtype), mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, scale = ctx.saved_tensors
        by_y = full_precision(gradient)
        unit = (full_precision(x) - _wide(mean)) * _wide(scale)  # NCHW
        sums = torch.stack([by_y.sum(_ROWS), (by_y * unit).sum(_ROWS)])  # 2C
        by_bias, by_weight = sums.clone()  # of this worker's rows: DDP and FSDP add them up
        dist.all_reduce(sums)
        along, turn = sums / ctx.count
        by_x = (by_y - _wide(along) - unit * _wide(turn)) * _wide(scale * weight)
        return by_x.to(x.dtype), by_weight.to(weight.dtype), by_bias.to(weight.dtype), None


def _of_all(values: Tensor) -> tuple[int, Tensor, Tensor]:
    """Values a channel, their mean and the sum of squares about it, of all workers together.

    From each worker's own, so that nothing is the small difference of large sums.
    """
    count = values.numel() // values.shape[1]
    mean = values.sum(_ROWS) / max(count, 1)
    squares = (values - _wide(mean)).square().sum(_ROWS)
    mine = torch.cat([mean, squares, mean.new_tensor([count])])  # 2C + 1
    every = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(every, mine)
    means, all_squares, counts = torch.stack(every).tensor_split([len(mean), 2 * len(mean)], dim=1)
    total = counts.sum()
    mean = (means * counts).sum(dim=0) / total
    squares = (all_squares + counts * (means - mean).square()).sum(dim=0)
    return int(total), mean, squares


def _wide(values: Tensor) -> Tensor:
    """[C] -> [C, 1, 1]"""
    return values[:, None, None]
