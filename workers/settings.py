"""The settings of each kind of work, validated: what a configuration file may say of it.

A field's description is its documentation: ``--help`` and ``docs/configuration.md`` are made
from these. Unknown keys are refused, so that a misspelt setting is an error and not a default.
"""

from __future__ import annotations

from collections.abc import Iterable
from glob import glob
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Share = Annotated[float, Field(ge=0.0, le=1.0)]


class Settings(BaseModel):
    """Base of all settings: immutable, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    #: Fields that change the speed of the work and never its output.
    TUNING: ClassVar[frozenset[str]] = frozenset()

    def identity(self) -> dict[str, Any]:
        """The settings that the output depends on, as plain data; a shard's key covers these."""
        return self.model_dump(mode="json", exclude=set(self.TUNING))


class CrawlSettings(Settings):
    """Fetch pages, politely, into WARC files: one file a seed host."""

    TUNING: ClassVar[frozenset[str]] = frozenset({"requests_per_host", "delay", "retry_pause"})

    seeds: tuple[str, ...] = Field(
        default=(), description="URLs to start from; only pages of the seeds' own hosts are read"
    )
    max_depth: int = Field(default=5, ge=0, description="links followed away from a seed")
    max_pages_per_host: int = Field(default=100_000, ge=1, description="pages read from one host")
    requests_per_host: int = Field(default=2, ge=1, description="connections to a host at a time")
    delay: float = Field(default=0.0, ge=0.0, description="seconds between requests to a host")
    timeout: float = Field(default=30.0, gt=0.0, description="seconds for one page, in all")
    retries: int = Field(default=2, ge=0, description="further tries after a passing failure")
    retry_pause: float = Field(
        default=2.0, ge=0.0, description="seconds, at most, before the first of these; doubles"
    )
    max_page_bytes: int = Field(default=10_000_000, ge=1, description="larger pages are refused")
    user_agent: str = Field(
        default="clip-from-scratch",
        description="who we say we are; add a URL or an address where you can be reached",
    )
    allow_private_hosts: tuple[str, ...] = Field(
        default=(),
        description="hosts (HOST or HOST:PORT) that may resolve to a loopback or private "
        "address; every other one must be on the public internet",
    )


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
        description="ISO 639 codes, such as [en]; none: captions of every language are kept",
    )
    min_probability: Share = Field(
        default=0.5, description="of the best guess, from which on another language is believed"
    )


