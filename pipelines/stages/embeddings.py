"""Stage ``embeddings``: CLIP over each shard of images, in Ray actors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pipelines.run.config import ConfigError, RaySettings
from pipelines.run.directory import Run
from pipelines.run.engines import Actors, in_ray_actors
from pipelines.run.models import check_weights, checkpoint_inputs, is_file
from pipelines.run.precision import check_precision, decided, on_record, precision_of
from pipelines.run.receipts import Files, Outcome, Shard
from pipelines.stages.base import Stage
from workers.base.tally import Tally
from workers.embedding.meter import Activity
from workers.embedding.settings import EmbedSettings, InputSettings

if TYPE_CHECKING:
    from workers.embedding.embedder import Embedder

BOTH_PARTS = InputSettings()

#: The setting that `auto` leaves to the machines.
PRECISION = "embeddings.precision"


class Embeddings(Stage):
    """A shard a shard of images."""

    name = "embeddings"
    reads: ClassVar[tuple[str, ...]] = ("images",)
    version = 7

    def check(self) -> None:
        content_of(self.run.config.embeddings.without_labels())

    def prepare(self) -> None:
        """Decide the precision, and see that the machines have it before anything is discarded."""
        config = self.run.config
        if not self.run.outputs("images"):
            return
        settings = decided(config.embeddings, recorded_precision(self.run), config.ray)
        if not all(map(self.receipts.is_done, self._shards(settings))):
            check_precision(settings, config.ray)
        self.run.note_decision(PRECISION, settings.precision)

    def plan(self) -> list[Shard]:
        # While `auto` is not decided, it stands in the keys, and no receipt has such a key.
        return self._shards(recorded_settings(self.run))

    def _shards(self, settings: EmbedSettings) -> list[Shard]:
        content = content_of(settings.without_labels())
        return [
            self.shard(path.stem, content.identity, {"images": [path], **content.files})
            for path in self.run.outputs("images")
        ]

    def again(self, *_: object, **__: object) -> list[Shard]:
        """Nothing: what an image's file lacks (`truncated`) comes at no other time."""
        return []

    def execute(self, shards: Sequence[Shard]) -> Iterator[Outcome]:
        ray = self.run.config.ray
        # Every shard would fail for what is no model.
        check_weights(self.run.config.embeddings.model, "embeddings.model")
        settings = recorded_settings(self.run).without_labels()
        return embed_in_actors(Embed(settings), shards, self.folder, ray)


def recorded_settings(run: Run) -> EmbedSettings:
    """The settings with the precision that was decided; `auto` while none was."""
    return on_record(run.config.embeddings, recorded_precision(run))


def recorded_precision(run: Run) -> str | None:
    """That of the run's record; if the record is lost, that of its embeddings."""
    return run.decision(PRECISION) or precision_of(run.outputs(Embeddings.name))


def embed_in_actors(
    work: Embed, shards: Sequence[Shard], folder: Path, ray: RaySettings
) -> Iterator[Outcome]:
    """Embed shards in Ray actors that share the cluster's machines and GPUs."""
    actors = Actors.of(ray, len(shards))
    threads = work.settings.threads or actors.threads
    settings = work.settings.model_copy(update={"threads": threads})
    return in_ray_actors(replace(work, settings=settings), shards, folder, actors)


@dataclass(frozen=True)
class Embed:
    """The work on a shard: a file of images."""

    settings: EmbedSettings
    source: InputSettings = BOTH_PARTS
    rounded: bool = True  # to float16
    hidden: bool = False  # with features before the projection

    @cached_property
    def embedder(self) -> Embedder:
        """Loaded by the first shard and kept, as long as its actor lives, for the others."""
        from workers.embedding.embedder import Embedder

        return Embedder(self.settings, hidden=self.hidden)

    def activity(self) -> Activity:
        loaded = "embedder" in vars(self)
        return self.embedder.meter.activity() if loaded else Activity()

    def __call__(self, shard: Shard, out: Path) -> dict[str, Tally]:
        path = shard.file("images")
        out = out / f"{shard.name}.parquet"
        return self.embedder.embed_shard(path, out, self.source, rounded=self.rounded)


@dataclass(frozen=True)
class Content:
    """What embeddings depend on beside the images."""

    identity: dict[str, Any]  # plain settings
    files: Files  # their content counts, not their names


def content_of(settings: EmbedSettings) -> Content:
    """Raises ConfigError for a model or a file that is not there."""
    model, published = checkpoint_inputs(settings.model, "embeddings.model")
    identity = settings.identity()
    if is_file(settings.model):
        del identity["model"]
    for head in identity["heads"].values():
        del head["path"]
    identity["published"] = published  # what stands for a published model's content
    return Content(identity, {"model": tuple(model), "heads": tuple(_head_files(settings))})


def _head_files(settings: EmbedSettings) -> list[Path]:
    files = []
    for name, head in sorted(settings.heads.items()):
        path = Path(head.path)
        if not path.is_file():
            raise ConfigError(f"embeddings.heads.{name}.path: there is no file {head.path}")
        files.append(path)
    return files
