"""All that changes while a model is trained, as one thing: it steps, is kept and comes back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from clip_model.compilation import compile_blocks
from clip_model.config import ClipConfig
from clip_model.distillation import Distilled
from clip_model.model import CLIP, filled
from clip_model.objectives import OBJECTIVES, Objective
from clip_model.optimisation import (
    adam_constants,
    clip_gradients,
    learning_rate,
    make_optimizer,
    set_learning_rate,
    start_average,
    update_average,
)
from pipelines.training.parallel import Workers
from pipelines.training.settings import TrainSettings
from pipelines.training.start import starting_model
from workers.base.failures import NeedsMendingError
from workers.base.hardware import without_tf32

#: What an objective's weights of its model are called by.
_MODEL = "model."


class TrainingState:
    """The weights with their objective, the optimizer, the average of the weights, and the step."""

    def __init__(
        self, settings: TrainSettings, seed: int, precision: str, workers: Workers
    ) -> None:
        """As a training begins. Raises NeedsMendingError where a setting does not fit the model."""
        if precision == "fp32":
            without_tf32()
        self.settings, self.workers = settings.optimizer, workers
        self.model = starting_model(settings, seed)
        try:
            self.objective = _objective(settings, self.model)
        except ValueError as error:
            raise NeedsMendingError(f"model.objective: {error}") from error
        self.objective.to(workers.device).train()
        if settings.compile:
            compile_blocks(self.model)
        #: The objective as all workers compute it together.
        self.compute = workers.wrap(
            self.objective, settings.parallelism, torch.bfloat16 if precision == "bf16" else None
        )
        try:
            self.optimizer = make_optimizer(
                self.objective,
                adam_constants(self.model.config, **self.settings.constants()),
                self.settings.learning_rate,
                self.settings.weight_decay,
                self.settings.name,
            )
        except ValueError as error:
            raise NeedsMendingError(f"model.optimizer.name: {error}") from error
        self.average: dict[str, Tensor] | None = None
        if self.settings.average and workers.rank == 0:
            self.average = start_average(self.objective)
        self.step = 0

    def take_step(self, total: int) -> dict[str, float]:
        """Move the weights along the gradients that are there.

        Args:
            total: steps of the training.

        Returns:
            What the log says of the step.
        """
        rate = learning_rate(
            self.step, total, self.settings.learning_rate, self.settings.warmup_steps
        )
        set_learning_rate(self.optimizer, rate)
        said = {"learning_rate": rate}
        if self.settings.clip_gradients:
            said["gradient"] = clip_gradients(
                self.objective.parameters(), self.settings.clip_gradients
            )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.objective.after_step()  # the temperature stays within its bound
        if self.average is not None and self.settings.average:
            update_average(self.average, self.objective, self.settings.average, self.step)
        self.step += 1
        return said | {"temperature": self.model.logit_scale.exp().item()}

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within it, the weights are their average, where there is one: what the model would be.

        All workers must enter it at once; the first has the average.
        """
        if not self.settings.average:
            yield
            return
        own = start_average(self.objective)
        self._become(self.average or own)
        try:
            yield
        finally:
            self._become(own)

    @torch.no_grad()
    def _become(self, values: dict[str, Tensor]) -> None:
        """Take the first worker's values."""
        weights = self.objective.state_dict()
        for name, weight in weights.items():
            weight.copy_(values[name])
        self.workers.copy_first(weights.values())

    def kept(self) -> dict[str, Any]:
        """What ``load`` takes back; whole on the first worker. All must call this at once."""
        return {
            "step": self.step,
            "average": self.average,
            **self.compute.state(self.optimizer),
        }

    def load(self, step: int, kept: dict[str, Any]) -> None:
        """Go on from what was kept, by whatever number of workers.

        Args:
            kept: on the first worker; the others get theirs from there.
        """
        self.compute.load_state(self.optimizer, kept)
        self.step = step
        if self.average is not None:
            self.average = {
                name: value.to(self.average[name].device) for name, value in kept["average"].items()
            }


def _objective(settings: TrainSettings, model: CLIP) -> Objective:
    if teacher := settings.distillation:
        return Distilled(model, teacher.weight, teacher.temperature)
    return OBJECTIVES[settings.objective](model)


def trained_model(kept: dict[str, Any], config: ClipConfig) -> CLIP:
    """The model that was kept, on the CPU: its average, where there is one."""
    weights = kept["average"] or kept["objective"]
    tensors = {
        name.removeprefix(_MODEL): value.cpu()
        for name, value in weights.items()
        if name.startswith(_MODEL)
    }
    return filled(config, tensors).eval()


def trained_objective(kept: dict[str, Any], config: ClipConfig, name: str) -> Objective:
    """The same with the weights that the objective has beside the model: to judge by its own."""
    weights = kept["average"] or kept["objective"]
    with torch.device("meta"):
        objective = OBJECTIVES[name](CLIP(config))
    objective.load_state_dict({key: value.cpu() for key, value in weights.items()}, assign=True)
    objective.model.compute_buffers()
    return objective.eval()