class RedactSettings(Settings):
    """What is blotted out of captions before any rule sees them."""

    emails: bool = Field(default=True, description="e-mail addresses become [email]")
    phones: bool = Field(default=True, description="telephone numbers become [phone]")
    phone_regions: tuple[str, ...] = Field(
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

    inputs: tuple[str, ...] = Field(
        default=(),
        description="what to read beside the crawl's own pages: WARC and WAT files, HTML folders "
        "and pair lists (Parquet, CSV, TSV, JSON lines); paths, globs, folders or fsspec URLs",
    )
    list_columns: tuple[str, str] | None = Field(
        default=None,
        description="the URL and the caption column of every pair list; none: recognised by name",
    )
    root_url: str | None = Field(
        default=None,
        description="what a folder of HTML is on the web; none: the pages must say it themselves",
    )
    captions: CaptionSettings = CaptionSettings()
    max_captions_per_url: int | None = Field(
        default=None,
        ge=1,
        description="at most this many captions of one picture's URL, those with the smallest "
        "pair_id; none: all of them",
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
        description="a range with more pairs than this is cut into files of even size; a file is "
        "one task of the download",
    )


class DownloadSettings(Settings):
    """img2dataset's settings for a shard of pairs."""

    TUNING: ClassVar[frozenset[str]] = frozenset({"threads"})

    threads: int = Field(default=32, ge=1, description="downloads at a time in one task")
    timeout: float = Field(default=10.0, gt=0.0, description="seconds for one picture")
    retries: int = Field(default=1, ge=0, description="further tries after a failed one")
    image_size: int = Field(default=256, ge=1, description="pixels, as resize_mode uses them")
    resize_mode: Literal["no", "border", "keep_ratio", "keep_ratio_largest", "center_crop"] = Field(
        default="keep_ratio", description="img2dataset's resize_mode; keep_ratio: shorter side"
    )
    resize_only_if_bigger: bool = Field(default=True, description="never enlarge a picture")
    jpeg_quality: int = Field(default=95, ge=1, le=100, description="of the stored pictures")
    min_image_size: int = Field(default=0, ge=0, description="shorter side, px; smaller: rejected")
    max_aspect_ratio: float = Field(default=5.0, ge=1.0, description="longer / shorter side")
    user_agent: str = Field(default="clip-from-scratch", description="added to img2dataset's own")


class LabelSet(Settings):
    """A list of classes; each picture gets the most probable ones by zero-shot."""

    classes: Annotated[tuple[str, ...], Field(min_length=1)] | str = Field(
        default="ImageNet",
        description="class names, or a data set of the paper's whose classes they are",
    )
    templates: Annotated[tuple[str, ...], Field(min_length=1)] | str = Field(
        default=("a photo of a {}.",),
        description="prompts, {} is the class name; or the name of a set of them (ImageNet: 80)",
    )
    top_k: int = Field(default=1, ge=1, description="labels stored a picture")


class Attribute(Settings):
    """A property that pictures have or lack; the score is the probability that they have it."""

    present: tuple[str, ...] = Field(
        default=(),
        description="prompts of pictures that have it; none: this project's, for photo, "
        "text_overlay, watermark and nsfw",
    )
    absent: tuple[str, ...] = Field(default=(), description="prompts of those that lack it")

    @model_validator(mode="after")
    def _both_or_none(self) -> Self:
        if bool(self.present) != bool(self.absent):
            raise ValueError("give prompts for `present` and for `absent`, or for neither")
        return self


#: Prompts of the attributes that need none of their own.
ATTRIBUTES = {
    "photo": Attribute(
        present=("a photo", "a photograph taken with a camera"),
        absent=("a drawing", "an illustration", "a diagram", "clip art", "a logo"),
    ),
    "text_overlay": Attribute(
        present=("a picture with text written over it", "a meme with a caption", "a poster"),
        absent=("a picture without any text", "a photo without words"),
    ),
    "watermark": Attribute(
        present=("a stock photo with a watermark", "a picture with a watermark over it"),
        absent=("a picture without a watermark", "a clean photo"),
    ),
    "nsfw": Attribute(
        present=("pornography", "a photo of a naked person", "explicit sexual content"),
        absent=("a picture that is safe for work", "a photo of a person with clothes on"),
    ),
}


class Head(Settings):
    """A small trained network on the picture's embedding, such as an aesthetic predictor."""

    path: str = Field(description="safetensors (or torch.save) file of its linear layers")
    activation: Literal["none", "relu", "gelu"] = Field(
        default="none", description="between the layers (LAION's aesthetic predictor: none)"
    )
    output: Literal["none", "sigmoid"] = Field(default="none", description="of the last layer")


ScoreName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+$")]


class EmbedSettings(Settings):
    """CLIP over shards of pictures: embeddings, similarity, zero-shot labels and scores."""

    TUNING: ClassVar[frozenset[str]] = frozenset({"threads"})

    model: str = Field(default="starter", description="a known model's name or a checkpoint file")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto", description="auto: bf16 where the hardware computes in it, else fp32"
    )
    batch_size: int | None = Field(
        default=None, ge=1, description="pictures a forward pass; none: 16 on a CPU, 512 on a GPU"
    )
    threads: int | None = Field(
        default=None,
        ge=1,
        description="that decode (and on a CPU, compute), an actor; none: the "
        "cores divided among its machine's actors",
    )
    label_sets: dict[str, LabelSet] = Field(default_factory=dict, description="by name")
    attributes: dict[ScoreName, Attribute] = Field(
        default_factory=dict, description="by name, a column `score_NAME` each"
    )
    heads: dict[ScoreName, Head] = Field(
        default_factory=dict, description="by name, a column `score_NAME` each"
    )

    @model_validator(mode="after")
    def _scores_have_names_and_prompts(self) -> Self:
        if both := sorted(self.attributes.keys() & self.heads.keys()):
            raise ValueError(f"an attribute and a head are both called {', '.join(both)}")
        for name, attribute in self.attributes.items():
            if not attribute.present and name not in ATTRIBUTES:
                raise ValueError(
                    f"attribute {name} needs prompts, `present` and `absent`; those that need "
                    f"none are {', '.join(ATTRIBUTES)}"
                )
        return self


class InputSettings(Settings):
    """What of other people's shards is read."""

    parts: Literal["both", "images", "texts"] = Field(
        default="both", description="which towers work"
    )
    id_column: str | None = Field(default=None, description="none: the first known name")
    image_column: str | None = Field(default=None, description="none: the first known name")
    text_column: str | None = Field(default=None, description="none: the first known name")

    @property
    def images(self) -> bool:
        return self.parts != "texts"

    @property
    def texts(self) -> bool:
        return self.parts != "images"


def resolve_path(text: str) -> Path:
    """A path as a configuration writes it; ``package:NAME/FILE`` is a file in a package.

    Raises FileNotFoundError with what to install when the package is not there.
    """
    if not text.startswith("package:"):
        return Path(text).expanduser()
    from importlib.util import find_spec

    name, _, inside = text.removeprefix("package:").partition("/")
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(
            f"{text}: the Python package {name!r} is not installed; for the embedded sample run "
            "`make` or `pip install -e .[sample]`"
        )
    return Path(spec.submodule_search_locations[0]) / inside


def find_files(patterns: Iterable[str]) -> list[Path]:
    """The files that paths and globs (``package:`` ones too) name: absolute, sorted, each once.

    Raises FileNotFoundError for a pattern that names no file.
    """
    found: set[Path] = set()
    for pattern in patterns:
        path = resolve_path(pattern).absolute()
        matches = [path] if path.is_file() else [Path(name) for name in glob(str(path))]  # noqa: PTH207
        files = [match for match in matches if match.is_file()]
        if not files:
            raise FileNotFoundError(f"there is no file {pattern}")
        found.update(files)
    return sorted(found)
