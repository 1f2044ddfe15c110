"""The settings of training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, ValidationInfo, model_validator

from clip_model.json_file import parse_json
from clip_model.locking import Locked
from pipelines.run.yaml_text import parse
from workers.base.settings import FileName, Settings, Share, located, read_text
from workers.embedding.settings import ClipName

if TYPE_CHECKING:
    from pipelines.training.order import DataSettings

#: The recipes that come with the project, by their file's name.
RECIPES = Path(__file__).with_name("recipes")

Known = Literal[
    "small",
    "RN50",
    "RN101",
    "RN50x4",
    "RN50x16",
    "RN50x64",
    "ViT-B/32",
    "ViT-B/16",
    "ViT-L/14",
    "ViT-L/14@336px",
]
Count = Annotated[int, Field(ge=1)]


def _with_table(value: Any, info: ValidationInfo) -> Any:
    """The table of a file, which must describe a CLIP."""
    where = "the table"
    if isinstance(value, str) and value.endswith(".json"):
        where = located(value, str, info)
        try:
            value = parse_json(read_text(Path(where)))
        except OSError as error:
            raise ValueError(f"cannot read {where}: {error.strerror}") from error
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
    if isinstance(value, dict):
        from clip_model.open_clip import described

        try:
            described(value, where)
        except RuntimeError as error:
            raise ValueError(str(error)) from error
    return value


#: A known name, or what open_clip has in a file of JSON for an architecture.
Architecture = Annotated[Known | dict[str, Any], BeforeValidator(_with_table)]


class OptimizerSettings(Settings):
    """How the weights are moved: AdamW or Muon, warmed up, then along half a cosine to zero."""

    name: Literal["adamw", "muon"] = Field(
        default="adamw",
        description="muon: torch.optim.Muon for the matrices inside the transformers' blocks, "
        "AdamW for all else; learning rate and weight decay mean the same for both",
    )
    learning_rate: float = Field(default=1e-4, gt=0.0, description="peak, after the warm-up")
    weight_decay: float = Field(default=0.2, ge=0.0, description="on weights, not gains or biases")
    warmup_steps: int = Field(default=10, ge=0, description="steps of linear warm-up")
    beta1: float | None = Field(
        default=None, ge=0.0, lt=1.0, description="of AdamW's mean of gradients; null: 0.9"
    )
    beta2: float | None = Field(
        default=None,
        ge=0.0,
        lt=1.0,
        description="of AdamW's mean of squared gradients; null: the paper's, 0.999 for a ResNet, "
        "0.98 for other image towers",
    )
    eps: float | None = Field(
        default=None,
        gt=0.0,
        description="AdamW's; null: the paper's, 1e-8 for a ResNet, 1e-6 for other image towers",
    )
    clip_gradients: float | None = Field(
        default=None,
        gt=0.0,
        description="length of all gradients together, at most; null: as they are",
    )
    average: float | None = Field(
        default=None,
        gt=0.0,
        lt=1.0,
        description="share that a moving average of the weights keeps in each step, 0.999 say; the "
        "model is that average then; null: the weights themselves",
    )

    def constants(self) -> dict[str, float | None]:
        """What is said of AdamW's constants, for `clip_model.optimisation.adam_constants`."""
        return {"beta1": self.beta1, "beta2": self.beta2, "eps": self.eps}


class BatchSettings(Settings):
    """What the batches are made of; the same for any number of workers."""

    TUNING: ClassVar[frozenset[str]] = frozenset({"threads"})

    lanes: int = Field(
        default=8,
        ge=1,
        description="parts of the data that are read at a time, each a part of every batch; a "
        "worker has one at least",
    )
    shuffle_rows: int = Field(
        default=16_384,
        ge=1,
        description="rows that are shuffled among each other, of all workers together; their "
        "compressed images are in memory",
    )
    unique: bool = Field(
        default=False,
        description="no image and no caption twice in a batch, where rows can be "
        "exchanged with those of other batches",
    )
    threads: int | None = Field(
        default=None, ge=1, description="that decode images, a worker; null: as many as its CPUs"
    )


class CheckpointSettings(Settings):
    """When the state of a training is kept, to go on from after whatever ends it."""

    every_steps: int | None = Field(
        default=None, ge=1, description="steps between two; null: by the clock alone"
    )
    every_minutes: float | None = Field(
        default=10.0, gt=0.0, description="minutes between two, at most; null: by steps alone"
    )
    keep: int = Field(default=2, ge=1, description="the last so many; the best is kept beside them")


