"""What a model computes: floating-point operations of its towers and of a training step.

A multiply-add is two operations, and only matrix products, convolutions and attention count, as
`torch.utils.flop_counter` has it; a causal tower's attention counts as if it saw every token. A
tower of timm's is counted by it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from clip_model.config import (
    ClipConfig,
    EfficientNetConfig,
    ModifiedResNetConfig,
    TextConfig,
    TimmTowerConfig,
    VisionTransformerConfig,
)
from clip_model.efficientnet import FIRST_SEEN, HEAD_WIDTH, STAGES, STEM_WIDTH
from clip_model.locking import Locked
from clip_model.model import CLIP
from clip_model.timm_tower import tower_flops
from clip_model.vision_transformer import kept_patches

#: Dense peak in bfloat16 (a V100: float16), operations a second, by a word of the device's name or
#: more. From NVIDIA's data sheets, which state twice as much from Ampere on: with half of the
#: weights zero ("sparsity"). Narrower cards of a name stand beside the one meant without a suffix.
PEAK_FLOPS = {
    "V100": 125e12,  # V100 SXM2
    "V100 PCIE": 112e12,
    "A100": 312e12,
    "H100": 989e12,  # H100 SXM
    "H100 PCIE": 756e12,
    "H100 NVL": 835e12,
    "H200": 989e12,  # H200 SXM
    "H200 NVL": 835e12,
    "B200": 2250e12,  # of an HGX B200
}


def peak_flops(device: str) -> float | None:
    """Dense peak of a GPU in half precision; None where it is not known.

    Args:
        device: as `torch.cuda.get_device_name` calls it, such as "NVIDIA H100 80GB HBM3".
    """
    words = set(re.split(r"[\s-]+", device.upper()))
    known = [name for name in PEAK_FLOPS if words.issuperset(name.split())]
    return PEAK_FLOPS[max(known, key=len)] if known else None


@dataclass(frozen=True)
class StepFlops:
    """Operations of a training step: the model's own, and those done once more to save memory.

    The share of a GPU's peak that the first are is the MFU (model FLOPs utilisation); it does not
    reward what is computed twice.
    """

    model: int
    again: int

    @property
    def total(self) -> int:
        return self.model + self.again


def step_flops(
    config: ClipConfig,
    batch_size: int,
    caption_tokens: int | None = None,
    resolution: int | None = None,
    *,
    patch_dropout: float = 0.0,
    grad_checkpointing: bool = False,
    two_pass: bool = False,
    locked: Locked | None = None,
) -> StepFlops:
    """Of a step of contrastive training, over all workers.

    A backward pass costs two forward passes, and a locked tower has none. Gradient checkpointing
    costs one more; so does accumulation in two passes, except of a tower that is locked as a whole;
    so do the similarities, which are never all there.

    Args:
        batch_size: pairs, N; each image is compared with each text.
        caption_tokens: what captions are padded to; None: the whole context.
        resolution: side of the images in pixels; None: the model's.
        patch_dropout: share of the patches left out.
        locked: what is trained around.
    """
    image = image_flops(config, resolution, patch_dropout)
    text = text_flops(config, caption_tokens)
    trained = image * (locked in (None, "text")) + text * (locked != "text")
    backward = 2 * trained
    if locked == "image_trunk":
        backward += projection_backward_flops(config, resolution)
    similarities = 2 * batch_size**2 * config.embed_dim
    second = trained + image * (locked == "image_trunk")  # what is below the projection, too
    again = batch_size * (trained * grad_checkpointing + second * two_pass) + similarities
    return StepFlops(batch_size * (image + text + backward) + 3 * similarities, again)


@lru_cache(maxsize=32)
def projection_backward_flops(config: ClipConfig, resolution: int | None = None) -> int:
    """Of the backward pass for one image, where the image tower's trunk is locked, as PyTorch
    counts it. Nothing is computed.

    Raises:
        ValueError: the tower has no projection; RuntimeError: as `CLIP`.
    """
    side = config.image_resolution if resolution is None else resolution
    with torch.device("meta"):
        model = CLIP(replace(config, image_resolution=side))
        model.lock_part("image_trunk")
        features = model.encode_image(torch.empty(1, 3, side, side))
        with FlopCounterMode(display=False) as counter:
            features.sum().backward()
    return int(counter.get_total_flops())


def image_flops(
    config: ClipConfig, resolution: int | None = None, patch_dropout: float = 0.0
) -> int:
    """Of the image tower's forward pass for one image."""
    resolution = config.image_resolution if resolution is None else resolution
    if isinstance(config.vision, VisionTransformerConfig):
        return _vit_flops(config.vision, resolution, config.embed_dim, patch_dropout)
    if isinstance(config.vision, TimmTowerConfig):
        return tower_flops(config.vision, resolution, config.embed_dim)
    if isinstance(config.vision, EfficientNetConfig):
        return _efficientnet_flops(config.vision, resolution, config.embed_dim)
    return _resnet_flops(config.vision, resolution, config.embed_dim)


