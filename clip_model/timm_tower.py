"""Image towers of timm: a network, and behind it what projects its features into the joint space.

Built as open_clip 3.3 builds its `TimmModel`, so its weights fit under its names: the network's
below `visual.trunk.`, the projection's below `visual.head.`. Nothing is downloaded. timm is
optional, and imported when the first tower is built.
"""

from __future__ import annotations

import difflib
from collections import OrderedDict
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from clip_model.config import TimmTowerConfig

# What timm says where a network cannot be had, or not with this pool or size.
TIMMS_ERRORS = (AssertionError, AttributeError, KeyError, RuntimeError, TypeError, ValueError)


class TimmTower(nn.Module):
    """An image to features in the joint space.

    Args:
        image_resolution: where it is not what the network is made for, positions are other ones.

    Raises:
        RuntimeError: timm is not installed, or has no such network, or not with this pool or size.
    """

    def __init__(self, config: TimmTowerConfig, image_resolution: int, embed_dim: int) -> None:
        super().__init__()
        self.config = config
        self.input_resolution = image_resolution
        self.output_dim = embed_dim
        #: What the network computes in, its weights being converted as they are used; None: as
        #: they are, or as the caller's autocast has it.
        self.half_type: torch.dtype | None = None
        #: What is done to levels from 0 to 255 before all else, see `fold_normalisation`.
        self.normalise: nn.Module | None = None
        self.trunk = _network(config, image_resolution, embed_dim)
        #: Of a few networks a layer without a name stands between the two.
        self.hidden_dim = int(getattr(self.trunk, "head_hidden_size", self.trunk.num_features))
        self.head = _projection(config, self.trunk.num_features, embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        if self.normalise is not None:
            x = self.normalise(x)
        with self._autocast(x):
            features: Tensor = self.head(self.trunk(x))
            return features

    def hidden(self, x: Tensor) -> Tensor:
        """Features before the projection, pooled: [N, 3, R, R] -> [N, H]."""
        if self.normalise is not None:
            x = self.normalise(x)
        with self._autocast(x):
            features: Tensor = self.trunk.forward_head(
                self.trunk.forward_features(x), pre_logits=True
            )
            return features

    def project(self, hidden: Tensor) -> Tensor:
        """Into the joint space: [N, H] -> [N, E]."""
        with self._autocast(hidden):
            features: Tensor = self.head(self.trunk.get_classifier()(hidden))
            return features

    def _autocast(self, x: Tensor) -> AbstractContextManager[None]:
        if self.half_type is None:
            return nullcontext()
        return torch.autocast(x.device.type, self.half_type)

    @property
    def projection_names(self) -> tuple[str, ...]:
        """The parameters, or modules of them, that project into the joint space; of some, none.

        The network's own classifier, where it is the projection, or what stands behind it.
        """
        classifiers = self.trunk.get_classifier()  # two, of networks that were distilled
        parts = {self.head, *(classifiers if isinstance(classifiers, tuple) else (classifiers,))}
        weighty = (name for name, one in self.named_modules() if one in parts and _has_weights(one))
        return tuple(weighty)

    @property
    def dtype(self) -> torch.dtype:
        """The type that images are given in."""
        return next(self.parameters()).dtype

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute each block again in the backward pass instead of keeping what it made.

        Raises:
            ValueError: timm does not do so for this network, or would let a BatchNorm see each
                image twice.
        """
        if not enable and not hasattr(self.trunk, "set_grad_checkpointing"):
            return
        if enable and any(isinstance(module, _BatchNorm) for module in self.trunk.modules()):
            raise ValueError(
                f"gradient checkpointing would teach the BatchNorms of {self.config.name} each "
                "image twice: do without"
            )
        try:
            self.trunk.set_grad_checkpointing(enable)
        except (AssertionError, AttributeError) as error:
            raise ValueError(f"{self.config.name} has no gradient checkpointing") from error

    def resize(self, image_resolution: int) -> None:
        """Take images of another size from now on.

        Raises:
            RuntimeError: timm has no way to it.
        """
        try:
            _set_size(self.trunk, image_resolution, self.input_resolution)
        except TIMMS_ERRORS as error:
            raise RuntimeError(f"{self.config.name} cannot take that size: {error}") from error
        self.input_resolution = image_resolution

    def compute_buffers(self) -> None:
        """What is no weight and in no file, of a network that was built without memory.

        It is built once more with memory: its weights, as many as this one has, are dropped again.
        """
        absent = [name for name, buffer in self.trunk.named_buffers() if buffer.is_meta]
        if not absent:
            return
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            whole = _network(self.config, self.input_resolution, self.output_dim)
        for name in absent:
            path, _, buffer = name.rpartition(".")
            module = self.trunk.get_submodule(path)
            module.register_buffer(buffer, whole.get_buffer(name), persistent=False)

    def first_convolutions(self) -> list[str]:
        """Which convolutions take the image; none, where a normalisation is not folded into them
        exactly."""
        named = self.trunk.pretrained_cfg.get("first_conv") or ()
        names = [named] if isinstance(named, str) else list(named)
        convolutions = [self.trunk.get_submodule(name) for name in names]
        is_exact = self.half_type != torch.float16 and all(map(_is_plain, convolutions))
        return [f"trunk.{name}" for name in names] if is_exact else []


class SampledConv2d(nn.Conv2d):
    """A 1 x 1 convolution with a stride that takes the pixels it reads, and strides over none.

    The gradient of such weights, of up to four channels that lie innermost, is written past its
    end by oneDNN of torch 2.13.0 on processors with AVX2 alone. MobileCLIP's stem has one.
    """

    def forward(self, input: Tensor) -> Tensor:
        vertical, horizontal = self.stride
        return F.conv2d(input[..., ::vertical, ::horizontal], self.weight, self.bias)


def _is_written_past(module: nn.Module) -> bool:
    return (
        type(module) is nn.Conv2d
        and (module.kernel_size, module.padding, module.groups) == ((1, 1), (0, 0), 1)
        and module.stride != (1, 1)
        and module.in_channels <= 4
    )


def import_timm() -> ModuleType:
    """The package.

    Raises:
        RuntimeError: it is not installed.
    """
    import clip_model._torchvision  # noqa: F401 - timm imports torchvision

    try:
        import timm
    except ModuleNotFoundError as error:
        if error.name != "timm":
            raise
        raise RuntimeError("this needs the package timm: pip install timm") from error
    module: ModuleType = timm
    return module


@lru_cache(maxsize=32)
def tower_flops(config: TimmTowerConfig, image_resolution: int, embed_dim: int) -> int:
    """Operations of a forward pass for one image, as `clip_model.flops` counts them.

    Nothing is computed, so it also is a test that images of this size can be.

    Raises:
        RuntimeError: they cannot; or as `TimmTower`.
    """
    with torch.device("meta"):
        tower = TimmTower(config, image_resolution, embed_dim).eval()
        image = torch.empty(1, 3, image_resolution, image_resolution)
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            shape = tower(image).shape
    except TIMMS_ERRORS as error:
        size = f"{image_resolution} x {image_resolution}"
        raise RuntimeError(f"{config.name} takes no images of {size}: {error}") from error
    if shape != (1, embed_dim):
        raise RuntimeError(f"{config.name} gives features {list(shape[1:])}, not [{embed_dim}]")
    return int(counter.get_total_flops())


def is_size_of_open_clips(config: TimmTowerConfig, image_resolution: int) -> bool:
    """Whether open_clip makes the same of images of this size: it builds each network for the size
    that it was made for, whatever its configuration says.

    Raises:
        RuntimeError: timm is not installed, or has no such network.
    """
    with torch.device("meta"):
        network = _network(config, None, embed_dim=1)
    is_native = image_resolution == network.pretrained_cfg["input_size"][-1]
    return is_native or not hasattr(network, "set_input_size")


def _network(config: TimmTowerConfig, image_resolution: int | None, embed_dim: int) -> Any:
    """timm's network with its own classifier as the projection, or without one.

    Args:
        image_resolution: None: what it is made for.
    """
    timm, name = import_timm(), config.name
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), 3, 0.5)
        others = f"; near are {', '.join(near)}" if near else ""
        raise RuntimeError(f"timm {timm.__version__} has no network {name!r}{others}")
    try:
        if config.proj in ("linear", "mlp"):
            network = timm.create_model(name, pretrained=False)
            pool = {"global_pool": config.pool} if config.pool else {}
            network.reset_classifier(0, **pool)
        else:
            classes = 0 if config.proj == "none" else embed_dim
            network = timm.create_model(
                name, pretrained=False, num_classes=classes, global_pool=config.pool
            )
        native = network.pretrained_cfg["input_size"][-1]
        _set_size(network, image_resolution or native, native)
        for module in network.modules():
            if _is_written_past(module):
                module.__class__ = SampledConv2d
    except TIMMS_ERRORS as error:
        raise RuntimeError(
            f"timm {timm.__version__} makes no {name!r} with pool {config.pool!r} for images of "
            f"{image_resolution} pixels: {error}"
        ) from error
    return network


def _set_size(network: Any, image_resolution: int, before: int) -> None:
    """Positions for images of another size, resampled, where there are any."""
    if image_resolution == before:
        return
    if hasattr(network, "set_input_size"):
        network.set_input_size(img_size=(image_resolution, image_resolution))
    elif network.pretrained_cfg["fixed_input_size"]:
        raise ValueError(f"it is made for {before} alone")


def _projection(config: TimmTowerConfig, width: int, embed_dim: int) -> nn.Sequential:
    layers = OrderedDict[str, nn.Module]()
    if config.proj == "linear":
        layers["proj"] = nn.Linear(width, embed_dim, bias=config.proj_bias)
    elif config.proj == "mlp":
        mlp = import_timm().layers.Mlp
        layers["mlp"] = mlp(width, 2 * embed_dim, embed_dim, bias=(True, config.proj_bias))
    return nn.Sequential(layers)


def _has_weights(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def _is_plain(module: nn.Module) -> bool:
    """A convolution of three colours that pads with zeros, and all around alike, if it does."""
    if not isinstance(module, nn.Conv2d) or type(module) not in (nn.Conv2d, SampledConv2d):
        return False
    if isinstance(module.padding, str):
        return False
    plain = (3, 1, (1, 1), "zeros", 1)
    kind = (module.in_channels, module.groups, module.dilation, module.padding_mode)
    return (*kind, len(set(module.padding))) == plain
