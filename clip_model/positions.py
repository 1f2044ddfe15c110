"""Fine-tuning at another resolution: the patches' positions, resampled.

As the paper's ViT-L/14@336px was made of ViT-L/14. Bicubic with antialiasing, the class token's
position apart, like `resize_pos_embed` of open_clip 3.3. Towers of timm's are resized by timm.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import overload

import torch
from torch import Tensor
from torch.nn import functional as F

from clip_model.architecture import grid_side
from clip_model.config import EfficientNetConfig, TimmTowerConfig
from clip_model.model import CLIP, filled
from clip_model.timm_tower import TimmTower, tower_flops

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
        model_or_state: a model, or tensors under OpenAI's names, of a ViT or a ResNet.
        resolution: side of the images in pixels.

    Returns:
        What was given, with other positions: the new model's other parameters are copies.

    Raises:
        ValueError: the resolution is not a multiple of the patch's size (32 for ResNets), or timm
            has no way to it.
    """
    if not isinstance(model_or_state, CLIP):
        return _resize_state(model_or_state, resolution)
    config = model_or_state.config
    if isinstance(config.vision, TimmTowerConfig):
        state = _resized_by_timm(model_or_state, config.vision, resolution)
    elif isinstance(config.vision, EfficientNetConfig):
        state = model_or_state.state_dict()  # it has no positions
    else:
        state = _resize_state(model_or_state.state_dict(), resolution)
    config = replace(config, image_resolution=resolution)
    model = filled(config, {name: t.detach().clone() for name, t in state.items()})
    return model.train(model_or_state.training)


def _resized_by_timm(model: CLIP, vision: TimmTowerConfig, resolution: int) -> Mapping[str, Tensor]:
    """A network may have several tables of positions, at any place: timm knows them."""
    try:
        tower_flops(vision, resolution, model.config.embed_dim)
        visual = copy.deepcopy(model.visual)
        assert isinstance(visual, TimmTower)
        visual.resize(resolution)
    except RuntimeError as error:
        raise ValueError(f"resolution {resolution}: {error}") from error
    of_visual = {f"visual.{name}": tensor for name, tensor in visual.state_dict().items()}
    return model.state_dict() | of_visual


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
