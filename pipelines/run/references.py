"""What names in a configuration refer to: found out before the first stage, not hours later."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.run.config import Config, ConfigError
from pipelines.training.checkpoints import architecture
from workers.base.settings import Settings, find_files
from workers.base.storage import DAMAGED_PARQUET
from workers.embedding.settings import EmbedSettings, LabelSet
from workers.selection.settings import AgreementStep, ContaminationStep, LabelStep, ScoreStep

#: Names that a message lists, at most.
_LISTED = 20

#: What the report reads of the truth.
TRUTH_COLUMNS = ("url", "caption", "name", "correct")


def check_embeddings(settings: EmbedSettings) -> None:
    """Raise ConfigError for a class list, prompts or a head that the model cannot use."""
    for name, labels in settings.label_sets.items():
        key = f"embeddings.label_sets.{name}"
        _classes(labels, key)
        check_templates(labels.templates, f"{key}.templates")
    if settings.heads:
        _check_heads(settings)


def check_templates(templates: Sequence[str] | str, key: str) -> None:
    """Raise ConfigError for prompts that no class's name can be put into."""
    from clip_model.zero_shot import sentences

    try:
        sentences(templates)
    except ValueError as error:
        raise ConfigError(f"{key}: {error}") from error


def _check_heads(settings: EmbedSettings) -> None:
    from workers.embedding.labels import HeadScore, LabelError

    for name, head in settings.heads.items():
        if not Path(head.path).is_file():
            raise ConfigError(f"embeddings.heads.{name}.path: there is no file {head.path}")
    dim = embed_dim(settings)
    for name, head in settings.heads.items():
        try:
            HeadScore.of(name, head, dim)
        except LabelError as error:
            raise ConfigError(f"embeddings.heads.{name}.path: {error}") from error


def check_step(step: Settings, key: str, embeddings: EmbedSettings) -> None:
    """Raise ConfigError for a step that asks for what the embeddings will not have."""
    if isinstance(step, ScoreStep):
        scores = [*embeddings.attributes, *embeddings.heads]
        _among([step.score], scores, f"{key}.score", "embeddings.attributes or embeddings.heads")
    elif isinstance(step, LabelStep):
        _among([step.set], embeddings.label_sets, f"{key}.set", "embeddings.label_sets")
        labels = embeddings.label_sets[step.set]
        where = f"embeddings.label_sets.{step.set}"
        classes = _classes(labels, where)
        _among(step.keep, classes, f"{key}.keep", f"{where}.classes")
        _among(step.drop, classes, f"{key}.drop", f"{where}.classes")
    elif isinstance(step, ContaminationStep):
        dim = embed_dim(embeddings)
        for file in find_files(step.embeddings):
            schema = _schema(file, f"{key}.embeddings", step.columns)
            for column in step.columns:
                _check_dim(schema.field(column).type, dim, f"{key}.embeddings: {file}: {column}")
    elif isinstance(step, AgreementStep):
        for file in find_files(step.embeddings):
            _schema(file, f"{key}.embeddings", ("pair_id", "similarity"))


def check_truth(config: Config, run_dir: Path) -> None:
    """Raise ConfigError for a truth that is not there, and that no service makes, or is none."""
    truth = config.report.truth
    if truth is None:
        return
    path = Path(truth.replace("{run_dir}", str(run_dir)))
    if path.exists():
        _schema(path, "report.truth", TRUTH_COLUMNS)
    elif not any(path.name in part for made in config.services.values() for part in made.command):
        raise ConfigError(f"report.truth: there is no file {path}, and no service makes it")


def embed_dim(settings: EmbedSettings) -> int:
    """The dimensions of a model's embeddings. One that is published is not downloaded for it."""
    return architecture(settings.model, "embeddings.model").embed_dim


def _classes(labels: LabelSet, key: str) -> list[str]:
    """The names that labels of a set can have."""
    from clip_model.templates import class_set

    if not isinstance(labels.classes, str):
        return list(labels.classes)
    try:
        names = class_set(labels.classes)
    except ValueError as error:
        raise ConfigError(f"{key}.classes: {error}") from error
    return [name if isinstance(name, str) else name[0] for name in names]


def _among(names: Sequence[str], known: Collection[str], key: str, where: str) -> None:
    for name in names:
        if name not in known:
            shown = get_close_matches(name, known, _LISTED) or list(known)[:_LISTED]
            more = f" and {len(known) - len(shown)} more" if len(known) > len(shown) else ""
            there = f"there are {', '.join(shown)}{more}" if known else "there is none"
            raise ConfigError(f"{key}: {name!r} is not in {where}; {there}")


def _schema(file: Path, key: str, columns: Sequence[str]) -> pa.Schema:
    """A file's columns. Raises ConfigError where it is no Parquet or lacks one of ``columns``."""
    try:
        schema = pq.read_schema(file)
    except DAMAGED_PARQUET as error:
        raise ConfigError(f"{key}: {file} cannot be read as Parquet: {error}") from error
    if missing := [name for name in columns if name not in schema.names]:
        has = ", ".join(schema.names)
        raise ConfigError(f"{key}: {file} has no column {', '.join(missing)}; it has {has}")
    return schema


def _check_dim(kind: Any, dim: int, what: str) -> None:
    if not pa.types.is_fixed_size_list(kind):
        raise ConfigError(f"{what} holds {kind}, not embeddings as pipelines.embed writes them")
    if kind.list_size != dim:
        raise ConfigError(
            f"{what} has {kind.list_size} dimensions, the embeddings of embeddings.model {dim}: "
            "embed the evaluation set with the same model"
        )
