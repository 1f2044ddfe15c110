"""The settings of each kind of work, validated: what a configuration file may say of it.

A field's description is its documentation: ``--help`` and ``docs/configuration.md`` are made
from these. Unknown keys are refused, so that a misspelt setting is an error and not a default.
"""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    WrapValidator,
)

from workers.base.credentials import shown

Share = Annotated[float, Field(ge=0.0, le=1.0)]

#: The name of a crawler at the start of its user agent, or where those that call themselves
#: Mozilla have it. What goes on in a digit or a dot is another name, and not a valid one.
_PRODUCT_TOKEN = re.compile(r"(?:(?i:Mozilla)/.*?\(compatible; *)?([A-Za-z_-]++)(?![\w.])")


def product_token(text: str) -> str | None:
    """The product token of a user agent in lower case, None if there is no valid one.

    It is what robots.txt and X-Robots-Tag address a crawler by (RFC 9309, section 2.2.1): letters,
    "_" and "-". The same holds for what they say, where people write whole user agents, too.
    """
    match = _PRODUCT_TOKEN.match(text.strip())
    token = match[1].lower() if match else None
    return token if token != "mozilla" else None  # that is no crawler's name


def _addressable(user_agent: str) -> str:
    if not product_token(user_agent):
        raise ValueError(
            "robots.txt can only address a crawler whose user agent begins with a name of "
            "letters, - and _: write it as `birds-research (+https://birds.example/bot)`"
        )
    if not (user_agent.isascii() and user_agent.isprintable()):
        raise ValueError("a user agent is one line of ASCII")
    return user_agent


#: The domain of a URL or of an e-mail address.
_CONTACT = re.compile(
    r"(?:https?://|[\w.+-]+@)((?:[a-z0-9-]+\.)+(?:[a-z]{2,}|xn--[a-z0-9-]+))(?![\w-])",
    re.IGNORECASE,
)
#: Domains at which nobody is (RFC 2606, RFC 6761), or nobody whom the web can reach.
_NOBODYS = re.compile(
    r"(?:.*\.)?(?:example(?:\.(?:com|net|org))?|test|invalid|localhost|local|internal)",
    re.IGNORECASE,
)

#: What to do where nobody can be reached through a user agent.
NO_CONTACT = (
    "the owners of hosts on the public internet must be able to reach whoever asks them: add a URL "
    "or an e-mail address of your own, as in `birds-research (+https://DOMAIN/bot)` or "
    "`birds-research (NAME@DOMAIN)`; example.org, a.example and the like are nobody's"
)


def has_contact(user_agent: str) -> bool:
    """Whether a user agent names a URL or an e-mail address where somebody may be reached."""
    return any(not _NOBODYS.fullmatch(domain) for domain in _CONTACT.findall(user_agent))


#: What goes into the User-Agent header.
UserAgent = Annotated[str, AfterValidator(_addressable)]


def _token(text: str) -> str:
    if product_token(text) != text.lower():
        raise ValueError(f"{text!r} is no crawler's name of letters, - and _; write it as CCBot")
    return text


#: What robots.txt calls a crawler by.
ProductToken = Annotated[str, AfterValidator(_token)]


def _host(text: str) -> str:
    if not re.fullmatch(r"[^\s/@]+", text):
        raise ValueError(f"{text!r} is no host; write it as HOST or HOST:PORT")
    return text


def _web_url(text: str) -> str:
    if not re.fullmatch(r"https?://[^\s/]\S*", text):
        raise ValueError(
            f"{shown(text)!r} is no address of the web; write it as https://a.example/"
        )
    return text


#: HOST or HOST:PORT.
Host = Annotated[str, AfterValidator(_host)]
WebUrl = Annotated[str, AfterValidator(_web_url)]


#: The name of a folder in ``file://NAME/PATH``.
RootName = Annotated[str, Field(pattern=r"^[a-z0-9-]+$")]


#: The formats that an image may have: Pillow's names of all that ``clip_model`` reads.
ImageFormat = Literal[
    "AVIF", "BMP", "DIB", "GIF", "ICO", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP"
]


def _sorted(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted(set(names)))


class ShellText(str):
    """Text of the command line, where relative paths are relative to the working directory."""

    __slots__ = ()


def located(value: Any, check: Callable[[Any], str], info: ValidationInfo) -> str:
    """A path made absolute, where a file or the command line has told what it is relative to."""
    text, context = check(value), info.context or {}
    if not text:
        raise ValueError("an empty name names no file")
    if "folder" not in context or text.startswith(("package:", "{run_dir}")) or "://" in text:
        return text
    try:
        path = local_path(text)
    except FileNotFoundError as error:
        raise ValueError(str(error)) from error
    return str((Path.cwd() if isinstance(value, ShellText) else context["folder"]) / path)


#: A path or glob, ``package:NAME/FILE`` or an fsspec URL. Validated with a context that has a
#: ``folder``, a relative one becomes absolute.
FileName = Annotated[str, WrapValidator(located)]


