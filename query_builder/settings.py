"""The settings of the query builder; importing them loads neither Beam nor lxml."""

from __future__ import annotations

from fractions import Fraction
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from workers.base.settings import FileName, Settings, Share

#: Where queries come from. A term that several sources have belongs to the first of them, and
#: places that a source leaves empty go to the others, both in this order.
KINDS = ("word", "bigram", "title", "synset")

#: Wikimedia's hourly files write a project as the language and one of these.
PROJECT_SUFFIXES = {
    "wikipedia": "",
    "wikibooks": ".b",
    "wikinews": ".n",
    "wikiquote": ".q",
    "wikisource": ".s",
    "wikiversity": ".v",
    "wikivoyage": ".voy",
}


def _known_project(project: str) -> str:
    language, _, family = project.partition(".")
    if not language or family not in PROJECT_SUFFIXES:
        families = ", ".join(PROJECT_SUFFIXES)
        raise ValueError(f"write {project!r} as en.wikipedia: a language and one of {families}")
    return project


Project = Annotated[str, AfterValidator(_known_project)]


class BigramSettings(Settings):
    """Which pairs of adjacent words become queries."""

    min_count: int = Field(default=100, ge=1, description="occurrences that a bigram needs")
    measure: Literal["pmi", "npmi"] = Field(
        default="pmi",
        description="what ranks the bigrams and has a threshold: pmi or npmi; both are stored",
    )
    min_pmi: float = Field(
        default=5.0,
        description="bits: log2(p(x y) / (p(x) p(y))), with p(x y) its share of all bigrams and "
        "p(x), p(y) the words' shares of all words; 5 bits: 32 times more often than by chance; "
        "read if measure is pmi",
    )
    min_npmi: float = Field(
        default=0.3,
        ge=-1.0,
        le=1.0,
        description="PMI / -log2 p(x y), with p(x y) its share of all words, from -1 to 1: 0 is "
        "chance, 1 is never apart; read if measure is npmi",
    )


class ShareSettings(Settings):
    """The places of the query list that each source may fill before the others get a turn.

    A source's share is at least what it gets if it has enough candidates. The places that are
    left over go to words, then bigrams, titles and synsets. The defaults are the proportions of
    MetaCLIP's list.
    """

    word: Share = Field(default=0.5, description="words, by count")
    bigram: Share = Field(default=0.2, description="bigrams, by the measure that ranks them")
    title: Share = Field(default=0.125, description="titles, by views, or in alphabetical order")
    synset: Share = Field(default=0.175, description="WordNet's names, by their number of synsets")

    @model_validator(mode="after")
    def _at_most_all(self) -> Self:
        total = sum(map(self.exact, KINDS))
        if total > 1:
            raise ValueError(
                f"the shares of {', '.join(KINDS)} add up to {float(total):g}, and 1 is all of "
                "the list: make one of them smaller"
            )
        return self

    def exact(self, kind: str) -> Fraction:
        """A kind's share as the decimal fraction that was written: 0.29 of 100 is 29."""
        return Fraction(repr(getattr(self, kind)))


class QuerySettings(Settings):
    """Wikipedia dumps, page views and WordNet to the query list, or a list of your own; with
    `queries: none` captions are matched with nothing and all of them are kept.
    """

    dumps: tuple[FileName, ...] = Field(
        default=(),
        description="MediaWiki XML dumps (bz2, gz, zst or plain): paths, globs, "
        "package:NAME/FILE or fsspec's URLs (s3://, gs://, https://); a multistream dump with its "
        "index beside it is read in parallel",
    )
    views: tuple[FileName, ...] = Field(
        default=(),
        description="Wikimedia's page view files (pageviews-YYYYMM-user.bz2, or hourly "
        "pageviews-YYYYMMDD-HHMMSS.gz), mixed freely: paths or globs; []: see titles",
    )
    wordnet: FileName | None = Field(
        default=None,
        description="WordNet's dict folder, with data.noun, data.verb, data.adj and data.adv; "
        "null: no synsets",
    )
    list: FileName | None = Field(
        default=None,
        description="a list of your own instead: a text file with a query a line, or a Parquet, "
        "CSV or TSV file with a column `query`; of the other keys lower_case and max_queries hold",
    )
    min_count: int = Field(
        default=100, ge=1, description="occurrences that a word needs to be a query (CLIP: 100)"
    )
    bigrams: BigramSettings = Field(
        default_factory=BigramSettings, description="which bigrams become queries"
    )
    titles: Literal["all", "none"] = Field(
        default="all",
        description="which titles of articles become queries: all (with views: all that have "
        "min_views) or none",
    )
    min_views: int = Field(
        default=70, ge=0, description="page views, in all files, that a title needs (MetaCLIP: 70)"
    )
    view_projects: tuple[Project, ...] = Field(
        default=("en.wikipedia",),
        min_length=1,
        description="whose page views count, as LANGUAGE.wikipedia: those of the dumps",
    )
    lower_case: bool = Field(
        default=True, description="count and write every term in lower case, as CLIP reads text"
    )
    max_queries: int = Field(
        default=500_000, ge=1, description="at most this many queries (CLIP: 500,000)"
    )
    shares: ShareSettings = Field(
        default_factory=ShareSettings, description="each source's part of max_queries"
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        others = [name for name in ("dumps", "views", "wordnet") if getattr(self, name)]
        if self.list and others:
            raise ValueError(
                f"a list is given, and {', '.join(others)}, too: name one or the other"
            )
        return self

    @model_validator(mode="after")
    def _views_are_used(self) -> Self:
        if self.views and self.titles == "none":
            raise ValueError("views are given but titles is none: set titles to all, or no views")
        return self
