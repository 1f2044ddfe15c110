"""The paper's prompts: counts, checksums, other packages' copies, and classifiers made by name."""

from __future__ import annotations

import hashlib
import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

import clip_model
from clip_model import CLIP, encode_texts, zero_shot_classifier
from clip_model.templates import ClassName, class_set, class_sets, fill, template_set, template_sets
from tests.clip_model.test_model import SMALL_VIT

FOLDER = Path(clip_model.__file__).parent / "prompts"


@pytest.fixture(scope="module")
def model() -> CLIP:
    torch.manual_seed(0)
    return CLIP(SMALL_VIT).eval()


def open_clip_metadata() -> Any:
    """open_clip's tables, without importing open_clip."""
    package = importlib.util.find_spec("open_clip")
    assert package is not None, "open-clip-torch belongs to the lock file"
    assert package.origin is not None
    path = Path(package.origin).with_name("zero_shot_metadata.py")
    spec = importlib.util.spec_from_file_location("zero_shot_metadata", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_files_are_those_that_the_readme_names() -> None:
    stated = re.findall(r"sha256 (\w{64})  (\S+)", (FOLDER / "README.md").read_text())
    assert {name for _, name in stated} == {path.name for path in FOLDER.glob("*.json")}
    for digest, name in stated:
        assert hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == digest


def test_imagenet_counts() -> None:
    names = class_set("ImageNet")
    assert len(names) == 1000
    assert names[0] == "tench"
    assert names[-1] == "toilet paper"
    assert len(set(template_set("ImageNet"))) == 80
    assert len(template_set("ImageNet7")) == 7
    assert set(template_set("ImageNet7")) < set(template_set("ImageNet"))


def test_imagenet_is_open_clips() -> None:
    theirs = open_clip_metadata()
    assert class_set("ImageNet") == tuple(theirs.IMAGENET_CLASSNAMES)
    for name, templates in (
        ("ImageNet", theirs.OPENAI_IMAGENET_TEMPLATES),
        ("ImageNet7", theirs.SIMPLE_IMAGENET_TEMPLATES),
    ):
        assert template_set(name) == tuple(template("{}") for template in templates)


def test_every_data_set_of_the_paper_has_both() -> None:
    assert len(class_sets()) == 27
    assert set(template_sets()) == {*class_sets(), "ImageNet7", "bare", "one"}
    for name in template_sets():
        assert all(template.count("{}") == 1 for template in template_set(name))
    assert len(class_set("CIFAR100")) == 100
    assert len(class_set("food101")) == 101
    assert len(class_set("SUN397")) == 397
    assert len(template_set("cifar10")) == 18


def test_every_prompt_fits_the_context() -> None:
    for name in class_sets():
        longest = max(template_set(name), key=len)
        clip_model.tokenize([fill((longest,), entry)[0] for entry in class_set(name)])


def test_unknown_names_are_refused(model: CLIP) -> None:
    with pytest.raises(ValueError, match="no classes are called 'nothing'.*ImageNet"):
        class_set("nothing")
    with pytest.raises(ValueError, match="no templates are called 'nothing'.*bare"):
        zero_shot_classifier(model, ["cat"], "nothing")


def test_classifier_by_name(model: CLIP) -> None:
    by_name = zero_shot_classifier(model, "EuroSAT", "EuroSAT")
    by_hand = zero_shot_classifier(model, class_set("EuroSAT"), template_set("EuroSAT"))
    assert by_name.shape == (10, 32)
    assert torch.equal(by_name, by_hand)
    one = zero_shot_classifier(model, ["cat"], "a photo of a {}.")
    torch.testing.assert_close(one, encode_texts(model, ["a photo of a cat."]))
    torch.testing.assert_close(one, zero_shot_classifier(model, ["cat"], "one"))


@pytest.mark.parametrize("batch_size", [1, 3, 256])
def test_a_class_may_have_several_names(model: CLIP, batch_size: int) -> None:
    names: list[ClassName] = ["sea", ("cat", "kitten"), "dog"]
    classifier = zero_shot_classifier(model, names, ["{}", "my {}"], batch_size)
    of_cats = encode_texts(model, ["cat", "my cat", "kitten", "my kitten"])
    torch.testing.assert_close(classifier[1], F.normalize(of_cats.mean(dim=0), dim=0))
    plain = zero_shot_classifier(model, ["sea", "dog"], ["{}", "my {}"])
    torch.testing.assert_close(classifier[[0, 2]], plain)
