"""The architectures, as data: the paper's nine, and the small one that this repository ships.

Figures from the paper's tables 19 and 20 (arXiv 2103.00020) and the released weights.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

VOCAB_SIZE = 49408
CONTEXT_LENGTH = 77
HEAD_WIDTH = 64  # every attention head of the paper's towers is 64 wide
MLP_RATIO = 4  # and every perceptron of theirs four times as wide as its tower
# Bounds that no CLIP is near. A file's few bytes must not build a model of a billion layers.
MOST_LAYERS = 500  # of a tower, or of a ResNet's stage
LARGEST = 1 << 20  # width, side of an image, words, ...


def check_count(name: str, value: object, most: int = LARGEST) -> None:
    """Raises ValueError: `value` is not a whole number from 1 to `most`."""
    if type(value) is not int:
        raise ValueError(f"{name} must be a whole number, not a {type(value).__name__}")
    if not 1 <= value <= most:
        raise ValueError(f"{name} must be from 1 to {most:,}")


@dataclass(frozen=True)
class VisionTransformerConfig:
    """A ViT image tower (`vision_transformer.py`).

    What the paper's have in common, larger ones of others have not: a ViT-bigG/14 has heads 104
    wide and perceptrons 8,192 wide in a tower 1,664 wide.
    """

    layers: int
    width: int
    patch_size: int
    head_width: int = HEAD_WIDTH
    mlp_width: int = 0  # 0: four times the tower's

    def __post_init__(self) -> None:
        check_count("the image tower's layers", self.layers, MOST_LAYERS)
        check_count("the image tower's width", self.width)
        check_count("patch_size", self.patch_size)
        check_count("head_width", self.head_width)
        if self.mlp_width == 0:
            object.__setattr__(self, "mlp_width", MLP_RATIO * self.width)
        check_count("mlp_width", self.mlp_width, MLP_RATIO * LARGEST)
        if self.width < self.head_width:
            raise ValueError(f"an image tower {self.width} wide has no room for a head")
        if self.width % self.heads:
            raise ValueError(f"an image tower's width, {self.width}, in {self.heads} heads")

    @property
    def heads(self) -> int:
        """As open_clip counts them: a remainder makes the heads wider."""
        return self.width // self.head_width


@dataclass(frozen=True)
class ModifiedResNetConfig:
    """A ResNet image tower (`resnet.py`): blocks a stage, and the first stage's width."""

    layers: tuple[int, int, int, int]
    width: int

    def __post_init__(self) -> None:
        if type(self.layers) is not tuple or len(self.layers) != 4:
            raise ValueError("a ResNet's layers must be four numbers")
        for layers in self.layers:
            check_count("a ResNet's layers", layers, MOST_LAYERS)
        check_count("a ResNet's width", self.width)
        if self.width % 2:
            raise ValueError("a ResNet's width must be even")

    @property
    def heads(self) -> int:
        """Heads of the attention pool, which works at 32 times the width."""
        return self.width * 32 // HEAD_WIDTH


@dataclass(frozen=True)
class TextConfig:
    """The text encoder: a transformer, or a bag of words, which ignores layers and heads."""

    width: int
    layers: int = 12
    heads: int = 8
    context_length: int = CONTEXT_LENGTH
    vocab_size: int = VOCAB_SIZE
    kind: Literal["transformer", "cbow"] = "transformer"

    def __post_init__(self) -> None:
        if self.kind not in ("transformer", "cbow"):
            raise ValueError(
                f"Unknown text encoder {self.kind!r}; expected 'transformer' or 'cbow'"
            )
        check_count("the text tower's layers", self.layers, MOST_LAYERS)
        for name in ("width", "heads", "context_length", "vocab_size"):
            check_count(f"the text tower's {name}", getattr(self, name))
        if self.kind == "transformer" and self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of {self.heads} heads")


