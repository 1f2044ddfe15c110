"""What a stage's output depends on when its settings name a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.run.config import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from clip_model.config import ClipConfig
    from clip_model.dual_encoders import DualEncoder
    from clip_model.image_towers import Backbone
    from clip_model.registry import BackboneName, DualEncoderName


def is_file(name: str | None) -> bool:
    """Whether a setting names a checkpoint by its path: then its content counts, not its name."""
    from clip_model.registry import DualEncoderName, available_models

    if name is not None and (which := DualEncoderName.of(name)):
        return bool(which.place)
    return name is not None and name not in available_models()


def checkpoint_inputs(name: str | None, key: str) -> tuple[list[Path], list[str]]:
    """The files of a checkpoint, or the checksum of a published model; of no model nothing.

    What a model of another library is called stands in the place of the checksum: of what is
    published under a name that others may give to other weights, that is all there is.

    A published model is known by its checksum and is not downloaded here: a plan costs nothing,
    and each machine downloads for itself. Raises ConfigError, naming the configuration's key,
    when there is no such model.
    """
    from clip_model.model_files import checkpoint_files
    from clip_model.registry import PUBLISHED, BackboneName, DualEncoderName

    if name is None:
        return [], []
    if backbone := BackboneName.of(name):
        if not (file := Path(backbone.weights)).is_file():
            raise ConfigError(f"{key}: {backbone.architecture}: there is no file {file}")
        return [file], [backbone.architecture]
    if which := DualEncoderName.of(name):
        if missing := [path for path in which.files if not path.is_file()]:
            raise ConfigError(f"{key}: {which.kind}: there is no file {missing[0]}")
        return which.files, [which.kind]
    if name in PUBLISHED:
        return [], [PUBLISHED[name].sha256]
    try:
        return checkpoint_files(name), []
    except RuntimeError as error:
        raise ConfigError(f"{key}: {error}") from error


def read_backbone(backbone: BackboneName, key: str) -> Backbone:
    """A network of another library, read. Raises ConfigError as `architecture` does."""
    from clip_model.image_towers import load_backbone

    try:
        return load_backbone(backbone)
    except RuntimeError as error:
        raise ConfigError(f"{key}: {error}") from error


def read_dual_encoder(which: DualEncoderName, key: str) -> DualEncoder:
    """A dual encoder of another library, read. Raises ConfigError as `architecture` does."""
    from clip_model.dual_encoders import load_dual_encoder

    try:
        return load_dual_encoder(which)
    except RuntimeError as error:
        raise ConfigError(f"{key}: {error}") from error


def check_weights(name: str, key: str) -> int:
    """Read a model that embeds images and texts, and give its dimensions.

    Raises ConfigError, naming the configuration's key, as `architecture` does.
    """
    from clip_model.registry import DualEncoderName

    if which := DualEncoderName.of(name):
        return read_dual_encoder(which, key).embed_dim
    return architecture(name, key).embed_dim


def architecture(name: str, key: str) -> ClipConfig:
    """A model's architecture; of one that is no published one, its whole file is read.

    Raises ConfigError, naming the configuration's key, when the file is no model, or its weights
    are not finite.
    """
    from clip_model.config import ARCHITECTURES

    return ARCHITECTURES[name] if name in ARCHITECTURES else weights_of(name, key)[1]


def weights_of(name: str, key: str) -> tuple[dict[str, Tensor], ClipConfig]:
    """The tensors of a checkpoint, all finite, and its architecture. Raises as `architecture`."""
    from clip_model.checkpoint import check_finite, read_weights
    from clip_model.model_files import checkpoint_path

    try:
        tensors, config = read_weights(checkpoint_path(name))
        check_finite(tensors)
        return tensors, config
    except RuntimeError as error:
        raise ConfigError(f"{key}: {name}: {error}") from error
