"""How the weights are moved: the paper's groups, AdamW or Muon, schedule, clipping, average.

Section 2.5 and tables 18 to 20 of arXiv 2103.00020. All of it works for any module, a model alone
or an objective with weights of its own, and for weights that FSDP2 has sharded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from clip_model.config import ClipConfig, ModifiedResNetConfig
from clip_model.model import MAX_LOGIT_SCALE
from clip_model.transformer import ResidualAttentionBlock

OptimizerName = Literal["adamw", "muon"]
Groups = list[dict[str, Any]]
TOWER_OF_TIMM = "visual.trunk."


@dataclass(frozen=True)
class AdamConstants:
    """How long Adam remembers gradients and their squares, and what it divides by at least."""

    beta1: float
    beta2: float
    eps: float


RESNET_CONSTANTS = AdamConstants(0.9, 0.999, 1e-8)
VIT_CONSTANTS = AdamConstants(0.9, 0.98, 1e-6)


def adam_constants(
    config: ClipConfig,
    beta1: float | None = None,
    beta2: float | None = None,
    eps: float | None = None,
) -> AdamConstants:
    """The paper's where none is given; they differ by the image tower (its table 18).

    A tower of timm's has those of a ViT, as it is one or, as a ConvNeXt, made in its likeness.
    """
    is_resnet = isinstance(config.vision, ModifiedResNetConfig)
    given = {"beta1": beta1, "beta2": beta2, "eps": eps}
    said = {name: value for name, value in given.items() if value is not None}
    return replace(RESNET_CONSTANTS if is_resnet else VIT_CONSTANTS, **said)


def parameter_groups(model: nn.Module, weight_decay: float) -> Groups:
    """Each weight that is trained, once, in one of three groups: those that decay, and two others.

    The paper decays "all weights that are not gains or biases". Those are the weights of one
    dimension; open_clip takes them for it, too. It so spares the class embedding, as is right: it
    is added to the class token's position, a bias in all but its name. timm's have further
    dimensions of 1: [C, 1, 1] is a gain, and it calls tables of what is added to attention biases.
    Scalars, the temperature among them, do not decay either. They have a group of their own because
    they are never sharded, and Adam's kernels take no sharded weights together with whole ones.

    Returns:
        Groups as every optimizer of torch takes them; one may be empty.
    """
    groups: list[list[nn.Parameter]] = [[], [], []]
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_scalar = parameter.ndim == 0
            groups[2 if is_scalar else 0 if _decays(name, parameter) else 1].append(parameter)
    decays = (weight_decay, 0.0, 0.0)
    return [
        {"params": some, "weight_decay": decay} for some, decay in zip(groups, decays, strict=True)
    ]


def _decays(name: str, parameter: nn.Parameter) -> bool:
    shape = parameter.shape
    dimensions = sum(size > 1 for size in shape) if TOWER_OF_TIMM in name else len(shape)
    return dimensions >= 2 and "bias" not in name.rpartition(".")[2]


def hidden_matrices(model: nn.Module) -> list[nn.Parameter]:
    """The matrices inside transformer blocks, which is where Muon is at home.

    Not the embeddings, the patches' convolution and the projections into the joint space: for what
    is first or last, Muon's author found AdamW better. A ResNet's convolutions are no matrices to
    `torch.optim.Muon`.
    """
    blocks = (module for module in model.modules() if isinstance(module, ResidualAttentionBlock))
    return [p for block in blocks for p in block.parameters() if p.ndim == 2 and p.requires_grad]


def make_optimizer(
    model: nn.Module,
    constants: AdamConstants,
    learning_rate: float,
    weight_decay: float,
    name: OptimizerName = "adamw",
) -> torch.optim.Optimizer:
    """AdamW for every weight that is trained; or Muon for the hidden matrices, AdamW for the rest.

    Args:
        model: or an objective that holds one.
        learning_rate: at the peak; the same for both, as Muon's steps are scaled to AdamW's.
        weight_decay: of the weights that are not gains or biases.

    Raises:
        ValueError: Muon has no matrix to move.
    """
    groups = parameter_groups(model, weight_decay)
    of_adam: dict[str, Any] = {"betas": (constants.beta1, constants.beta2), "eps": constants.eps}
    # One kernel instead of a dozen, in a third of the time; on a CPU it would round otherwise.
    of_adam["fused"] = all(parameter.is_cuda for parameter in model.parameters()) or None
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=learning_rate, **of_adam)
    matrices = hidden_matrices(model)
    if not matrices:
        raise ValueError("for Muon there is no transformer block that is trained: take adamw")
    chosen = set(map(id, matrices))
    rest = [{**g, "params": [p for p in g["params"] if id(p) not in chosen]} for g in groups]
    adamw = torch.optim.AdamW(rest, lr=learning_rate, **of_adam)
    # An update as long as AdamW's usual one, so that its learning rate and decay hold here, too
    # (arXiv 2502.16982).
    muon = torch.optim.Muon(
        matrices, lr=learning_rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
    )
    return MuonAndAdamW(muon, adamw)


class MuonAndAdamW(torch.optim.Optimizer):
    """Two optimizers of different weights that step, save and load as one."""

    def __init__(self, muon: torch.optim.Muon, adamw: torch.optim.AdamW) -> None:
        self._muon, self._adamw = muon, adamw
        super().__init__([*muon.param_groups, *adamw.param_groups], {})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of both. Groups and state are this object's, which `load_state_dict` renews."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        first = len(self._muon.param_groups)
        self._muon.param_groups = self.param_groups[:first]
        self._adamw.param_groups = self.param_groups[first:]
        for part in (self._muon, self._adamw):
            part.state = self.state
            part.step()  # type: ignore[no-untyped-call]  # Muon's
        return loss


def learning_rate(step: int, steps: int, peak: float, warmup: int) -> float:
    """Linear warm-up, then half a cosine to zero.

    Args:
        step: of all `steps`, from 0. A warm-up of as many or more never reaches the peak.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return peak * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """What the next step moves every weight by."""
    for group in optimizer.param_groups:
        group["lr"] = rate


