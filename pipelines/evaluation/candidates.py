"""The models that are judged: CLIPs, and networks that know pictures alone."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clip_model.registry import DUAL_LIBRARIES, LIBRARIES, BackboneName, DualEncoderName
from pipelines.run.config import ConfigError, build_settings
from pipelines.run.models import (
    architecture,
    check_weights,
    read_backbone,
    read_dual_encoder,
)
from pipelines.stages.embeddings import Content, content_of
from workers.base.settings import ShellText
from workers.embedding.settings import EmbedSettings, TowerSettings

if TYPE_CHECKING:
    from clip_model.dual_encoders import DualEncoder
    from clip_model.image_towers import Backbone


@dataclass(frozen=True)
class Candidate:
    """A model that is judged."""

    label: str  # what the report calls it
    settings: EmbedSettings

    @cached_property
    def content(self) -> Content:
        """Raises ConfigError where there is no such model."""
        return content_of(self.settings)

    @property
    def backbone(self) -> BackboneName | None:
        """A network of another library, which knows no text."""
        return BackboneName.of(self.settings.model)

    def check_weights(self) -> None:
        """Raises ConfigError where the file is no such model: every shard would fail for it."""
        if self.backbone:
            read_backbone(self.backbone, "--model")
        else:
            check_weights(self.settings.model, "--model")


def candidates_of(arguments: argparse.Namespace) -> list[Candidate]:
    """The models. Raises ConfigError where two have one label, or a name is none."""
    found: dict[str, Candidate] = {}
    for text in arguments.model:
        label, name = labelled(text)
        label = re.sub(r"[^A-Za-z0-9._@-]+", "-", label)
        if label in found:
            raise ConfigError(f"--model: two are called {label}; name one: LABEL={name}")
        tree = {"model": ShellText(name), "precision": arguments.precision}
        settings = build_settings(TowerSettings, tree, (), "--model")
        found[label] = Candidate(label, settings)
    return list(found.values())


def labelled(text: str) -> tuple[str, str]:
    """What the report calls a model, and the model: of [LABEL=]MODEL."""
    libraries = "|".join((*LIBRARIES, *DUAL_LIBRARIES))
    other = re.fullmatch(rf"(?:([^=]*)=)?(({libraries}):([^=]*).*)", text, re.DOTALL)
    if other:
        label, name, _, model = other.groups()
        return label or (Path(model).name if Path(model).is_dir() else model), name
    label, equals, name = text.rpartition("=")
    if not equals:
        label = Path(name).stem if "/" in name and Path(name).exists() else name
    return label, name


def size_of(candidate: Candidate) -> dict[str, Any]:
    """A model's arithmetic for an image, and its weights; of another library's its input, too."""
    import torch

    from clip_model.flops import image_flops
    from clip_model.image_towers import counted_flops
    from clip_model.model import CLIP

    if tower := _of_another_library(candidate):
        return {
            "gflops": counted_flops(tower) / 1e9,
            "parameters": sum(one.numel() for one in tower.parameters()),
            "preprocessing": tower.preprocessing.text(),
            "images_only": candidate.backbone is not None,
        }
    config = architecture(candidate.settings.model, "--model")
    with torch.device("meta"):
        parameters = sum(one.numel() for one in CLIP(config).parameters())
    return {"gflops": image_flops(config) / 1e9, "parameters": parameters}


def _of_another_library(candidate: Candidate) -> Backbone | DualEncoder | None:
    if candidate.backbone:
        return read_backbone(candidate.backbone, "--model")
    which = DualEncoderName.of(candidate.settings.model)
    return read_dual_encoder(which, "--model") if which else None
