"""The scores of models on held-out pairs: zero-shot accuracy and retrieval. No Ray in here."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

import clip_model
from clip_model.model import CLIP
from clip_model.preprocess import Preprocess
from clip_model.retrieval import first_ranks, pair_matches
from pipelines.evaluation.intervals import Estimate, bootstrap, share_of
from pipelines.evaluation.measures import Measure, difference
from pipelines.evaluation.settings import ProtocolSettings
from pipelines.run.config import ScoreSettings
from pipelines.training.held_out import Example
from workers.base.arrays import Bools


@dataclass(frozen=True)
class Questions:
    """Held-out images and captions, each once, and which belong together."""

    jpgs: list[bytes]  # P images
    captions: list[str]  # C captions
    pairs: Tensor  # int64 [M, 2]: the image was given the caption, by their numbers


def score_models(
    models: Mapping[str, str], examples: Sequence[Example], settings: ScoreSettings
) -> dict[str, Any]:
    """Ask every model the same questions; ``models`` are names or files of checkpoints.

    Returns:
        The numbers of images and captions, the chance of a right guess, and for each model
        its scores as shares between 0 and 1; and of zero-shot top-1 each model's estimate by
        name, with the ``difference`` of the last model less the first where there are two.

    Raises:
        ValueError: there is no held-out pair, or features of a model are not finite.
    """
    if not examples:
        raise ValueError("no pair is held out: raise model.held_out or select more pairs")
    questions = ask(examples)
    ranks = {name: _ranks(name, path, questions, settings) for name, path in models.items()}
    return {
        "images": len(questions.jpgs),
        "captions": len(questions.captions),
        "chance": len(questions.pairs) / (len(questions.jpgs) * len(questions.captions)),
        "models": {name: _shares(of, settings) for name, of in ranks.items()},
        "zero_shot": _estimates({name: (of.caption < 1).numpy() for name, of in ranks.items()}),
    }


def ask(examples: Sequence[Example]) -> Questions:
    """Each image and each caption once; every caption that an image was given is right."""
    row = {jpg: index for index, jpg in enumerate(dict.fromkeys(e.jpg for e in examples))}
    column = {text: index for index, text in enumerate(dict.fromkeys(e.caption for e in examples))}
    pairs = {(row[example.jpg], column[example.caption]) for example in examples}
    return Questions(list(row), list(column), torch.tensor(sorted(pairs)))


@dataclass(frozen=True)
class Ranks:
    """Where the first right answer stands, from 0."""

    caption: Tensor  # [P] of each image, among the captions with the prompts
    text: Tensor  # [P] of each image, among the captions as they are
    image: Tensor  # [C] of each caption, among the images


@torch.inference_mode()
def _ranks(name: str, checkpoint: str, questions: Questions, settings: ScoreSettings) -> Ranks:
    model, preprocess = clip_model.load(checkpoint, half=False)  # as on a CPU, on a GPU too
    images = _image_features(model, preprocess, questions.jpgs, settings.batch_size)  # [P, D]
    # Captions are cut as they were in training.
    texts = clip_model.encode_texts(model, questions.captions, truncate=True).cpu()  # [C, D]
    if not all(features.isfinite().all() for features in (images, texts)):
        raise ValueError(
            f"the features that the model {name!r} gives are not finite (NaN or infinite): its "
            "weights are broken, and it has no score"
        )
    classes = clip_model.zero_shot_classifier(
        model, questions.captions, settings.templates, truncate=True
    ).cpu()  # [C, D]
    captions_of = pair_matches(questions.pairs, len(texts))
    images_of = pair_matches(questions.pairs.flip(1), len(images))
    return Ranks(
        first_ranks(images, classes, captions_of),
        first_ranks(images, texts, captions_of),
        first_ranks(texts, images, images_of),
    )


def _shares(ranks: Ranks, settings: ScoreSettings) -> dict[str, float]:
    scores = {f"zero-shot top-{k}": _share_within(ranks.caption, k) for k in (1, 5)}
    for k in settings.recall_at:
        scores[f"image to text R@{k}"] = _share_within(ranks.text, k)
        scores[f"text to image R@{k}"] = _share_within(ranks.image, k)
    return scores


def _estimates(rights: Mapping[str, Bools]) -> dict[str, Estimate]:
    """Of each model the share of images that it is right of; of two, how they differ."""
    asked = ProtocolSettings()
    measures = {name: Measure(share_of(some), len(some), some) for name, some in rights.items()}
    statistics = {name: one.statistic for name, one in measures.items()}
    pictures = max(map(len, rights.values()))
    draws = bootstrap(pictures, statistics, asked.bootstrap, asked.seed)
    found = {name: one.estimate(draws[name]) for name, one in measures.items()}
    if len(measures) == 2:
        (start, before), (trained, after) = zip(measures.values(), draws.values(), strict=True)
        found["difference"] = difference(trained, after, start, before)
    return found


def _share_within(ranks: Tensor, k: int) -> float:
    return (ranks < k).float().mean().item()


def _image_features(
    model: CLIP, preprocess: Preprocess, jpgs: Sequence[bytes], batch_size: int
) -> Tensor:
    """JPEG files -> [N, D], unit length."""
    device = model.logit_scale.device
    features = []
    for start in range(0, len(jpgs), batch_size):
        images = [Image.open(io.BytesIO(jpg)) for jpg in jpgs[start : start + batch_size]]
        batch = torch.stack([preprocess(image) for image in images]).to(device)
        features.append(F.normalize(model.encode_image(batch).float(), dim=-1).cpu())
    return torch.cat(features)
