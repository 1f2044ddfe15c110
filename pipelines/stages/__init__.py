"""The stages, in the order in which a run does them. A new stage is added here."""

from __future__ import annotations

from pipelines.stages.base import Stage
from pipelines.stages.candidates import Candidates
from pipelines.stages.dataset import Dataset
from pipelines.stages.embeddings import Embeddings
from pipelines.stages.images import Images
from pipelines.stages.labels import Labels
from pipelines.stages.model import Model
from pipelines.stages.pages import Pages
from pipelines.stages.pairs import Pairs
from pipelines.stages.queries import Queries
from pipelines.stages.requests import Requests
from pipelines.stages.scores import Scores
from pipelines.stages.selection import Selection

#: By name, in order.
STAGES: dict[str, type[Stage]] = {
    stage.name: stage
    for stage in (
        *(Queries, Pages, Candidates, Pairs, Requests, Images, Embeddings, Labels, Selection),
        *(Dataset, Model, Scores),
    )
}

#: Those that ``pipelines.build_dataset`` does; the others have commands of their own.
DATASET_STAGES = (
    *("queries", "pages", "candidates", "pairs", "requests"),
    *("images", "embeddings", "labels", "selection", "dataset"),
)
