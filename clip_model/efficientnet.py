"""EfficientNet-Lite0 as an image tower, its norms folded into its convolutions.

"EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", arXiv 1905.11946; Lite
is its makers' kind for small devices: no squeeze-and-excitation, ReLU6, a stem and a head of one
width. It is here for weights that exist (the shipped starter's trunk knows ImageNet): without norms
it computes and fine-tunes faster, but from new weights it would hardly train. timm's
`tf_efficientnet_lite0`, a `TimmTower`, has them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clip_model.checkpointing import run_checkpointed
from clip_model.config import EfficientNetConfig

STEM_WIDTH, HEAD_WIDTH = 32, 1280
#: By stage: kernel, stride, expansion, width, blocks (table 1 of the paper).
STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
FIRST_SEEN = 2  # the means of this stage's map and of those behind it are features


class SameConv2d(nn.Conv2d):
    """A convolution with TensorFlow's padding: what is odd of it is on the right and below."""

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        if stride == 1:  # and the kernel is odd: the same on all sides
            return F.conv2d(x, self.weight, self.bias, 1, kernel // 2, 1, self.groups)
        bottom, right = (max((-side) % stride + kernel - stride, 0) for side in x.shape[-2:])
        x = F.pad(x, (right // 2, right - right // 2, bottom // 2, bottom - bottom // 2))
        return F.conv2d(x, self.weight, self.bias, stride, 0, 1, self.groups)


class InvertedResidual(nn.Module):
    """1x1 wider, a convolution of each channel by itself, 1x1 narrower, beside a shortcut."""

    def __init__(self, width_in: int, width: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inside = width_in * expansion
        self.expand = nn.Conv2d(width_in, inside, 1) if expansion > 1 else None
        self.depthwise = SameConv2d(inside, inside, kernel, stride, groups=inside)
        self.project = nn.Conv2d(inside, width, 1)
        self.has_shortcut = stride == 1 and width == width_in

    def forward(self, x: Tensor) -> Tensor:
        inside = x if self.expand is None else F.relu6(self.expand(x))
        inside = self.project(F.relu6(self.depthwise(inside)))
        return x + inside if self.has_shortcut else inside


class EfficientNet(nn.Module):
    """An image to features in the joint space, on two ways whose sum it is.

    One goes through ImageNet's classes: the classifier's probabilities weigh a feature for each
    class, as ConSE does with the classes' word vectors (arXiv 1312.5650). It knows photographs, and
    no more than the classifier. The other is linear, from the means of the maps behind stages 3 to
    7 and behind the head; it can tell apart what the classifier never had a name for. Both are
    little work, and float32 where the trunk is in half precision (`convert_weights`).
    """

    def __init__(self, config: EfficientNetConfig, image_resolution: int, embed_dim: int) -> None:
        super().__init__()
        self.input_resolution, self.output_dim = image_resolution, embed_dim
        self.hidden_dim = sum(width for *_, width, _ in STAGES[FIRST_SEEN:]) + HEAD_WIDTH
        self.grad_checkpointing = False
        self.conv1 = SameConv2d(3, STEM_WIDTH, 3, stride=2)
        stages, width_in = [], STEM_WIDTH
        for kernel, stride, expansion, width, blocks in STAGES:
            first = InvertedResidual(width_in, width, kernel, stride, expansion)
            rest = (InvertedResidual(width, width, kernel, 1, expansion) for _ in range(1, blocks))
            stages.append(nn.Sequential(first, *rest))
            width_in = width
        self.stages = nn.Sequential(*stages)
        self.head = nn.Conv2d(width_in, HEAD_WIDTH, 1)
        self.classifier = nn.Linear(HEAD_WIDTH, config.classes)
        self.class_features = nn.Parameter(torch.empty(config.classes, embed_dim))
        self.linear = nn.Linear(self.hidden_dim, embed_dim)
        self.normalise: nn.Module | None = None  # set where levels are given, not colours
        nn.init.normal_(self.class_features, std=embed_dim**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(self.hidden(x))

    def hidden(self, x: Tensor) -> Tensor:
        """Means of maps, the head's last: [N, 3, R, R] -> [N, H]."""
        if self.normalise is not None:
            x = self.normalise(x).to(self.dtype)
        seen = list[Tensor]()
        x = F.relu6(self.conv1(x))  # N 32 R/2 R/2
        for number, stage in enumerate(self.stages):
            x = self._stage(stage, x)
            if number >= FIRST_SEEN:
                seen.append(_mean(x))  # NC
        x = F.relu6(self.head(x))  # N 1280 R/32 R/32
        return torch.cat([*seen, _mean(x)], dim=1)  # NH

    def project(self, hidden: Tensor) -> Tensor:
        """Into the joint space: [N, H] -> [N, E]."""
        classes = self.classifier(hidden[:, -HEAD_WIDTH:]).softmax(dim=-1)  # N, classes
        return classes @ self.class_features + self.linear(hidden)  # NE

    @property
    def projection_names(self) -> tuple[str, ...]:
        """The parameters, or modules of them, that project into the joint space."""
        return ("classifier", "class_features", "linear")

    @property
    def dtype(self) -> torch.dtype:
        """The type that images are computed in."""
        return self.conv1.weight.dtype

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute each block again in the backward pass instead of keeping what it made."""
        self.grad_checkpointing = enable

    def _stage(self, blocks: nn.Module, x: Tensor) -> Tensor:
        if not self.grad_checkpointing:
            return blocks(x)
        assert isinstance(blocks, nn.Sequential)
        for block in blocks:
            x = run_checkpointed(block, x)
        return x


def _mean(x: Tensor) -> Tensor:
    """Over all places, in full precision: NCHW -> NC"""
    return x.mean(dim=(2, 3), dtype=torch.float32)
