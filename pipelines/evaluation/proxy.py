"""Does a selection pay? One small model trained on each of several selections of one pool.

    the pool's pairs ─▶ selection ─▶ data set of each choice ─▶ a model a seed ─▶ one suite for all
                            ▲
      embeddings of a scorer: a model trained on a trusted selection of the same pool

Every choice is a run of its own that reads the pool's embeddings, so its selection, data set and
trainings have receipts and go on where they were interrupted, as those of any run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from pipelines.run.config import Config, RaySettings
from pipelines.run.directory import Run
from pipelines.run.engines import in_process
from pipelines.run.opt_outs import opt_out_files
from pipelines.run.precision import decided
from pipelines.run.progress import Reporter
from pipelines.run.receipts import Outcome, Receipts, Shard
from pipelines.stages.embeddings import Embed, Embeddings, embed_in_actors
from pipelines.stages.model import PRECISION, Model, TrainHere
from pipelines.stages.selection import Select, Selection, known_selection
from pipelines.training import CHECKPOINT
from pipelines.training.settings import TrainSettings
from workers.base.settings import FileName, Settings
from workers.selection.sample_filter import Sample
from workers.selection.settings import SelectionSettings

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]
#: What a choice has of its own; all else is the pool's.
OWN = ("selection", "dataset", "model")


class Scorer(SelectionSettings):
    """A data filtering network (arXiv 2309.17425): a model that is trained on the pairs that these
    steps leave, the trusted ones, and embeds all pairs of the pool."""

    model: TrainSettings | None = Field(
        default=None, description="its training; null: as that of the small models"
    )


class Choice(SelectionSettings):
    """A selection of the pool's pairs."""

    scorer: str | None = Field(
        default=None,
        description="one of `scorers`: the steps see its embeddings and similarities; null: the "
        "pool's own",
    )
    as_many_as: str | None = Field(
        default=None,
        description="another choice: of what the steps leave, as many pairs as that one keeps, "
        "drawn at random; the control that tells a better selection from a smaller one",
    )


class ProxySettings(Settings):
    """Which selections of which pool are compared, by what."""

    pool: FileName = Field(
        description="directory of the run whose embedded pairs are chosen of, as it was configured"
    )
    scorers: dict[Name, Scorer] = Field(
        default_factory=dict, description="models that choices are scored by, by name"
    )
    choices: dict[Name, Choice] = Field(
        min_length=2, description="selections by name; the others are compared with the first"
    )
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**32)], ...] = Field(
        default=(0, 1, 2), min_length=2, description="a model of each choice is trained for each"
    )
    model: TrainSettings = Field(
        default=TrainSettings(steps=200),
        description="of all trainings; `steps` must be said, so that all see as many pairs",
    )
    suite: FileName = Field(
        description="YAML file of the data sets that judge (docs/evaluation.md)"
    )

    @model_validator(mode="after")
    def _is_fair(self) -> ProxySettings:
        if self.model.steps is None:
            raise ValueError("model.steps: say how many, so that all choices see as many pairs")
        names = list(self.choices)
        for name, choice in self.choices.items():
            if choice.scorer is not None and choice.scorer not in self.scorers:
                there = f"there are {', '.join(self.scorers)}" if self.scorers else "there is none"
                raise ValueError(
                    f"choices.{name}.scorer: {choice.scorer!r} is not in scorers; {there}"
                )
            if (
                choice.as_many_as is not None
                and choice.as_many_as not in names[: names.index(name)]
            ):
                raise ValueError(
                    f"choices.{name}.as_many_as: {choice.as_many_as!r} is no choice before this one"
                )
        return self


@dataclass(frozen=True)
class ChoiceRun(Run):
    """The pool's run, with a choice's own selection and data set, and a model of one seed."""

    #: Of the choice; ``directory`` is the pool's.
    place: Path = field(kw_only=True)
    #: Where the embeddings are; None: the pool's.
    scorer: Path | None = field(kw_only=True, default=None)
    seed: int | None = field(kw_only=True, default=None)

    @property
    def home(self) -> Path:
        return self.place if self.seed is None else self.place / f"seed-{self.seed}"

    def receipts(self, stage: str) -> Receipts:
        if stage == "embeddings" and self.scorer is not None:
            return Receipts(self.scorer / stage)
        if stage not in OWN:
            return super().receipts(stage)
        return Receipts((self.home if stage == "model" else self.place) / stage)


class ChosenPairs(Selection):
    """The stage ``selection`` of a choice, which leaves the pool's folder as it is."""

    def execute(self, shards: Sequence[Shard]) -> Iterator[Outcome]:
        config = self.run.config
        work = Select(known_selection(config), config.seed, opt_out_files(self.run))
        return in_process(work, shards, self.folder)


class SmallModel(Model):
    """The stage ``model`` of a choice and a seed, without Ray unless it is asked for."""

    def __init__(self, run: Run, ray: RaySettings | None) -> None:
        super().__init__(run)
        self.ray = ray

    def prepare(self) -> None:
        settings = decided(self.run.config.model, self.run.decision(PRECISION), self.ray, self.name)
        self.run.note_decision(PRECISION, settings.precision)

    def execute(self, shards: Sequence[Shard]) -> Iterator[Outcome]:
        if self.ray is not None:
            return super().execute(shards)
        return in_process(
            TrainHere(self._settings(), self.run.config.seed, self.folder), shards, self.folder
        )


class ScorerEmbeddings(Embeddings):
    """The stage ``embeddings`` of a scorer, without Ray unless it is asked for."""

    def __init__(self, run: Run, ray: RaySettings | None) -> None:
        super().__init__(run)
        self.ray = ray

    def execute(self, shards: Sequence[Shard]) -> Iterator[Outcome]:
        work = Embed(self.run.config.embeddings.without_labels())
        if self.ray is not None:
            yield from embed_in_actors(work, shards, self.folder, self.ray)
            return
        with Reporter(work.activity, self.folder, "here"):
            yield from in_process(work, shards, self.folder)


def run_of_choice(
    pool: Run,
    place: Path,
    choice: SelectionSettings,
    model: TrainSettings,
    seed: int | None,
    pairs: int | None,
    scorer: Path | None = None,
) -> ChoiceRun:
    """A choice's run.

    Args:
        place: its folder.
        pairs: as many of what the steps leave are drawn; None: all stay.
        scorer: the folder of the one that it is scored by.
    """
    steps = choice.steps if pairs is None else (*choice.steps, Sample(filter="sample", pairs=pairs))
    changed: dict[str, Any] = {
        "selection": SelectionSettings(steps=steps),
        "model": model,
        "gates": {},
        "services": {},
    }
    if seed is not None:
        changed["seed"] = seed
    if scorer is not None:
        by = {"model": str(scorer / "model" / CHECKPOINT), "precision": "fp32"}
        changed["embeddings"] = pool.config.embeddings.model_copy(update=by)
    config: Config = pool.config.model_copy(update=changed)
    return ChoiceRun(config, pool.directory, place=place, seed=seed, scorer=scorer)