def text_flops(config: ClipConfig, tokens: int | None = None) -> int:
    """Of the text tower's forward pass for one caption of so many tokens, start and end among
    them; None: the whole context, which a tower always computes that is not causal."""
    text = config.text
    tokens = text.context_length if tokens is None or not text.causal else tokens
    return _text_tower_flops(text, tokens) + 2 * text.width * config.embed_dim


def _text_tower_flops(text: TextConfig, tokens: int) -> int:
    if text.kind == "cbow":
        return 0  # looked up and added
    return text.layers * _block_flops(tokens, text.width, 4 * text.width)


def _block_flops(tokens: int, width: int, mlp_width: int) -> int:
    projections = 2 * tokens * width * (4 * width)  # queries, keys, values, output
    attention = 2 * 2 * tokens**2 * width  # scores, and the values' mean by them
    return projections + attention + 2 * 2 * tokens * width * mlp_width


def _vit_flops(
    vision: VisionTransformerConfig, resolution: int, embed_dim: int, patch_dropout: float
) -> int:
    patches = (resolution // vision.patch_size) ** 2
    tokens = kept_patches(patches, patch_dropout) + 1
    convolution = 2 * patches * 3 * vision.patch_size**2 * vision.width
    blocks = vision.layers * _block_flops(tokens, vision.width, vision.mlp_width)
    return convolution + blocks + 2 * vision.width * embed_dim


def _resnet_flops(vision: ModifiedResNetConfig, resolution: int, embed_dim: int) -> int:
    width, side = vision.width, resolution // 2
    half = width // 2
    total = 2 * side**2 * 9 * (3 * half + half * half + half * width)  # the stem
    side, inplanes = side // 2, width
    for stage, blocks in enumerate(vision.layers):
        planes = width << stage
        for block in range(blocks):
            before, side = side, side // 2 if stage > 0 and block == 0 else side
            total += 2 * before**2 * (inplanes * planes + 9 * planes * planes)
            total += 2 * side**2 * planes * 4 * planes
            if block == 0:
                total += 2 * side**2 * inplanes * 4 * planes  # the shortcut's
            inplanes = 4 * planes
    tokens = side**2 + 1
    pool = 2 * inplanes * (2 * tokens + 1) * inplanes + 2 * 2 * tokens * inplanes
    return total + pool + 2 * inplanes * embed_dim


def _efficientnet_flops(vision: EfficientNetConfig, resolution: int, embed_dim: int) -> int:
    side, width_in, hidden = -(-resolution // 2), STEM_WIDTH, HEAD_WIDTH
    total = 2 * side**2 * 9 * 3 * STEM_WIDTH
    for number, (kernel, stride, expansion, width, blocks) in enumerate(STAGES):
        hidden += width if number >= FIRST_SEEN else 0
        for block in range(blocks):
            inside, before = width_in * expansion, side
            side = -(-side // stride) if block == 0 else side
            total += 2 * before**2 * width_in * inside * (expansion > 1)
            total += 2 * side**2 * inside * (kernel**2 + width)
            width_in = width
    total += 2 * side**2 * width_in * HEAD_WIDTH
    return total + 2 * vision.classes * (HEAD_WIDTH + embed_dim) + 2 * hidden * embed_dim
