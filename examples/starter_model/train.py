"""The training loop of the starter model, top to bottom in the order in which things happen."""

from __future__ import annotations

import json
import logging
import math
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn

from clip_model.config import ClipConfig
from clip_model.loss import contrastive_loss
from clip_model.model import CLIP
from clip_model.optimisation import (
    VIT_CONSTANTS,
    clamp_logit_scale,
    learning_rate,
    make_optimizer,
    set_learning_rate,
    start_average,
    update_average,
)
from clip_model.tokenizer import tokenize
from examples.starter_model.augment import PairSampler, augment
from examples.starter_model.data import load

logger = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.pt"


@dataclass(frozen=True)
class TrainConfig:
    """What a run depends on besides its data."""

    steps: int = 1100
    batch_size: int = 192  # of each process, which is also how many texts an image must tell apart
    processes: int = 2  # one thread each: on small images faster than one process of two threads
    peak_lr: float = 1.5e-3
    warmup: int = 100
    weight_decay: float = 0.2  # the paper's
    ema_decay: float = 0.995
    checkpoint_every: int = 100
    seed: int = 0


@torch.no_grad()
def average_gradients(model: nn.Module) -> None:
    """The mean over all processes of every gradient, in one message."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    means = torch.split(flat, [gradient.numel() for gradient in gradients])
    for gradient, mean in zip(gradients, means, strict=True):
        gradient.copy_(mean.view_as(gradient))


def train(cache: Path, architecture: ClipConfig, config: TrainConfig) -> CLIP:
    """Train on what `data.prepare` left in `cache`, or go on where a killed run stopped.

    Returns:
        The model with averaged weights, in evaluation mode.

    Raises:
        torch.multiprocessing.ProcessRaisedException: a process failed, with its traceback.
    """
    with tempfile.TemporaryDirectory() as folder:
        arguments = (f"file://{folder}/rendezvous", cache, architecture, config)
        spawn(train_process, arguments, nprocs=config.processes)
    return averaged_model(cache / CHECKPOINT, architecture)


def train_process(
    rank: int, rendezvous: str, cache: Path, architecture: ClipConfig, config: TrainConfig
) -> None:
    """The loop, in one of `config.processes` processes that differ in the pairs they draw.

    Raises:
        RuntimeError: the loss is no longer finite.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=config.processes)
    images, concepts = load(cache)
    sampler = PairSampler(concepts, config.batch_size)
    torch.manual_seed(config.seed)  # the same initial weights in every process
    model = CLIP(architecture)
    # Convolutions run 1.5 to 4 times as fast on a CPU with the channels last.
    model.visual.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # stub lacks it
    average = start_average(model)
    # Betas as the paper sets them for ViTs: steadier than 0.999 over few steps.
    optimizer = make_optimizer(model, VIT_CONSTANTS, config.peak_lr, config.weight_decay)
    checkpoint = cache / CHECKPOINT
    first_step = restore(checkpoint, model, average, optimizer)
    began = time.monotonic()
    for step in range(first_step, config.steps):
        # Each step has its own generators, so a resumed run draws what it would have drawn.
        rng = np.random.default_rng((config.seed, step, rank))
        generator = torch.Generator().manual_seed(int(rng.integers(1 << 62)))
        rows, captions = sampler.draw(rng)
        stored = torch.from_numpy(images[rows])  # NSS4
        image = augment(stored, architecture.image_resolution, generator)  # N3RR
        image = image.contiguous(memory_format=torch.channels_last)
        text = tokenize(captions)  # NL; `encode_text` trims it to the longest caption

        lr = learning_rate(step, config.steps, config.peak_lr, config.warmup)
        set_learning_rate(optimizer, lr)
        loss = contrastive_loss(
            model.encode_image(image), model.encode_text(text), model.logit_scale
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        average_gradients(model)
        optimizer.step()
        clamp_logit_scale(model.logit_scale)
        update_average(average, model, config.ema_decay, step)

        if not math.isfinite(loss.item()):
            raise RuntimeError(f"The loss became {loss.item()} at step {step}")
        if rank == 0 and step % 20 == 0:
            pairs = (step + 1 - first_step) * len(rows) * config.processes
            logger.info(
                "step %d/%d loss %.3f lr %.1e scale %.1f %.0f pairs/s",
                step,
                config.steps,
                loss.item(),
                lr,
                model.logit_scale.exp().item(),
                pairs / (time.monotonic() - began),
            )
        if rank == 0 and ((step + 1) % config.checkpoint_every == 0 or step + 1 == config.steps):
            save_checkpoint(checkpoint, step + 1, model, average, optimizer, config)
    dist.destroy_process_group()


def averaged_model(checkpoint: Path, architecture: ClipConfig) -> CLIP:
    """The averaged weights of a checkpoint, ready for use."""
    model = CLIP(architecture)
    model.load_state_dict(torch.load(checkpoint, weights_only=True)["average"])
    return model.eval()


def save_checkpoint(
    path: Path,
    step: int,
    model: nn.Module,
    average: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
    config: TrainConfig,
) -> None:
    """Write everything that going on needs, under a temporary name first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".partial")
    torch.save(
        {
            "step": step,
            "model": model.state_dict(),
            "average": average,
            "optimizer": optimizer.state_dict(),
            "config": json.dumps(asdict(config)),
        },
        temporary,
    )
    temporary.replace(path)


def restore(
    path: Path, model: nn.Module, average: dict[str, Tensor], optimizer: torch.optim.Optimizer
) -> int:
    """Take up a checkpoint if there is one; the step to go on from."""
    if not path.exists():
        return 0
    state: dict[str, Any] = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    average.update(state["average"])
    optimizer.load_state_dict(state["optimizer"])
    logger.info("going on from step %d", state["step"])
    return int(state["step"])
