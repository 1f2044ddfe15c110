"""Image towers of timm and torchvision: pictures to features, without any text.

A backbone's features are its pooled ones, before the classifier. Its weights come from a local
file; nothing is downloaded, and nothing of a file is executed. timm is optional.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from clip_model.checkpoint import check_finite
from clip_model.preprocess import Preprocessing, normalised
from clip_model.registry import BackboneName
from clip_model.state_dict import shown
from clip_model.tensor_files import read_tensor_file
from clip_model.timm_tower import import_timm


class ImageTower(Protocol):
    """All that embedding pictures needs of a model: a folded `CLIP`, a `Backbone`."""

    @property
    def preprocessing(self) -> Preprocessing:
        """How a file becomes the levels that it takes, see `image_bytes_transform`."""

    @property
    def embed_dim(self) -> int:
        """Dimensions of its features, E."""

    def encode_image(self, image: Tensor) -> Tensor:
        """Levels, uint8 [N, 3, R, R], to features, not normalised: [N, E]."""

    @property
    def hidden_dim(self) -> int:
        """Dimensions of the features that probes see, H."""

    def encode_hidden(self, image: Tensor) -> Tensor:
        """Levels to features before the projection into the joint space: [N, H]."""

    def project_image(self, hidden: Tensor) -> Tensor:
        """What `encode_image` makes of them: [N, H] -> [N, E]."""


class Backbone(nn.Module):
    """A network of timm's or torchvision's without its classifier.

    Args:
        network: normalised images [N, 3, R, R] -> features [N, E].
    """

    def __init__(self, network: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.network = network.eval()
        self.preprocessing = preprocessing
        #: What matrices are computed in; None: float32.
        self.half_type: torch.dtype | None = None
        side = preprocessing.resolution
        with torch.inference_mode():
            features = network(torch.zeros(1, 3, side, side))
        if features.ndim != 2:
            raise RuntimeError(f"its features are {list(features.shape[1:])}, not one row of them")
        self.embed_dim = self.hidden_dim = features.shape[1]

    def encode_image(self, image: Tensor) -> Tensor:
        """As `ImageTower.encode_image`, in float32."""
        how = self.preprocessing
        images = normalised(image, how.mean, how.std)
        with torch.autocast(images.device.type, self.half_type, self.half_type is not None):
            features: Tensor = self.network(images)
        return features.float()

    def encode_hidden(self, image: Tensor) -> Tensor:
        """The same: there is no joint space."""
        return self.encode_image(image)

    def project_image(self, hidden: Tensor) -> Tensor:
        """As they are."""
        return hidden


def counted_flops(tower: ImageTower) -> int:
    """Of one image, counted as in `clip_model.flops`; the tower is on the CPU."""
    from torch.utils.flop_counter import FlopCounterMode

    side = tower.preprocessing.resolution
    levels = torch.zeros(1, 3, side, side, dtype=torch.uint8)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        tower.encode_image(levels)
    return int(counter.get_total_flops())


def load_backbone(which: BackboneName, device: str | torch.device | None = None) -> Backbone:
    """The network with the weights of the file, for inference.

    Raises:
        RuntimeError: there is no such network or file, the weights are another network's or not
            finite, or its preprocessing is none that can be done here.
        UnsafeCheckpointError: the file asks for more than tensors; none of it has been run.
    """
    path = Path(which.weights)
    if not path.is_file():
        raise RuntimeError(f"{which}: there is no file {path}")
    try:
        tensors = read_tensor_file(path).tensors
        build = _timm if which.library == "timm" else _torchvision
        backbone = build(which, tensors)
    except RuntimeError as error:
        raise type(error)(f"{which}: {error}") from error
    return backbone.requires_grad_(False).to(device or "cpu")


# --- timm ---


class _WithoutClassifier(nn.Module):
    """timm's features before the classifier: what its `pre_logits` are."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        model: Any = self.model
        features: Tensor = model.forward_head(model.forward_features(images), pre_logits=True)
        return features


def _timm(which: BackboneName, tensors: Mapping[str, Tensor]) -> Backbone:
    timm = import_timm()
    if not timm.is_model(which.name):
        raise RuntimeError(_unknown(which.name.split(".")[0], timm.list_models()))
    config = timm.get_pretrained_cfg(which.name)
    classifiers = getattr(config, "classifier", None) or ()
    heads = (classifiers,) if isinstance(classifiers, str) else tuple(classifiers)
    weights = [tensors[f"{head}.weight"] for head in heads if f"{head}.weight" in tensors]
    model = timm.create_model(
        which.name, pretrained=False, num_classes=len(weights[0]) if weights else 0
    )
    _fill(model, tensors, which.name)
    how = timm.data.resolve_model_data_config(model)
    return Backbone(_WithoutClassifier(model), _timm_preprocessing(how))


