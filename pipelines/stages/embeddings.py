"""Stage ``embeddings``: CLIP over each shard of pictures, in Ray Data actors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.checkpoints import checkpoint_inputs
from pipelines.engines import in_ray_actors
from pipelines.receipts import Outcome, Shard
from pipelines.stages.base import Stage
from workers.settings import EmbedSettings
from workers.tally import Tally

if TYPE_CHECKING:
    from workers.embed import Embedder


class Embeddings(Stage):
    """A shard a shard of pictures."""

    name = "embeddings"
    reads = ("images",)

    def check(self) -> None:
        checkpoint_inputs(self.run.config.embeddings.model, "embeddings.model")

    def plan(self) -> list[Shard]:
        settings = self.run.config.embeddings
        model, published = checkpoint_inputs(settings.model, "embeddings.model")
        identity = settings.identity()
        del identity["model"]  # its content counts, not its name
        return [
            self.shard(path.stem, identity, [path, *model], published)
            for path in self.run.outputs("images")
        ]

    def execute(self, shards: Sequence[Shard]) -> Iterator[Outcome]:
        config = self.run.config
        return in_ray_actors(Embed(config.embeddings), shards, self.folder, config.ray)


@dataclass(frozen=True)
class Embed:
    settings: EmbedSettings

    @cached_property
    def embedder(self) -> Embedder:
        """Loaded by the first shard and kept, as long as its actor lives, for the others."""
        import torch

        from workers.embed import Embedder

        # Actors share a machine by having a thread each; and a sum's order, so its last bit,
        # does not depend on how many cores there are.
        torch.set_num_threads(1)
        return Embedder(self.settings)

    def __call__(self, shard: Shard, out: Path) -> dict[str, Tally]:
        images, *_model = shard.inputs
        return self.embedder.embed_shard(Path(images), out / f"{shard.name}.parquet")
