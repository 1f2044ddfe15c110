"""The ResNet image tower, with the paper's three changes to the usual one.

- The stem is three convolutions, not one, and an average pool instead of a max pool.
- Wherever the usual network strides, this one averages first (anti-aliasing): every convolution
  of a block has stride 1.
- The final average pool is an attention pool, its query the mean of the image.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clip_model.checkpointing import run_checkpointed
from clip_model.config import ModifiedResNetConfig


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions beside a shortcut; the output is four times `planes` wide."""

    expansion = 4

    def __init__(self, inplanes: int, planes: int, stride: int = 1) -> None:
        super().__init__()
        outplanes = planes * self.expansion
        self.conv1 = nn.Conv2d(inplanes, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.relu2 = nn.ReLU(inplace=True)
        self.avgpool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.conv3 = nn.Conv2d(planes, outplanes, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outplanes)
        self.relu3 = nn.ReLU(inplace=True)
        self.downsample: nn.Sequential | None = None
        if stride > 1 or inplanes != outplanes:
            # The pool comes first, under the name "-1": so the other two keep torchvision's names.
            self.downsample = nn.Sequential(
                OrderedDict(
                    [
                        ("-1", nn.AvgPool2d(stride)),
                        ("0", nn.Conv2d(inplanes, outplanes, 1, bias=False)),
                        ("1", nn.BatchNorm2d(outplanes)),
                    ]
                )
            )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu1(self.bn1(self.conv1(x)))
        x = self.relu2(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(self.avgpool(x)))
        return self.relu3(x + shortcut)


class AttentionPool2d(nn.Module):
    """One attention query, the mean of all positions, over the positions and itself."""

    def __init__(self, spatial_dim: int, width: int, heads: int, output_dim: int) -> None:
        super().__init__()
        self.heads = heads
        positions = torch.randn(spatial_dim**2 + 1, width) / width**0.5
        self.positional_embedding = nn.Parameter(positions)
        self.k_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.c_proj = nn.Linear(width, output_dim)
        for projection in (self.q_proj, self.k_proj, self.v_proj, self.c_proj):
            nn.init.normal_(projection.weight, std=width**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2).transpose(1, 2)  # NCHW -> N(HW)C
        x = torch.cat([x.mean(dim=1, keepdim=True), x], dim=1)  # N(HW+1)C
        x = x + self.positional_embedding.to(x.dtype)
        q = self._split(self.q_proj(x[:, :1]))  # N H 1 C/H
        k, v = self._split(self.k_proj(x)), self._split(self.v_proj(x))  # N H (HW+1) C/H
        pooled = F.scaled_dot_product_attention(q, k, v)  # N H 1 C/H
        return self.c_proj(pooled.flatten(1))  # NC -> NE

    def _split(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        return x.view(n, length, self.heads, width // self.heads).transpose(
            1, 2
        )  # N L C -> N H L C/H


class ModifiedResNet(nn.Module):
    """An image to features in the joint space.

    Parameters are named as in OpenAI's state dicts below `visual.`.
    """

    def __init__(self, config: ModifiedResNetConfig, image_resolution: int, embed_dim: int) -> None:
        super().__init__()
        width = config.width
        self.input_resolution = image_resolution
        self.hidden_dim = self.output_dim = embed_dim
        self.grad_checkpointing = False
        self.conv1 = nn.Conv2d(3, width // 2, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width // 2)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width // 2, width // 2, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width // 2)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv3 = nn.Conv2d(width // 2, width, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.relu3 = nn.ReLU(inplace=True)
        self.avgpool = nn.AvgPool2d(2)
        self.layer1 = _stage(width, width, config.layers[0], stride=1)
        self.layer2 = _stage(width * 4, width * 2, config.layers[1], stride=2)
        self.layer3 = _stage(width * 8, width * 4, config.layers[2], stride=2)
        self.layer4 = _stage(width * 16, width * 8, config.layers[3], stride=2)
        self.attnpool = AttentionPool2d(image_resolution // 32, width * 32, config.heads, embed_dim)
        for module in self.modules():
            if isinstance(module, Bottleneck):
                nn.init.zeros_(module.bn3.weight)  # each block starts as its shortcut

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu1(self.bn1(self.conv1(x)))  # N W/2 R/2 R/2, where W is the width
        x = self.relu2(self.bn2(self.conv2(x)))
        x = self.relu3(self.bn3(self.conv3(x)))  # N W R/2 R/2
        x = self.avgpool(x)  # N W R/4 R/4
        x = self._stage(self.layer1, x)  # N 4W R/4 R/4
        x = self._stage(self.layer2, x)  # N 8W R/8 R/8
        x = self._stage(self.layer3, x)  # N 16W R/16 R/16
        x = self._stage(self.layer4, x)  # N 32W R/32 R/32
        return self.attnpool(x)  # NE

    def hidden(self, x: Tensor) -> Tensor:
        """The same: the attention pool ends in its projection, and has no output before it."""
        return self(x)

    def project(self, hidden: Tensor) -> Tensor:
        """As they are: [N, E]."""
        return hidden

    @property
    def projection_names(self) -> tuple[str, ...]:
        """The parameters, or modules of them, that project into the joint space.

        The whole attention pool, which ends in the projection.
        """
        return ("attnpool",)

    @property
    def dtype(self) -> torch.dtype:
        """The type that images are computed in."""
        return self.conv1.weight.dtype

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute each block again in the backward pass instead of keeping what it made."""
        self.grad_checkpointing = enable

    def _stage(self, blocks: nn.Sequential, x: Tensor) -> Tensor:
        if not self.grad_checkpointing:
            return blocks(x)
        for block in blocks:
            x = run_checkpointed(block, x)
        return x


def _stage(inplanes: int, planes: int, blocks: int, stride: int) -> nn.Sequential:
    first = Bottleneck(inplanes, planes, stride)
    rest = (Bottleneck(planes * Bottleneck.expansion, planes) for _ in range(1, blocks))
    return nn.Sequential(first, *rest)
