"""``python -m pipelines.training.recipes``: the recipes, and what each of them costs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field, ValidationError

from clip_model.config import ClipConfig
from clip_model.flops import PEAK_FLOPS, step_flops
from pipelines.cli import run_command
from pipelines.run.config import ConfigError
from pipelines.run.config_errors import explain
from pipelines.training.settings import RECIPES, TrainSettings, read_recipe, recipe_names
from pipelines.training.start import known_or_described
from workers.base.exit_codes import ExitCode
from workers.base.settings import Settings

#: For which hours are told, and at what share of their peak. 40% is what well-kept trainings of
#: this kind reach; the paper's own, of 2020, about 20% (below).
GPUS = ("V100", "A100", "H100", "B200")
MFU = 0.4
#: What two cores reach with decoding and all: 77 pairs a second of the README's sample.
TWO_CORES = 25e9
LONG = 100 * 3600.0  # seconds on two cores that are not worth telling


class PaperRun(Settings):
    """What the paper says that it took."""

    gpu: str
    count: int
    days: float

    @property
    def hours(self) -> float:
        """GPU hours."""
        return self.count * self.days * 24


class CostSettings(Settings):
    """What the cost of a recipe depends on beside its settings."""

    pairs: int = Field(ge=2, description="of the data set")
    architecture: str | None = Field(default=None, description="of what it goes on from")
    caption_tokens: int | None = Field(default=None, description="of a batch's longest caption")
    paper: PaperRun | None = None


class Recipe(Settings):
    """A file of ``recipes/``."""

    about: str
    model: dict[str, Any]
    cost: CostSettings

    @property
    def settings(self) -> TrainSettings:
        """What a training by it is configured with."""
        said = {"start_from": self.cost.architecture} if self.cost.architecture else {}
        return TrainSettings.model_validate({**self.model, **said})


def load_recipe(name: str) -> Recipe:
    """Read and validate a recipe. Raises ConfigError."""
    tree: dict[str, Any] = {}
    try:
        tree = read_recipe(name)
        recipe = Recipe.model_validate(tree)
        _ = recipe.settings
    except ValidationError as error:
        raise ConfigError(explain(error, Recipe, tree, f"the recipe {name}")) from error
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return recipe


@dataclass(frozen=True)
class Cost:
    """Of a whole training."""

    steps: int
    pairs_seen: int
    flops: float  # of the model, which is what an MFU is a share of
    computed: float  # with what is computed twice to save memory

    def hours(self, gpu: str, mfu: float) -> float:
        """GPU hours at a share of the GPU's peak."""
        return self.flops / (PEAK_FLOPS[gpu] * mfu) / 3600


def cost_of(recipe: Recipe) -> Cost:
    """What a recipe costs on its data set."""
    settings = recipe.settings
    tokens = settings.caption_tokens or recipe.cost.caption_tokens
    a_step = step_flops(
        architecture_of(settings),
        settings.batch_size,
        tokens,
        settings.resolution,
        patch_dropout=settings.patch_dropout,
        grad_checkpointing=settings.gradient_checkpointing,
        two_pass=settings.chunk is not None,
        locked=settings.locked,
    )
    trained_on = round(recipe.cost.pairs * (1 - settings.held_out))
    steps = settings.steps or trained_on // settings.batch_size * settings.epochs
    return Cost(steps, steps * settings.batch_size, steps * a_step.model, steps * a_step.total)


def architecture_of(settings: TrainSettings) -> ClipConfig:
    """Of new weights, or of the published model that a training goes on from."""
    return known_or_described(settings.architecture or str(settings.start_from))


def table(mfu: float) -> Iterator[str]:
    """A line for each recipe."""
    columns = "".join(f"{f'{gpu} h':>12}" for gpu in GPUS)
    yield f"{'recipe':16}{'pairs seen':>16}{'steps':>10}{'FLOPs':>10}{columns}{'2 cores':>10}"
    recipes = {name: load_recipe(name) for name in recipe_names()}
    for name, recipe in sorted(recipes.items(), key=lambda item: cost_of(item[1]).flops):
        cost = cost_of(recipe)
        hours = "".join(f"{_hours(cost.hours(gpu, mfu)):>12}" for gpu in GPUS)
        seconds = cost.flops / TWO_CORES
        here = f"{seconds / 60:,.1f} min" if seconds < LONG else "-"
        yield (f"{name:16}{cost.pairs_seen:16,}{cost.steps:10,}{cost.flops:10.1e}{hours}{here:>10}")
    yield ""
    yield from notes(recipes, mfu)


def _hours(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 10 else f"{hours:.1f}" if hours >= 0.1 else "-"


def notes(recipes: dict[str, Recipe], mfu: float) -> Iterator[str]:
    """What the figures stand for, and those of the paper beside them."""
    yield f"GPU hours at {mfu:.0%} of the GPU's dense peak in half precision (MFU)."
    yield f"Two cores at {TWO_CORES / 1e9:.0f} GFLOP/s."
    yield from papers_own(recipes)


def papers_own(recipes: dict[str, Recipe]) -> Iterator[str]:
    """What the paper says that it took, and which share of the peak that was."""
    for name, recipe in recipes.items():
        if paper := recipe.cost.paper:
            share = cost_of(recipe).hours(paper.gpu, 1.0) / paper.hours
            yield (
                f"{name}: the paper took {paper.count} {paper.gpu} for {paper.days:.0f} days, "
                f"{paper.hours:,.0f} GPU hours: {share:.0%} MFU."
            )


def show(name: str, mfu: float) -> Iterator[str]:
    """A recipe as it is written, and its cost."""
    recipe = load_recipe(name)
    cost = cost_of(recipe)
    if name in recipe_names():
        yield (RECIPES / f"{name}.yaml").read_text(encoding="utf-8")
    yield f"# {cost.steps:,} steps, {cost.pairs_seen:,} pairs seen, {cost.flops:.2e} FLOPs"
    yield f"# ({cost.computed / cost.flops:.2f} times as many with what is computed twice)"
    hours = ", ".join(f"{_hours(cost.hours(gpu, mfu))} on {gpu}s" for gpu in GPUS)
    yield f"# GPU hours at {mfu:.0%} MFU: {hours}"
    yield from (f"# {line}" for line in papers_own({name: recipe}))


def main(argv: Sequence[str] | None = None) -> ExitCode:
    """Parse the arguments and print; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.training.recipes",
        description="The recipes of training, and what each costs: floating-point operations, and "
        "hours on named GPUs. `recipe: NAME` in the section `model` of a configuration trains by "
        "one.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="show these; a file, too")
    parser.add_argument(
        "--mfu", type=float, default=MFU, metavar="SHARE", help=f"of the peak (default: {MFU})"
    )
    arguments = parser.parse_args(argv)
    if not 0 < arguments.mfu <= 1:
        parser.error("--mfu: a share between 0 and 1")
    return run_command(lambda: _print(arguments))


def _print(arguments: argparse.Namespace) -> ExitCode:
    parts = [show(name, arguments.mfu) for name in arguments.names] or [table(arguments.mfu)]
    for part in parts:
        sys.stdout.write("".join(f"{line.rstrip()}\n" for line in part))
    return ExitCode.COMPLETE


if __name__ == "__main__":
    sys.exit(main())
