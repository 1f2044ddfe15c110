"""The two towers at the speed of the hardware: batches in, handles of unit-length features out.

On a CPU every core works on a batch of its own with one thread inside: a team of threads on one
batch waits for its slowest at every layer. On a GPU the copy of one batch, the computation of
the one before and the answer of the one before that go on at once, in fixed shapes that
`torch.compile` has seen.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

import clip_model
from clip_model import CLIP
from clip_model.compilation import compile_blocks, has_compiler
from clip_model.dual_encoders import DualEncoder, load_dual_encoder
from clip_model.image_towers import Backbone, ImageTower, load_backbone
from clip_model.model import convert_weights
from clip_model.preprocess import fold_normalisation
from clip_model.registry import BackboneName, DualEncoderName
from workers.base.gpu_copies import Sender
from workers.base.hardware import computes_bfloat16, fastest_device, without_tf32
from workers.embedding.meter import Meter
from workers.embedding.overlap import Handle
from workers.embedding.settings import EmbedSettings, Precision

CPU_BATCH, GPU_BATCH = 16, 512
#: Token sequences on a GPU are padded to a multiple of this: five shapes to compile, not 77.
TOKENS_ROUNDED_TO = 16
NO_TEXT = "this model knows no text: it embeds pictures alone (parts: images)"


Tower = Callable[[Tensor], Tensor]  # of images or of texts


class PrecisionError(RuntimeError):
    """This machine would only emulate the precision that is asked for."""


class Encoder(Protocol):
    """A model's towers on a device. Results are float32 on the CPU, of unit length.

    Where features before the projection are asked for, they stand behind an image's: [E + H].
    """

    @property
    def model(self) -> ImageTower:
        """It takes levels: a CLIP is folded, see `fold_normalisation`."""

    @property
    def texts(self) -> CLIP | DualEncoder | None:
        """The same model where it has a text tower."""

    @property
    def batch_size(self) -> int:
        """Images, or token sequences, a forward pass."""

    @property
    def depth(self) -> int:
        """Batches under way ahead of the one that is waited for."""

    def new_batch(self) -> Tensor:
        """Room for a batch of images: uint8 [batch_size, 3, R, R]."""

    def encode_images(self, levels: Tensor, rows: int) -> Handle[Tensor]:
        """Start on a batch from `new_batch` whose first rows are filled -> [rows, E or E + H]."""

    def encode_texts(self, tokens: Tensor) -> Handle[Tensor]:
        """Start on at most `batch_size` trimmed sequences: [N, L] -> [N, E]."""


def load_encoder(
    settings: EmbedSettings,
    pool: ThreadPoolExecutor,
    threads: int,
    meter: Meter,
    *,
    hidden: bool = False,
) -> Encoder:
    """Load the model and put it where it is fastest: a GPU if there is one, else the CPU.

    A network of another library (`BackboneName`) encodes no texts.

    Args:
        pool: computes on a CPU; its threads, as many as ``threads``, are `one_threaded`.
        meter: is told how long the towers work.
        hidden: give images' features before the projection too.

    Raises:
        RuntimeError: as `clip_model.load`, or `load_backbone`.
        PrecisionError: as `precision_on`.
    """
    if backbone := BackboneName.of(settings.model):
        tower = load_backbone(backbone, fastest_device())
        return encoder_of(tower, settings, pool, threads, meter, hidden=hidden)
    model = load_model(settings.model)
    return encoder_of(model, settings, pool, threads, meter, hidden=hidden)


def load_model(name: str) -> CLIP | DualEncoder:
    """A model that knows images and texts, in float32 where it is fastest. Raises RuntimeError."""
    if which := DualEncoderName.of(name):
        return load_dual_encoder(which, fastest_device())
    model, _ = clip_model.load(name, fastest_device(), half=False)
    return model


def encoder_of(
    model: CLIP | DualEncoder | Backbone,
    settings: EmbedSettings,
    pool: ThreadPoolExecutor,
    threads: int,
    meter: Meter,
    *,
    hidden: bool = False,
) -> Encoder:
    """The encoder of a float32 model where it is; the model is changed, and may be half after."""
    device = next(model.parameters()).device
    half = precision_on(device, settings) == "bf16"
    if not half:
        without_tf32()
    tower, texts = _for_inference(model, half)
    # Convolutions of a ResNet are a quarter faster with the channels innermost.
    tower.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = partial(_both_features, tower) if hidden else tower.encode_image
    if device.type == "cuda":
        return GpuEncoder(tower, images, texts, settings.batch_size or GPU_BATCH, meter)
    batch_size = settings.batch_size or CPU_BATCH
    # One batch more than threads: the next is there when the first thread is done.
    return CpuEncoder(tower, images, texts, batch_size, threads + 1, pool, meter)


def _for_inference(
    model: CLIP | DualEncoder | Backbone, half: bool
) -> tuple[CLIP | DualEncoder | Backbone, CLIP | DualEncoder | None]:
    """The image tower, which takes levels, and the same model where it knows texts."""
    model.eval().requires_grad_(False)
    if not isinstance(model, CLIP):
        model.half_type = torch.bfloat16 if half else None
        return model, None if isinstance(model, Backbone) else model
    if half:
        convert_weights(model, torch.bfloat16)
    folded = fold_normalisation(model)
    return folded, folded


def precision_on(device: torch.device, settings: EmbedSettings) -> Precision:
    """The settings' precision; of `auto`, the faster one there.

    Raises:
        PrecisionError: bf16 is asked for and would be emulated, a hundred times slower at worst.
    """
    is_fast = computes_bfloat16(device)
    if settings.precision == "bf16" and not is_fast:
        raise PrecisionError(
            "precision is bf16, which this machine only emulates: use one that computes in it, or "
            "set embeddings.precision: fp32 (pipelines.embed: --set precision=fp32)"
        )
    if settings.precision == "auto":
        return "bf16" if is_fast else "fp32"
    return settings.precision


def one_threaded() -> None:
    """Make the thread that calls it do torch's operations alone; others keep their teams."""
    torch.set_num_threads(1)


