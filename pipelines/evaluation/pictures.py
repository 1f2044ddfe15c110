"""The pictures that a model is judged on, as every protocol takes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from clip_model.probe import hash_order
from clip_model.templates import ClassName
from workers.base.arrays import Float64s

#: Why a model that embeds pictures alone has no zero-shot, no retrieval, nothing compared with it.
NO_TEXTS = "the model knows no text"
NO_DRAWS: Float64s = np.empty(0)
#: An interval that reaches further than this from its middle is said to be wide.
WIDE = 0.05


class TextTower(Protocol):
    """A model's texts, as directions."""

    def classifier(self, classes: Sequence[ClassName], templates: Sequence[str]) -> Tensor:
        """One direction a class: [C, E], unit length."""

    def texts(self, captions: Sequence[str]) -> Tensor:
        """One direction a caption: [M, E], unit length."""


@dataclass(frozen=True)
class Judged:
    """A result, and what the model says of each test picture, in the order they were given."""

    result: dict[str, Any]
    predictions: dict[str, Tensor]  # int64 [N] by protocol; -1 where it does not judge a picture
    #: [B] the bootstrap's values of the number that stands for the set: those of two models that
    #: answered the same pictures are of the same draws, so that their difference is paired. None
    #: stand here where there is no such number.
    draws: Float64s


@dataclass(frozen=True)
class Pictures:
    """N pictures of a split."""

    ids: Sequence[str]  # each once
    features: Tensor  # float32 [N, E], unit length
    labels: Sequence[tuple[int, ...]] = field(default_factory=list)  # class numbers of each
    captions: Sequence[tuple[str, ...]] = field(default_factory=list)  # of each, for retrieval
    #: [N, H], before the projection into the joint space, of any length: what probes see. None:
    #: they see `features`.
    hidden: Tensor | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Sequence[int]) -> Pictures:
        """Some of the pictures, in this order."""
        some = torch.as_tensor(rows, dtype=torch.long, device=self.features.device)
        return Pictures(
            [self.ids[row] for row in rows],
            self.features[some],
            [self.labels[row] for row in rows] if self.labels else [],
            [self.captions[row] for row in rows] if self.captions else [],
            None if self.hidden is None else self.hidden[some],
        )


def by_id(pictures: Pictures) -> tuple[Pictures, Tensor]:
    """The pictures in the order of their ids, so that no figure depends on how they lie in shards.

    Returns:
        The pictures, their features float32 and of unit length; and their rows before, [N].

    Raises:
        ValueError: there is none, an id stands twice, or a feature is not finite or no direction.
    """
    count = len(pictures)
    if not count:
        raise ValueError("there is no picture to judge by")
    if pictures.features.ndim != 2 or len(pictures.features) != count:
        shape = tuple(pictures.features.shape)
        raise ValueError(f"{count} pictures need features [{count}, E], not {shape}")
    order = sorted(range(count), key=pictures.ids.__getitem__)
    some = pictures.take(order)
    twice = [one for one, other in zip(some.ids, some.ids[1:], strict=False) if one == other]
    if twice:
        raise ValueError(f"pictures of one id: {named(twice)}; give each its own")
    lengths = some.features.float().norm(dim=-1)
    sound = lengths.isfinite() & (lengths > 0)
    if some.hidden is not None:
        sound &= some.hidden.isfinite().all(dim=-1)
    broken = (~sound).nonzero().flatten().tolist()
    if broken:
        raise ValueError(
            f"the features of {len(broken)} of {count} pictures are not finite or have no "
            f"direction: {named([some.ids[row] for row in broken])}; leave these pictures out, or "
            "see that the model's weights are whole"
        )
    unit = F.normalize(some.features.float(), dim=-1)
    return replace(some, features=unit), torch.tensor(order)


def for_probes(train: Pictures, judged: Pictures) -> tuple[Pictures, Pictures]:
    """The same with the features that probes see in the place of the joint ones.

    They keep their lengths, as the paper's do, up to one number by which all are divided, the
    training pictures' root mean square length: so an L2 strength means the same for every model.
    """
    if train.hidden is None or judged.hidden is None:
        return train, judged
    before, after = train.hidden.float(), judged.hidden.float()
    length = before.square().sum(dim=-1).mean().sqrt()
    return replace(train, features=before / length), replace(judged, features=after / length)


def as_given(values: Tensor, order: Tensor) -> Tensor:
    """Values in the order of ids -> in the order in which the pictures were given."""
    given = torch.empty_like(values)
    given[order] = values
    return given


def check_labels(pictures: Pictures, classes: int, needed: bool) -> None:
    """Raises ValueError where a label is no class's number, or is needed and missing."""
    if len(pictures.labels) != len(pictures):
        raise ValueError(f"{len(pictures)} pictures have {len(pictures.labels)} labels")
    rows = list(zip(pictures.ids, pictures.labels, strict=True))
    if wrong := [name for name, some in rows if any(not 0 <= one < classes for one in some)]:
        raise ValueError(f"labels that are none of the {classes} classes: {named(wrong)}")
    if needed and (without := [name for name, some in rows if not some]):
        raise ValueError(f"{len(without)} pictures have no label: {named(without)}")


def named(things: Sequence[object]) -> str:
    """The first ten of some things."""
    return ", ".join(map(str, things[:10])) + (", ..." if len(things) > 10 else "")


def split_by_hash(pictures: Pictures, share: float, seed: int) -> tuple[list[int], list[int]]:
    """Rows of two parts, the second with this share of each class, drawn by hash of the ids.

    A class of two pictures or more is in both parts, one of a single picture in the first.
    """
    of_class: dict[int, list[int]] = {}
    for row in hash_order(pictures.ids, seed):
        label = min(pictures.labels[row], default=-1)
        of_class.setdefault(label, []).append(row)
    first, second = [], []
    for rows in of_class.values():
        count = min(max(1, round(share * len(rows))), len(rows) - 1)
        first += rows[count:]
        second += rows[:count]
    return sorted(first), sorted(second)


def about_interval(name: str, entry: Mapping[str, Any], pictures: int) -> list[str]:
    """A warning where a figure's interval is wide, or it has no value."""
    low, high = entry["interval"]
    if entry["value"] is None or low is None or high is None:
        return [f"{name}: no value, as there are not pictures enough of both kinds"]
    half = (high - low) / 2
    return [f"{name}: {pictures} pictures, an interval of +-{100 * half:.0f} points"][: half > WIDE]
