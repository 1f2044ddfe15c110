"""A suite: the data sets that models are judged on, as a YAML file declares them."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from clip_model.templates import ClassName, class_set, template_set
from pipelines.evaluation.settings import Metric, ProtocolSettings
from pipelines.evaluation.sources import FORMATS, Source, SourceError, Task, find_splits
from pipelines.evaluation.sources.datacomp import DATACOMP, datacomp_name
from pipelines.run.config import ConfigError, build_settings, folder_of, read_tree
from workers.base.settings import Settings

Split = Literal["test", "train"]
SPLITS: tuple[Split, ...] = ("test", "train")

Names = Annotated[tuple[ClassName, ...], Field(min_length=1)]


class Pictures(Settings):
    """The pictures of a split."""

    split: str = Field(description="what the data calls it, where it has several")
    options: Settings = Field(description="as the format has them")


class DataSet(Settings):
    """Labelled or captioned pictures: where they are, and what they are asked."""

    format: str = Field(description="how the pictures are stored: docs/evaluation.md has the list")
    test: Pictures = Field(
        description="the pictures that models are judged by: a path, or the keys of the format; "
        "and `split`, where the data calls them something else than `test`"
    )
    train: Pictures | None = Field(
        default=None,
        description="those that probes learn from, likewise; null: a share of the test pictures, "
        "by hash",
    )
    task: Task | None = Field(
        default=None, description="classification, multilabel or retrieval; null: as the data says"
    )
    metric: Metric | None = Field(
        default=None,
        description="the number that stands for the data set; null: top1, of pictures with any "
        "number of labels map, of DataComp's sets what DataComp counts",
    )
    classes: Names | str | None = Field(
        default=None,
        description="names by label number (a list: several of one class), or a data set of the "
        "paper's whose they are; null: as the data says",
    )
    templates: Annotated[tuple[str, ...], Field(min_length=1)] | str | None = Field(
        default=None,
        description="prompts of its own, {} is the class name; or the name of a set of them; null: "
        "as the data says, if it does",
    )

    @field_validator("format")
    @classmethod
    def _known_format(cls, name: str) -> str:
        if name not in FORMATS:
            raise ValueError(f"there is no format {name!r}: there are {', '.join(FORMATS)}")
        return name

    @field_validator("test", "train", mode="before")
    @classmethod
    def _of_format(cls, value: Any, info: ValidationInfo) -> Any:
        kind = FORMATS.get(info.data.get("format", ""))
        if value is None or kind is None:  # `format` itself is what is wrong
            return value
        tree = {"path": value} if isinstance(value, str) else dict(value)
        split = tree.pop("split", info.field_name)
        options = kind.settings_type.model_validate(tree, context=info.context)
        return Pictures.model_construct(split=split, options=options)

    @model_validator(mode="after")
    def _known_names(self) -> DataSet:
        if isinstance(self.classes, str):
            class_set(self.classes)
        if isinstance(self.templates, str):
            template_set(self.templates)
        return self

    def pictures(self, name: Split) -> Pictures | None:
        """Where a split is; None where there is none."""
        return self.test if name == "test" else self.train

    def open(self, name: Split) -> Source:
        """A split's pictures. Raises SourceError."""
        kind, pictures = FORMATS[self.format], self.pictures(name)
        assert pictures is not None
        classes = self._said_classes()
        if name == "train" and classes is None:
            classes = self.open("test").classes  # a split may lack a class of the other
        return kind(pictures.options, pictures.split, classes)

    @property
    def datacomp(self) -> str | None:
        """Which of DataComp's 38 sets it is, by the name of its folder; None for all others."""
        if self.format != "clip_benchmark":
            return None
        return datacomp_name(Path(self.test.options.model_dump()["path"]).name)

    def metric_of(self, task: Task) -> Metric:
        """The number that stands for it: the suite's, DataComp's, or what is usual."""
        if self.metric or task == "multilabel":
            return self.metric or "map"
        by_class = self.datacomp and DATACOMP[self.datacomp].our_metric == "mean_per_class"
        return "mean_per_class" if by_class else "top1"

    def _said_classes(self) -> tuple[ClassName, ...] | None:
        return class_set(self.classes) if isinstance(self.classes, str) else self.classes

    def own_templates(self, said: tuple[str, ...] | None) -> tuple[str, ...] | None:
        """The suite's; where it says none, those that the data says."""
        if isinstance(self.templates, str):
            return template_set(self.templates)
        return self.templates or said


class Suite(Settings):
    """Data sets by name, and what is done with each."""

    sets: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")], DataSet] = Field(
        min_length=1, description="by name"
    )
    protocols: ProtocolSettings = ProtocolSettings()
    robustness: dict[str, str] = Field(
        default_factory=dict,
        description="by a data set's name, another of the same classes that is further from what "
        "models were trained on: the difference of the two is reported",
    )

    @model_validator(mode="after")
    def _known_sets(self) -> Suite:
        for name in (*self.robustness, *self.robustness.values()):
            if name not in self.sets:
                raise ValueError(f"robustness: there is no data set {name!r} among the sets")
        return self


def read_suite(path: Path, overrides: Sequence[str] = ()) -> Suite:
    """The suite of a YAML file. Raises ConfigError."""
    return build_settings(Suite, read_tree(path), overrides, str(path), folder_of(path))


def tree_of_folder(folder: str) -> dict[str, Any]:
    """The suite of ``--data``: one folder of pictures in folders by class, all of them used.

    Raises:
        SourceError: there is no such folder, or no picture in it.
    """
    splits = find_splits("folder", {"path": folder})
    parts: dict[str, Any] = {"test": {"path": folder}}
    if splits:
        parts["test"]["split"] = splits[0]
        if "train" in splits[1:]:
            parts["train"] = {"path": folder}
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(folder).resolve().name) or "data"
    return {"sets": {name: {"format": "folder", **parts}}}


def suite_of(arguments: argparse.Namespace) -> Suite:
    """The suite that the arguments name. Raises ConfigError."""
    if (arguments.suite is None) == (arguments.data is None):
        raise ConfigError("--model: say on which data sets, with --suite FILE or --data FOLDER")
    if arguments.data is not None:
        try:
            tree = tree_of_folder(arguments.data)
        except SourceError as error:
            raise ConfigError(f"--data: {error}") from error
        return build_settings(Suite, tree, arguments.overrides, "--data")
    return read_suite(arguments.suite, arguments.overrides)
