"""The transformer that both towers are built of: attention, residual block, stack.

Shapes are batch first, N (examples) x L (tokens) x D (width), where OpenAI's code has LND; the
parameters have OpenAI's names and layouts, so state dicts fit.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clip_model.checkpointing import run_checkpointed
from clip_model.config import MLP_RATIO


class LayerNorm(nn.LayerNorm):
    """Computed in the type of its own weights, whatever the type of its input.

    So a model whose matrices are half precision and whose norms are not (`convert_weights`) works.
    """

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.weight.dtype)).to(x.dtype)


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x), the approximation that OpenAI's weights were trained with."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class Attention(nn.Module):
    """Multi-head self-attention, with the parameters of `nn.MultiheadAttention`."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of {heads} heads")
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        # What nn.MultiheadAttention starts with, and so what the paper's image towers did.
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Tensor, causal: bool = False) -> Tensor:
        n, length, width = x.shape
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias)  # N L 3D
        q, k, v = qkv.view(n, length, 3, self.heads, width // self.heads).permute(
            2, 0, 3, 1, 4
        )  # each N H L D/H
        x = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        return self.out_proj(x.transpose(1, 2).reshape(n, length, width))


class ResidualAttentionBlock(nn.Module):
    """Attention, then a perceptron; each after a LayerNorm, each added."""

    def __init__(self, width: int, heads: int, mlp_width: int, quick_gelu: bool = True) -> None:
        super().__init__()
        self.attn = Attention(width, heads)
        self.ln_1 = LayerNorm(width)
        self.mlp = nn.Sequential(
            OrderedDict(
                c_fc=nn.Linear(width, mlp_width),
                gelu=QuickGELU() if quick_gelu else nn.GELU(),
                c_proj=nn.Linear(mlp_width, width),
            )
        )
        self.ln_2 = LayerNorm(width)

    def forward(self, x: Tensor, causal: bool = False) -> Tensor:
        x = x + self.attn(self.ln_1(x), causal)
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    """A stack of blocks, their perceptrons four times as wide unless `mlp_width` says otherwise.

    `causal` lets a token see itself and what stands before it. With `grad_checkpointing`, each
    block is computed again in the backward pass.
    """

    def __init__(
        self,
        width: int,
        layers: int,
        heads: int,
        *,
        causal: bool,
        mlp_width: int | None = None,
        quick_gelu: bool = True,
    ) -> None:
        super().__init__()
        self.width = width
        self.layers = layers
        self.causal = causal
        self.grad_checkpointing = False
        mlp_width = mlp_width or MLP_RATIO * width
        self.resblocks = nn.ModuleList(
            ResidualAttentionBlock(width, heads, mlp_width, quick_gelu) for _ in range(layers)
        )

    def forward(self, x: Tensor) -> Tensor:
        for block in self.resblocks:
            if self.grad_checkpointing:
                x = run_checkpointed(block, x, self.causal)
            else:
                x = block(x, self.causal)
        return x
