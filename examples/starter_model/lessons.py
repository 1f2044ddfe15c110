"""All that `train` learns from, computed once for a seed and kept: texts with a teacher's features,
pictures as the trunk's.

    texts.json       what the text tower is taught
    sentences.npy    float16 [N + 3 * classes + tokens, 384]: the sentence model's features of
                     them, of what is said of ImageNet's classes, and of each token by itself
    drawings.npy     float16 [VIEWS, D, H]: the trunk's features of `images.npy` in so many views
    photographs.npy  float16 [P, H]: of cuts of photographs
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np

from clip_model.config import VOCAB_SIZE
from clip_model.tokenizer import decode
from examples.starter_model.data import load
from examples.starter_model.packages import MINILM, WORDNET, fetched
from examples.starter_model.teachers import sentence_features
from examples.starter_model.views import drawing_views, photograph_views
from examples.starter_model.words import imagenet_classes, read_synsets, texts
from workers.base.storage import write_json

logger = logging.getLogger(__name__)

TEXTS, SENTENCES = "texts.json", "sentences.npy"
DRAWINGS, PHOTOGRAPHS = "drawings.npy", "photographs.npy"
VIEWS = 3
SPECIAL_TOKENS = 2  # the last ones: of a text's start and end


def lessons_folder(cache: Path, seed: int) -> Path:
    """Where they are, and the checkpoints of what learns from them."""
    return cache / f"seed-{seed}"


def prepare_lessons(cache: Path, seed: int, processes: int) -> None:
    """Compute what is not there. Raises PackageError: a package cannot be had."""
    folder = lessons_folder(cache, seed)
    folder.mkdir(exist_ok=True)
    _, concepts = load(cache)
    wordnet, minilm = fetched(WORDNET, cache), fetched(MINILM, cache)
    names = sorted({name for concept in concepts for name in concept.names})
    taught = texts(wordnet, names, seed)
    write_json(taught, folder / TEXTS)
    classes = imagenet_classes(read_synsets(wordnet, "noun"))
    said = [text for one in classes for text in (one.name, one.words, one.gloss)]
    tokens = [decode([token]).strip() or "?" for token in range(VOCAB_SIZE - SPECIAL_TOKENS)]
    everything = [*taught, *said, *tokens]
    _once(folder / SENTENCES, lambda: sentence_features(everything, minilm, processes))
    _once(folder / DRAWINGS, lambda: drawing_views(cache, VIEWS, seed, processes))
    _once(folder / PHOTOGRAPHS, lambda: photograph_views(cache, seed, processes))


def _once(path: Path, compute: Callable[[], np.ndarray]) -> None:
    if path.exists():
        return
    logger.info("computing %s", path.name)
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.save(file, compute())
    partial.replace(path)
