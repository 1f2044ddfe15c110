"""Dual encoders of open_clip and transformers: whatever these load, as embedding takes a model.

Nothing of them is written again here. Their own networks compute, with their own preprocessing and
tokens: SigLIP, MobileCLIP, EVA02, ConvNeXt, ViTamin, CoCa, MetaCLIP 2 and what else they know. Both
packages are optional.
"""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from clip_model.checkpoint import check_finite
from clip_model.config import MEAN, STD
from clip_model.preprocess import Preprocessing, normalised
from clip_model.registry import DualEncoderName
from clip_model.tensor_files import read_tensor_file
from clip_model.tokenizer import tokenize


class DualEncoder(nn.Module, ABC):
    """Another library's model, with what embedding needs to know of it."""

    def __init__(
        self, network: nn.Module, preprocessing: Preprocessing, context_length: int, pad: int
    ) -> None:
        super().__init__()
        self.network: Any = network.eval()
        self.preprocessing = preprocessing
        self.context_length = context_length
        self.pad = pad  # the token that fills a row of tokens
        #: What matrices are computed in; None: float32.
        self.half_type: torch.dtype | None = None
        side = preprocessing.resolution
        with torch.inference_mode():
            self.embed_dim = self._images(torch.zeros(1, 3, side, side)).shape[1]

    def encode_image(self, image: Tensor) -> Tensor:
        """Levels, uint8 [N, 3, R, R], to features, not normalised: float32 [N, E]."""
        how = self.preprocessing
        images = normalised(image, how.mean, how.std)
        with self._autocast(images.device):
            return self._images(images).float()

    @property
    def hidden_dim(self) -> int:
        """That of the joint space: what lies before it, each network has in its own place."""
        return self.embed_dim

    def encode_hidden(self, image: Tensor) -> Tensor:
        """The same as `encode_image`."""
        return self.encode_image(image)

    def project_image(self, hidden: Tensor) -> Tensor:
        """As they are."""
        return hidden

    def encode_text(self, text: Tensor) -> Tensor:
        """Tokens [N, L] to features, not normalised: float32 [N, E]."""
        with self._autocast(text.device):
            return self._texts(text.long()).float()

    @abstractmethod
    def tokenize(self, texts: Sequence[str], truncate: bool = True) -> Tensor:
        """The model's own tokens of texts, always cut where they are too long: [N, L]."""

    def lengths(self, tokens: Tensor) -> Tensor:
        """How many of each row's first tokens its features depend on: [N, L] -> [N].

        All of them, but where a tower is known not to look further.
        """
        return torch.full((len(tokens),), tokens.shape[1])

    @property
    def logit_scale(self) -> Tensor:
        """The logarithm of what cosines are multiplied by: a scalar."""
        scale: Tensor = self.network.logit_scale
        return scale.detach().reshape(())

    @property
    def logit_bias(self) -> Tensor | None:
        """What a sigmoid loss adds to them; None where the model was trained with a softmax."""
        bias: Tensor | None = getattr(self.network, "logit_bias", None)
        return None if bias is None else bias.detach().reshape(())

    @abstractmethod
    def _images(self, images: Tensor) -> Tensor:
        """The network's features of normalised images."""

    @abstractmethod
    def _texts(self, tokens: Tensor) -> Tensor:
        """The network's features of tokens."""

    def _autocast(self, device: torch.device) -> torch.autocast:
        return torch.autocast(device.type, self.half_type, self.half_type is not None)


def load_dual_encoder(
    which: DualEncoderName, device: str | torch.device | None = None
) -> DualEncoder:
    """The model, for inference.

    Raises:
        RuntimeError: the library is not installed, or cannot give the model: there is no such name,
            file or network, or the weights are another model's or not finite.
        UnsafeCheckpointError: a file asks for more than tensors; none of it has been run.
    """
    try:
        encoder = _BUILDERS[which.library](which)
    except (OSError, ValueError, RuntimeError) as error:
        kind = type(error) if isinstance(error, RuntimeError) else RuntimeError
        raise kind(f"{which}: {error}") from error
    check_finite(encoder.state_dict())
    return encoder.requires_grad_(False).to(device or "cpu")