class Settings(BaseModel):
    """Base of all settings: immutable, unknown keys refused."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False
    )

    #: Fields that change how fast and how often the work is done and never its output.
    TUNING: ClassVar[frozenset[str]] = frozenset()

    def identity(self) -> dict[str, Any]:
        """The settings that the output depends on, as plain data; a shard's key covers these."""
        return self.model_dump(mode="json", exclude=set(self.TUNING))


class Visitor(Settings):
    """Who asks the hosts of the web."""

    delay: float = Field(default=0.0, ge=0.0, description="seconds between requests to a host")
    user_agent: UserAgent = Field(
        default="clip-from-scratch",
        description="who we say we are: a name of letters, - and _, which is what robots.txt calls "
        "us by. On the public internet it must have a URL or an e-mail address where you can be "
        "reached, as in `birds-research (+https://DOMAIN/bot)`; example.org and its like are "
        "nobody's. Without one only hosts of allow_private_hosts are asked, at loopback or private "
        "addresses: a run that has none ends with exit code 2 before any work, and a shard at the "
        "first public address that it would ask",
    )
    obey_agents: tuple[ProductToken, ...] = Field(
        default=(),
        description="other crawlers whose rules are obeyed as if they were ours, in robots.txt and "
        "in pages, those of pairs.inputs too: for data that came through Common Crawl name CCBot",
    )

    @property
    def agents(self) -> tuple[str, ...]:
        """The product tokens of the crawlers whose rules count, in lower case, ours first."""
        tokens = map(product_token, (self.user_agent, *self.obey_agents))
        return tuple(dict.fromkeys(token for token in tokens if token))


class CrawlSettings(Visitor):
    """Fetch pages, politely, into WARC files: one file a seed host."""

    TUNING: ClassVar[frozenset[str]] = frozenset(
        {
            "requests_per_host",
            "delay",
            "retry_pause",
            "max_unreachable",
            "reruns",
            "recrawl_hours",
            "gone_after",
        }
    )

    seeds: tuple[str, ...] = Field(
        default=(),
        description="URLs to start from; only pages of the seeds' own hosts are read, http and "
        "https of a host by one crawler",
    )
    max_depth: int = Field(default=5, ge=0, description="links followed away from a seed")
    max_pages_per_host: int = Field(default=100_000, ge=1, description="pages read from one host")
    requests_per_host: int = Field(default=2, ge=1, description="connections to a host at a time")
    timeout: float = Field(default=30.0, gt=0.0, description="seconds for one page, in all")
    retries: int = Field(default=2, ge=0, description="further tries after a passing failure")
    retry_pause: float = Field(
        default=2.0, ge=0.0, description="seconds, at most, before the first of these; doubles"
    )
    max_unreachable: Share = Field(
        default=0.3,
        description="share of a host's pages that may have failed for a passing reason "
        "(connection, timeout, dns, truncated, robots_unreachable, host_away, http_408, http_429, "
        "http_5xx); above it the host counts as away: the run ends with exit code 3, and a rerun "
        "asks again for what did not come",
    )
    reruns: int = Field(
        default=2,
        ge=0,
        description="how many reruns ask again for such pages where they are fewer",
    )
    recrawl_hours: float | None = Field(
        default=None,
        ge=0.0,
        description="hours after which a run crawls a host again, for what has changed since "
        "(docs/inputs.md); 0: at every run; null: never",
    )
    gone_after: int = Field(
        default=3,
        ge=1,
        description="crawls in a row at which a page must have failed, though its host was there, "
        "to count as gone as after a 404; until then it is kept as it was",
    )
    max_page_bytes: int = Field(default=10_000_000, ge=1, description="larger pages are refused")
    allow_private_hosts: tuple[Host, ...] = Field(
        default=(),
        description="hosts (HOST or HOST:PORT) that may resolve to a loopback or private "
        "address; every other one must be on the public internet",
    )


