"""The shipped model knows what Twemoji shows, in a style that it never saw, and photographs."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import skimage
import torch
from PIL import Image

import clip_model
from clip_model.checkpoint import SHIPPED
from clip_model.config import STARTER
from examples.starter_model.evaluate import encode_images, separation, twemoji_images

DRAWN = 200


@pytest.fixture(scope="module")
def features() -> tuple[torch.Tensor, torch.Tensor]:
    """Image and text features of drawn images, each [N, E]."""
    images = [image for image in twemoji_images() if image.kind == "emoji"]
    drawn = random.Random(0).sample(images, DRAWN)
    model, preprocess = clip_model.load("starter", device="cpu")
    captions = [image.caption for image in drawn]
    return encode_images(model, preprocess, drawn), clip_model.encode_texts(model, captions)


def test_file_is_small_enough_for_a_repository() -> None:
    assert SHIPPED["starter"].stat().st_size <= 40_000_000


def test_true_captions_score_higher(features: tuple[torch.Tensor, torch.Tensor]) -> None:
    assert separation(*features) > 0.95


def test_zero_shot_is_far_above_chance(features: tuple[torch.Tensor, torch.Tensor]) -> None:
    recall = clip_model.retrieval_recall(*features)
    assert recall["image_to_text@1"] > 0.4
    assert recall["text_to_image@1"] > 0.4


def test_it_names_photographs() -> None:
    shown = {"chelsea.png": "cat", "coffee.png": "cup of coffee", "rocket.jpg": "rocket"}
    shown |= {"motorcycle_left.png": "motorcycle", "coins.png": "coins", "brick.png": "brick wall"}
    folder = Path(skimage.__file__).parent / "data"
    paths = {folder / name: said for name, said in shown.items() if (folder / name).is_file()}
    model, preprocess = clip_model.load("starter", device="cpu")
    images = torch.stack([preprocess(Image.open(path)) for path in paths])
    names = [*paths.values(), "dog", "tree", "guitar", "house", "boat", "flower", "car", "clock"]
    classifier = clip_model.zero_shot_classifier(model, names, "one")
    with torch.inference_mode():
        _, found = clip_model.classify(model.encode_image(images), classifier, 0.0, 1)
    right = sum(names[row] == said for row, said in zip(found[:, 0], paths.values(), strict=True))
    assert len(paths) >= 4
    assert right >= 0.5 * len(paths)


def test_its_architecture_is_the_one_that_is_written_down() -> None:
    assert clip_model.load("starter")[0].config == STARTER
