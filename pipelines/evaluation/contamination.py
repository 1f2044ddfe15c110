"""Which pictures of an evaluation set a model has seen in training, and which captions.

Compared are files byte by byte, pictures by their perceptual hash, within the distance by which
the selection calls pictures duplicates, and captions without regard to spaces and capitals. A
picture of the same thing in another style is none of these.

    seen = Seen.of(parquet_pairs(sorted(Path("runs/sample/dataset").glob("*.parquet"))))
    report = contamination(open_source("folder", {"path": "pets"}, "test").items(), seen)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow.parquet as pq

from clip_model.image_files import ImageError
from clip_model.preprocess import image_bytes_transform
from clip_model.templates import ClassName
from pipelines.training.index import hashes_of
from workers.base.arrays import UInt64s
from workers.embedding.image_hash import BITS, NO_HASH, image_hash
from workers.selection.duplicate_filters import PerceptualDuplicates

#: Bits of 64 that may differ: what the selection takes unless it is told otherwise.
MAX_DISTANCE: int = PerceptualDuplicates.model_fields["max_distance"].default
#: Pictures are hashed as the paper's models see them: resized, and the middle square of them.
RESOLUTION = 224
#: Names of contaminated pictures that are given.
EXAMPLES = 20

_WORDS = re.compile(r"\w+")


class Picture(Protocol):
    """A picture of an evaluation set, such as `pipelines.evaluation.sources.Item`."""

    @property
    def id(self) -> str: ...
    @property
    def image(self) -> bytes: ...
    @property
    def captions(self) -> tuple[str, ...]: ...


@dataclass(frozen=True)
class Pair:
    """A picture that was trained on, and its captions."""

    image: bytes
    captions: tuple[str, ...]


@dataclass(frozen=True)
class Seen:
    """What a model was trained on, as far as it is compared."""

    files: frozenset[int]  # the first 64 bits of their sha256
    pictures: UInt64s  # sorted perceptual hashes, each once
    captions: frozenset[int]
    texts: frozenset[str]  # the captions' words, for names of classes within them

    @classmethod
    def of(cls, pairs: Iterable[Pair]) -> Seen:
        """Look at every pair. Pictures that do not decode were not trained on."""
        files: set[int] = set()
        pictures: set[int] = set()
        captions: set[int] = set()
        texts: set[str] = set()
        for pair in pairs:
            file, of_captions = hashes_of(pair.image, pair.captions)
            files.add(file)
            captions.update(of_captions)
            pictures.add(picture_hash(pair.image))
            texts.update(map(_words, pair.captions))
        pictures.discard(NO_HASH)
        ordered = np.array(sorted(pictures), np.uint64)
        return cls(frozenset(files), ordered, frozenset(captions), frozenset(texts))


def parquet_pairs(
    files: Iterable[Path], image: str = "jpg", caption: str = "caption"
) -> Iterator[Pair]:
    """The pairs in Parquet files, such as a run's dataset/.

    Args:
        image: the column of encoded files, as bytes.
        caption: the column of captions: text, or a list of texts.
    """
    for path in files:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=256, columns=[image, caption]):
                for content, text in zip(
                    *(batch[n].to_pylist() for n in (image, caption)), strict=True
                ):
                    captions = (text,) if isinstance(text, str) else tuple(text or ())
                    yield Pair(content, captions)


def picture_hash(content: bytes) -> int:
    """The perceptual hash of a file's picture; NO_HASH where it has none or does not decode."""
    try:
        return image_hash(_LEVELS(content).numpy())
    except ImageError:
        return NO_HASH


_LEVELS = image_bytes_transform(RESOLUTION)


def contamination(
    pictures: Iterable[Picture],
    seen: Seen,
    classes: Sequence[ClassName] = (),
    max_distance: int = MAX_DISTANCE,
) -> dict[str, Any]:
    """How many pictures of a set, and which, stand in the training data.

    Args:
        pictures: the set's; those without an image are looked at for their captions alone.
        classes: the names of its classes.
        max_distance: bits of the perceptual hash that may differ.

    Returns:
        The numbers of pictures: `pictures` in all, `same_bytes`, `same_hash` (these among them,
        where they have a hash), `same_caption`, and `no_hash`, which cannot be compared by it;
        `ids`, the first twenty of which bytes or hash are known; `class_names`, how many there are
        and which stand within a caption, word by word.
    """
    known: list[str] = []
    counts = dict.fromkeys(("pictures", "same_bytes", "same_hash", "same_caption", "no_hash"), 0)
    near = _Near(seen.pictures, max_distance)
    for picture in pictures:
        file, captions = hashes_of(picture.image, picture.captions)
        hashed = picture_hash(picture.image)
        is_same = file in seen.files
        is_near = hashed != NO_HASH and near.has(hashed)
        counts["pictures"] += 1
        counts["same_bytes"] += is_same
        counts["same_hash"] += is_near
        counts["same_caption"] += not seen.captions.isdisjoint(captions)
        counts["no_hash"] += hashed == NO_HASH
        if (is_same or is_near) and len(known) < EXAMPLES:
            known.append(picture.id)
    names = {"all": len(classes), "in_captions": names_within(classes, seen.texts)}
    return {**counts, "ids": known, "class_names": names}


class _Near:
    """Finds hashes within a distance: two that near are equal in one of `distance + 1` bands."""

    def __init__(self, hashes: UInt64s, max_distance: int) -> None:
        self._max_distance = max_distance
        ends = [number * BITS // (max_distance + 1) for number in range(max_distance + 2)]
        self._bands = []
        for first, end in pairwise(ends):
            shift, mask = np.uint64(first), np.uint64((1 << (end - first)) - 1)
            bits = hashes >> shift & mask
            order = np.argsort(bits, kind="stable")
            self._bands.append((shift, mask, bits[order], hashes[order]))

    def has(self, hashed: int) -> bool:
        """Whether one of the hashes is within the distance."""
        wanted = np.uint64(hashed)
        for shift, mask, bits, hashes in self._bands:
            band = wanted >> shift & mask
            first, end = np.searchsorted(bits, band, "left"), np.searchsorted(bits, band, "right")
            if (np.bitwise_count(hashes[first:end] ^ wanted) <= self._max_distance).any():
                return True
        return False


def names_within(classes: Sequence[ClassName], texts: Iterable[str]) -> list[str]:
    """The names of classes that stand in a text, word by word; of several names of a class any.

    Args:
        texts: in lower case, words with one space between.
    """
    wanted: dict[str, set[int]] = {}
    for number, name in enumerate(classes):
        for spelling in (name,) if isinstance(name, str) else name:
            wanted.setdefault(_words(spelling), set()).add(number)
    lengths = sorted({len(name.split()) for name in wanted})
    found: set[int] = set()
    for text in texts:
        words = text.split()
        for length in lengths:
            for start in range(len(words) - length + 1):
                found |= wanted.get(" ".join(words[start : start + length]), set())
    return [
        name if isinstance(name, str) else name[0] for n, name in enumerate(classes) if n in found
    ]


def _words(text: str) -> str:
    return " ".join(_WORDS.findall(text.lower()))
