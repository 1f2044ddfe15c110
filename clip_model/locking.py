"""Locked towers: a part of the model that is trained around and keeps its weights.

"LiT: Zero-Shot Transfer with Locked-image text Tuning", arXiv 2111.07991. A locked part has no
gradients, and as nothing below it has any, autograd keeps nothing of its forward pass and has no
backward pass to do. It stays in eval mode while the rest is trained: a BatchNorm normalises by the
statistics that it came with and learns no others, and nothing is dropped out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Locked = Literal["image", "image_trunk", "text"]

_TOWER, _TEMPERATURE = "visual.", "logit_scale"


@dataclass(frozen=True)
class Lock:
    """Which parts of a `CLIP` keep their weights.

    Args:
        part: the image tower; all of it but its projection into the joint space; the text tower.
            The temperature, which is neither's, is always trained.
        projection: of the image tower, what the projection consists of: names of modules and
            parameters below `visual.`.

    Raises:
        ValueError: the projection is to be trained, and the tower has none.
    """

    part: Locked
    projection: Sequence[str]

    def __post_init__(self) -> None:
        if self.part == "image_trunk" and not self.projection:
            raise ValueError(
                "this image tower has no projection into the joint space to train; lock image, all "
                "of it"
            )

    def holds(self, name: str) -> bool:
        """Whether a parameter or a module of the model, which has this name, is locked."""
        if not f"{name}.".startswith(_TOWER):
            return self.part == "text" and name not in ("", _TEMPERATURE)
        below = f"{name}.".removeprefix(_TOWER)
        is_projection = any(below.startswith(f"{one}.") for one in self.projection)
        return self.part == "image" or (self.part == "image_trunk" and not is_projection)