@torch.no_grad()
def clip_gradients(parameters: Iterable[nn.Parameter], longest: float) -> float:
    """Shorten the gradients so that together they are at most `longest`, and say how long they
    were.

    Weights that FSDP2 has sharded may stand among whole ones: the length is that of all shards.
    """
    of_any = [p for p in parameters if p.grad is not None]
    kinds = [
        [p for p in of_any if isinstance(p.grad, DTensor) == sharded] for sharded in (True, False)
    ]
    kinds = [kind for kind in kinds if kind]
    norms = [get_total_norm([p.grad for p in kind if p.grad is not None]) for kind in kinds]
    whole = [norm.full_tensor() if isinstance(norm, DTensor) else norm for norm in norms]
    total = torch.stack(whole).norm() if whole else torch.zeros(())
    for kind in kinds:
        clip_grads_with_norm_(kind, longest, total)
    return total.item()


@torch.no_grad()
def clamp_logit_scale(logit_scale: Tensor) -> None:
    """The paper's bound on the temperature, after every step: logits are at most 100."""
    logit_scale.clamp_(max=MAX_LOGIT_SCALE)


def start_average(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the weights and statistics, by name, for `update_average`."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


@torch.no_grad()
def update_average(average: dict[str, Tensor], model: nn.Module, decay: float, step: int) -> None:
    """Move the averaged weights, and a BatchNorm's averaged statistics, towards the model's.

    Args:
        decay: share of the average that stays in each step. In the first steps less does, or it
            would remember the initial weights for long.
        step: steps done before this one.
    """
    share = 1 - min(decay, (1 + step) / (10 + step))
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            average[name].lerp_(value, share)
        else:
            average[name].copy_(value)