class DistillationSettings(Settings):
    """Learn from a teacher, too: from its embeddings of the pairs, which are stored."""

    embeddings: tuple[FileName, ...] = Field(
        min_length=1,
        description="Parquet files of the same pairs' embeddings by the teacher, any model, as the "
        "stage embeddings and `pipelines.embed` write them; globs",
    )
    weight: float = Field(
        default=1.0, gt=0.0, description="of the distance to the teacher's similarities in the loss"
    )
    temperature: float = Field(
        default=0.01,
        gt=0.0,
        description="of the teacher's similarities: the one that it was trained to",
    )


class TrainSettings(Settings):
    """Train a CLIP on the data set."""

    #: These change the time and the memory, or the order in which numbers are added up: what comes
    #: out differs by rounding at most, and a training goes on where one of them was changed.
    TUNING: ClassVar[frozenset[str]] = frozenset(
        {"checkpoints", "compile", "cpus", "gradient_checkpointing", "parallelism", "workers"}
    )

    recipe: str | None = Field(
        default=None,
        description="a recipe's name (`python -m pipelines.training.recipes`) or a file like one: "
        "its values hold where nothing else is said here, and stand here afterwards",
    )
    start_from: ClipName | None = Field(
        default="starter",
        description="a known model's name or a checkpoint file to go on from; null: new weights",
    )
    architecture: Architecture | None = Field(
        default=None,
        description="of new weights: a known name, a JSON file with a configuration of open_clip's "
        "(docs/training.md), or the same as a table, which is what is kept; null: as start_from "
        "has it",
    )
    resolution: int | None = Field(
        default=None,
        ge=1,
        description="side of the images, px; positions are interpolated where the model's is "
        "another; null: the model's",
    )
    objective: Literal["contrastive", "sigmoid", "caption", "bag_of_words"] = Field(
        default="contrastive",
        description="contrastive: CLIP's symmetric loss; sigmoid: SigLIP's; caption and "
        "bag_of_words: the paper's baselines, which predict the caption or its words",
    )
    locked: Locked | None = Field(
        default=None,
        description="what keeps the weights of start_from while the rest is trained "
        "(docs/training.md): image or text, a whole tower; image_trunk, the image tower but for "
        "its projection into the joint space; null: nothing",
    )
    distillation: DistillationSettings | None = Field(
        default=None,
        description="learn from a teacher's embeddings, too (docs/training.md); null: from the "
        "pairs alone",
    )
    epochs: int = Field(default=4, ge=1, description="passes over the training split")
    steps: int | None = Field(
        default=None,
        ge=1,
        description="of the training, however many passes they are, for the same number of pairs "
        "seen on data sets of different sizes; null: as many as epochs have",
    )
    batch_size: int = Field(
        default=256, ge=2, description="pairs a step, of all workers; all negatives of another"
    )
    chunk: int | None = Field(
        default=None,
        ge=1,
        description="pairs in a worker's forward pass, for batches larger than its memory: all are "
        "passed through twice, and the gradients are the same; null: all at once",
    )
    caption_tokens: int | None = Field(
        default=None,
        ge=3,
        description="tokens of a caption, start and end among them, that are trained on; longer "
        "ones are cut; null: as many as the model takes",
    )
    patch_dropout: float = Field(
        default=0.0, ge=0.0, lt=1.0, description="share of an image's patches left out, of a ViT"
    )
    held_out: Share = Field(
        default=0.2, description="share of the images kept out of training, for the scores"
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto", description="auto: bf16 where all workers compute in it, else fp32"
    )
    optimizer: OptimizerSettings = OptimizerSettings()
    data: BatchSettings = BatchSettings()
    checkpoints: CheckpointSettings = CheckpointSettings()
    evaluate_every: int | None = Field(
        default=None,
        ge=1,
        description="steps between two scores on held-out pairs, of which the best checkpoint is "
        "known; null: none",
    )
    gradient_checkpointing: bool = Field(
        default=False, description="compute each block again in the backward pass, to save memory"
    )
    compile: bool = Field(
        default=False, description="torch.compile, a block at a time; pays on GPUs"
    )
    parallelism: Literal["ddp", "fsdp"] = Field(
        default="ddp", description="whether each worker has all weights, or they are divided"
    )
    workers: Count | tuple[Count, Count] = Field(
        default=1, description="that train together; [least, most]: as many as there is room for"
    )
    cpus: int = Field(default=1, ge=1, description="threads of a training worker")
    use_gpu: bool = Field(default=False, description="a GPU of the Ray cluster for each worker")

    @model_validator(mode="before")
    @classmethod
    def _with_recipe(cls, said: Any, info: ValidationInfo) -> Any:
        if not isinstance(said, dict):
            return said
        if isinstance(name := said.get("recipe"), str):
            said = _below(_recipe_values(name, said, info), said) | {"recipe": None}
        if said.get("architecture") and "start_from" not in said:
            return said | {"start_from": None}
        return said

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if (self.start_from is None) == (self.architecture is None):
            raise ValueError(
                "say start_from, to go on from a model, or architecture, for new weights; the "
                "other is null then"
            )
        least, most = self.worker_range
        if not least <= most <= self.data.lanes:
            raise ValueError(
                f"workers: {least} to {most} of them cannot share {self.data.lanes} lanes; raise "
                "data.lanes, or lower workers"
            )
        if self.evaluate_every and self.objective in ("caption", "bag_of_words"):
            raise ValueError(
                f"evaluate_every: retrieval does not judge what {self.objective} learns; leave it "
                "at null"
            )
        self._locks_what_it_can()
        if self.distillation and self.objective != "contrastive":
            raise ValueError(
                "distillation: a teacher's similarities go with objective: contrastive"
            )
        if self.optimizer.average and self.parallelism == "fsdp":
            raise ValueError("optimizer.average takes whole weights: parallelism: ddp")
        if self.checkpoints.every_steps is None and self.checkpoints.every_minutes is None:
            raise ValueError("checkpoints: say every_steps, every_minutes or both")
        return self

    def _locks_what_it_can(self) -> None:
        if not self.locked:
            return
        if self.architecture:
            raise ValueError(
                f"locked: {self.locked} would keep the new weights of architecture, which have "
                "learnt nothing; go on from a model, with start_from"
            )
        if self.objective not in ("contrastive", "sigmoid"):
            raise ValueError(
                f"locked: {self.objective} does not train two towers that meet in one space; it "
                "goes with objective: contrastive or sigmoid"
            )
        if self.patch_dropout and self.locked != "text":
            raise ValueError(
                f"patch_dropout: nothing is left out in an image tower that is locked "
                f"({self.locked}); leave it at 0"
            )

    def of_data(self, seed: int, batch_size: int | None = None) -> DataSettings:
        """What the batches depend on; of fewer pairs, where there are no more."""
        from pipelines.training.order import DataSettings

        return DataSettings(
            batch_size=batch_size or self.batch_size,
            lanes=self.data.lanes,
            shuffle_rows=self.data.shuffle_rows,
            unique=self.data.unique,
            held_out=self.held_out,
            seed=seed,
        )

    @property
    def worker_range(self) -> tuple[int, int]:
        """The least and the most workers."""
        return self.workers if isinstance(self.workers, tuple) else (self.workers, self.workers)

    def identity(self) -> dict[str, Any]:
        return super().identity() | {"data": self.data.identity()}


