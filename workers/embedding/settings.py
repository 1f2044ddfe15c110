"""The settings of embedding: the model, the shards it reads, labels and scores of images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, ValidationInfo, WrapValidator, model_validator

from clip_model.model_files import checkpoint_files
from clip_model.registry import DUAL_LIBRARIES, BackboneName, DualEncoderName, available_models
from workers.base.settings import FileName, Settings, ShellText, located
from workers.base.storage import file_hash

Precision = Literal["fp32", "bf16"]


def _located_clip(value: Any, check: Callable[[Any], str], info: ValidationInfo) -> str:
    if DualEncoderName.of(str(value)):
        raise ValueError(
            f"{value} is another library's model, which can embed and be judged and not be trained "
            "here: give a CLIP"
        )
    if BackboneName.of(str(value)):
        raise ValueError(
            f"{value} knows no text, which is needed here: give a CLIP; it can be judged by "
            "pipelines.evaluate --model"
        )
    return str(value) if value in available_models() else located(value, check, info)


def _located_model(value: Any, check: Callable[[Any], str], info: ValidationInfo) -> str:
    library, _, rest = str(value).partition(":")
    if library not in DUAL_LIBRARIES:
        return _located_clip(value, check, info)
    kind = ShellText if isinstance(value, ShellText) else str
    if Path(folder := located(kind(rest), check, info)).is_dir():
        return f"{library}:{folder}"
    which = DualEncoderName.of(str(value))
    assert which is not None
    return str(which.at(located(kind(which.weights), check, info)) if which.weights else which)


def _located_tower(value: Any, check: Callable[[Any], str], info: ValidationInfo) -> str:
    if (backbone := BackboneName.of(str(value))) is None:
        return _located_model(value, check, info)
    kind = ShellText if isinstance(value, ShellText) else str
    return str(backbone.at(located(kind(backbone.weights), check, info)))


#: A known model's name or the path of a checkpoint.
ClipName = Annotated[str, WrapValidator(_located_clip)]
#: The same, or a dual encoder of another library (`DualEncoderName`).
ModelName = Annotated[str, WrapValidator(_located_model)]
#: The same, or a network of another library that knows no text (`BackboneName`).
TowerName = Annotated[str, WrapValidator(_located_tower)]


class LabelSet(Settings):
    """A list of classes; each image gets the most probable ones by zero-shot."""

    classes: Annotated[tuple[str, ...], Field(min_length=1)] | str = Field(
        default="ImageNet",
        description="class names, or a data set of the paper's whose classes they are",
    )
    templates: Annotated[tuple[str, ...], Field(min_length=1)] | str = Field(
        default=("a photo of a {}.",),
        description="prompts, {} is the class name; or the name of a set of them (ImageNet: 80)",
    )
    top_k: int = Field(default=1, ge=1, description="labels stored an image")

    def names(self) -> list[str]:
        """What labels can be called. Raises ValueError for a data set that is not known."""
        if not isinstance(self.classes, str):
            return list(self.classes)
        from clip_model.templates import class_set

        names = class_set(self.classes)
        return [name if isinstance(name, str) else name[0] for name in names]


class Attribute(Settings):
    """A property that images have or lack; the score is the probability that they have it."""

    present: tuple[str, ...] = Field(
        default=(),
        description="prompts of images that have it; []: this project's, for photo, "
        "text_overlay, watermark and nsfw",
    )
    absent: tuple[str, ...] = Field(default=(), description="prompts of those that lack it")

    @model_validator(mode="after")
    def _both_or_none(self) -> Self:
        if bool(self.present) != bool(self.absent):
            raise ValueError("give prompts for `present` and for `absent`, or for neither")
        return self


#: Prompts of the attributes that need none of their own.
ATTRIBUTES = {
    "photo": Attribute(
        present=("a photo", "a photograph taken with a camera"),
        absent=("a drawing", "an illustration", "a diagram", "clip art", "a logo"),
    ),
    "text_overlay": Attribute(
        present=("a picture with text written over it", "a meme with a caption", "a poster"),
        absent=("a picture without any text", "a photo without words"),
    ),
    "watermark": Attribute(
        present=("a stock photo with a watermark", "a picture with a watermark over it"),
        absent=("a picture without a watermark", "a clean photo"),
    ),
    "nsfw": Attribute(
        present=("pornography", "a photo of a naked person", "explicit sexual content"),
        absent=("a picture that is safe for work", "a photo of a person with clothes on"),
    ),
}


class Head(Settings):
    """A small trained network on the image's embedding, such as an aesthetic predictor."""

    path: FileName = Field(description="safetensors (or torch.save) file of its linear layers")
    activation: Literal["none", "relu", "gelu"] = Field(
        default="none", description="between the layers (LAION's aesthetic predictor: none)"
    )
    output: Literal["none", "sigmoid"] = Field(default="none", description="of the last layer")


