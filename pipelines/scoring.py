"""The scores of models on held-out pairs: zero-shot accuracy and retrieval. No Ray in here."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor
from torch.nn import functional as F

import clip_model
from clip_model.metrics import first_ranks
from clip_model.model import CLIP
from clip_model.preprocess import Preprocess
from pipelines.config import ScoreSettings
from pipelines.held_out import Example


@dataclass(frozen=True)
class Questions:
    """Held-out pictures and captions, each once, and which belong together."""

    jpgs: list[bytes]  # P pictures
    captions: list[str]  # C captions
    picture_groups: Tensor  # [P], the group of each picture
    caption_groups: Tensor  # [C]

    @property
    def chance(self) -> float:
        """That a guess among the captions is right for a picture."""
        same = self.picture_groups[:, None] == self.caption_groups[None]  # [P, C]
        return same.float().mean().item()


def score_models(
    models: Mapping[str, Path], examples: Sequence[Example], settings: ScoreSettings
) -> dict[str, Any]:
    """Ask every model the same questions.

    Returns:
        The numbers of pictures and captions, the chance of a right guess, and for each model
        its scores as shares between 0 and 1.

    Raises:
        ValueError: there is no held-out pair.
    """
    if not examples:
        raise ValueError("no pair is held out: raise model.held_out or select more pairs")
    questions = ask(examples)
    return {
        "pictures": len(questions.jpgs),
        "captions": len(questions.captions),
        "chance": questions.chance,
        "models": {name: _score(path, questions, settings) for name, path in models.items()},
    }


def ask(examples: Sequence[Example]) -> Questions:
    """Each picture and each caption once.

    Pictures of one caption, and captions of one picture, are right for each other: they form
    a group, the connected part of the graph whose edges are the pairs.
    """
    jpgs = list(dict.fromkeys(example.jpg for example in examples))
    captions = list(dict.fromkeys(example.caption for example in examples))
    row = {jpg: index for index, jpg in enumerate(jpgs)}
    column = {caption: len(jpgs) + index for index, caption in enumerate(captions)}
    edges = (
        [row[example.jpg] for example in examples],
        [column[example.caption] for example in examples],
    )
    nodes = len(jpgs) + len(captions)
    graph = coo_matrix((np.ones(len(examples)), edges), shape=(nodes, nodes))
    _, groups = connected_components(graph, directed=False)
    groups = torch.from_numpy(groups)
    return Questions(jpgs, captions, groups[: len(jpgs)], groups[len(jpgs) :])


@torch.inference_mode()
def _score(checkpoint: Path, questions: Questions, settings: ScoreSettings) -> dict[str, float]:
    model, preprocess = clip_model.load(checkpoint)
    images = _image_features(model, preprocess, questions.jpgs, settings.batch_size)  # [P, D]
    classes = clip_model.zero_shot_classifier(model, questions.captions, settings.templates)
    ranks = first_ranks(images, classes, questions.picture_groups, questions.caption_groups)
    zero_shot = {f"zero-shot top-{k}": (ranks < k).float().mean().item() for k in (1, 5)}
    retrieval = clip_model.retrieval_recall(
        images,
        clip_model.encode_texts(model, questions.captions),
        settings.recall_at,
        questions.picture_groups,
        questions.caption_groups,
    )
    return zero_shot | retrieval


def _image_features(
    model: CLIP, preprocess: Preprocess, jpgs: Sequence[bytes], batch_size: int
) -> Tensor:
    """JPEG files -> [N, D], unit length."""
    device = model.logit_scale.device
    features = []
    for start in range(0, len(jpgs), batch_size):
        pictures = [Image.open(io.BytesIO(jpg)) for jpg in jpgs[start : start + batch_size]]
        batch = torch.stack([preprocess(picture) for picture in pictures]).to(device)
        features.append(F.normalize(model.encode_image(batch).float(), dim=-1).cpu())
    return torch.cat(features)
