"""Stage ``scores``: the trained model and the one it started from, on held-out pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.run.config import Config, ConfigError
from pipelines.run.engines import in_process
from pipelines.run.models import checkpoint_inputs, is_file
from pipelines.run.receipts import Outcome, Shard
from pipelines.run.references import check_templates
from pipelines.stages.base import Stage
from pipelines.training import CHECKPOINT
from workers.base.storage import write_json
from workers.base.tally import Tally


class Scores(Stage):
    """One shard: all models are asked the same questions."""

    name = "scores"
    reads = ("dataset", "model")

    def check(self) -> None:
        check_templates(self.run.config.scores.templates, "scores.templates")
        if not self.run.config.model.held_out:
            raise ConfigError("model.held_out: 0 keeps no pair out of training to score models on")

    def plan(self) -> list[Shard]:
        config = self.run.config
        identity = config.scores.identity() | {
            "seed": config.seed,
            "held_out": config.model.held_out,
        }
        start, published = checkpoint_inputs(config.model.start_from, "model.start_from")
        trained = self.folder.parent / "model" / CHECKPOINT
        dataset = self.run.outputs("dataset")
        files = {"trained": [trained], "dataset": dataset, "start": start}
        return [self.shard("all", identity | {"published": published}, files)]

    def execute(self, shards: Sequence[Shard]) -> Iterator[Outcome]:
        return in_process(ScoreModels(self.run.config), shards, self.folder)


@dataclass(frozen=True)
class ScoreModels:
    config: Config

    def __call__(self, shard: Shard, out: Path) -> dict[str, Tally]:
        from pipelines.evaluation.scoring import score_models
        from pipelines.training.held_out import read_held_out

        tally = Tally()
        held_out = self.config.model.held_out
        examples = list(read_held_out(shard.files["dataset"], self.config.seed, held_out, tally))
        models = {"trained": str(shard.file("trained"))}
        if start := self.config.model.start_from:
            name = Path(start).name if is_file(start) else start  # the same wherever it lies
            models = {f"start: {name}": start} | models
        if examples:  # else the stage has kept nothing, and its gate says so
            write_json(score_models(models, examples, self.config.scores), out / "scores.json")
        return {"pairs": tally}