def _timm_preprocessing(how: Mapping[str, Any]) -> Preprocessing:
    """What `timm.data.create_transform` makes of a model's data configuration."""
    channels, height, width = how["input_size"]
    mode, interpolation = how["crop_mode"] or "center", how["interpolation"]
    if channels != 3 or height != width or mode not in ("center", "squash"):
        raise RuntimeError(f"it takes {channels} x {height} x {width}, by {mode}: not done here")
    return Preprocessing(
        resolution=height,
        resized=math.floor(height / how["crop_pct"]),
        squash=mode == "squash",
        interpolation=interpolation,
        mean=tuple(how["mean"]),
        std=tuple(how["std"]),
        colours_first=True,
    )


# --- torchvision ---

#: These normalise their input once more where torchvision gives them weights.
_TRANSFORM_INPUT = {"transform_input": True, "init_weights": False}
_OPTIONS: dict[str, dict[str, Any]] = {
    "googlenet": _TRANSFORM_INPUT,
    "inception_v3": _TRANSFORM_INPUT,
}


def _torchvision(which: BackboneName, tensors: Mapping[str, Tensor]) -> Backbone:
    import clip_model._torchvision  # noqa: F401, I001
    from torchvision import models

    name, _, tag = which.name.partition(".")
    known = models.list_models(module=models)
    if name not in known:
        raise RuntimeError(_unknown(name, known))
    entry = _torchvision_weights(models.get_model_weights(name), tag, which)
    how = _torchvision_preprocessing(entry.transforms())
    options = dict(_OPTIONS.get(name, {}))
    if name.startswith("vit_"):
        options["image_size"] = how.resolution  # as its weights have it
    network = models.get_model(name, weights=None, **options)
    linear = [path for path, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise RuntimeError(f"{name} has no linear classifier, before which its features would be")
    last = linear[-1]
    if (weight := tensors.get(f"{last}.weight")) is not None:
        width = network.get_submodule(last).in_features
        network.set_submodule(last, nn.Linear(width, len(weight)))
    _fill(network, tensors, name)
    network.set_submodule(last, nn.Identity())
    return Backbone(network, how)


def _torchvision_weights(entries: Any, tag: str, which: BackboneName) -> Any:
    """Those of the tag; else those that are published under the file's name, or the default."""
    if not tag:
        file = Path(which.weights).name
        published = [entry for entry in entries if entry.url.rpartition("/")[2] == file]
        return published[0] if published else entries.DEFAULT
    if tag not in entries.__members__:
        raise RuntimeError(f"it has no weights {tag}; there are {', '.join(entries.__members__)}")
    return entries[tag]


def _torchvision_preprocessing(preset: Any) -> Preprocessing:
    """Of torchvision's `ImageClassification`."""
    (resolution,), (resized,) = preset.crop_size, preset.resize_size
    return Preprocessing(
        resolution=resolution,
        resized=resized,
        interpolation=preset.interpolation.value,
        mean=tuple(preset.mean),
        std=tuple(preset.std),
        colours_first=True,
    )


# --- both ---


def _unknown(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, 3, 0.5)
    return f"there is no model {name}" + (f"; near are {', '.join(near)}" if near else "")


def _fill(network: nn.Module, tensors: Mapping[str, Tensor], name: str) -> None:
    """Put the weights in. Raises RuntimeError where they are another network's."""
    expected = network.state_dict()
    counters = {key for key in expected if key.endswith("num_batches_tracked")}
    missing = sorted(expected.keys() - tensors.keys() - counters)
    others = sorted(tensors.keys() - expected.keys())
    shapes = [
        f"{key} {list(tensors[key].shape)} where {list(expected[key].shape)} is"
        for key in sorted(expected.keys() & tensors.keys())
        if tensors[key].shape != expected[key].shape
    ]
    wrong = {"without": missing, "with": others, "of other shapes:": shapes}
    if any(wrong.values()):
        said = "; ".join(f"{how} {shown(names)}" for how, names in wrong.items() if names)
        raise RuntimeError(f"the weights are not those of {name}: {said}")
    network.load_state_dict(dict(tensors))
    check_finite(network.state_dict())
