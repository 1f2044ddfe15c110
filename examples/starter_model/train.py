"""How the starter is trained: its text tower from a teacher, then both towers from pairs.

`distil` teaches the text tower the sentence model's features. `align` brings drawings and their
names together; the trunk stays as it is, so pictures are the features that `views` left.

A killed run goes on from its last checkpoint and ends with the same weights.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clip_model.config import STARTER
from clip_model.efficientnet import HEAD_WIDTH, EfficientNet
from clip_model.loss import contrastive_loss
from clip_model.model import CLIP
from clip_model.optimisation import (
    VIT_CONSTANTS,
    clamp_logit_scale,
    clip_gradients,
    learning_rate,
    make_optimizer,
    set_learning_rate,
    start_average,
    update_average,
)
from clip_model.templates import template_set
from clip_model.tokenizer import tokenize
from examples.evaluation_sets.contents import EFFICIENTNET
from examples.starter_model.augment import PairSampler
from examples.starter_model.data import Concept, load
from examples.starter_model.lessons import (
    DRAWINGS,
    PHOTOGRAPHS,
    SENTENCES,
    TEXTS,
    lessons_folder,
)
from examples.starter_model.packages import WORDNET, fetched
from examples.starter_model.teachers import half, load_trunk
from examples.starter_model.words import ClassTexts, imagenet_classes, read_synsets

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainConfig:
    """What a run depends on besides its data."""

    distil_epochs: float = 1.2
    distil_batch: int = 512
    distil_lr: float = 1.5e-3
    steps: int = 700  # of `align`
    batch_size: int = 512  # which is also how many texts an image must tell apart
    peak_lr: float = 1e-3
    warmup: int = 100
    weight_decay: float = 0.05
    ema_decay: float = 0.995
    classes: int = 128  # of ImageNet, beside a batch's drawings
    photographs: float = 2.0  # weight of their loss in `align`
    texts: float = 4.0  # and of the teacher's
    class_gain: float = 10.0  # length of a class's features
    checkpoint_every: int = 200
    seed: int = 0

    @property
    def of_texts(self) -> TrainConfig:
        """What `distil` depends on, all else at its default."""
        names = ("distil_epochs", "distil_batch", "distil_lr", "warmup", "weight_decay")
        both = ("ema_decay", "checkpoint_every", "seed")
        return TrainConfig(**{name: getattr(self, name) for name in (*names, *both)})


def take_steps(
    model: nn.Module,
    steps: int,
    peak_lr: float,
    config: TrainConfig,
    checkpoint: Path,
    loss_of: Callable[[int], Tensor],
) -> None:
    """Train what of `model` has gradients, or go on from `checkpoint`; it ends with the average.

    Args:
        loss_of: a step's loss, a function of the step alone.

    Raises:
        RuntimeError: the loss is no longer finite, or the checkpoint is of other settings.
    """
    said = json.dumps(asdict(config))
    optimizer = make_optimizer(model, VIT_CONSTANTS, peak_lr, config.weight_decay)
    average, first = start_average(model), 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        if state["config"] != said:
            raise RuntimeError(f"{checkpoint} is of other settings: remove it, or say them again")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        average, first = state["average"], state["step"]
        logger.info("going on from step %d", first)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    began = time.monotonic()
    for step in range(first, steps):
        set_learning_rate(optimizer, learning_rate(step, steps, peak_lr, config.warmup))
        loss = loss_of(step)
        if not math.isfinite(loss.item()):
            raise RuntimeError(f"The loss became {loss.item()} at step {step}")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        clip_gradients(trained, 1.0)
        optimizer.step()
        if isinstance(model, CLIP):
            clamp_logit_scale(model.logit_scale)
        update_average(average, model, config.ema_decay, step)
        if step % 20 == 0:
            pace = (time.monotonic() - began) / (step + 1 - first)
            logger.info("step %d/%d loss %.3f, %.2f s each", step, steps, loss.item(), pace)
        if (step + 1) % config.checkpoint_every == 0 or step + 1 == steps:
            partial = checkpoint.with_suffix(".partial")
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save(state | {"average": average, "step": step + 1, "config": said}, partial)
            partial.replace(checkpoint)
    model.load_state_dict(average)


# --- the text tower, from a teacher --------------------------------------------------------------


def principal_axes(features: Tensor, count: int) -> Tensor:
    """The directions in which features are largest: [N, D] -> [D, count].

    They are not centred: it is cosines that shall stay.
    """
    _, vectors = torch.linalg.eigh(features.T @ features)
    return vectors.flip(1)[:, :count]


@torch.no_grad()
def start_embeddings(model: CLIP, features: Tensor) -> None:
    """Tokens begin as what the teacher says of them, each by itself: [V, D]."""
    centred = features - features.mean(dim=0)
    axes = principal_axes(centred, model.config.text.width)
    values = centred @ axes
    model.token_embedding.weight[: len(values)] = values * (0.03 / values.std())


class Batches:
    """Rows of texts of about one length: which ones, a step of any epoch at a time."""

    def __init__(self, lengths: Tensor, batch_size: int, seed: int) -> None:
        self.lengths, self.batch_size, self.seed = lengths, min(batch_size, len(lengths)), seed
        self.steps = len(lengths) // self.batch_size  # an epoch's
        self._epoch, self._batches = -1, list[Tensor]()

    def of(self, step: int) -> Tensor:
        """Rows of a step, counted from the first epoch's first."""
        epoch, number = divmod(step, self.steps)
        if epoch != self._epoch:
            self._epoch, self._batches = epoch, self._drawn(epoch)
        return self._batches[number]

    def _drawn(self, epoch: int) -> list[Tensor]:
        rng = np.random.default_rng((self.seed, epoch))
        order = torch.from_numpy(rng.permutation(len(self.lengths)))
        batches = [
            batch
            for some in order.split(40 * self.batch_size)
            for batch in some[self.lengths[some].argsort(stable=True)].split(self.batch_size)
        ]
        whole = [batch for batch in batches if len(batch) == self.batch_size]
        return [whole[i] for i in rng.permutation(len(whole))]


