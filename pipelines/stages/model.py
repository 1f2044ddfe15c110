"""Stage ``model``: a CLIP trained on the curated pairs, by Ray Train."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.run.config import ConfigError
from pipelines.run.engines import in_process, start_ray
from pipelines.run.models import architecture, checkpoint_inputs, is_file
from pipelines.run.precision import decided, on_record
from pipelines.run.progress import Reporter
from pipelines.run.receipts import Outcome, Shard, Side
from pipelines.stages.base import Stage
from pipelines.stages.queries import named_files
from pipelines.training.settings import TrainSettings
from workers.base import supervisor
from workers.base.copies import copy_of
from workers.base.tally import Tally
from workers.embedding.meter import Activity

if TYPE_CHECKING:
    from pipelines.training.job import TrainingJob
    from pipelines.training.loop import Notice
    from pipelines.training.parallel import Workers

#: The setting that `auto` leaves to the machines.
PRECISION = "model.precision"
#: The setting that names a teacher's files.
TEACHER = "model.distillation.embeddings"


class Model(Stage):
    """One shard: one training run over the whole data set."""

    name = "model"
    reads = ("dataset",)
    version = 2

    def check(self) -> None:
        checkpoint_inputs(self.run.config.model.start_from, "model.start_from")
        self._check_teacher()
        if self.run.config.model.held_out == 1:
            raise ConfigError("model.held_out: 1 leaves no pair to train on")
        ray, (least, _) = self.run.config.ray, self.run.config.model.worker_range
        cpus = ray.num_cpus or os.cpu_count() or 1
        if ray.address is None and least > cpus:
            raise ConfigError(
                f"model.workers: {least} workers take as many CPUs, and the Ray that is started "
                f"here has {cpus}: fewer workers, or ray.address"
            )

    def prepare(self) -> None:
        """Decide the precision, before the first step of any worker."""
        config = self.run.config
        settings = decided(config.model, self.run.decision(PRECISION), config.ray, self.name)
        self.run.note_decision(PRECISION, settings.precision)

    def plan(self) -> list[Shard]:
        settings = self._settings()
        identity = settings.identity() | {"seed": self.run.config.seed}
        if is_file(settings.start_from):
            del identity["start_from"]  # its content counts, not its name
        start, published = checkpoint_inputs(settings.start_from, "model.start_from")
        files = {"dataset": self.run.outputs("dataset"), "start": start}
        if settings.distillation:
            files["teacher"] = named_files(settings.distillation.embeddings, TEACHER)
            identity["distillation"]["embeddings"] = len(files["teacher"])  # as with start_from
        return [self.shard("all", identity | {"published": published}, files)]

    def execute(self, shards: Sequence[Shard]) -> Iterator[Outcome]:
        config = self.run.config
        # What is wrong with these is no fault of the shard's.
        if config.model.start_from:
            architecture(config.model.start_from, "model.start_from")
        start_ray(config.ray)
        work = TrainOnRay(self._settings(), config.seed, self.folder)
        return in_process(work, shards, self.folder)

    def _check_teacher(self) -> None:
        if distillation := self.run.config.model.distillation:
            from pipelines.training.teacher import Teacher

            try:
                Teacher.of(distillation)
            except ValueError as error:
                raise ConfigError(f"{TEACHER}: {error}") from error

    def _settings(self) -> TrainSettings:
        """With the precision that was decided; `auto` while none was."""
        return on_record(self.run.config.model, self.run.decision(PRECISION))

    def tidy(self) -> None:
        remove_trainings(self.folder)


def remove_trainings(folder: Path) -> None:
    """Remove all that trainings have kept to go on from, beside the stage's folder."""
    trainings = Side.TRAINING.of(folder)
    if copy := copy_of(folder):
        # The store is asked: other processes have written them.
        copy.remove(copy.bucket.list(copy.name_of(trainings)))
    shutil.rmtree(trainings, ignore_errors=True)


