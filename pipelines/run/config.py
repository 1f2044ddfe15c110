"""The configuration of a run: one YAML file, validated, hashed and saved with the run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, Field, ValidationError

from pipelines.run.config_errors import explain
from pipelines.run.yaml_text import parse
from pipelines.training.settings import TrainSettings
from query_builder.settings import QuerySettings
from workers.base.opt_outs import OptOutSettings
from workers.base.settings import (
    CrawlSettings,
    DownloadSettings,
    FileName,
    Settings,
    Share,
    ShellText,
    WebUrl,
    read_text,
)
from workers.embedding.settings import EmbedSettings
from workers.pairs.settings import PairSettings
from workers.selection.settings import SelectionSettings


class ConfigError(ValueError):
    """The configuration cannot be used; the message says which key and what to do."""


class ScoreSettings(Settings):
    """Judge the trained model and the one it started from on held-out pairs."""

    templates: tuple[str, ...] = Field(
        default=("{}", "a picture of {}"),
        min_length=1,
        description="zero-shot prompts, {} is a caption; their features are averaged",
    )
    recall_at: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        default=(1, 5, 10), min_length=1, description="ranks of retrieval recall"
    )
    batch_size: int = Field(default=256, ge=1, description="images a forward pass")
    suite: FileName | None = Field(
        default=None,
        description="YAML file of data sets (docs/evaluation.md) that judge both models too; the "
        "report has them beside the held-out pairs, since what training wins on these it may lose "
        "on other pictures",
    )


class Service(Settings):
    """A program that must run beside some stages, for example a caching DNS resolver."""

    command: tuple[str, ...] = Field(
        min_length=1,
        description="program and arguments; `python` is this interpreter, {run_dir} the run's "
        "directory",
    )
    ready: WebUrl = Field(description="URL that answers once the program is ready")
    stages: tuple[str, ...] = Field(min_length=1, description="stages that need the program")
    timeout: float = Field(default=60.0, gt=0.0, description="seconds until it must be ready")


class RaySettings(Settings):
    """Where Ray runs."""

    address: str | None = Field(
        default=None, description="a running cluster (auto, ray://...); null: one started here"
    )
    num_cpus: int | None = Field(
        default=None, ge=1, description="CPUs of a Ray started here; null: as many as there are"
    )
    actors: int | None = Field(
        default=None,
        ge=1,
        description="embedding actors; null: one for each GPU or, without any, for each machine",
    )
    gpus_per_actor: float | None = Field(
        default=None,
        ge=0.0,
        description="GPUs an embedding actor holds, a share of one too; null: 1 if there are any",
    )


class TextSettings(Settings):
    """How candidates and pairs are worked on: what they are does not depend on it."""

    engine: Literal["ray", "beam"] = Field(
        default="ray",
        description="ray: tasks, on all cores here or on the cluster at ray.address; beam: an "
        "element a shard, on any runner (beam.options). docs/scale.md says which to take when",
    )
    bytes_per_shard: int = Field(
        default=128 << 20,
        ge=1,
        description="of inputs that are one shard of candidates, about: small inputs are grouped, "
        "a larger Parquet file is cut between row groups, one of JSON lines between lines",
    )


class BeamSettings(Settings):
    """Where Beam runs."""

    options: tuple[str, ...] = Field(
        default=(),
        description="Beam's own pipeline options; without a --runner, the one that runs on this "
        "machine",
    )


class Gate(Settings):
    """What a stage must reach, or the run stops with exit code 4; stages not named, too."""

    min_kept: int = Field(default=1, ge=0, description="rows kept, at least")
    max_failed: Share = Field(default=1.0, description="share of the rows in that may fail")


class HealthSettings(Settings):
    """When a command's work on a stage is said to be unlike that of the nights before."""

    exit: bool = Field(default=False, description="end with exit code 4 where it is")
    nights: int = Field(
        default=14, ge=3, description="commands that worked on the stage before, at most"
    )
    factor: float = Field(
        default=3.0, gt=1.0, description="a reason's share, in medians of its earlier shares"
    )
    min_rows: int = Field(default=20, ge=1, description="rows of a reason that are too few to tell")


class GuardSettings(Settings):
    """What a changed setting may discard unasked; for more, a command must be given --discard."""

    hours: float = Field(
        default=1.0, ge=0.0, description="of work on finished shards of a stage, of one core"
    )
    gigabytes: float = Field(default=10.0, ge=0.0, description="that they hold, in 10^9 bytes")


