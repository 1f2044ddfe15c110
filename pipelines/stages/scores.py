"""Stage ``scores``: the trained model and that which it started from, on pairs and a suite."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.run.config import Config, ConfigError
from pipelines.run.engines import in_process
from pipelines.run.models import checkpoint_inputs, is_file
from pipelines.run.receipts import Outcome, Shard
from pipelines.run.references import check_templates
from pipelines.stages.base import Stage
from pipelines.training import CHECKPOINT
from workers.base.storage import write_json
from workers.base.tally import Tally

#: The shards: the held-out pairs, and where the configuration names one the suite.
HELD_OUT, SUITE = "all", "suite"


class Scores(Stage):
    """A shard of the held-out pairs, and one of a suite: all models are asked the same."""

    name = "scores"
    reads = ("dataset", "model")
    version = 2

    def check(self) -> None:
        check_templates(self.run.config.scores.templates, "scores.templates")
        if not self.run.config.model.held_out:
            raise ConfigError("model.held_out: 0 keeps no pair out of training to score models on")

    def plan(self) -> list[Shard]:
        config = self.run.config
        start, published = checkpoint_inputs(config.model.start_from, "model.start_from")
        trained = self.folder.parent / "model" / CHECKPOINT
        models = {"trained": [trained], "start": start}

        def shard(name: str, settings: dict[str, Any], files: dict[str, list[Path]]) -> Shard:
            return self.shard(name, settings | {"published": published}, files | models)

        identity = config.scores.identity() | {
            "seed": config.seed,
            "held_out": config.model.held_out,
        }
        del identity["suite"]  # which has a shard of its own
        shards = [shard(HELD_OUT, identity, {"dataset": self.run.outputs("dataset")})]
        if config.scores.suite:
            from pipelines.evaluation.trained import evaluation_of, suite_identity

            evaluation = evaluation_of(config, self.run.directory)
            shards.append(shard(SUITE, suite_identity(evaluation), {}))
        return shards

    def execute(self, shards: Sequence[Shard]) -> Iterator[Outcome]:
        config = self.run.config
        for shard in shards:
            if shard.name == HELD_OUT:
                yield from in_process(ScoreModels(config), [shard], self.folder)
            else:
                from pipelines.evaluation.trained import JudgeSuite

                work = JudgeSuite(config, self.run.directory)
                yield from in_process(work, [shard], self.folder)


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