# --- open_clip ---


class OpenClip(DualEncoder):
    """A model of open_clip's."""

    def __init__(self, network: nn.Module, preprocessing: Preprocessing, tokenizer: Any) -> None:
        import open_clip

        self._tokenizer = tokenizer
        of_clip = isinstance(tokenizer, open_clip.SimpleTokenizer)
        #: CLIP's vocabulary and cleaning: our tokenizer gives the same tokens, faster.
        self._is_clips = of_clip and tokenizer.clean_fn is open_clip.tokenizer.get_clean_fn("lower")
        super().__init__(network, preprocessing, tokenizer.context_length, pad=0)

    def tokenize(self, texts: Sequence[str], truncate: bool = True) -> Tensor:  # noqa: ARG002
        if self._is_clips:
            return tokenize(texts, self.context_length, truncate=True)
        tokens: Tensor = self._tokenizer(list(texts))
        return tokens

    def _images(self, images: Tensor) -> Tensor:
        features: Tensor = self.network.encode_image(images)
        return features

    def _texts(self, tokens: Tensor) -> Tensor:
        features: Tensor = self.network.encode_text(tokens)
        return features


def _open_clip(which: DualEncoderName) -> OpenClip:
    open_clip = _imported("open_clip", "open_clip_torch")
    if which.place and not which.weights:
        name = f"local-dir:{which.place}"
        model = open_clip.create_model(name)
        return OpenClip(model, _of_open_clip(model), open_clip.get_tokenizer(name))
    if which.name not in open_clip.list_models():
        raise RuntimeError(_unknown(which.name, open_clip.list_models()))
    published = open_clip.list_pretrained_tags_by_model(which.name)
    if which.tag and which.tag not in published:
        raise RuntimeError(_unknown(which.tag, published))
    if not which.weights:
        model = open_clip.create_model(which.name, pretrained=which.tag)
        return OpenClip(model, _of_open_clip(model), open_clip.get_tokenizer(which.name))
    if not (path := Path(which.weights)).is_file():
        raise RuntimeError(f"there is no file {path}")
    tensors = dict(read_tensor_file(path).tensors)
    how = _preprocess_of(which, published)
    model = open_clip.create_model(which.name, force_preprocess_cfg=how)
    model.load_state_dict(open_clip.convert.convert_state_dict(model, tensors))
    return OpenClip(model, _of_open_clip(model), open_clip.get_tokenizer(which.name))


def _preprocess_of(which: DualEncoderName, published: Sequence[str]) -> dict[str, Any]:
    """That of the tag, or of all tags where they are alike."""
    import open_clip

    keys = ("mean", "std", "interpolation", "resize_mode")
    ways: list[dict[str, Any]] = []
    for tag in [which.tag] if which.tag else published:
        config = open_clip.get_pretrained_cfg(which.name, tag)
        way = {key: config[key] for key in keys if key in config}
        if way not in ways:
            ways.append(way)
    if len(ways) > 1:
        raise RuntimeError(
            f"its published weights differ in preprocessing: say which yours have, by one of the "
            f"tags {', '.join(published)}"
        )
    return ways[0] if ways else {}


def _of_open_clip(model: Any) -> Preprocessing:
    how = model.visual.preprocess_cfg
    size = how["size"]
    height, width = (size, size) if isinstance(size, int) else size
    if height != width or how["resize_mode"] not in ("shortest", "squash"):
        raise RuntimeError(f"its images are {height} x {width}, by {how['resize_mode']}: not done")
    return Preprocessing(
        resolution=height,
        squash=how["resize_mode"] == "squash",
        interpolation=how["interpolation"],
        mean=tuple(how["mean"] or MEAN),
        std=tuple(how["std"] or STD),
    )


# --- transformers ---


