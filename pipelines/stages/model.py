"""Stage ``model``: a CLIP trained on the curated pairs, by Ray Train."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.run.config import ConfigError
from pipelines.run.engines import cluster_cpus, in_process, start_ray
from pipelines.run.models import architecture, checkpoint_inputs, is_file
from pipelines.run.progress import Reporter
from pipelines.run.receipts import Outcome, Shard
from pipelines.stages.base import Stage
from pipelines.training.settings import TrainSettings
from workers.base import supervisor
from workers.base.failures import NeedsMendingError
from workers.base.storage import write_json, write_text
from workers.base.tally import Tally
from workers.embedding.meter import Activity

if TYPE_CHECKING:
    from pipelines.training.loop import Trained

#: The stage's output files: the weights, and a line of JSON for each epoch.
CHECKPOINT = "model.safetensors"
METRICS = "metrics.jsonl"
#: Where Ray Train keeps the state of unfinished trainings, beside the output.
RAY_STORAGE = "_ray_train"
#: Restarts of a training whose worker died, from its last epoch.
MAX_FAILURES = 3


class Model(Stage):
    """One shard: one training run over the whole data set."""

    name = "model"
    reads = ("dataset",)

    def check(self) -> None:
        checkpoint_inputs(self.run.config.model.start_from, "model.start_from")
        if self.run.config.model.held_out == 1:
            raise ConfigError("model.held_out: 1 leaves no pair to train on")

    def plan(self) -> list[Shard]:
        settings = self.run.config.model
        identity = settings.identity() | {"seed": self.run.config.seed}
        if is_file(settings.start_from):
            del identity["start_from"]  # its content counts, not its name
        start, published = checkpoint_inputs(settings.start_from, "model.start_from")
        dataset = self.run.outputs("dataset")
        files = {"dataset": dataset, "start": start}
        return [self.shard("all", identity | {"published": published}, files)]

    def execute(self, shards: Sequence[Shard]) -> Iterator[Outcome]:
        config = self.run.config
        # What is wrong with these is no fault of the shard's.
        architecture(config.model.start_from, "model.start_from")
        start_ray(config.ray)
        work = TrainOnRay(config.model, config.seed, self.folder)
        return in_process(work, shards, self.folder)

    def tidy(self) -> None:
        shutil.rmtree(self.folder / RAY_STORAGE, ignore_errors=True)


@dataclass(frozen=True)
class TrainOnRay:
    """Trains on the Ray that this process is connected to."""

    settings: TrainSettings
    seed: int
    folder: Path  # of the stage

    def __call__(self, shard: Shard, out: Path) -> dict[str, Tally]:
        import ray.train
        from ray.train.torch import TorchTrainer

        trainer = TorchTrainer(
            train_worker,
            train_loop_config={
                "shards": list(map(str, shard.files["dataset"])),
                "settings": self.settings.model_dump(),
                "seed": self.seed,
                "out": str(out),
                "folder": str(self.folder),
            },
            scaling_config=ray.train.ScalingConfig(
                num_workers=1,
                use_gpu=self.settings.use_gpu,
                # Ray gives the worker as many OpenMP threads as CPUs; more CPUs than the cluster
                # has would be waited for without end.
                resources_per_worker={"CPU": min(self.settings.cpus, cluster_cpus())},
            ),
            run_config=ray.train.RunConfig(
                # A known name goes on from its last checkpoint: the key in it ties the name to
                # this data and these settings, so that nothing else is ever continued.
                name=shard.key[:32],
                storage_path=str(self.folder / RAY_STORAGE),
                failure_config=ray.train.FailureConfig(max_failures=MAX_FAILURES),
                checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1),
            ),
        )
        try:
            trainer.fit()
        except (ray.exceptions.RayError, ray.train.ControllerError) as error:
            # Ray or its controller was lost, no fault of the training: a new worker goes on.
            supervisor.begin_anew(str(error))
            raise
        return {"pairs": tally_of(out)}


#: How the training worker hands its tally to the driver; and why there is none, where no further
#: attempt would change it. Ray would begin an exception again as often as MAX_FAILURES.
TALLY = "_tally.json"
REFUSAL = "_refusal.txt"


def tally_of(out: Path) -> Tally:
    """What a training that has ended has left. Raises NeedsMendingError where it refused."""
    if (out / REFUSAL).is_file():
        raise NeedsMendingError((out / REFUSAL).read_text(encoding="utf-8"))
    counts = json.loads((out / TALLY).read_text(encoding="utf-8"))
    (out / TALLY).unlink()
    return Tally.from_counts(counts)


def finish(training: Callable[[], Trained], out: Path) -> None:
    """Train, and leave the model and the tally, or the refusal.

    Whatever else is raised is: the worker's end, after which Ray begins another.
    """
    import clip_model

    try:
        trained = training()
    except NeedsMendingError as error:
        write_text(str(error), out / REFUSAL)
        return
    write_metrics(trained.metrics, out / METRICS)
    write_json(trained.pairs.counts(), out / TALLY)
    clip_model.save(trained.model, out / CHECKPOINT)


def train_worker(config: dict[str, Any]) -> None:
    """The training loop inside a Ray Train worker: goes on from Ray's checkpoint if it has one."""
    import ray.train
    import torch

    from pipelines.training.loop import train

    state = None
    if checkpoint := ray.train.get_checkpoint():
        with checkpoint.as_directory() as folder:
            state = torch.load(Path(folder) / "state.pt", weights_only=True)

    out = Path(config["out"])

    def report(state: dict[str, Any]) -> None:
        write_metrics(state["metrics"], out / METRICS)
        with tempfile.TemporaryDirectory() as folder:
            torch.save(state, Path(folder) / "state.pt")
            checkpoint = ray.train.Checkpoint.from_directory(folder)
            ray.train.report(state["metrics"][-1], checkpoint=checkpoint)

    activity = Activity(note="starting")

    def say(note: str, share: float) -> None:
        nonlocal activity
        activity = Activity(note=note, under_way=share)

    with Reporter(lambda: activity, Path(config["folder"]), "train"):
        shards = [Path(shard) for shard in config["shards"]]
        settings = TrainSettings(**config["settings"])
        finish(partial(train, shards, settings, config["seed"], report, state, say), out)


def write_metrics(metrics: Sequence[dict[str, Any]], path: Path) -> None:
    """A line of JSON for each epoch, those before a restart too."""
    write_text("".join(f"{json.dumps(epoch)}\n" for epoch in metrics), path)