def distil(
    model: CLIP, tokens: Tensor, targets: Tensor, config: TrainConfig, checkpoint: Path
) -> None:
    """Teach the text tower the teacher's directions.

    Args:
        tokens: [N, L]
        targets: [N, E], of length 1.
    """
    model.visual.requires_grad_(False)
    batches = Batches(model.lengths(tokens), config.distil_batch, config.seed)

    def loss_of(step: int) -> Tensor:
        rows = batches.of(step)
        with half():
            features = model.encode_text(tokens[rows])
        return away(features.float(), targets[rows])

    steps = int(config.distil_epochs * batches.steps)
    take_steps(model, steps, config.distil_lr, config.of_texts, checkpoint, loss_of)


def away(features: Tensor, targets: Tensor) -> Tensor:
    """1 - cosine, the mean over rows: [N, E], [N, E] -> []"""
    return 1 - F.cosine_similarity(features, targets).mean()


# --- both towers, from pairs ---------------------------------------------------------------------


@dataclass(frozen=True)
class Pairs:
    """What `align` learns from, pictures as the trunk's features."""

    drawings: np.ndarray  # float16 [views, N, H]
    concepts: list[Concept]
    photographs: Tensor  # [P, H]
    tokens: Tensor  # [T, L], with the teacher's directions:
    targets: Tensor  # [T, E]
    class_targets: Tensor  # [classes, E], of ImageNet's classes
    classes: list[ClassTexts]


