"""CLIP: an image tower and a text tower that meet in one space.

"Learning Transferable Visual Models From Natural Language Supervision", arXiv 2103.00020.
Parameters carry the names of openai/CLIP's state dicts, the text tower's included: it has no
module of its own, its parts are attributes of the model, as published code expects.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clip_model.config import ClipConfig, VisionTransformerConfig
from clip_model.resnet import ModifiedResNet
from clip_model.transformer import ResidualAttentionBlock, Transformer
from clip_model.vision_transformer import VisionTransformer

MAX_LOGIT_SCALE = math.log(100.0)  # the paper clips the temperature here, after every step


class CLIP(nn.Module):
    """The whole model, initialised as for training from scratch.

    Args:
        config: the architecture; it stays readable as `model.config`.
    """

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        text = config.text
        self.config = config
        self.context_length = text.context_length
        self.vocab_size = text.vocab_size
        self.visual = _image_tower(config)
        self.transformer = Transformer(
            text.width, text.layers, text.heads, causal=True, quick_gelu=config.quick_gelu
        )
        self.token_embedding = nn.Embedding(text.vocab_size, text.width)
        self.positional_embedding = nn.Parameter(torch.empty(text.context_length, text.width))
        self.ln_final = nn.LayerNorm(text.width)
        self.text_projection = nn.Parameter(torch.empty(text.width, config.embed_dim))
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self._initialise_text()

    def _initialise_text(self) -> None:
        width, layers = self.transformer.width, self.transformer.layers
        residual_std = width**-0.5 * (2 * layers) ** -0.5  # shrinks with depth, as in GPT-2
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)
        nn.init.normal_(self.text_projection, std=width**-0.5)
        for block in self.transformer.resblocks:
            assert isinstance(block, ResidualAttentionBlock)
            nn.init.normal_(block.attn.in_proj_weight, std=width**-0.5)
            nn.init.normal_(block.attn.out_proj.weight, std=residual_std)
            nn.init.normal_(block.mlp.get_parameter("c_fc.weight"), std=(2 * width) ** -0.5)
            nn.init.normal_(block.mlp.get_parameter("c_proj.weight"), std=residual_std)

    @property
    def dtype(self) -> torch.dtype:
        """The type that images are computed in."""
        return self.visual.conv1.weight.dtype

    def encode_image(self, image: Tensor) -> Tensor:
        """Features of preprocessed images, not normalised: [N, 3, R, R] -> [N, embed_dim]."""
        return self.visual(image.to(self.dtype))

    def encode_text(self, text: Tensor) -> Tensor:
        """Features of token sequences, not normalised: [N, L] -> [N, embed_dim].

        The end token has the largest id, so `argmax` finds it. No token sees what follows it, so
        the padding behind the longest caption is cut off first: the same features for less work.

        Raises:
            ValueError: the sequences are longer than the context.
        """
        if text.shape[-1] > self.context_length:
            raise ValueError(f"{text.shape[-1]} tokens, but the context has {self.context_length}")
        end = text.argmax(dim=-1)  # N
        text = text[:, : int(end.max()) + 1]  # NL
        x = self.token_embedding(text).to(self.dtype)  # NLD
        x = x + self.positional_embedding[: text.shape[1]].to(x.dtype)
        x = self.ln_final(self.transformer(x))  # NLD
        x = x[torch.arange(len(x), device=x.device), end]  # NLD -> ND, at the end token
        return x @ self.text_projection  # ND @ DE -> NE

    def forward(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Scaled cosine similarities: ([N, M] per image, [M, N] per text)."""
        image_features = F.normalize(self.encode_image(image), dim=-1)  # NE
        text_features = F.normalize(self.encode_text(text), dim=-1)  # ME
        logits_per_image = self.logit_scale.exp() * image_features @ text_features.t()  # NM
        return logits_per_image, logits_per_image.t()


def _image_tower(config: ClipConfig) -> VisionTransformer | ModifiedResNet:
    if isinstance(config.vision, VisionTransformerConfig):
        return VisionTransformer(
            config.vision, config.image_resolution, config.embed_dim, config.quick_gelu
        )
    return ModifiedResNet(config.vision, config.image_resolution, config.embed_dim)
