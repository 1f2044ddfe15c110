"""The settings of the query builder; importing them loads neither Beam nor lxml."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from workers.settings import Settings


class BigramSettings(Settings):
    """Which pairs of adjacent words become queries."""

    min_count: int = Field(default=100, ge=1, description="occurrences that a bigram needs")
    min_pmi: float = Field(
        default=5.0,
        description="bits: log2(p(x y) / (p(x) p(y))), with p(x y) its share of all bigrams and "
        "p(x), p(y) the words' shares of all words; 5 bits: 32 times more often than by chance",
    )


class QuerySettings(Settings):
    """Wikipedia dumps to the query list."""

    dumps: tuple[str, ...] = Field(
        default=(),
        description="MediaWiki XML dumps (bz2, gz or plain): paths, globs or package:NAME/FILE",
    )
    min_count: int = Field(
        default=100, ge=1, description="occurrences that a word needs to be a query (CLIP: 100)"
    )
    bigrams: BigramSettings = Field(
        default_factory=BigramSettings, description="which bigrams become queries"
    )
    titles: Literal["all", "none"] = Field(
        default="all", description="whether the titles of the articles become queries"
    )
    lower_case: bool = Field(
        default=True, description="count and write every term in lower case, as CLIP reads text"
    )
    max_queries: int = Field(
        default=500_000,
        ge=1,
        description="at most this many queries (CLIP: 500,000), filled with words by count, then "
        "bigrams by PMI, then titles in alphabetical order",
    )