class Report(Settings):
    """What the report is told beside the run itself."""

    truth: FileName | None = Field(
        default=None,
        description="Parquet file (url, caption, name, correct, kind) that tells which pairs are "
        "right, where that is known; {run_dir} is the run's directory",
    )


def _said(queries: Any) -> Any:
    if queries is None or (isinstance(queries, str) and queries != "none"):
        raise ValueError(
            "say what captions are matched with: {dumps: [enwiki-latest-pages-articles.xml.bz2]}, "
            "{list: my_queries.txt}, or none, which keeps them all"
        )
    return queries


class Config(Settings):
    """Everything a run depends on. Each stage's section has the name of its folder."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$", description="of the run; runs/NAME by default")
    seed: int = Field(default=0, ge=0, lt=2**32, description="of every sampling decision")
    verify_inputs: bool = Field(
        default=True,
        description="compare each file with its sha256 before a stage reads it; false: only after "
        "the work on it has failed (`python -m pipelines.verify` does it at any time)",
    )
    queries: Annotated[QuerySettings | Literal["none"], BeforeValidator(_said)] = Field(
        default=None, validate_default=True
    )
    pages: CrawlSettings = CrawlSettings()
    pairs: PairSettings = PairSettings()
    images: DownloadSettings = DownloadSettings()
    embeddings: EmbedSettings = EmbedSettings()
    selection: SelectionSettings = SelectionSettings()
    model: TrainSettings = TrainSettings()
    scores: ScoreSettings = ScoreSettings()
    opt_outs: OptOutSettings = OptOutSettings()
    gates: dict[str, Gate] = Field(default_factory=dict, description="by stage")
    services: dict[str, Service] = Field(default_factory=dict, description="by name")
    text: TextSettings = TextSettings()
    ray: RaySettings = RaySettings()
    beam: BeamSettings = BeamSettings()
    health: HealthSettings = HealthSettings()
    guard: GuardSettings = GuardSettings()
    report: Report = Report()


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file, apply ``key.sub=value`` overrides (values in YAML), validate.

    Raises:
        ConfigError: the file is missing, is not YAML, or a key is unknown or out of range.
    """
    tree = read_tree(path)
    return build_settings(Config, tree, overrides, str(path), folder_of(path))


def folder_of(path: Path) -> Path:
    """What relative paths in a configuration are relative to: its folder, unless it is a pipe."""
    return path.absolute().parent if path.is_file() else Path.cwd()


def read_tree(path: Path) -> dict[str, Any]:
    """The keys and values of a YAML file. Raises ConfigError."""
    try:
        tree = parse(read_text(path))
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} must hold a mapping of keys to values, such as `name: ...`")
    return tree


Kind = TypeVar("Kind", bound=Settings)


def build_settings(
    kind: type[Kind],
    tree: dict[str, Any],
    overrides: Sequence[str],
    source: str,
    folder: Path | None = None,
) -> Kind:
    """Settings of plain data with ``key.sub=value`` overrides, which change ``tree``.

    Relative paths of the tree are relative to ``folder``, those of overrides, as of all that the
    command line says, to the working directory.

    Raises ConfigError, which names ``source``, when a key is unknown or out of range.
    """
    for override in overrides:
        _apply_override(tree, override)
    try:
        return kind.model_validate(tree, context={"folder": folder or Path.cwd()})
    except ValidationError as error:
        raise ConfigError(explain(error, kind, tree, source)) from error


def _apply_override(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {override!r}: write it as key.sub=value")
    *parents, last = key.split(".")
    node = tree
    for parent in parents:
        node = node.setdefault(parent, {})
        if not isinstance(node, dict):
            raise ConfigError(f"--set {override!r}: {parent!r} holds a value, not further keys")
    try:
        node[last] = _of_shell(parse(text))
    except ValueError as error:
        raise ConfigError(f"--set {override!r}: the value is not valid YAML") from error


def _of_shell(value: Any) -> Any:
    """Plain data whose texts are known as the command line's."""
    if isinstance(value, str):
        return ShellText(value)
    if isinstance(value, list):
        return [_of_shell(item) for item in value]
    return {k: _of_shell(v) for k, v in value.items()} if isinstance(value, dict) else value


def digest(value: Any) -> str:
    """The sha256 of plain data, file names of any bytes included, in any order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
