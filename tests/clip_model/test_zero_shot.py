"""Zero-shot classifiers against the paper's recipe, one step at a time."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional as F

from clip_model import CLIP, classify, encode_texts, tokenize, zero_shot_classifier
from tests.clip_model.test_model import SMALL_VIT


@pytest.fixture(scope="module")
def model() -> CLIP:
    torch.manual_seed(0)
    return CLIP(SMALL_VIT).eval()


@pytest.mark.parametrize("batch_size", [1, 4, 256])
def test_ensemble_is_made_in_embedding_space(model: CLIP, batch_size: int) -> None:
    names = ["cat", "dog", "a {strange} name", "sea", "apple pie"]
    templates = ["{}", "a photo of a {}", "{} in the wild"]
    classifier = zero_shot_classifier(model, names, templates, batch_size)
    for name, direction in zip(names, classifier, strict=True):
        prompts = [template.replace("{}", name) for template in templates]
        with torch.inference_mode():
            features = F.normalize(model.encode_text(tokenize(prompts)), dim=-1)
        expected = F.normalize(features.mean(dim=0), dim=0)
        torch.testing.assert_close(direction, expected, rtol=1e-4, atol=1e-5)


def test_one_template_is_plain_encoding(model: CLIP) -> None:
    names = ["cat", "dog"]
    torch.testing.assert_close(zero_shot_classifier(model, names), encode_texts(model, names))


def test_classifier_needs_classes_and_slots(model: CLIP) -> None:
    with pytest.raises(ValueError, match="at least one class"):
        zero_shot_classifier(model, [])
    with pytest.raises(ValueError, match="without"):
        zero_shot_classifier(model, ["cat"], ["a photo"])


@pytest.mark.parametrize("chunk_size", [1, 3, 100])
def test_chunks_change_nothing(chunk_size: int) -> None:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(6, 8, generator=generator)
    classifier = F.normalize(torch.randn(11, 8, generator=generator), dim=-1)
    scale = torch.tensor(3.0)
    probabilities, classes = classify(images, classifier, scale, 4, chunk_size)
    logits = scale.exp() * F.normalize(images, dim=-1) @ classifier.t()
    expected, expected_classes = logits.softmax(dim=-1).topk(4, dim=-1)
    torch.testing.assert_close(probabilities, expected)
    assert torch.equal(classes, expected_classes)


def test_more_places_than_classes() -> None:
    probabilities, classes = classify(torch.ones(1, 4), torch.eye(4)[:3], 0.0, top_k=5)
    assert classes.shape == (1, 3)
    assert probabilities.sum().item() == pytest.approx(1.0)


@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
@pytest.mark.parametrize("chunk_size", [1, 2, 100])
def test_what_is_not_finite_is_of_no_class(broken: float, chunk_size: int) -> None:
    features, classifier = torch.eye(3), torch.eye(3)
    features[0, 1] = broken
    probabilities, classes = classify(features, classifier, 1.0, 2, chunk_size)
    assert classes[0].tolist() == [-1, -1]
    assert probabilities[0].isnan().all()
    assert classes[1:, 0].tolist() == [1, 2]
    assert probabilities[1:].isfinite().all()
    classifier[2, 2] = broken  # the logarithm of the sum is then broken for every image
    assert (classify(torch.eye(3), classifier, 1.0, 1, chunk_size)[1] == -1).all()


def test_a_model_of_nan_makes_no_classifier(model: CLIP) -> None:
    broken = copy.deepcopy(model)
    with torch.no_grad():
        broken.text_projection[0, 0] = torch.nan
    with pytest.raises(ValueError, match="not finite"):
        zero_shot_classifier(broken, ["cat"])
