"""Models of open_clip and transformers give the features that these give themselves."""

import io
import math
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from clip_model.dual_encoders import load_dual_encoder
from clip_model.preprocess import Preprocessing, image_bytes_transform
from clip_model.registry import DualEncoderName
from tests.dual_encoder_models import (
    OPEN_CLIP,
    TRANSFORMERS,
    named,
    save_open_clip,
    save_transformers,
)

TEXTS = ["a photo of a cat", "Red dog, in the photo " * 30, "", "a tree"]


def opened(name):
    return load_dual_encoder(named(name))


def assert_close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def pictures():
    generator = np.random.default_rng(0)
    files = []
    for width, height in ((300, 200), (120, 260), (64, 64)):
        blocks = generator.integers(0, 255, (height // 4, width // 4, 3))
        levels = np.kron(blocks, np.ones((4, 4, 1))).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(levels).save(file, "PNG")
        files.append(file.getvalue())
    return files


def features(encoder, pictures):
    transform = image_bytes_transform(encoder.preprocessing)
    tokens = encoder.tokenize(TEXTS)
    with torch.inference_mode():
        images = encoder.encode_image(torch.stack([transform(file) for file in pictures]))
        texts = encoder.encode_text(tokens)
        rows = zip(tokens, encoder.lengths(tokens).tolist(), strict=True)
        trimmed = torch.cat([encoder.encode_text(row[None, :length]) for row, length in rows])
    assert images.shape[1] == texts.shape[1] == encoder.embed_dim
    images, texts, trimmed = (F.normalize(some, dim=-1) for some in (images, texts, trimmed))
    assert_close(trimmed, texts)
    return images, texts


@pytest.mark.parametrize("name", OPEN_CLIP)
def test_features_are_open_clips(name, tmp_path, pictures):
    import clip_model._torchvision  # noqa: F401, I001
    import open_clip

    saved = save_open_clip(name, tmp_path / name)
    images, texts = features(opened(saved), pictures)
    theirs = f"local-dir:{tmp_path / name}"
    model, _, preprocess = open_clip.create_model_and_transforms(theirs)
    pixels = [preprocess(Image.open(io.BytesIO(file))) for file in pictures]
    with torch.inference_mode():
        of_images = model.eval().encode_image(torch.stack(pixels), normalize=True)
        of_texts = model.encode_text(open_clip.get_tokenizer(theirs)(TEXTS), normalize=True)
    assert_close(images, of_images)
    assert_close(texts, of_texts)
    assert images.std(dim=0).max() > 0.001  # the pictures are told apart


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_features_are_transformers(name, tmp_path, pictures):
    import transformers as hf

    saved = save_transformers(name, tmp_path / name)
    images, texts = features(opened(saved), pictures)
    model = hf.AutoModel.from_pretrained(tmp_path / name).eval()
    processor = hf.AutoImageProcessor.from_pretrained(tmp_path / name, backend="pil")
    tokens = hf.AutoTokenizer.from_pretrained(tmp_path / name)(
        TEXTS, padding="max_length", max_length=24, truncation=True, return_tensors="pt"
    )
    files = [Image.open(io.BytesIO(file)) for file in pictures]
    with torch.inference_mode():
        pixels = processor(files, return_tensors="pt")
        of_images = model.get_image_features(**pixels).pooler_output
        of_texts = model.get_text_features(**tokens).pooler_output
    assert_close(images, F.normalize(of_images, dim=-1))
    assert_close(texts, F.normalize(of_texts, dim=-1))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("open_clip:ViT-B-32/openai", ("open_clip", "ViT-B-32", "openai", "")),
        ("open_clip:ViT-B-32=w.pt", ("open_clip", "ViT-B-32", "", "w.pt")),
        ("open_clip:ViT-B-32/openai=w=1.pt", ("open_clip", "ViT-B-32", "openai", "w=1.pt")),
        ("hf:google/siglip2-base", ("hf", "google/siglip2-base", "", "")),
        ("hf:google/siglip2-base@a1b2", ("hf", "google/siglip2-base", "a1b2", "")),
    ],
)
def test_names(text, parts):
    which = named(text)
    assert (which.library, which.name, which.tag, which.weights) == parts
    assert str(which) == text
    assert which.files == ([Path(parts[3])] if parts[3] else [])


@pytest.mark.parametrize("text", ["starter", "ViT-B/32", "a/model.safetensors", "timm:a=b"])
def test_names_of_something_else(text):
    assert DualEncoderName.of(text) is None


@pytest.mark.parametrize(
    "text", ["open_clip:ViT-B-32", "open_clip:", "hf:", "hf:nowhere", "open_clip:a/b/c", "hf:/gone"]
)
def test_half_a_name_is_refused(text):
    with pytest.raises(ValueError, match="write (open_clip|hf):"):
        DualEncoderName.of(text)


def saved_weights(model, path):
    save_file({k: v.contiguous().clone() for k, v in model.state_dict().items()}, path)
    return path


@pytest.mark.parametrize("tag", ["", "/laion400m_s13b_b51k"])
def test_weights_from_a_file_have_the_preprocessing_of_the_tags(tag, tmp_path, monkeypatch):
    import clip_model._torchvision  # noqa: F401, I001
    import open_clip

    config, _ = OPEN_CLIP["convnext_base"]
    known = {name: open_clip.get_model_config(name) for name in open_clip.list_models()}
    known["convnext_base"] = config
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIGS", known)
    torch.manual_seed(0)
    model = open_clip.create_model("convnext_base")
    path = saved_weights(model, tmp_path / "weights.safetensors")
    encoder = opened(f"open_clip:convnext_base{tag}={path}")
    tensors = dict(encoder.network.state_dict())
    assert all(torch.equal(tensors[name], value) for name, value in model.state_dict().items())
    assert encoder.preprocessing == Preprocessing(resolution=64)


def test_what_cannot_be_given_is_said(tmp_path, monkeypatch):
    def message(name):
        with pytest.raises(RuntimeError) as error:
            opened(name)
        return str(error.value)

    weights = saved_weights(torch.nn.Linear(2, 2), tmp_path / "other.safetensors")
    assert "near it are convnext_" in message("open_clip:convnext_bas/x")
    assert "'x'; near it are laion400m" in message("open_clip:convnext_base/x")
    assert "there is no file" in message(f"open_clip:ViT-B-32={tmp_path / 'gone'}")
    assert "Missing key" in message(f"open_clip:ViT-B-32={weights}")
    assert "differ in preprocessing" in message(f"open_clip:ViT-L-14={weights}")
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert/config.json").write_text('{"model_type": "bert"}')
    assert message(f"hf:{tmp_path / 'bert'}").startswith(f"hf:{tmp_path / 'bert'}: ")
    monkeypatch.setitem(sys.modules, "open_clip", None)
    assert "pip install open_clip_torch" in message("open_clip:ViT-B-32/openai")


def test_weights_that_are_not_finite_are_refused(tmp_path):
    saved = save_open_clip("ViT-B-32", tmp_path / "m")
    path = tmp_path / "m/open_clip_model.safetensors"
    tensors = load_file(path)
    tensors["logit_scale"] = torch.tensor(math.nan)
    save_file(tensors, path)
    with pytest.raises(RuntimeError, match="logit_scale"):
        opened(saved)


def test_a_pickle_that_asks_for_more_than_tensors_is_not_run(tmp_path):
    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Path))
    with pytest.raises(RuntimeError):
        opened(f"open_clip:ViT-B-32={tmp_path / 'evil.pt'}")
