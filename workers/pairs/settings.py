"""The settings of the stage ``pairs``: what is read, cleaned, matched and balanced."""

from __future__ import annotations

from typing import Annotated, Literal

from phonenumbers import SUPPORTED_REGIONS
from pydantic import AfterValidator, Field

from workers.base.settings import FileName, Settings, Share, WebUrl

#: What people write for a country, and what ISO 3166 calls it.
_OTHER_NAMES = {"UK": "GB", "EN": "GB", "EL": "GR", "USA": "US", "JA": "JP", "KO": "KR"}


def _region(text: str) -> str:
    if text not in SUPPORTED_REGIONS:
        known = _OTHER_NAMES.get(text.upper(), text.upper())
        write = f"it is {known}" if known in SUPPORTED_REGIONS else "such as US, GB or DE"
        raise ValueError(f"there is no region {text}; write a country's code in ISO 3166: {write}")
    return text


Region = Annotated[str, AfterValidator(_region)]


class ShortCaptions(Settings):
    """Captions below either length are rejected. Words stand between single spaces."""

    chars: int = Field(default=3, ge=0, description="characters (Unicode code points)")
    words: int = Field(default=1, ge=0, description="words")


class LongCaptions(Settings):
    """Captions above either length are rejected."""

    chars: int = Field(default=1_000, ge=1, description="characters (Unicode code points)")
    words: int = Field(default=200, ge=1, description="words")


class LanguageSettings(Settings):
    """Captions that are surely in another language are rejected; unsure ones are kept."""

    allowed: tuple[str, ...] = Field(
        default=(),
        description="ISO 639 codes, such as [en]; []: captions of every language are kept",
    )
    min_probability: Share = Field(
        default=0.5, description="of the best guess, from which on another language is believed"
    )


class RedactSettings(Settings):
    """What is blotted out of captions."""

    emails: bool = Field(default=True, description="e-mail addresses become [email]")
    phones: bool = Field(default=True, description="telephone numbers become [phone]")
    phone_regions: tuple[Region, ...] = Field(
        default=("US",),
        description="countries (ISO 3166) whose numbers are known without their +prefix, too",
    )


class CaptionSettings(Settings):
    """The rules of captions (docs/pairs.md). A rule has the name of the reason it rejects for."""

    redact: RedactSettings = RedactSettings()
    garbled: bool = Field(
        default=True, description="reject what was decoded wrongly, beyond repair"
    )
    too_short: ShortCaptions = ShortCaptions()
    too_long: LongCaptions = LongCaptions()
    url: bool = Field(default=True, description="reject web addresses")
    file_name: bool = Field(default=True, description="reject names of image files")
    no_letters: bool = Field(default=True, description="reject numbers, signs and emoji alone")
    boilerplate: bool = Field(default=True, description='reject "logo", "Image 3", "[photo]"')
    language: LanguageSettings = LanguageSettings()


class PairSettings(Settings):
    """Pages and pair lists to (URL, caption) pairs, matched with the queries and balanced."""

    inputs: tuple[FileName, ...] = Field(
        default=(),
        description="what to read beside the crawl's own pages: WARC and WAT files, HTML folders "
        "and pair lists (Parquet, CSV, TSV, JSON lines); paths, globs, folders or fsspec URLs",
    )
    list_columns: tuple[str, str] | dict[str, tuple[str, str]] | None = Field(
        default=None,
        description="the URL and the caption column of every pair list, [LINK, TITLE]; or of some, "
        'by the names or globs of their files, {a.csv: [LINK, TITLE], "b*.tsv": [URL, ALT]}, of '
        "which the first that fits counts; those of other lists, and with null of all, are "
        "recognised by name",
    )
    root_url: WebUrl | None = Field(
        default=None,
        description="what a folder of HTML is on the web; null: the pages must say it themselves",
    )
    captions: CaptionSettings = CaptionSettings()
    max_captions_per_url: int | None = Field(
        default=None,
        ge=1,
        description="at most this many captions of one image's URL, those with the smallest "
        "pair_id; null: all of them",
    )
    max_urls_per_caption: int | None = Field(
        default=None,
        ge=1,
        description="at most this many images with one caption, capitals aside, those with the "
        "smallest pair_id; null: all of them",
    )
    balance: Literal["cap", "metaclip"] = Field(
        default="cap",
        description="which pairs of frequent queries stay. cap: at most t a query, as CLIP; "
        "metaclip: by a coin for each query, heads with min(1, t / its pairs)",
    )
    pairs_per_query: int = Field(
        default=20_000, ge=1, description="t of the balancing (CLIP and MetaCLIP-400M: 20,000)"
    )
    shards: int = Field(
        default=4,
        ge=1,
        description="ranges of pair_id that are deduplicated and balanced each in one piece, in "
        "memory: one for each million pairs or fewer",
    )
    max_rows_per_file: int = Field(
        default=10_000,
        ge=1,
        description="a range with more pairs than this is cut into files of even size",
    )
