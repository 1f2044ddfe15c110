"""CLIP from scratch, with the interface of openai/CLIP.

    import clip_model

    model, preprocess = clip_model.load("starter")
    logits_per_image, logits_per_text = model(
        preprocess(image)[None], clip_model.tokenize(["a diagram", "a dog", "a cat"])
    )

It stands alone: nothing of this repository is imported, and neither Ray nor Beam.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clip_model.checkpoint import available_models, load, save
    from clip_model.config import ARCHITECTURES, ClipConfig
    from clip_model.distillation import distillation_loss
    from clip_model.image_files import ImageError, decode_image
    from clip_model.inert_pickle import UnsafeCheckpointError
    from clip_model.loss import contrastive_loss, sigmoid_loss
    from clip_model.metrics import roc_auc
    from clip_model.model import CLIP, convert_weights, trim
    from clip_model.positions import resize_positions
    from clip_model.preprocess import (
        Preprocess,
        fold_normalisation,
        image_bytes_transform,
        image_transform,
    )
    from clip_model.probe import (
        LinearProbe,
        few_shot_curve,
        fit_probe,
        fit_swept_probe,
        image_features,
        shots_to_equal,
        sweep_l2,
    )
    from clip_model.retrieval import recall_at_k, retrieval_recall
    from clip_model.tokenizer import decode, encode, tokenize
    from clip_model.zero_shot import classify, encode_texts, zero_shot_classifier

__all__ = [
    "ARCHITECTURES",
    "CLIP",
    "ClipConfig",
    "ImageError",
    "LinearProbe",
    "Preprocess",
    "UnsafeCheckpointError",
    "available_models",
    "classify",
    "contrastive_loss",
    "convert_weights",
    "decode",
    "decode_image",
    "distillation_loss",
    "encode",
    "encode_texts",
    "few_shot_curve",
    "fit_probe",
    "fit_swept_probe",
    "fold_normalisation",
    "image_bytes_transform",
    "image_features",
    "image_transform",
    "load",
    "recall_at_k",
    "resize_positions",
    "retrieval_recall",
    "roc_auc",
    "save",
    "shots_to_equal",
    "sigmoid_loss",
    "sweep_l2",
    "tokenize",
    "trim",
    "zero_shot_classifier",
]

#: Where each name is from. It is imported when it is asked for: whoever only reads images, a
#: downloader say, needs no torch.
_HOMES = {  # by module
    "checkpoint": "available_models load save",
    "config": "ARCHITECTURES ClipConfig",
    "distillation": "distillation_loss",
    "inert_pickle": "UnsafeCheckpointError",
    "loss": "contrastive_loss sigmoid_loss",
    "metrics": "roc_auc",
    "model": "CLIP convert_weights trim",
    "positions": "resize_positions",
    "image_files": "ImageError decode_image",
    "preprocess": "Preprocess fold_normalisation image_bytes_transform image_transform",
    "probe": "LinearProbe few_shot_curve fit_probe fit_swept_probe image_features "
    "shots_to_equal sweep_l2",
    "retrieval": "recall_at_k retrieval_recall",
    "tokenizer": "decode encode tokenize",
    "zero_shot": "classify encode_texts zero_shot_classifier",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