class Transformers(DualEncoder):
    """A model of transformers' that has `get_image_features` and `get_text_features`."""

    def __init__(self, network: nn.Module, preprocessing: Preprocessing, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        #: Whether the tower does not look at what fills a row; SigLIP's does.
        self._is_masked = "attention_mask" in tokenizer.model_input_names
        config: Any = network.config
        places = int(config.text_config.max_position_embeddings)
        context_length = min(places, tokenizer.model_max_length)
        super().__init__(network, preprocessing, context_length, tokenizer.pad_token_id or 0)

    def tokenize(self, texts: Sequence[str], truncate: bool = True) -> Tensor:  # noqa: ARG002
        tokens: Tensor = self._tokenizer(
            list(texts),
            padding="max_length",
            max_length=self.context_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        return tokens

    def lengths(self, tokens: Tensor) -> Tensor:
        return self._mask(tokens).sum(dim=-1) if self._is_masked else super().lengths(tokens)

    def _mask(self, tokens: Tensor) -> Tensor:
        """1 for what was written, 0 for what fills the rows: [N, L]."""
        fills = tokens == self.pad
        if self.pad == self._tokenizer.eos_token_id:  # the first one ends the text
            fills = fills & (fills.cumsum(dim=-1) > 1)
        return (~fills).long()

    def _images(self, images: Tensor) -> Tensor:
        return _pooled(self.network.get_image_features(pixel_values=images))

    def _texts(self, tokens: Tensor) -> Tensor:
        mask = {"attention_mask": self._mask(tokens)} if self._is_masked else {}
        return _pooled(self.network.get_text_features(input_ids=tokens, **mask))


def _pooled(output: Any) -> Tensor:
    features: Tensor = output if isinstance(output, Tensor) else output.pooler_output
    return features


def _transformers(which: DualEncoderName) -> Transformers:
    transformers = _imported("transformers", "transformers")
    options: dict[str, Any] = {"local_files_only": bool(which.place), "trust_remote_code": False}
    if which.tag:
        options["revision"] = which.tag
    model = transformers.AutoModel.from_pretrained(
        which.name, use_safetensors=True, dtype=torch.float32, **options
    )
    if not hasattr(model, "get_image_features") or not hasattr(model, "get_text_features"):
        raise RuntimeError(f"a {type(model).__name__} has no features of images and of texts")
    tokenizer = transformers.AutoTokenizer.from_pretrained(which.name, **options)
    images = transformers.AutoImageProcessor.from_pretrained(which.name, **options)
    return Transformers(model, _of_processor(images.to_dict()), tokenizer)


#: Pillow's numbers for the ways to resize.
_RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}


def _of_processor(how: Mapping[str, Any]) -> Preprocessing:
    size, crop = how["size"], how.get("crop_size") or {}
    is_square = size.get("height") is not None and size.get("height") == size.get("width")
    resized = size["height"] if is_square else size.get("shortest_edge")
    cropped = crop.get("height") if how.get("do_center_crop") else resized if is_square else None
    if (
        resized is None
        or cropped is None
        or crop.get("width", cropped) != crop.get("height", cropped)
    ):
        raise RuntimeError(f"its images are resized to {size} and cut to {crop}: not done here")
    if not how.get("do_rescale", True) or not how.get("do_resize", True):
        raise RuntimeError("its images are taken as they are: not done here")
    plain = not how.get("do_normalize", True)
    return Preprocessing(
        resolution=cropped,
        resized=resized,
        squash=is_square,
        interpolation=_RESAMPLE[int(how["resample"])],
        mean=(0.0, 0.0, 0.0) if plain else tuple(how["image_mean"]),
        std=(1.0, 1.0, 1.0) if plain else tuple(how["image_std"]),
        colours_first=True,
    )


_BUILDERS = {"open_clip": _open_clip, "hf": _transformers}


def _imported(module: str, package: str) -> ModuleType:
    import clip_model._torchvision  # noqa: F401, I001 - both import torchvision
    import importlib

    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise RuntimeError(f"this needs the package {package}: pip install {package}") from error


def _unknown(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, 5) or sorted(known)[:5]
    return (
        f"there is no {name!r}; near it are {', '.join(near)}" if near else f"there is no {name!r}"
    )
