"""Fine-tuning at another resolution: the patches' positions, resampled.

As the paper's ViT-L/14@336px was made of ViT-L/14. Bicubic with antialiasing, the class token's
position apart, like `resize_pos_embed` of open_clip 3.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import overload

import torch
from torch import Tensor
from torch.nn import functional as F

from clip_model.architecture import grid_side
from clip_model.model import CLIP

VIT_POSITIONS = "visual.positional_embedding"
RESNET_POSITIONS = "visual.attnpool.positional_embedding"
RESNET_STRIDE = 32  # pixels a position of the last feature map


@overload
def resize_positions(model_or_state: CLIP, resolution: int) -> CLIP: ...
@overload
def resize_positions(
    model_or_state: Mapping[str, Tensor], resolution: int
) -> dict[str, Tensor]: ...
def resize_positions(
    model_or_state: CLIP | Mapping[str, Tensor], resolution: int
) -> CLIP | dict[str, Tensor]:
    """The same model for images of another size; what is given stays as it is.

    Args:
        model_or_state: a model, or tensors under OpenAI's names.
        resolution: side of the images in pixels.

    Returns:
        What was given, with other positions: the new model's other parameters are copies.

    Raises:
        ValueError: the resolution is not a multiple of the patch's size (32 for ResNets).
    """
    if not isinstance(model_or_state, CLIP):
        return _resize_state(model_or_state, resolution)
    state = _resize_state(model_or_state.state_dict(), resolution)
    config = replace(model_or_state.config, image_resolution=resolution)
    with torch.device("meta"):  # no memory and no random numbers for what is about to be replaced
        model = CLIP(config)
    model.load_state_dict({name: t.detach().clone() for name, t in state.items()}, assign=True)
    return model.train(model_or_state.training)


def _resize_state(state: Mapping[str, Tensor], resolution: int) -> dict[str, Tensor]:
    is_vit = VIT_POSITIONS in state
    name = VIT_POSITIONS if is_vit else RESNET_POSITIONS
    patch = state["visual.conv1.weight"].shape[-1] if is_vit else RESNET_STRIDE
    if resolution < patch or resolution % patch:
        raise ValueError(f"resolution {resolution} is not a multiple of {patch}")
    return {**state, name: _resample(state[name], resolution // patch)}


def _resample(positions: Tensor, side: int) -> Tensor:
    """[1 + S * S, D] -> [1 + side * side, D]"""
    old_side = grid_side(positions)
    if side == old_side:
        return positions
    token, grid = positions[:1], positions[1:].float()
    grid = grid.view(1, old_side, old_side, -1).permute(0, 3, 1, 2)  # 1DSS
    grid = F.interpolate(grid, size=(side, side), mode="bicubic", antialias=True)
    grid = grid.flatten(2).squeeze(0).t()  # (side * side)D
    return torch.cat([token, grid.to(token.dtype)])