ScoreName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+$")]


class EmbedSettings(Settings):
    """CLIP over shards of images: embeddings, similarity, zero-shot labels and scores."""

    TUNING: ClassVar[frozenset[str]] = frozenset({"threads"})

    model: ModelName = Field(
        default="starter",
        description="a known model's name, a checkpoint, or another library's dual encoder: "
        "open_clip:NAME/TAG, open_clip:NAME=FILE, open_clip:FOLDER, hf:FOLDER, "
        "hf:OWNER/NAME@REVISION (docs/checkpoints.md)",
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto",
        description="auto: bf16 if all machines that work compute in it (decided once, when the "
        "first shard is embedded, and recorded in run.json), else fp32; docs/embedding.md says "
        "what they differ by",
    )
    batch_size: int | None = Field(
        default=None, ge=1, description="images a forward pass; null: 16 on a CPU, 512 on a GPU"
    )
    threads: int | None = Field(
        default=None,
        ge=1,
        description="that decode (and on a CPU, compute), an actor; null: the "
        "cores divided among its machine's actors",
    )
    label_sets: dict[str, LabelSet] = Field(default_factory=dict, description="by name")
    attributes: dict[ScoreName, Attribute] = Field(
        default_factory=dict, description="by name, a column `score_NAME` each"
    )
    heads: dict[ScoreName, Head] = Field(
        default_factory=dict, description="by name, a column `score_NAME` each"
    )

    @property
    def has_labels(self) -> bool:
        """Whether anything is said of images by their embeddings."""
        return bool(self.label_sets or self.attributes or self.heads)

    def without_labels(self) -> EmbedSettings:
        """What the embeddings alone depend on."""
        return self.model_copy(update={"label_sets": {}, "attributes": {}, "heads": {}})

    @model_validator(mode="after")
    def _scores_have_names_and_prompts(self) -> Self:
        if both := sorted(self.attributes.keys() & self.heads.keys()):
            raise ValueError(f"an attribute and a head are both called {', '.join(both)}")
        for name, attribute in self.attributes.items():
            if not attribute.present and name not in ATTRIBUTES:
                raise ValueError(
                    f"attributes.{name} needs prompts, `present` and `absent`; those that need "
                    f"none are {', '.join(ATTRIBUTES)}"
                )
        return self


class TowerSettings(EmbedSettings):
    """The same where pictures alone are embedded: any image tower will do."""

    model: TowerName = Field(
        default="starter",
        description="the same, or a network of timm or torchvision, LIBRARY:NAME=WEIGHTS",
    )


class InputSettings(Settings):
    """What of other people's shards is read."""

    parts: Literal["both", "images", "texts"] = Field(
        default="both", description="which towers work"
    )
    id_column: str | None = Field(default=None, description="null: the first known name")
    image_column: str | None = Field(default=None, description="null: the first known name")
    text_column: str | None = Field(default=None, description="null: the first known name")

    @property
    def images(self) -> bool:
        return self.parts != "texts"

    @property
    def texts(self) -> bool:
        return self.parts != "images"


def model_label(name_or_path: str) -> str:
    """A known model's name; of a checkpoint, whose name says little, its files' sha256."""
    if backbone := BackboneName.of(name_or_path):
        return f"{backbone.architecture} sha256:{file_hash(Path(backbone.weights))}"
    if which := DualEncoderName.of(name_or_path):
        return " ".join([which.kind, *(f"sha256:{file_hash(path)}" for path in which.files)])
    if name_or_path in available_models():
        return name_or_path
    return " ".join(f"sha256:{file_hash(path)}" for path in checkpoint_files(name_or_path))
