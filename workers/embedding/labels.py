"""What is said of an image by its embedding alone: labels, attributes, scores of small heads.

Labels are the paper's zero-shot classification over any list of classes. An attribute compares an
image with prompts for and against it. A head is a small network that somebody trained on
embeddings; LAION's aesthetic and safety predictors are of this form.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import torch
from torch import Tensor
from torch.nn import functional as F

import clip_model
from clip_model import CLIP
from clip_model.dual_encoders import DualEncoder
from clip_model.templates import class_set
from clip_model.tensor_files import read_tensor_file
from clip_model.zero_shot import TextTower
from workers.embedding.settings import ATTRIBUTES, Attribute, EmbedSettings, Head, LabelSet


class Label(TypedDict):
    """A row of ``contracts.LABEL``."""

    set: str
    label: str
    probability: float


#: Classes of a large list that are compared at once: 32 MB for a window of 1,024 images.
CLASSES_AT_ONCE = 8192

_NUMBER = re.compile(r"\d+")


class LabelError(ValueError):
    """Labels, attributes or heads that this model cannot give; the message says what to do."""


@dataclass(frozen=True)
class LabelClassifier:
    """A label set, ready to be applied: one text feature a class."""

    name: str
    classes: tuple[str, ...]
    features: Tensor  # [C, D], unit length
    logit_scale: Tensor
    top_k: int

    @classmethod
    def of(cls, name: str, settings: LabelSet, model: TextTower) -> LabelClassifier:
        """Encode the classes' prompts. Raises LabelError."""
        try:
            classes = settings.classes
            names = class_set(classes) if isinstance(classes, str) else classes
            features = clip_model.zero_shot_classifier(model, names, settings.templates)
        except (ValueError, RuntimeError) as error:
            raise LabelError(f"label set {name}: {error}") from error
        first_names = tuple(entry if isinstance(entry, str) else entry[0] for entry in names)
        on_cpu = _on_cpu(features), _on_cpu(model.logit_scale)
        return cls(name, first_names, *on_cpu, settings.top_k)

    def label(self, image_features: Tensor) -> list[list[Label]]:
        """The most probable classes of each image: [N, D] -> N lists."""
        probabilities, indices = clip_model.classify(
            image_features, self.features, self.logit_scale, self.top_k, CLASSES_AT_ONCE
        )  # [N, K]
        return [
            [
                {"set": self.name, "label": self.classes[index], "probability": probability}
                for probability, index in zip(*image, strict=True)
            ]
            for image in zip(probabilities.tolist(), indices.tolist(), strict=True)
        ]


@dataclass(frozen=True)
class AttributeScore:
    """The probability that an image has an attribute, between prompts for and against it."""

    features: Tensor  # [2, D], unit length: for, against
    logit_scale: Tensor

    @classmethod
    def of(cls, name: str, settings: Attribute, model: TextTower) -> AttributeScore:
        """Encode the prompts, those of each side averaged; without any, this project's."""
        prompts = settings if settings.present else ATTRIBUTES[name]
        sides = [
            clip_model.zero_shot_classifier(model, [side], "bare")
            for side in (prompts.present, prompts.absent)
        ]
        return cls(_on_cpu(torch.cat(sides)), _on_cpu(model.logit_scale))

    def score(self, image_features: Tensor) -> Tensor:
        """[N, D], unit length -> [N]."""
        logits = self.logit_scale.exp() * image_features @ self.features.t()  # [N, 2]
        return logits.softmax(dim=-1)[:, 0]


@dataclass(frozen=True)
class HeadScore:
    """A small network on the embedding: linear layers, one number out."""

    layers: tuple[tuple[Tensor, Tensor | None], ...]  # weight [out, in], bias [out]
    settings: Head

    @classmethod
    def of(cls, name: str, settings: Head, dim: int) -> HeadScore:
        """Read the layers of a file: every matrix in it, in the order of the numbers in its name.

        Raises:
            LabelError: the file cannot be read, or is no such network for ``dim`` dimensions.
        """
        try:
            tensors = read_tensor_file(Path(settings.path)).tensors
        except (OSError, RuntimeError, ValueError) as error:
            raise LabelError(f"head {name}: cannot read {settings.path}: {error}") from error
        weights = sorted((n for n in tensors if tensors[n].ndim == 2), key=_layer_order)
        layers = tuple(
            (tensors[weight].float(), _bias(tensors.get(weight.removesuffix("weight") + "bias")))
            for weight in weights
        )
        widths = [dim, *(len(weight) for weight, _ in layers)]
        takes = [weight.shape[1] for weight, _ in layers]
        if not layers or takes != widths[:-1] or widths[-1] != 1:
            shapes = " ".join(str(list(weight.shape)) for weight, _ in layers) or "no layer"
            raise LabelError(
                f"head {name}: {settings.path} has {shapes}; linear layers from the model's "
                f"{dim} dimensions to 1 are needed"
            )
        return cls(layers, settings)

    def score(self, image_features: Tensor) -> Tensor:
        """[N, D], unit length -> [N]."""
        x = image_features
        for number, (weight, bias) in enumerate(self.layers):
            x = F.linear(x if number == 0 else self._activated(x), weight, bias)
        return (torch.sigmoid(x) if self.settings.output == "sigmoid" else x)[:, 0]

    def _activated(self, x: Tensor) -> Tensor:
        kind = self.settings.activation
        return x if kind == "none" else F.relu(x) if kind == "relu" else F.gelu(x)


@dataclass(frozen=True)
class Labels:
    """All that is said of images by their embeddings."""

    sets: Sequence[LabelClassifier] = ()
    scores: tuple[tuple[str, AttributeScore | HeadScore], ...] = ()

    @classmethod
    def of(cls, settings: EmbedSettings, model: CLIP | DualEncoder | None) -> Labels:
        """Encode the prompts and read the heads; of an image tower alone, without a model, none.

        Raises:
            LabelError: a label, attribute or head that the model cannot give.
        """
        if model is None:
            if settings.has_labels:
                raise LabelError(f"{settings.model} knows no text: it gives no labels and scores")
            return cls()
        scores: dict[str, AttributeScore | HeadScore] = {
            name: AttributeScore.of(name, attribute, model)
            for name, attribute in settings.attributes.items()
        }
        for name, head in settings.heads.items():
            scores[name] = HeadScore.of(name, head, model.embed_dim)
        return cls(
            [
                LabelClassifier.of(name, labels, model)
                for name, labels in sorted(settings.label_sets.items())
            ],
            tuple(sorted(scores.items())),
        )

    def of_images(self, image_features: Tensor) -> list[list[Label]]:
        """Each image's labels, of one set after the other: [N, D] -> N lists."""
        rows: list[list[Label]] = [[] for _ in image_features]
        for classifier in self.sets:
            for row, labels in zip(rows, classifier.label(image_features), strict=True):
                row += labels
        return rows


def _on_cpu(tensor: Tensor) -> Tensor:
    """In float32: a few thousand dot products an image are nothing beside a tower."""
    return tensor.detach().float().cpu()


def _layer_order(name: str) -> tuple[list[int], str]:
    return [int(number) for number in _NUMBER.findall(name)], name


def _bias(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.float()
