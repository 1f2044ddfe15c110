"""Train a CLIP on curated shards: the loop, from top to bottom. No Ray in here.

The examples' JPEG bytes are held in memory (about 3 kB each on the sample); decoding and cropping
happen anew in every epoch.
"""

from __future__ import annotations

import io
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

import clip_model
from clip_model.loss import contrastive_loss
from clip_model.model import CLIP
from clip_model.optimisation import (
    adam_constants,
    clamp_logit_scale,
    clip_gradients,
    learning_rate,
    make_optimizer,
    set_learning_rate,
)
from clip_model.preprocess import random_square_crop
from pipelines.training.held_out import Example, read_examples
from pipelines.training.settings import OptimizerSettings, TrainSettings
from workers.base.failures import NeedsMendingError
from workers.base.tally import Tally

log = logging.getLogger(__name__)

#: Called after each epoch with the state to go on from, the metrics so far among it.
Report = Callable[[dict[str, Any]], None]


#: Called now and then with how far the training is, in words and as a share.
Say = Callable[[str, float], None]

#: Seconds, at least, between two calls of it.
SAY_EVERY = 5.0


class DivergedError(NeedsMendingError):
    """The loss or a weight is no longer a number."""


@dataclass(frozen=True)
class Trained:
    model: CLIP
    pairs: Tally
    metrics: list[dict[str, Any]]  # of each epoch; the same for the same data, settings and seed


def train(
    shards: Sequence[Path],
    settings: TrainSettings,
    seed: int,
    report: Report,
    state: dict[str, Any] | None = None,
    say: Say = lambda _note, _share: None,
) -> Trained:
    """Train and give the model back.

    Args:
        shards: Parquet files with the columns of ``contracts.DATASET``.
        report: called after each epoch; what it is given, ``state`` takes back to go on from
            there.
        say: called every few seconds with the step, the loss and the pairs a second.

    Raises:
        DivergedError: the loss became NaN or infinite, or a weight did with the last step.
        NeedsMendingError: there are fewer than two pairs.
    """
    device = torch.device("cuda" if settings.use_gpu and torch.cuda.is_available() else "cpu")
    torch.set_num_threads(settings.cpus)

    # Everything but the held-out part, in an order that is a function of the data alone.
    tally = Tally()
    examples = list(read_examples(shards, seed, settings.held_out, held_out=False, tally=tally))
    if len(examples) < 2:
        raise NeedsMendingError(
            f"{len(examples)} pairs to train on; a contrastive loss needs at least two: let "
            "selection.steps keep more, or lower model.held_out"
        )
    batch_size = min(settings.batch_size, len(examples))
    steps_per_epoch = len(examples) // batch_size  # the last, smaller batch is left out
    total_steps = steps_per_epoch * settings.epochs

    model, _ = clip_model.load(settings.start_from, device=device, half=False)
    # Convolutions of a ResNet are a quarter faster with the channels innermost; a ViT is the same.
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model.train()
    optimizer = _optimizer(model, settings.optimizer)
    crop = random_square_crop(model.config.image_resolution)
    first_epoch, metrics = 0, list[dict[str, Any]]()
    if state is not None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first_epoch, metrics = state["epoch"] + 1, state["metrics"]

    for epoch in range(first_epoch, settings.epochs):
        losses = list[float]()
        started = said = time.monotonic()
        # Seeded by the epoch, so a resumed run draws the same order and crops as an unbroken one.
        torch.manual_seed(seed * 100_003 + epoch)
        for step, batch in enumerate(_batches(examples, batch_size)):
            done = epoch * steps_per_epoch + step
            rate = learning_rate(
                done, total_steps, settings.optimizer.learning_rate, settings.optimizer.warmup_steps
            )
            set_learning_rate(optimizer, rate)

            images = torch.stack([crop(_decode(example.jpg)) for example in batch]).to(device)
            images = images.contiguous(memory_format=torch.channels_last)  # [N, 3, R, R]
            captions = [example.caption for example in batch]
            texts = clip_model.tokenize(captions, model.context_length, truncate=True)
            image_features = model.encode_image(images)  # [N, D]
            text_features = model.encode_text(texts.to(device))  # [N, D]
            loss = contrastive_loss(image_features, text_features, model.logit_scale)
            if not math.isfinite(loss.item()):
                raise DivergedError(
                    f"the loss is {loss.item()} in epoch {epoch}, step {step}; lower "
                    f"model.optimizer.learning_rate (now {settings.optimizer.learning_rate})"
                )

            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if settings.optimizer.clip_gradients is not None:
                clip_gradients(model.parameters(), settings.optimizer.clip_gradients)
            optimizer.step()
            clamp_logit_scale(model.logit_scale)
            losses.append(loss.item())
            now = time.monotonic()
            if now - said >= SAY_EVERY or step in (0, steps_per_epoch - 1):
                said, speed = now, (step + 1) * batch_size / (now - started)
                say(
                    f"epoch {epoch + 1} of {settings.epochs}, step {step + 1} of "
                    f"{steps_per_epoch}, loss {losses[-1]:.3f}, {speed:,.0f} pairs/s",
                    (done + 1) / total_steps,
                )

        _check_weights(model, epoch, settings)
        metrics.append({"epoch": epoch, "loss": sum(losses) / len(losses)})
        pairs_per_second = len(losses) * batch_size / (time.monotonic() - started)
        log.info("epoch %d: loss %.4f, %.0f pairs/s", epoch, metrics[-1]["loss"], pairs_per_second)
        report(
            {
                "epoch": epoch,
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "metrics": metrics,
            }
        )
    return Trained(model.eval(), tally, metrics)


def _check_weights(model: nn.Module, epoch: int, settings: TrainSettings) -> None:
    """No loss has been seen of the weights after an epoch's last step. Raises DivergedError."""
    for name, weight in model.state_dict().items():
        if not weight.isfinite().all():
            raise DivergedError(
                f"{name} is not finite after epoch {epoch}; lower model.optimizer.learning_rate "
                f"(now {settings.optimizer.learning_rate})"
            )


def _batches(examples: Sequence[Example], size: int) -> Iterator[list[Example]]:
    """Whole batches of the examples, shuffled."""
    order = torch.randperm(len(examples)).tolist()
    for start in range(0, len(order) - size + 1, size):
        yield [examples[index] for index in order[start : start + size]]


def _decode(jpg: bytes) -> Image.Image:
    return Image.open(io.BytesIO(jpg))


def _optimizer(model: CLIP, settings: OptimizerSettings) -> torch.optim.Optimizer:
    """With the paper's constants for the model where the settings say none."""
    constants = adam_constants(model.config, settings.beta1, settings.beta2, settings.eps)
    return make_optimizer(
        model, constants, settings.learning_rate, settings.weight_decay, settings.name
    )
