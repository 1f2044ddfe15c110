"""What names in a configuration refer to: found out before the first stage, not hours later."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from clip_model.registry import DualEncoderName
from pipelines.run.config import Config, ConfigError
from pipelines.run.models import check_weights, read_dual_encoder, weights_of
from workers.base.storage import schema_with
from workers.embedding.settings import EmbedSettings

#: What the report reads of the truth.
TRUTH_COLUMNS = ("url", "caption", "name", "correct")


def check_embeddings(settings: EmbedSettings) -> None:
    """Raise ConfigError for a class list, prompts or a head that the model cannot use."""
    for name, labels in settings.label_sets.items():
        key = f"embeddings.label_sets.{name}"
        try:
            labels.names()
        except ValueError as error:
            raise ConfigError(f"{key}.classes: {error}") from error
        check_templates(labels.templates, f"{key}.templates")
    if settings.heads:
        _check_heads(settings)


def check_templates(templates: Sequence[str] | str, key: str) -> None:
    """Raise ConfigError for prompts that no class's name can be put into."""
    from clip_model.templates import sentences

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


def check_truth(config: Config, run_dir: Path) -> None:
    """Raise ConfigError for a truth that is not there, and that no service makes, or is none."""
    truth = config.report.truth
    if truth is None:
        return
    path = Path(truth.replace("{run_dir}", str(run_dir)))
    if path.exists():
        try:
            schema_with(path, TRUTH_COLUMNS)
        except ValueError as error:
            raise ConfigError(f"report.truth: {error}") from error
    elif not any(path.name in part for made in config.services.values() for part in made.command):
        raise ConfigError(f"report.truth: there is no file {path}, and no service makes it")


def embed_dim(settings: EmbedSettings) -> int:
    """The dimensions of a model's embeddings. One that is published is not downloaded for it."""
    return check_weights(settings.model, "embeddings.model")


def temperature(settings: EmbedSettings) -> float:
    """What a model's logits were divided by. Of one that is published it is known: 0.01."""
    from clip_model.checkpoint import PUBLISHED

    if settings.model in PUBLISHED:
        return 0.01
    if which := DualEncoderName.of(settings.model):
        return float((-read_dual_encoder(which, "embeddings.model").logit_scale).exp())
    weights, _ = weights_of(settings.model, "embeddings.model")
    return float((-weights["logit_scale"].float()).exp())
