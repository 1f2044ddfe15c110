"""The architectures, as data: the paper's nine, the small one that this repository ships, and what
others are made of.

Figures from the paper's tables 19 and 20 (arXiv 2103.00020) and the released weights.
"""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass
from typing import Any, Literal

VOCAB_SIZE = 49408
CONTEXT_LENGTH = 77
HEAD_WIDTH = 64  # every attention head of the paper's towers is 64 wide
MLP_RATIO = 4  # and every perceptron of theirs four times as wide as its tower
# Bounds that no CLIP is near. A file's few bytes must not build a model of a billion layers.
MOST_LAYERS = 500  # of a tower, or of a ResNet's stage
LARGEST = 1 << 20  # width, side of an image, words, ...
LARGEST_IMAGE_OF_TIMM = 4096  # weights do not tell how large its images are: no other bound

MEAN = (0.48145466, 0.4578275, 0.40821073)  # of the images that OpenAI trained on, RGB
STD = (0.26862954, 0.26130258, 0.27577711)


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
class TimmTowerConfig:
    """A network of timm's as image tower (`timm_tower.py`): ConvNeXt, ViTamin, EVA02, MobileCLIP's.

    As in open_clip, its last layer is the projection into the joint space where `proj` is none.
    """

    name: str  # timm's
    pool: str = "avg"  # how it makes one row of features of a map; "": as it does of itself
    proj: Literal["", "linear", "mlp", "none"] = "linear"
    proj_bias: bool = False

    def __post_init__(self) -> None:
        # No source and no tag: nothing is downloaded.
        if type(self.name) is not str or not re.fullmatch(r"\w{1,100}", self.name):
            raise ValueError("a network of timm's is named by letters, digits and underscores")
        if self.pool not in ("", "avg", "max", "avgmax", "token", "map"):
            raise ValueError("the pool of a network of timm's must be avg, max, token, map or ''")
        if self.proj not in ("", "linear", "mlp", "none"):
            raise ValueError("the projection behind a network must be linear, mlp, none or ''")
        if type(self.proj_bias) is not bool:
            raise ValueError("proj_bias must be true or false")
        if not self.pool and self.proj in ("", "none"):
            raise ValueError("a network without pool and projection gives no row of features")

    @property
    def heads(self) -> int:
        """Nothing that could be asked for: the name says it."""
        return 0


@dataclass(frozen=True)
class EfficientNetConfig:
    """EfficientNet-Lite0 with its classifier as image tower (`efficientnet.py`)."""

    classes: int = 1000  # that the classifier knows: ImageNet's

    def __post_init__(self) -> None:
        check_count("the classifier's classes", self.classes)

    @property
    def heads(self) -> int:
        """It has no attention."""
        return 0


VisionConfig = VisionTransformerConfig | ModifiedResNetConfig | TimmTowerConfig | EfficientNetConfig
#: By what `ClipConfig.to_dict` calls them.
VISION_KINDS: dict[str, type[VisionConfig]] = {
    "vit": VisionTransformerConfig,
    "resnet": ModifiedResNetConfig,
    "timm": TimmTowerConfig,
    "efficientnet": EfficientNetConfig,
}


@dataclass(frozen=True)
class TextConfig:
    """The text encoder: a transformer, or a bag of words, which ignores layers and heads.

    Not `causal`, as MobileCLIP's, a token sees those behind it, the padding up to the whole context
    among them.
    """

    width: int
    layers: int = 12
    heads: int = 8
    context_length: int = CONTEXT_LENGTH
    vocab_size: int = VOCAB_SIZE
    kind: Literal["transformer", "cbow"] = "transformer"
    causal: bool = True

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
        if type(self.causal) is not bool:
            raise ValueError("causal must be true or false")


