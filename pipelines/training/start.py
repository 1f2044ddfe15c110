"""The model that a training begins with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

import clip_model
from clip_model.config import ARCHITECTURES, SMALL, STARTER, ClipConfig
from clip_model.model import CLIP
from clip_model.open_clip import described
from clip_model.positions import resize_positions
from pipelines.training.settings import TrainSettings
from workers.base.failures import NeedsMendingError

#: By name, of new weights and of models that trainings go on from.
KNOWN = {"small": SMALL, "starter": STARTER, **ARCHITECTURES}


def starting_model(settings: TrainSettings, seed: int) -> CLIP:
    """A checkpoint's, or new weights of an architecture; for images of the settings' resolution.

    In float32, on the CPU. New weights are a function of the seed.

    Raises:
        NeedsMendingError: a setting does not fit the model.
    """
    if settings.architecture:
        torch.manual_seed(seed)
        model = CLIP(known_or_described(settings.architecture))
    else:
        assert settings.start_from is not None  # the settings are validated
        model, _ = clip_model.load(settings.start_from, device="cpu", half=False)
    try:
        if settings.resolution:
            model = resize_positions(model, settings.resolution)
        if settings.patch_dropout:
            model.set_patch_dropout(settings.patch_dropout)
        model.requires_grad_()
        if settings.locked:
            model.lock_part(settings.locked)
        model.set_grad_checkpointing(settings.gradient_checkpointing)
    except ValueError as error:
        raise NeedsMendingError(
            "model.resolution, model.patch_dropout, model.locked or model.gradient_checkpointing: "
            f"{error}"
        ) from error
    # Convolutions of a ResNet are a quarter faster with the channels innermost; a ViT is the same.
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def known_or_described(said: str | Mapping[str, Any]) -> ClipConfig:
    """Of `model.architecture`: a known name, or a configuration of open_clip's kind."""
    if isinstance(said, str):
        return KNOWN[said]
    return described(said, "model.architecture")
