"""What an evaluation asks of a model on one data set."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from workers.base.settings import FileName, Settings

Prompts = Literal["bare", "one", "own", "ensemble"]
Metric = Literal["top1", "top5", "mean_per_class", "map", "auc"]


class ProtocolSettings(Settings):
    """How a model is judged on a data set."""

    prompts: tuple[Prompts, ...] = Field(
        default=("bare", "one", "own", "ensemble"),
        min_length=1,
        description="zero-shot prompts, each judged by itself: `bare` is the class's name, `one` "
        "`a photo of a {}.`, `own` the data set's templates where it has any, `ensemble` the "
        "paper's 80; probes are compared with `ensemble`, or without it with the last of these",
    )
    n_grams: FileName | None = Field(
        default=None,
        description="directory of a run that is finished: n-grams of its captions, told by a "
        "linear layer on its image embeddings, are judged beside the prompts (Visual N-Grams, a "
        "baseline of the paper), for the model that has made these embeddings",
    )
    metric: Metric = Field(
        default="top1",
        description="`top1`, `top5`: share of pictures with a right class among the first; "
        "`mean_per_class`: top-1 of each class, averaged; `map`: mean average precision over the "
        "classes, for pictures of several; `auc`: area under the ROC curve, of the second class "
        "where there are two, else averaged over the classes",
    )
    recall_at: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        default=(1, 5, 10), min_length=1, description="ranks of retrieval recall"
    )
    probe: bool = Field(
        default=True,
        description="fit a linear probe, with the paper's sweep over its L2 strength, and the "
        "few-shot probes of `shots`",
    )
    shots: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        default=(1, 2, 4, 8, 16), description="labelled examples a class of few-shot probes"
    )
    seeds: tuple[int, ...] = Field(
        default=(0, 1, 2), min_length=1, description="draws of these examples, one for each seed"
    )
    few_shot_l2: float = Field(
        default=0.0316,
        gt=0.0,
        description="L2 strength of few-shot probes, on features whose root mean square length is "
        "1 (OpenAI's 1 / 0.316, on features that are about 10 long); the same for all data sets, "
        "as a few examples leave none to choose it by",
    )
    held_out: float = Field(
        default=0.25,
        gt=0.0,
        lt=1.0,
        description="share of each class's pictures that judges the probes where the data set has "
        "no train split; the others train them",
    )
    validation: float = Field(
        default=0.2,
        gt=0.0,
        lt=1.0,
        description="share of each class's training pictures that chooses the L2 strength",
    )
    sweep_examples: int = Field(
        default=10_000,
        ge=10,
        description="training pictures that the sweep takes, fitted and validated, where there "
        "are more; the probe itself is then fitted on all",
    )
    bootstrap: int = Field(default=1000, ge=100, description="draws of the intervals' bootstrap")
    seed: int = Field(
        default=0, ge=0, description="of the bootstrap, and of which pictures are held out"
    )
