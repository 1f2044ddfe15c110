"""A row of a shard, whoever wrote it: an image, a caption, and what may be wrong with them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from workers.base.failures import NeedsMendingError
from workers.embedding.settings import InputSettings

#: Column names that are recognised, the first that is there; a tar's members by their endings.
ID_COLUMNS = ("pair_id", "key", "__key__", "uid", "id")
IMAGE_COLUMNS = ("jpg", "jpeg", "png", "webp", "image", "image_bytes", "bytes", "content")
TEXT_COLUMNS = ("caption", "txt", "text", "alt_text", "TEXT")


class ShardError(NeedsMendingError):
    """A shard that cannot be read as images and captions; the message says what to do."""


@dataclass(frozen=True)
class Sample:
    """One row. What it lacks, or what was not asked for, is None."""

    id: str
    image: bytes | None
    text: str | None
    problem: str | None = None  # of a caption that is there and is no text
    image_problem: str | None = None  # of an image that is there and is no bytes
    texts: tuple[str, ...] = ()  # of a caption that is a list of texts, which is no text either
    others: Mapping[str, Any] = field(default_factory=dict)  # other values that were asked for

    @property
    def captions(self) -> tuple[str, ...]:
        """All that it has."""
        return self.texts if self.text is None else (self.text,)


def failure_reason(
    sample: Sample, source: InputSettings, *, several: bool = False
) -> tuple[str, str] | None:
    """Why a row lacks what is asked for, and in words; None where it does not.

    Args:
        several: a list of captions will do for a caption.
    """
    if source.images and sample.image_problem:
        return "bad_image", sample.image_problem
    if source.images and sample.image is None:
        return "no_image", "the row has no image"
    if several and sample.texts:
        return None
    if sample.problem:
        return "bad_caption", sample.problem
    if source.texts and sample.text is None:
        return "no_caption", "the row has no caption"
    return None


def as_caption(value: Any) -> tuple[str | None, str | None, tuple[str, ...]]:
    """A caption, what is wrong with it, and the captions of a list.

    What is no text has none that could be encoded.
    """
    if value is None:
        return None, None, ()
    if not isinstance(value, str):
        problem = f"the caption is a {type(value).__name__}, not a text: {value!r:.100}"
        return None, problem, _texts(value)
    if not _is_whole(value):
        return None, f"the caption holds half a character: {value!r:.100}", ()
    return value, None, ()


def _texts(value: Any) -> tuple[str, ...]:
    """The texts of a list; none where one of them is none, for then nobody knows what it is."""
    is_list = isinstance(value, list) and all(isinstance(text, str) for text in value)
    return tuple(value) if is_list and all(map(_is_whole, value)) else ()


def _is_whole(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def find_name(names: Collection[str], wanted: Iterable[str]) -> str | None:
    """The first of the wanted names that is among others, else the first but for its case."""
    by_lower_case = {name.lower(): name for name in names}
    wanted = list(wanted)
    exact = next((name for name in wanted if name in names), None)
    return exact or next(
        (by_lower_case[name.lower()] for name in wanted if name.lower() in by_lower_case), None
    )
