"""The contrastive objective."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def contrastive_loss(image_features: Tensor, text_features: Tensor, logit_scale: Tensor) -> Tensor:
    """Symmetric InfoNCE: each image must find its text among all, and each text its image.

    The mean of the cross-entropies over the rows and the columns of
    exp(logit_scale) * I T^t with targets arange(N); figure 3 of arXiv 2103.00020.

    Args:
        image_features: [N, E], of any length; they are normalised here.
        text_features: [N, E]; row i belongs to image i.
        logit_scale: logarithm of the inverse temperature, a scalar.

    Returns:
        A scalar.

    Raises:
        ValueError: the two shapes differ.
    """
    if image_features.shape != text_features.shape:
        raise ValueError(
            f"image features {tuple(image_features.shape)} and text features "
            f"{tuple(text_features.shape)} must have one shape"
        )
    image_features = F.normalize(image_features, dim=-1)
    text_features = F.normalize(text_features, dim=-1)
    logits = logit_scale.exp() * image_features @ text_features.t()  # NN
    targets = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.t(), targets)) / 2
