"""CLIP: an image tower and a text tower that meet in one space.

"Learning Transferable Visual Models From Natural Language Supervision", arXiv 2103.00020.
Parameters carry the names of openai/CLIP's state dicts, the text tower's included: it has no
module of its own, its parts are attributes of the model, as published code expects.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from clip_model.cbow import continuous_bag_of_words
from clip_model.config import (
    ClipConfig,
    EfficientNetConfig,
    ModifiedResNetConfig,
    TextConfig,
    VisionTransformerConfig,
)
from clip_model.efficientnet import EfficientNet, InvertedResidual
from clip_model.locking import Lock, Locked
from clip_model.preprocess import Preprocessing
from clip_model.resnet import Bottleneck, ModifiedResNet
from clip_model.timm_tower import TimmTower
from clip_model.tokenizer import tokenize
from clip_model.transformer import LayerNorm, ResidualAttentionBlock, Transformer
from clip_model.vision_transformer import VisionTransformer

MAX_LOGIT_SCALE = math.log(100.0)  # the paper clips the temperature here, after every step

# What towers are stacked of: each is compiled, and sharded, by itself.
BLOCKS = (ResidualAttentionBlock, Bottleneck, InvertedResidual)

# Parameters that stay in full precision beside those of norms and embedding tables.
UNCONVERTED = ("class_embedding", "positional_embedding", "logit_scale")


class CLIP(nn.Module):
    """The whole model, initialised as for training from scratch.

    Args:
        config: the architecture; it stays readable as `model.config`.

    Raises:
        RuntimeError: the image tower is one of timm's, which is not installed or has no such one.
    """

    pad = 0  # the token that fills a row of tokens

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        text = config.text
        self.config = config
        self.context_length = text.context_length
        self.vocab_size = text.vocab_size
        self.trims_captions = True  # until graphs are compiled for the lengths that are given
        self.lock: Lock | None = None
        self.visual = _image_tower(config)
        self.token_embedding = nn.Embedding(text.vocab_size, text.width)
        self.text_projection = nn.Parameter(torch.empty(text.width, config.embed_dim))
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.text_projection, std=text.width**-0.5)
        if text.kind == "transformer":
            self._add_text_transformer(text, config.quick_gelu)

    def _add_text_transformer(self, text: TextConfig, quick_gelu: bool) -> None:
        width, layers = text.width, text.layers
        self.transformer = Transformer(
            width, layers, text.heads, causal=text.causal, quick_gelu=quick_gelu
        )
        self.positional_embedding = nn.Parameter(torch.empty(text.context_length, width))
        self.ln_final = LayerNorm(width)
        residual_std = width**-0.5 * (2 * layers) ** -0.5  # shrinks with depth, as in GPT-2
        nn.init.normal_(self.positional_embedding, std=0.01)
        for block in self.transformer.resblocks:
            assert isinstance(block, ResidualAttentionBlock)
            nn.init.normal_(block.attn.in_proj_weight, std=width**-0.5)
            nn.init.normal_(block.attn.out_proj.weight, std=residual_std)
            nn.init.normal_(block.mlp.get_parameter("c_fc.weight"), std=(2 * width) ** -0.5)
            nn.init.normal_(block.mlp.get_parameter("c_proj.weight"), std=residual_std)

    def lock_part(self, part: Locked) -> None:
        """Let a part keep its weights and statistics from now on, while the rest is trained.

        Raises:
            ValueError: the projection is to be trained, and the image tower has none.
        """
        self.lock = Lock(part, self.visual.projection_names)
        for name, parameter in self.named_parameters():
            if self.lock.holds(name):
                parameter.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """As any module, but a locked part stays in eval mode."""
        super().train(mode)
        if self.lock:
            for name, module in self.named_modules():
                module.training = mode and not self.lock.holds(name)
        return self

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute each block of both towers again in the backward pass: memory for time.

        Those of a locked tower have no backward pass.

        Raises:
            ValueError: the image tower cannot.
        """
        part = self.lock.part if self.lock else None
        self.visual.set_grad_checkpointing(enable and part not in ("image", "image_trunk"))
        if self.config.text.kind == "transformer":
            self.transformer.grad_checkpointing = enable and part != "text"

    def compute_buffers(self) -> None:
        """What is no weight, after the model was built without memory and given its weights."""
        if isinstance(self.visual, TimmTower):
            self.visual.compute_buffers()

    def set_patch_dropout(self, share: float) -> None:
        """Leave this share of each image's patches out in training, from 0 up to but not 1.

        Raises:
            ValueError: the image tower is no vision transformer of ours.
        """
        if not isinstance(self.visual, VisionTransformer):
            names = {TimmTower: "a tower of timm's", EfficientNet: "an EfficientNet"}
            who = next((names[kind] for kind in names if isinstance(self.visual, kind)), "a ResNet")
            raise ValueError(f"{who} has no patches that could be left out here")
        self.visual.patch_dropout = share

    @property
    def preprocessing(self) -> Preprocessing:
        """How an image becomes the model's input."""
        return Preprocessing.of(self.config)

    @property
    def embed_dim(self) -> int:
        """Dimensions of the joint space."""
        return self.config.embed_dim

    def tokenize(self, texts: Sequence[str], truncate: bool = False) -> Tensor:
        """As `clip_model.tokenize`, for the model's context: [N, L]."""
        return tokenize(texts, self.context_length, truncate)

    def lengths(self, tokens: Tensor) -> Tensor:
        """How many of each row's first tokens its features depend on: [N, L] -> [N].

        No token sees what follows it, and the features are those at the end token; or all see all.
        """
        if not self.config.text.causal:
            return torch.full((len(tokens),), tokens.shape[1])
        return tokens.argmax(dim=-1) + 1  # the end token has the largest id

    @property
    def hidden_dim(self) -> int:
        """Dimensions of an image's features before the projection."""
        return self.visual.hidden_dim

    @property
    def dtype(self) -> torch.dtype:
        """The type that images are computed in."""
        return self.visual.dtype

    @property
    def text_dtype(self) -> torch.dtype:
        """The type that texts are computed in."""
        return self.text_projection.dtype

    def encode_image(self, image: Tensor) -> Tensor:
        """Features of preprocessed images, not normalised: [N, 3, R, R] -> [N, embed_dim].

        Raises:
            RuntimeError: the model is float16 and on a CPU.
        """
        self._refuse_half_on_cpu()
        return self.visual(image.to(self.dtype))

    def encode_hidden(self, image: Tensor) -> Tensor:
        """Features before the projection into the joint space: [N, 3, R, R] -> [N, hidden_dim].

        A ViT's class token after `ln_post`, an EfficientNet's means of maps; of a ResNet the same
        as `encode_image`.

        Raises:
            RuntimeError: the model is float16 and on a CPU.
        """
        self._refuse_half_on_cpu()
        return self.visual.hidden(image.to(self.dtype))

    def project_image(self, hidden: Tensor) -> Tensor:
        """What `encode_image` makes of them: [N, hidden_dim] -> [N, embed_dim]."""
        return self.visual.project(hidden)

    def encode_text(self, text: Tensor) -> Tensor:
        """Features of token sequences, not normalised: [N, L] -> [N, embed_dim].

        No token sees what follows it, so the padding behind the longest caption is cut off first:
        the same features for less work. A compiled graph cannot depend on the tokens' values, so
        inside `torch.compile`, and after `compile_blocks`, nothing is cut; give it `trim(text)`.
        Where tokens do see what follows, padding that has been cut off is put back.

        Raises:
            ValueError: the sequences are longer than the context.
            RuntimeError: the model is float16 and on a CPU.
        """
        self._refuse_half_on_cpu()
        if text.shape[-1] > self.context_length:
            raise ValueError(f"{text.shape[-1]} tokens, but the context has {self.context_length}")
        text = self.trimmed(text)
        end = text.argmax(dim=-1)  # N, for the end token has the largest id
        x = self.token_embedding(text).to(self.text_dtype)  # NLD
        if self.config.text.kind == "cbow":
            x = continuous_bag_of_words(x, end)  # ND
        else:
            x = self.contextual(x)[torch.arange(len(x), device=x.device), end]  # NLD -> ND
        return x @ self.text_projection  # ND @ DE -> NE

    def trimmed(self, text: Tensor) -> Tensor:
        """`trim`, unless a graph is being compiled or was compiled for the length that is given.

        Where tokens see what follows, they are padded to the whole context.
        """
        if not self.config.text.causal:
            return F.pad(text, (0, self.context_length - text.shape[-1]))
        return trim(text) if self.trims_captions and not torch.compiler.is_compiling() else text

    def contextual(self, x: Tensor) -> Tensor:
        """Embedded tokens through the text transformer, in which each sees those before it, or all
        where it is not causal: NLD."""
        x = x + self.positional_embedding[: x.shape[1]].to(x.dtype)  # NLD
        return self.ln_final(self.transformer(x))

    def _refuse_half_on_cpu(self) -> None:
        if self.text_dtype == torch.float16 and self.logit_scale.device.type == "cpu":
            raise RuntimeError(
                "a float16 model does not run on a CPU, which computes it a hundred times slower "
                "than float32 where it can at all; call model.float() or model.bfloat16()"
            )

    def forward(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Scaled cosine similarities: ([N, M] per image, [M, N] per text)."""
        image_features = F.normalize(self.encode_image(image), dim=-1)  # NE
        text_features = F.normalize(self.encode_text(text), dim=-1)  # ME
        logits_per_image = self.logit_scale.exp() * image_features @ text_features.t()  # NM
        return logits_per_image, logits_per_image.t()


def trim(text: Tensor, multiple: int = 1) -> Tensor:
    """Token sequences without the padding behind the longest of them: [N, L] -> [N, L'].

    Where they are long enough, L' is a multiple of `multiple`.
    """
    if not len(text):
        return text
    longest = int(text.argmax(dim=-1).max()) + 1  # the end token has the largest id
    return text[:, : -(-longest // multiple) * multiple]


def convert_weights(model: CLIP, dtype: torch.dtype = torch.float16) -> None:
    """Half precision where openai/CLIP has it, in place.

    Convolutions, linear layers, attention and the bare projections are converted; norms,
    embeddings and the temperature stay as they are. So does the projection of an EfficientNet, and
    so do all weights of a tower of timm's, which are converted as they are used (`torch.autocast`).

    Raises:
        ValueError: a weight is too large for the type. The model is as it was.
    """
    kept = (nn.LayerNorm, nn.BatchNorm2d, nn.Embedding)
    others = _unconverted(model.visual)
    converted: list[tuple[nn.Parameter, Tensor]] = []
    for module in model.modules():
        if isinstance(module, kept) or module in others:
            continue
        for name, parameter in module.named_parameters(recurse=False):
            if name not in UNCONVERTED:
                converted.append((parameter, parameter.data.to(dtype)))
    for parameter, values in converted:
        if values.is_meta:
            continue
        if parameter.isfinite().all() and not values.isfinite().all():
            raise ValueError(f"a weight is too large for {dtype}: keep float32, with half=False")
    for parameter, values in converted:
        parameter.data = values
    if isinstance(model.visual, TimmTower):
        model.visual.half_type = None if dtype == torch.float32 else dtype


def _unconverted(visual: nn.Module) -> set[nn.Module]:
    """Modules of an image tower that stay in full precision, whatever they are."""
    if isinstance(visual, EfficientNet):
        return {visual, visual.classifier, visual.linear}
    return set(visual.modules()) if isinstance(visual, TimmTower) else set()


def filled(config: ClipConfig, tensors: Mapping[str, Tensor]) -> CLIP:
    """The model that has these weights: no copies, and no memory or random numbers for others.

    Raises:
        RuntimeError: they are not this architecture's; or as `CLIP`.
    """
    with torch.device("meta"), _Uninitialised():
        model = CLIP(config)
    # The shapes are compared before anything is converted: a mismatch costs no memory.
    for name, expected in model.state_dict().items():
        if name in tensors and tensors[name].is_floating_point() != expected.is_floating_point():
            raise RuntimeError(f"the tensor {name!r} is of type {tensors[name].dtype}")
    model.load_state_dict(tensors, assign=True)
    model.compute_buffers()
    return model


class _Uninitialised(TorchFunctionMode):
    """Parameters are left as they are allocated.

    On the meta device that changes nothing but the time: ``normal_`` is computed by a
    decomposition there, for which torch imports its compiler, three seconds of it.
    """

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        named = kwargs or {}
        if getattr(func, "__module__", "") == nn.init.__name__:
            return named["tensor"] if "tensor" in named else args[0]
        return func(*args, **named)


def _image_tower(
    config: ClipConfig,
) -> VisionTransformer | ModifiedResNet | EfficientNet | TimmTower:
    vision, resolution, embed_dim = config.vision, config.image_resolution, config.embed_dim
    if isinstance(vision, VisionTransformerConfig):
        return VisionTransformer(vision, resolution, embed_dim, config.quick_gelu)
    if isinstance(vision, ModifiedResNetConfig):
        return ModifiedResNet(vision, resolution, embed_dim)
    if isinstance(vision, EfficientNetConfig):
        return EfficientNet(vision, resolution, embed_dim)
    return TimmTower(vision, resolution, embed_dim)
