"""The steps of the selection, as a configuration writes them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from workers.base.settings import Settings
from workers.selection.duplicate_filters import (
    Contamination,
    ExactDuplicates,
    PerceptualDuplicates,
    Placeholder,
    SemanticDuplicates,
)
from workers.selection.property_filters import Caption, Label, Language, Score, Size
from workers.selection.sample_filter import Sample
from workers.selection.scored_filters import NegClipLoss, NormSim, Weighted
from workers.selection.similarity_filters import Agreement, Similarity, TopFraction, TopPerQuery

#: All filters that a step can name: the one list of them.
AnyFilter = (
    Similarity
    | TopFraction
    | TopPerQuery
    | Caption
    | Language
    | Size
    | Label
    | Score
    | Placeholder
    | ExactDuplicates
    | PerceptualDuplicates
    | SemanticDuplicates
    | Contamination
    | Agreement
    | NegClipLoss
    | NormSim
    | Weighted
    | Sample
)


class SelectionSettings(Settings):
    """Which embedded pairs go into the data set: steps, each on what the ones before it left."""

    steps: tuple[Annotated[AnyFilter, Field(discriminator="filter")], ...] = Field(
        default=(Similarity(filter="similarity", min=0.28),),
        description="in this order; see the sections below",
    )

    def identity(self) -> dict[str, Any]:
        return super().identity() | {"steps": [step.identity() for step in self.steps]}
