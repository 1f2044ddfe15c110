"""The other text encoder of the paper's pseudo-code: a continuous bag of words.

Figure 3 of arXiv 2103.00020 says `text_encoder - CBOW or Text Transformer`. A caption is the mean
of its tokens' embeddings; their order is lost, and all that is learnt is one vector a token and
the projection into the joint space.
"""

from __future__ import annotations

import torch
from torch import Tensor


def continuous_bag_of_words(embedded: Tensor, end: Tensor) -> Tensor:
    """Mean over each caption's tokens: [N, L, D] and [N] -> [N, D].

    Start and end tokens count, so that an empty caption has a mean too. Padding does not.

    Args:
        embedded: [N, L, D], the tokens' embeddings.
        end: [N], where each caption's end token stands.
    """
    positions = torch.arange(embedded.shape[1], device=embedded.device)  # L
    inside = (positions <= end[:, None]).to(embedded.dtype)  # NL
    total = (embedded * inside[..., None]).sum(dim=1)  # NLD -> ND
    return total / inside.sum(dim=1, keepdim=True)  # ND