@dataclass(frozen=True)
class ClipConfig:
    """Everything that `CLIP` needs to be built.

    `quick_gelu` is part of the weights' meaning: OpenAI's were trained with x * sigmoid(1.702 x),
    many others with the exact GELU, and the wrong one loads without an error.
    """

    embed_dim: int
    image_resolution: int
    vision: VisionTransformerConfig | ModifiedResNetConfig
    text: TextConfig
    quick_gelu: bool = True

    def __post_init__(self) -> None:
        check_count("embed_dim", self.embed_dim)
        check_count("image_resolution", self.image_resolution)
        if type(self.quick_gelu) is not bool:
            raise ValueError("quick_gelu must be true or false")

    def to_dict(self) -> dict[str, Any]:
        """A dictionary that JSON can hold; `from_dict` reads it back."""
        fields = asdict(self)
        is_vit = isinstance(self.vision, VisionTransformerConfig)
        fields["vision"]["kind"] = "vit" if is_vit else "resnet"
        return fields

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> ClipConfig:
        """The configuration that `to_dict` wrote.

        Raises:
            ValueError: the image tower's kind is neither "vit" nor "resnet", or the text
                encoder's neither "transformer" nor "cbow"; or a number is out of bounds, or none.
            TypeError, KeyError: a field is missing, or is not known.
        """
        if not all(type(part) is dict for part in (fields, fields["vision"], fields["text"])):
            raise TypeError("an architecture is a table with two tables, 'vision' and 'text'")
        vision = dict(fields["vision"])
        kind = vision.pop("kind", None)
        if kind not in ("vit", "resnet"):
            raise ValueError(f"Unknown image tower {kind!r}; expected 'vit' or 'resnet'")
        tower: VisionTransformerConfig | ModifiedResNetConfig
        if kind == "vit":
            tower = VisionTransformerConfig(**vision)
        else:
            tower = ModifiedResNetConfig(**{**vision, "layers": tuple(vision["layers"])})
        return cls(**{**fields, "vision": tower, "text": TextConfig(**fields["text"])})


def _resnet(
    embed_dim: int, resolution: int, layers: tuple[int, int, int, int], width: int, text_width: int
) -> ClipConfig:
    text = TextConfig(text_width, heads=text_width // HEAD_WIDTH)
    return ClipConfig(embed_dim, resolution, ModifiedResNetConfig(layers, width), text)


def _vit(
    embed_dim: int, resolution: int, layers: int, width: int, patch_size: int, text_width: int
) -> ClipConfig:
    text = TextConfig(text_width, heads=text_width // HEAD_WIDTH)
    vision = VisionTransformerConfig(layers, width, patch_size)
    return ClipConfig(embed_dim, resolution, vision, text)


ARCHITECTURES: dict[str, ClipConfig] = {
    "RN50": _resnet(1024, 224, (3, 4, 6, 3), 64, 512),
    "RN101": _resnet(512, 224, (3, 4, 23, 3), 64, 512),
    "RN50x4": _resnet(640, 288, (4, 6, 10, 6), 80, 640),
    "RN50x16": _resnet(768, 384, (6, 8, 18, 8), 96, 768),
    "RN50x64": _resnet(1024, 448, (3, 15, 36, 10), 128, 1024),
    "ViT-B/32": _vit(512, 224, 12, 768, 32, 512),
    "ViT-B/16": _vit(512, 224, 12, 768, 16, 512),
    "ViT-L/14": _vit(768, 224, 24, 1024, 14, 768),
    "ViT-L/14@336px": _vit(768, 336, 24, 1024, 14, 768),
}

# Two thirds of the weights of the shipped file are token embeddings, so the text tower is narrow;
# a convolutional tower, because it learns from few images and is cheap at 64 pixels.
STARTER = ClipConfig(
    embed_dim=256,
    image_resolution=64,
    vision=ModifiedResNetConfig(layers=(2, 2, 2, 2), width=24),
    text=TextConfig(width=96, layers=3, heads=3),
)