@dataclass(frozen=True)
class ClipConfig:
    """Everything that `CLIP` needs to be built, and how images are made ready for it.

    `quick_gelu` is part of the weights' meaning: OpenAI's were trained with x * sigmoid(1.702 x),
    many others with the exact GELU, and the wrong one loads without an error. So are the
    preprocessing's parts: whether images are squashed into the square or cut to it, the
    interpolation, and the mean and deviation that levels from 0 to 1 are normalised by. A network
    of timm's has its own activation.
    """

    embed_dim: int
    image_resolution: int
    vision: VisionConfig
    text: TextConfig
    quick_gelu: bool = True
    squash: bool = False
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD

    def __post_init__(self) -> None:
        check_count("embed_dim", self.embed_dim)
        check_count("image_resolution", self.image_resolution)
        if type(self.quick_gelu) is not bool:
            raise ValueError("quick_gelu must be true or false")
        if isinstance(self.vision, TimmTowerConfig):
            check_count("image_resolution", self.image_resolution, LARGEST_IMAGE_OF_TIMM)
        if type(self.squash) is not bool:
            raise ValueError("squash must be true or false")
        if self.interpolation not in ("bicubic", "bilinear"):
            raise ValueError("interpolation must be bicubic or bilinear")
        _check_colours("mean", self.mean, 0.0, 1.0)
        _check_colours("std", self.std, 0.001, 1.0)

    @property
    def has_openai_preprocessing(self) -> bool:
        """Whether images are made ready as for OpenAI's models, at whatever size."""
        of_openai = (False, "bicubic", MEAN, STD)
        return (self.squash, self.interpolation, self.mean, self.std) == of_openai

    def to_dict(self) -> dict[str, Any]:
        """A dictionary that JSON can hold; `from_dict` reads it back."""
        kinds: dict[type, str] = {kind: name for name, kind in VISION_KINDS.items()}
        fields = asdict(self)
        fields["vision"]["kind"] = kinds[type(self.vision)]
        return fields

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> ClipConfig:
        """The configuration that `to_dict` wrote.

        Raises:
            ValueError: the image tower's kind is none of `VISION_KINDS`, or the text encoder's
                neither "transformer" nor "cbow"; or a number is out of bounds, or none.
            TypeError, KeyError: a field is missing, or is not known.
        """
        if not all(type(part) is dict for part in (fields, fields["vision"], fields["text"])):
            raise TypeError("an architecture is a table with two tables, 'vision' and 'text'")
        vision = dict(fields["vision"])
        kind = vision.pop("kind", None)
        if kind not in VISION_KINDS:
            *others, last = map(repr, VISION_KINDS)
            expected = f"{', '.join(others)} or {last}"
            raise ValueError(f"Unknown image tower {kind!r}; expected {expected}")
        if kind == "resnet":
            vision["layers"] = tuple(vision["layers"])
        lists: dict[str, Any] = {
            name: tuple(fields[name]) for name in ("mean", "std") if name in fields
        }
        tower, text = VISION_KINDS[kind](**vision), TextConfig(**fields["text"])
        return cls(**{**fields, **lists, "vision": tower, "text": text})


def _check_colours(name: str, values: object, least: float, most: float) -> None:
    """Raises ValueError: there is not a number within bounds for each of the three colours."""
    numbers = values if type(values) is tuple else ()
    is_number = [type(value) in (int, float) and math.isfinite(value) for value in numbers]
    if len(numbers) != 3 or not all(is_number) or not least <= min(numbers) <= max(numbers) <= most:
        raise ValueError(f"{name} must be three numbers from {least:g} to {most:g}")


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

# The shipped model: its image tower knows ImageNet, see starter/README.md. Half of its weights are
# token embeddings. Levels are normalised as the tower's makers did.
STARTER = ClipConfig(
    embed_dim=256,
    image_resolution=128,
    vision=EfficientNetConfig(),
    text=TextConfig(width=240, layers=3, heads=5),
    mean=(127 / 255,) * 3,
    std=(128 / 255,) * 3,
)

# For trying things out with new weights: a convolutional tower, because it learns from few images
# and is cheap at 64 pixels.
SMALL = ClipConfig(
    embed_dim=256,
    image_resolution=64,
    vision=ModifiedResNetConfig(layers=(2, 2, 2, 2), width=24),
    text=TextConfig(width=96, layers=3, heads=3),
)