@dataclass(frozen=True)
class CpuEncoder:
    """Each batch in one thread of the pool."""

    model: ImageTower
    images: Tower
    texts: CLIP | DualEncoder | None
    batch_size: int
    depth: int
    pool: ThreadPoolExecutor
    meter: Meter

    def new_batch(self) -> Tensor:
        return _empty_batch(self.model, self.batch_size)

    def encode_images(self, levels: Tensor, rows: int) -> Future[Tensor]:
        return self.pool.submit(self._timed, self.images, levels[:rows])

    def encode_texts(self, tokens: Tensor) -> Future[Tensor]:
        if self.texts is None:
            raise RuntimeError(NO_TEXT)
        return self.pool.submit(self._timed, self.texts.encode_text, tokens)

    @torch.inference_mode()
    def _timed(self, encode: Tower, batch: Tensor) -> Tensor:
        start = time.perf_counter()
        features = _unit(encode(batch), self.model.embed_dim)
        self.meter.computed(time.perf_counter() - start)
        return features


def _both_features(model: ImageTower, levels: Tensor) -> Tensor:
    """In the joint space, and before the projection into it: [N, E + H]."""
    hidden = model.encode_hidden(levels)
    return torch.cat([model.project_image(hidden), hidden], dim=-1)


def _unit(features: Tensor, dim: int) -> Tensor:
    """Float32, the first ``dim`` of unit length; what stands behind them stays as it is."""
    joint = F.normalize(features[:, :dim].float(), dim=-1)
    hidden = features[:, dim:].float()
    return torch.cat([joint, hidden], dim=-1) if hidden.numel() else joint


def _empty_batch(model: ImageTower, rows: int, *, pinned: bool = False) -> Tensor:
    size = model.preprocessing.resolution
    return torch.empty(rows, 3, size, size, dtype=torch.uint8, pin_memory=pinned)


@dataclass(frozen=True)
class GpuFeatures:
    """Features on their way from a GPU."""

    host: Tensor  # pinned
    begun: torch.cuda.Event
    copied: torch.cuda.Event
    rows: int
    meter: Meter

    def result(self) -> Tensor:
        self.copied.synchronize()
        self.meter.computed(self.begun.elapsed_time(self.copied) / 1000)
        return self.host[: self.rows].clone()  # pinned memory goes back to its pool

    def cancel(self) -> None:
        """Nothing: what a GPU was given, it does."""


class GpuEncoder:
    """Called by one thread, which it never holds up: a batch is copied, computed and answered
    behind its back.
    """

    def __init__(
        self,
        model: CLIP | DualEncoder | Backbone,
        images: Tower,
        texts: CLIP | DualEncoder | None,
        batch_size: int,
        meter: Meter,
    ) -> None:
        self.model: ImageTower = model
        self.texts = texts
        self.meter = meter
        self.batch_size = batch_size
        self.depth = 2
        self._sender = Sender(next(model.parameters()).device)
        self._images = images
        if isinstance(texts, CLIP) and has_compiler():  # other libraries' networks stay as they are
            compile_blocks(texts)

    def new_batch(self) -> Tensor:
        return _empty_batch(self.model, self.batch_size, pinned=True)

    def encode_images(self, levels: Tensor, rows: int) -> GpuFeatures:
        levels[rows:] = 0  # the tail of a shard has the shape of every other batch
        return self._start(self._images, levels, rows)

    def encode_texts(self, tokens: Tensor) -> GpuFeatures:
        if self.texts is None:
            raise RuntimeError(NO_TEXT)
        rows, length = tokens.shape
        room = min(-(-length // TOKENS_ROUNDED_TO) * TOKENS_ROUNDED_TO, self.texts.context_length)
        shape = self.batch_size, room
        padded = torch.full(shape, self.texts.pad, dtype=tokens.dtype, pin_memory=True)
        padded[:rows, :length] = tokens
        return self._start(self.texts.encode_text, padded, rows)

    @torch.inference_mode()
    def _start(self, tower: Tower, pinned: Tensor, rows: int) -> GpuFeatures:
        batch = self._sender.send(pinned).result()
        compute = torch.cuda.current_stream(batch.device)
        begun = torch.cuda.Event(enable_timing=True)
        begun.record(compute)  # passes when the batch is there and the one before is done
        features = _unit(tower(batch), self.model.embed_dim)
        host = torch.empty(features.shape, dtype=features.dtype, pin_memory=True)
        host.copy_(features, non_blocking=True)
        copied = torch.cuda.Event(enable_timing=True)
        copied.record(compute)
        return GpuFeatures(host, begun, copied, rows, self.meter)
