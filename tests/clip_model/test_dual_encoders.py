"""Models of open_clip and transformers give the features that these give themselves."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from clip_model.dual_encoders import DualEncoderName, load_dual_encoder
from clip_model.preprocess import image_bytes_transform
from tests.dual_encoder_models import OPEN_CLIP, TRANSFORMERS, save_open_clip, save_transformers

TEXTS = ["a photo of a cat", "Red dog, in the photo " * 30, "", "a tree"]
CLOSE = {"rtol": 0, "atol": 1e-5}


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
        trimmed = [
            encoder.encode_text(row[None, : int(length)])
            for row, length in zip(tokens, encoder.lengths(tokens), strict=True)
        ]
    assert images.shape[1] == texts.shape[1] == encoder.embed_dim
    texts, trimmed = (F.normalize(some, dim=-1) for some in (texts, torch.cat(trimmed)))
    torch.testing.assert_close(trimmed, texts, **CLOSE)
    return F.normalize(images, dim=-1), texts


@pytest.mark.parametrize("name", OPEN_CLIP)
def test_features_are_open_clips(name, tmp_path, pictures):
    import clip_model._torchvision  # noqa: F401, I001
    import open_clip

    saved = save_open_clip(name, tmp_path / name)
    images, texts = features(load_dual_encoder(DualEncoderName.of(saved)), pictures)
    theirs = f"local-dir:{tmp_path / name}"
    model, _, preprocess = open_clip.create_model_and_transforms(theirs)
    opened = [preprocess(Image.open(io.BytesIO(file))) for file in pictures]
    with torch.inference_mode():
        of_images = model.eval().encode_image(torch.stack(opened), normalize=True)
        of_texts = model.encode_text(open_clip.get_tokenizer(theirs)(TEXTS), normalize=True)
    torch.testing.assert_close(images, of_images, **CLOSE)
    torch.testing.assert_close(texts, of_texts, **CLOSE)
    assert images.std(dim=0).max() > 0.001  # the pictures are told apart


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_features_are_transformers(name, tmp_path, pictures):
    import transformers as hf

    saved = save_transformers(name, tmp_path / name)
    images, texts = features(load_dual_encoder(DualEncoderName.of(saved)), pictures)
    model = hf.AutoModel.from_pretrained(tmp_path / name).eval()
    processor = hf.AutoImageProcessor.from_pretrained(tmp_path / name, backend="pil")
    tokens = hf.AutoTokenizer.from_pretrained(tmp_path / name)(
        TEXTS, padding="max_length", max_length=24, truncation=True, return_tensors="pt"
    )
    opened = [Image.open(io.BytesIO(file)) for file in pictures]
    with torch.inference_mode():
        pixels = processor(opened, return_tensors="pt")
        of_images = model.get_image_features(**pixels).pooler_output
        of_texts = model.get_text_features(**tokens).pooler_output
    torch.testing.assert_close(images, F.normalize(of_images, dim=-1), **CLOSE)
    torch.testing.assert_close(texts, F.normalize(of_texts, dim=-1), **CLOSE)