class DownloadSettings(Visitor):
    """How the images of a shard of pairs are fetched and made small."""

    #: What is there stays, however it was come by: an image depends on none of these, and what
    #: failed or was refused because of one is asked for again by ``--retry``.
    TUNING: ClassVar[frozenset[str]] = frozenset(
        {
            *("connections", "requests_per_host", "tasks_per_host", "delay", "max_host_seconds"),
            *("robots", "timeout", "max_seconds", "retries", "retry_pause", "retry_hours"),
            *(
                "max_unreachable",
                "pairs_per_shard",
                "user_agent",
                "obey_agents",
                "allow_private_hosts",
            ),
            "local_roots",
        }
    )

    connections: int = Field(default=64, ge=1, description="downloads at a time in one task")
    requests_per_host: int = Field(
        default=2, ge=1, description="of these, at a time at one host (HOST or HOST:PORT)"
    )
    tasks_per_host: int | None = Field(
        default=1,
        ge=1,
        description="tasks of a run that ask one host at a time; the others wait for their turn. "
        "null: all of them, for hosts of your own",
    )
    max_host_seconds: float = Field(
        default=1800.0,
        gt=0.0,
        description="seconds for which a task asks one host, its turns together; what is left then "
        "is asked for by another run, so that a slow host does not hold up a shard",
    )
    robots: bool = Field(
        default=True,
        description="read a host's robots.txt and tdmrep.json before it is asked for anything, and "
        "obey them; false: for images of your own hosts",
    )
    timeout: float = Field(default=10.0, gt=0.0, description="seconds without any answer")
    max_seconds: float = Field(
        default=60.0, gt=0.0, description="seconds for one try at an image, redirects and all"
    )
    max_bytes: int = Field(
        default=64 * 2**20,
        ge=1,
        description="larger images are refused, files of this machine too",
    )
    formats: Annotated[tuple[ImageFormat, ...], AfterValidator(_sorted)] = Field(
        default=("AVIF", "GIF", "JPEG", "PNG", "WEBP"),
        min_length=1,
        description="formats that an image may have, by its content and not by what a server says; "
        "those of the web, and by choice BMP, DIB, ICO, JPEG2000, PPM and TIFF, which other "
        "people's data sets have. No other reader sees an image's bytes",
    )
    retries: int = Field(default=1, ge=0, description="further tries after a passing failure")
    retry_pause: float = Field(
        default=2.0,
        ge=0.0,
        description="seconds, at most, before the first of these, where the server does not say "
        "how many (Retry-After); doubles",
    )
    max_unreachable: Share = Field(
        default=0.3,
        description="share of a shard's images that may have failed for a passing reason "
        "(connection, timeout, unknown_host, cut_off, host_away, host_slow, robots_unreachable, "
        "http_408, http_429, http_5xx); above it the run ends with exit code 3, and a rerun tries "
        "them again",
    )
    retry_hours: tuple[Annotated[float, Field(ge=0)], ...] = Field(
        default=(6.0, 24.0, 96.0),
        description="hours after which an image that failed for a passing reason is asked for "
        "again by the next run, after the first try, the second and so on; as many further tries "
        "as there are numbers. Final failures are never tried again (but by --retry)",
    )
    pairs_per_shard: int = Field(
        default=10_000, ge=1, description="pairs that a shard of images is made of, about"
    )
    image_size: int = Field(default=256, ge=1, description="pixels, as resize_mode uses them")
    resize_mode: Literal["no", "border", "keep_ratio", "keep_ratio_largest", "center_crop"] = Field(
        default="keep_ratio", description="img2dataset's resize_mode; keep_ratio: shorter side"
    )
    resize_only_if_bigger: bool = Field(default=True, description="never enlarge an image")
    jpeg_quality: int = Field(default=95, ge=1, le=100, description="of the stored images")
    min_image_size: int = Field(default=0, ge=0, description="shorter side, px; smaller: rejected")
    max_aspect_ratio: float = Field(default=5.0, ge=1.0, description="longer / shorter side")
    obey_agents: tuple[ProductToken, ...] = Field(
        default=(),
        description="other crawlers whose rules are obeyed as if they were ours: for data that "
        "came through Common Crawl name CCBot. Name it before the first download: as with "
        "user_agent, images that are there stay",
    )
    allow_private_hosts: tuple[Host, ...] = Field(
        default=(),
        description="hosts (HOST or HOST:PORT) that may resolve to a loopback or private "
        "address, for images of your own network; every other one must be on the public internet",
    )
    local_roots: dict[RootName, FileName] = Field(
        default_factory=dict,
        description="folders of this machine, by name, whose images may be read: lists and "
        "HTML pages that lie in one may refer to files in it (docs/inputs.md); {}: none",
    )


#: Byte order marks, with which Windows writes; those of UTF-32 before those that they begin with.
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, or in UTF-16 or UTF-32 with their mark.

    Raises OSError, and ValueError, saying where and what to do.
    """
    content = path.read_bytes()
    encoding = next((name for mark, name in _MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise _no_text(content[: error.start], encoding) from error
    if "\0" in text:
        raise _no_text(text[: text.index("\0")].encode(encoding), encoding)
    return text


def _no_text(before: bytes, encoding: str) -> ValueError:
    lines = before.decode(encoding, "replace").split("\n")
    place = f"line {len(lines)}, character {len(lines[-1]) + 1}"
    return ValueError(f"{place}: this is no text in {encoding.upper()}; save the file as UTF-8")


def local_path(text: str) -> Path:
    """A path, ``~`` and ``~USER`` put in full; FileNotFoundError for a user that there is not."""
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise FileNotFoundError(f"{text}: there is no such user here") from error


def resolve_path(text: str) -> Path:
    """A path as a configuration writes it; ``package:NAME/FILE`` is a file in a package.

    Raises FileNotFoundError with what to install when the package is not there.
    """
    if not text.startswith("package:"):
        return local_path(text)
    from importlib.util import find_spec

    name, _, inside = text.removeprefix("package:").partition("/")
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(
            f"{text}: the Python package {name!r} is not installed; for the embedded sample run "
            "`make` or `pip install -e .[sample]`"
        )
    return Path(spec.submodule_search_locations[0]) / inside


def printable(path: str | os.PathLike[str]) -> str:
    """A path as text that can be written anywhere: bytes of it that are no UTF-8 as \\xNN."""
    return os.fsencode(path).decode(errors="backslashreplace")
