"""The Vision Transformer image tower."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from clip_model.config import VisionTransformerConfig
from clip_model.transformer import LayerNorm, Transformer


def kept_patches(patches: int, dropout: float) -> int:
    """How many patches of an image are left, at least one; rounded down, as open_clip does."""
    return max(1, int(patches * (1 - dropout)))


class VisionTransformer(nn.Module):
    """An image to the class token's features, projected into the joint space.

    Parameters are named as in OpenAI's state dicts below `visual.`. In training, `patch_dropout` is
    the share of each image's patches that the blocks do not see, others for every image and time:
    fewer tokens for less work (FLIP, arXiv 2212.00794).
    """

    def __init__(
        self,
        config: VisionTransformerConfig,
        image_resolution: int,
        embed_dim: int,
        quick_gelu: bool,
    ) -> None:
        super().__init__()
        width, patch = config.width, config.patch_size
        tokens = (image_resolution // patch) ** 2 + 1
        scale = width**-0.5
        self.input_resolution = image_resolution
        self.hidden_dim = width
        self.output_dim = embed_dim
        self.patch_dropout = 0.0
        self.conv1 = nn.Conv2d(3, width, patch, stride=patch, bias=False)
        self.class_embedding = nn.Parameter(scale * torch.randn(width))
        self.positional_embedding = nn.Parameter(scale * torch.randn(tokens, width))
        self.ln_pre = LayerNorm(width)
        self.transformer = Transformer(
            width,
            config.layers,
            config.heads,
            causal=False,
            mlp_width=config.mlp_width,
            quick_gelu=quick_gelu,
        )
        self.ln_post = LayerNorm(width)
        self.proj = nn.Parameter(scale * torch.randn(width, embed_dim))

    @property
    def projection_names(self) -> tuple[str, ...]:
        """The parameters, or modules of them, that project into the joint space."""
        return ("proj",)

    @property
    def dtype(self) -> torch.dtype:
        """The type that images are computed in."""
        return self.conv1.weight.dtype

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute each block again in the backward pass instead of keeping what it made."""
        self.transformer.grad_checkpointing = enable

    def forward(self, x: Tensor) -> Tensor:
        return self.project(self.hidden(x))  # NE

    def project(self, hidden: Tensor) -> Tensor:
        """Into the joint space: [N, D] -> [N, E]."""
        return hidden @ self.proj

    def hidden(self, x: Tensor) -> Tensor:
        """Features before the projection, which the paper's probes see: [N, 3, R, R] -> [N, D]."""
        x = self.conv1(x).flatten(2).transpose(1, 2)  # NCHW -> N(HW)D
        x = torch.cat(
            [self.class_embedding.expand(len(x), 1, -1).to(x.dtype), x], dim=1
        )  # N(HW+1)D
        x = x + self.positional_embedding.to(x.dtype)
        if self.training and self.patch_dropout:
            x = self._some_patches(x)
        x = self.ln_pre(x)
        x = self.transformer(x)
        return self.ln_post(x[:, 0])  # ND

    def _some_patches(self, x: Tensor) -> Tensor:
        """The class token and a random part of the patches: [N, T, D] -> [N, T', D]."""
        n, tokens, width = x.shape
        kept = kept_patches(tokens - 1, self.patch_dropout)
        places = torch.rand(n, tokens - 1, device=x.device).topk(kept).indices + 1  # NT'
        return torch.cat([x[:, :1], x.gather(1, places[..., None].expand(-1, -1, width))], dim=1)
