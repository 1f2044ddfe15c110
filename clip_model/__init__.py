"""CLIP from scratch, with the interface of openai/CLIP.

    import clip_model

    model, preprocess = clip_model.load("starter")
    logits_per_image, logits_per_text = model(
        preprocess(image)[None], clip_model.tokenize(["a diagram", "a dog", "a cat"])
    )

It stands alone: nothing of this repository is imported, and neither Ray nor Beam.
"""

from clip_model.checkpoint import available_models, load, save
from clip_model.config import ARCHITECTURES, ClipConfig
from clip_model.inert_pickle import UnsafeCheckpointError
from clip_model.loss import contrastive_loss
from clip_model.metrics import roc_auc
from clip_model.model import CLIP
from clip_model.positions import resize_positions
from clip_model.preprocess import Preprocess, image_transform
from clip_model.retrieval import recall_at_k, retrieval_recall
from clip_model.tokenizer import decode, encode, tokenize
from clip_model.zero_shot import classify, encode_texts, zero_shot_classifier

__all__ = [
    "ARCHITECTURES",
    "CLIP",
    "ClipConfig",
    "Preprocess",
    "UnsafeCheckpointError",
    "available_models",
    "classify",
    "contrastive_loss",
    "decode",
    "encode",
    "encode_texts",
    "image_transform",
    "load",
    "recall_at_k",
    "resize_positions",
    "retrieval_recall",
    "roc_auc",
    "save",
    "tokenize",
    "zero_shot_classifier",
]
