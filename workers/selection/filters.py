"""The filters of the selection, by the steps that name them."""

from __future__ import annotations

from workers.selection import duplicate_filters, property_filters, settings, similarity_filters
from workers.selection.base_filter import Filter

FILTERS: dict[type[settings.Step], type[Filter]] = {
    settings.SimilarityStep: similarity_filters.Similarity,
    settings.TopFractionStep: similarity_filters.TopFraction,
    settings.TopPerQueryStep: similarity_filters.TopPerQuery,
    settings.CaptionStep: property_filters.Caption,
    settings.LanguageStep: property_filters.Language,
    settings.SizeStep: property_filters.Size,
    settings.LabelStep: property_filters.Label,
    settings.ScoreStep: property_filters.Score,
    settings.ExactDuplicatesStep: duplicate_filters.ExactDuplicates,
    settings.PerceptualDuplicatesStep: duplicate_filters.PerceptualDuplicates,
    settings.SemanticDuplicatesStep: duplicate_filters.SemanticDuplicates,
    settings.ContaminationStep: duplicate_filters.Contamination,
    settings.AgreementStep: similarity_filters.Agreement,
}


def make_filter(step: settings.Step, seed: int) -> Filter:
    """The filter that a step names. Raises ValueError for one that cannot work."""
    return FILTERS[type(step)](step, seed)
