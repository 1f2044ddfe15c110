"""The steps of the selection, as a configuration writes them; importing them loads no arrays."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from workers.base.settings import FileName, Settings, Share
from workers.pairs.settings import LanguageSettings

Cosine = Annotated[float, Field(ge=-1.0, le=1.0)]


class Step(Settings):
    """What every step has."""

    name: str | None = Field(
        default=None, description="the reason that its rejected rows are counted under"
    )


class SimilarityStep(Step):
    """Pairs whose picture and caption are close enough."""

    filter: Literal["similarity"]
    min: Cosine = Field(description="cosine of picture and caption (LAION: 0.28, 0.30)")


class TopFractionStep(Step):
    """The best share of all pairs by similarity, exactly; of equals, those with smaller draws."""

    filter: Literal["top_fraction"]
    share: Share = Field(description="of the pairs that come to this step (DataComp: 0.3)")


class TopPerQueryStep(Step):
    """The best pairs of each query; of equals, those with smaller draws. A pair stays if any of its
    queries keeps it."""

    filter: Literal["top_per_query"]
    pairs: int = Field(ge=1, description="a query, as far as it has so many")


class CaptionStep(Step):
    """Captions of a useful length (DataComp's basic rule: 3 words and 6 characters)."""

    filter: Literal["caption"]
    min_words: int = Field(default=3, ge=0, description="words, apart by white space")
    min_chars: int = Field(default=6, ge=0, description="characters")


class LanguageStep(LanguageSettings, Step):
    """Captions that are not surely in another language; at a `min_probability` of 0 (DataComp's
    basic rule), those whose most probable language is allowed.
    """

    filter: Literal["language"]
    allowed: tuple[str, ...] = Field(min_length=1, description="ISO 639 codes, such as [en]")


class SizeStep(Step):
    """Pictures large enough and not too long, as they were before resizing."""

    filter: Literal["size"]
    min_side: int = Field(default=200, ge=0, description="pixels of the shorter side")
    max_aspect: float = Field(default=3.0, ge=1.0, description="longer / shorter side")


class LabelStep(Step):
    """By the pictures' zero-shot labels of one set."""

    filter: Literal["label"]
    set: str = Field(description="the label set's name")
    keep: tuple[str, ...] = Field(default=(), description="labels that stay; []: any")
    drop: tuple[str, ...] = Field(default=(), description="labels that go")
    min_probability: Share = Field(default=0.0, description="a label less probable is none")


class ScoreStep(Step):
    """By a score of the pictures: of an attribute or a head (`embeddings.attributes`, `.heads`)."""

    filter: Literal["score"]
    score: str = Field(description="the attribute's or head's name")
    min: float | None = Field(default=None, description="null: no lower limit")
    max: float | None = Field(default=None, description="null: no upper limit")


class ExactDuplicatesStep(Step):
    """One pair for each downloaded file: the most similar one."""

    filter: Literal["exact_duplicates"]


class PerceptualDuplicatesStep(Step):
    """One pair for each group of pictures with nearly equal hashes: the most similar one."""

    filter: Literal["perceptual_duplicates"]
    max_distance: int = Field(
        default=4, ge=0, le=12, description="bits of 64 that differ between duplicates, at most"
    )


class SemanticDuplicatesStep(Step):
    """One pair for each group of nearly equal pictures, as SemDeDup does (arXiv 2303.09540).

    Pictures are compared within clusters of their embeddings; of two that are closer than
    ``max_similarity`` the one less similar to its caption goes.
    """

    filter: Literal["semantic_duplicates"]
    max_similarity: Cosine = Field(default=0.95, description="cosine of two different pictures")
    cluster_rows: int = Field(
        default=10_000, ge=1, description="pairs a cluster, on average: time grows with it"
    )


class ContaminationStep(Step):
    """No pair that an evaluation set holds: by embeddings of that set, of the same model."""

    filter: Literal["contamination"]
    embeddings: tuple[FileName, ...] = Field(
        min_length=1, description="Parquet files of `pipelines.embed` on evaluation sets; globs"
    )
    max_image_similarity: Cosine = Field(
        default=0.95, description="cosine of a picture and any picture of the set"
    )
    max_text_similarity: Cosine = Field(
        default=1.0, description="cosine of a caption and any caption; 1: captions do not count"
    )

    @property
    def columns(self) -> tuple[str, ...]:
        """What is compared."""
        images, texts = "image_embedding", "text_embedding"
        return (images, texts) if self.max_text_similarity < 1 else (images,)


class AgreementStep(Step):
    """Pairs that another model finds similar, too."""

    filter: Literal["agreement"]
    embeddings: tuple[FileName, ...] = Field(
        min_length=1, description="Parquet files of the same pairs by the other model; globs"
    )
    min: Cosine = Field(description="cosine by the other model")


AnyStep = Annotated[
    SimilarityStep
    | TopFractionStep
    | TopPerQueryStep
    | CaptionStep
    | LanguageStep
    | SizeStep
    | LabelStep
    | ScoreStep
    | ExactDuplicatesStep
    | PerceptualDuplicatesStep
    | SemanticDuplicatesStep
    | ContaminationStep
    | AgreementStep,
    Field(discriminator="filter"),
]


class SelectionSettings(Settings):
    """Which embedded pairs go into the data set: steps, each on what the ones before it left."""

    steps: tuple[AnyStep, ...] = Field(
        default=(SimilarityStep(filter="similarity", min=0.28),),
        description="in this order; see the sections below",
    )