def recipe_names() -> list[str]:
    """The recipes that come with the project."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def read_recipe(name: str) -> dict[str, Any]:
    """The tables of a recipe: ``about``, ``model`` and ``cost``.

    Args:
        name: of one that comes with the project, or a path.

    Raises:
        ValueError: there is none, or the file is none.
    """
    path = RECIPES / f"{name}.yaml" if name in recipe_names() else Path(name)
    try:
        tree = parse(read_text(path))
    except OSError as error:
        raise ValueError(
            f"recipe: cannot read {name}: {error.strerror}; those that come with the project are "
            f"{', '.join(recipe_names())}"
        ) from error
    except ValueError as error:
        raise ValueError(f"recipe: {name}: {error}") from error
    if not (isinstance(tree, dict) and isinstance(tree.get("model"), dict)):
        raise ValueError(f"recipe: {name} has no `model:` with the keys of this section below it")
    return tree


def _recipe_values(name: str, said: Mapping[str, Any], info: ValidationInfo) -> dict[str, Any]:
    """What a recipe says that goes with what else is said."""
    if name not in recipe_names():
        name = located(said["recipe"], str, info)
    values: dict[str, Any] = read_recipe(name)["model"]
    if "recipe" in values:
        raise ValueError(f"recipe: {name} names a recipe itself")
    if said.get("start_from") is not None or said.get("architecture") is not None:
        # What a recipe locks is locked for what its own model knows.
        own = ("start_from", "architecture", "locked")
        return {name: value for name, value in values.items() if name not in own}
    if not (values.get("start_from") or values.get("architecture")):
        raise ValueError(f"recipe: {name} goes on from a model: say which, with start_from")
    return values


def _below(values: Mapping[str, Any], said: Mapping[str, Any]) -> dict[str, Any]:
    """What is said, and below it what is not."""
    both = {
        key: _below(values[key], value)
        for key, value in said.items()
        if isinstance(value, dict) and isinstance(values.get(key), dict)
    }
    return {**values, **said, **both}
