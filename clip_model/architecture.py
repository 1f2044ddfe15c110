"""Which CLIP a set of tensors is, by their shapes.

The tensors have OpenAI's names. What shapes cannot say is the activation; and the number of heads,
which is a 64th of the width in every model that OpenAI published.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from clip_model.config import (
    HEAD_WIDTH,
    ClipConfig,
    ModifiedResNetConfig,
    TextConfig,
    TimmTowerConfig,
    VisionConfig,
    VisionTransformerConfig,
    check_count,
)
from clip_model.state_dict import shown


def infer_config(
    tensors: Mapping[str, Tensor],
    quick_gelu: bool,
    text_heads: int | None = None,
    image_heads: int | None = None,
    head_width: int = HEAD_WIDTH,
    timm: tuple[TimmTowerConfig, int] | None = None,
) -> ClipConfig:
    """The architecture of tensors under OpenAI's names.

    Args:
        tensors: a whole CLIP, of either image tower.
        quick_gelu: which activation they were trained with; no shape tells.
        text_heads: if it is not a 64th of the text tower's width.
        image_heads: of a ViT, if it is not `head_width` that tells.
        head_width: channels of a ViT's head.
        timm: an image tower of timm's and its resolution, which shapes cannot say.

    Raises:
        RuntimeError: they are not the tensors of a CLIP.
    """
    _check_towers(tensors, timm is not None)
    try:
        width = tensors["ln_final.weight"].shape[0]
        vocab_size = tensors["token_embedding.weight"].shape[0]
        text = TextConfig(
            width,
            layers=_count(tensors, "transformer.resblocks"),
            heads=max(1, width // HEAD_WIDTH) if text_heads is None else text_heads,
            context_length=tensors["positional_embedding"].shape[0],
            vocab_size=vocab_size,
        )
        vision: VisionConfig
        if timm is not None:
            vision, resolution = timm
        elif "visual.proj" in tensors:
            vision, resolution = _vision_transformer(tensors, image_heads, head_width)
        else:
            vision, resolution = _resnet(tensors)
        embed_dim = tensors["text_projection"].shape[1]
        return ClipConfig(embed_dim, resolution, vision, text, quick_gelu)
    except KeyError as error:
        raise RuntimeError(f"not the tensors of a CLIP: there is no {error}") from error
    except (IndexError, ValueError) as error:
        raise RuntimeError(
            f"not the tensors of a CLIP: a shape or a number is wrong ({error})"
        ) from error


def _check_towers(tensors: Mapping[str, Tensor], is_timms: bool) -> None:
    """A CLIP is two towers; half of one, or something else, is said to be what it is."""
    has_text = "token_embedding.weight" in tensors
    if has_text and not any(name.startswith("visual.") for name in tensors):
        raise RuntimeError("a text tower alone: a CLIP has an image tower too ('visual.')")
    if not has_text and any(name.startswith("visual.") for name in tensors):
        raise RuntimeError(
            "not the tensors of a CLIP: an image tower, but there is no 'token_embedding.weight'"
        )
    if not has_text:
        raise RuntimeError(f"not the tensors of a CLIP: there are {shown(tensors)}")
    if is_timms == any(name.startswith("visual.trunk.") for name in tensors):
        return
    raise RuntimeError(
        "'timm_model_name' names a network of timm's, and the weights have another image tower"
        if is_timms
        else "the image tower is a network of timm's; which one, open_clip_config.json beside the "
        "weights would say, by its 'timm_model_name'"
    )


def with_quick_gelu(config: ClipConfig, quick_gelu: bool | None) -> ClipConfig:
    """The same architecture with the activation that the caller asks for, if any."""
    return config if quick_gelu is None else replace(config, quick_gelu=quick_gelu)


def grid_side(positions: Tensor) -> int:
    """The side of the square of patches that has these positions, [1 + side**2, D].

    Raises:
        RuntimeError: they do not belong to a square.
    """
    side = round((positions.shape[0] - 1) ** 0.5)
    if side < 1 or side**2 + 1 != positions.shape[0]:
        raise RuntimeError(f"{positions.shape[0]} positions are not a class token's and a square's")
    return side


def _vision_transformer(
    tensors: Mapping[str, Tensor], heads: int | None, head_width: int
) -> tuple[VisionTransformerConfig, int]:
    width, _, _, patch_size = tensors["visual.conv1.weight"].shape
    if heads is not None:
        check_count("the image tower's heads", heads)
        if width % heads:
            raise ValueError(f"an image tower's width, {width}, in {heads} heads")
        head_width = width // heads
    layers = _count(tensors, "visual.transformer.resblocks")
    mlp_width = tensors["visual.transformer.resblocks.0.mlp.c_fc.weight"].shape[0]
    resolution = patch_size * grid_side(tensors["visual.positional_embedding"])
    return VisionTransformerConfig(layers, width, patch_size, head_width, mlp_width), resolution


def _resnet(tensors: Mapping[str, Tensor]) -> tuple[ModifiedResNetConfig, int]:
    width = tensors["visual.layer1.0.conv1.weight"].shape[0]
    one, two, three, four = (_count(tensors, f"visual.layer{stage}") for stage in range(1, 5))
    resolution = 32 * grid_side(tensors["visual.attnpool.positional_embedding"])
    return ModifiedResNetConfig((one, two, three, four), width), resolution


def _count(tensors: Mapping[str, Tensor], prefix: str) -> int:
    """How many numbered children stand below a prefix."""
    pattern = re.compile(re.escape(prefix) + r"\.(\d+)\.")
    return len({match[1] for name in tensors if (match := pattern.match(name))})