@dataclass(frozen=True)
class TrainOnRay:
    """Trains on the Ray that this process is connected to."""

    settings: TrainSettings
    seed: int
    folder: Path  # of the stage

    def __call__(self, shard: Shard, out: Path) -> dict[str, Tally]:
        import ray.train
        from ray.train.torch import TorchTrainer

        job = job_of(shard, self.settings, self.seed, self.folder)
        with tempfile.TemporaryDirectory() as storage:  # Ray's own; it keeps nothing of ours
            trainer = TorchTrainer(
                train_worker,
                train_loop_config={"job": job, "folder": self.folder},
                scaling_config=ray.train.ScalingConfig(
                    num_workers=self.settings.workers,
                    use_gpu=self.settings.use_gpu,
                    resources_per_worker={"CPU": self._cpus()},
                ),
                run_config=ray.train.RunConfig(
                    name=shard.key[:32],
                    storage_path=storage,
                    # The job itself counts what it loses (`MOST_BEGINNINGS`): a long training on
                    # machines that come and go may lose any number of them.
                    failure_config=ray.train.FailureConfig(max_failures=-1),
                ),
            )
            try:
                trainer.fit()
            except (ray.exceptions.RayError, ray.train.ControllerError) as error:
                # Ray or its controller was lost, no fault of the training: a new worker goes on.
                supervisor.begin_anew(str(error))
                raise
        return {"pairs": job.collect(out)}

    def _cpus(self) -> int:
        """Of a worker: what Ray takes for its OpenMP threads, too.

        More than the cluster has for the least number of workers would be waited for without end;
        one that has none yet grows to what is asked for.
        """
        import ray

        least, _ = self.settings.worker_range
        there = int(ray.cluster_resources().get("CPU", 0))
        return max(1, min(self.settings.cpus, there // least)) if there else self.settings.cpus


def job_of(shard: Shard, settings: TrainSettings, seed: int, folder: Path) -> TrainingJob:
    """The training that a shard of the stage in a folder is, begun or to be gone on with."""
    from pipelines.training.job import TrainingJob

    # The key ties what is there to this data and these settings: nothing else goes on from it.
    training = Side.TRAINING.of(folder) / shard.key[:32]
    sums = {source.path: source.sha256 for source in shard.sources}
    shards = shard.files["dataset"]
    job = TrainingJob(shards, settings, seed, training, tuple(sums[path] for path in shards))
    job.renew()
    return job


@dataclass(frozen=True)
class TrainHere:
    """Trains in this process: for small models, for which Ray's workers are too long in coming."""

    settings: TrainSettings
    seed: int
    folder: Path  # of the stage

    def __call__(self, shard: Shard, out: Path) -> dict[str, Tally]:
        from pipelines.training.loop import Unnoticed
        from pipelines.training.parallel import Workers
        from workers.base.hardware import fastest_device

        job = job_of(shard, self.settings, self.seed, self.folder)
        _work_on(job, Workers(fastest_device()), Unnoticed(), self.folder, "here")
        return {"pairs": job.collect(out)}


def train_worker(config: dict[str, Any]) -> None:
    """What each of Ray Train's workers does, in the process group that Ray has made of them."""
    import ray.train.torch

    from pipelines.training.parallel import Workers

    workers = Workers.of_group(ray.train.torch.get_device())
    _work_on(config["job"], workers, Preemption(), config["folder"], f"train-{workers.rank}")


def _work_on(job: TrainingJob, workers: Workers, notice: Notice, folder: Path, worker: str) -> None:
    """Do a worker's part of a training, and say how far it is."""
    activity = Activity(note="starting")

    def say(note: str, share: float) -> None:
        nonlocal activity
        activity = Activity(note=note, under_way=share)

    with Reporter(lambda: activity, folder, worker):
        job.work(workers, say, notice)


class Preemption:
    """Ray's notice that a machine of the training will be taken away."""

    def __init__(self) -> None:
        self._is_obeyed = False

    def given(self) -> bool:
        import ray.train

        return ray.train.get_preemption_info() is not None and not self._is_obeyed

    def obeyed(self) -> None:
        self._is_obeyed = True