def align(model: CLIP, pairs: Pairs, config: TrainConfig, checkpoint: Path) -> None:
    """Bring drawings and captions together, and lose neither photographs nor words.

    Photographs, whose names are not known, shall stay where their classes are: at the mean of the
    classes' directions by their probabilities.
    """
    visual = model.requires_grad_().visual
    assert isinstance(visual, EfficientNet)
    visual.requires_grad_(False)
    visual.linear.requires_grad_()
    visual.class_features = nn.Parameter(config.class_gain * pairs.class_targets)
    nn.init.normal_(visual.linear.weight, std=2e-4)
    nn.init.zeros_(visual.linear.bias)
    # Adam steps alike in all directions, so they shall be alike: standardised while it is trained.
    first = torch.from_numpy(pairs.drawings[0]).float()  # NH
    std, mean = torch.std_mean(first, dim=0)
    std += 1e-3
    classifier = visual.classifier
    visual.classifier = of_standardised(classifier, mean[-HEAD_WIDTH:], std[-HEAD_WIDTH:])
    photographs = (pairs.photographs - mean) / std
    probabilities = classifier(pairs.photographs[:, -HEAD_WIDTH:]).softmax(dim=-1)
    sampler = PairSampler(pairs.concepts, config.batch_size)
    texts = Batches(model.lengths(pairs.tokens), config.batch_size // 2, config.seed)

    def loss_of(step: int) -> Tensor:
        rng = np.random.default_rng((config.seed, step))
        rows, captions = sampler.draw(rng)
        views = rng.integers(len(pairs.drawings), size=len(rows))
        hidden = (torch.from_numpy(pairs.drawings[views, rows]).float() - mean) / std  # NH
        # A class's features stand for a photograph of it, with what else is seen in a photograph.
        chosen = rng.choice(len(pairs.classes), min(config.classes, len(pairs.classes)), False)
        captions += [class_caption(pairs.classes[number], rng) for number in chosen]
        seen = visual.linear(photographs[rng.integers(len(photographs), size=len(chosen))])
        certain = torch.from_numpy(rng.uniform(0.3, 1, (len(chosen), 1))).float()
        of_classes = certain * visual.class_features[chosen] + seen
        known = texts.of(step)
        with half():
            names = model.encode_text(tokenize(captions, truncate=True))  # NE
            read = model.encode_text(pairs.tokens[known])
        images = torch.cat([visual.project(hidden), of_classes])
        loss = contrastive_loss(images, names.float(), model.logit_scale)
        some = rng.integers(len(photographs), size=len(rows) // 2)
        at_classes = probabilities[some] @ visual.class_features.detach()
        loss = loss + config.photographs * away(visual.project(photographs[some]), at_classes)
        return loss + config.texts * away(read.float(), pairs.targets[known])

    take_steps(model, config.steps, config.peak_lr, config, checkpoint, loss_of)
    visual.linear = of_standardised(visual.linear, -mean / std, 1 / std)
    visual.classifier = classifier


def class_caption(texts: ClassTexts, rng: np.random.Generator) -> str:
    """One of the names of a class, half the time in one of the paper's prompts."""
    words = [texts.name, *texts.words.split(", ")]
    name = words[rng.integers(len(words))] if rng.random() < 0.5 else texts.name
    prompts = template_set("ImageNet")
    return prompts[rng.integers(len(prompts))].format(name) if rng.random() < 0.5 else name


@torch.no_grad()
def of_standardised(linear: nn.Linear, mean: Tensor, std: Tensor) -> nn.Linear:
    """The layer that makes of (x - mean) / std what `linear` makes of x."""
    same = nn.Linear(linear.in_features, linear.out_features)
    same.weight.copy_(linear.weight * std)
    same.bias.copy_(linear.bias + linear.weight @ mean)
    return same.requires_grad_(linear.weight.requires_grad)


# --- the whole -----------------------------------------------------------------------------------


def taught(cache: Path, config: TrainConfig) -> tuple[CLIP, Pairs]:
    """A model with a text tower that is taught, and what `align` takes: of `prepare_lessons`."""
    torch.manual_seed(config.seed)
    model = CLIP(STARTER)
    visual = model.visual
    assert isinstance(visual, EfficientNet)
    load_trunk(visual, fetched(EFFICIENTNET, cache))
    lessons = lessons_folder(cache, config.seed)
    texts = json.loads((lessons / TEXTS).read_text())
    features = torch.from_numpy(np.load(lessons / SENTENCES)).float()  # of texts, classes, tokens
    of_texts, of_classes, of_tokens = features.tensor_split(
        [len(texts), len(texts) + 3 * visual.classifier.out_features]
    )
    axes = principal_axes(of_texts, STARTER.embed_dim)
    targets = F.normalize(of_texts @ axes, dim=-1)
    tokens = tokenize(texts, truncate=True)
    start_embeddings(model, of_tokens)
    distil(model, tokens, targets, config, lessons / "distilled.pt")
    said = of_classes.view(-1, 3, of_classes.shape[1]).mean(dim=1)  # name, words and gloss
    return model, Pairs(
        np.load(lessons / DRAWINGS, mmap_mode="r"),
        load(cache)[1],
        torch.from_numpy(np.load(lessons / PHOTOGRAPHS)).float(),
        tokens,
        targets,
        F.normalize(said @ axes, dim=-1),
        imagenet_classes(read_synsets(fetched(WORDNET, cache), "noun")),
    )


def train(cache: Path, config: TrainConfig) -> CLIP:
    """Train, or go on where a killed run stopped.

    Returns:
        The model with averaged weights, in evaluation mode.
    """
    model, pairs = taught(cache, config)
    align(model, pairs, config, lessons_folder(cache, config.seed) / "aligned.pt")
    return model.eval()
