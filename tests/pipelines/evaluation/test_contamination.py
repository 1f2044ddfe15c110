"""What of an evaluation set stands in the training data."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipelines.evaluation.contamination import (
    EXAMPLES,
    MAX_DISTANCE,
    Pair,
    Seen,
    _Near,
    contamination,
    names_within,
    parquet_pairs,
    picture_hash,
)
from pipelines.evaluation.sources import Item
from workers.embedding.image_hash import NO_HASH

HASHES = st.integers(1, 2**64 - 1)


def picture(seed, *, kind="PNG", side=96, **options):
    """A picture with structure: noise of few cells, made large."""
    levels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    buffer = io.BytesIO()
    image = Image.fromarray(levels).resize((side, side), Image.Resampling.BICUBIC)
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_each_way_to_have_been_seen_is_told_from_the_others():
    seen = Seen.of(
        [
            Pair(picture(1), ("A red fox",)),
            Pair(picture(2), ("the  Sea lion at rest", "two")),
        ]
    )
    pictures = [
        Item("bytes", picture(1), captions=("nothing",)),
        Item("near", picture(2, kind="JPEG", quality=60, side=300), captions=("nor this",)),
        Item("caption", picture(3), captions=("the sea LION  at rest",)),
        Item("new", picture(4), captions=("sea lion",)),
        Item("flat", picture(5, side=1), captions=()),
    ]
    report = contamination(pictures, seen, [("lion", "sea lion"), "fox", "dog", "rest at"])
    assert report == {
        "pictures": 5,
        "same_bytes": 1,
        "same_hash": 2,
        "same_caption": 1,
        "no_hash": 1,
        "ids": ["bytes", "near"],
        "class_names": {"all": 4, "in_captions": ["lion", "fox"]},
    }


def test_nothing_seen_is_nothing_found():
    report = contamination([Item("a", picture(1), captions=("a",))], Seen.of([]))
    assert (report["same_bytes"], report["same_hash"], report["same_caption"]) == (0, 0, 0)


def test_what_does_not_decode_has_no_hash_but_bytes():
    assert picture_hash(b"no picture") == NO_HASH
    seen = Seen.of([Pair(b"no picture", ())])
    report = contamination([Item("a", b"no picture")], seen)
    assert (report["same_bytes"], report["same_hash"], report["no_hash"]) == (1, 0, 1)


def test_the_first_ids_are_given_and_all_are_counted():
    seen = Seen.of([Pair(picture(1), ())])
    report = contamination((Item(str(n), picture(1)) for n in range(EXAMPLES + 5)), seen)
    assert report["same_bytes"] == EXAMPLES + 5
    assert report["ids"] == [str(number) for number in range(EXAMPLES)]


@given(st.lists(HASHES, max_size=20), HASHES, st.integers(0, 12), st.data())
def test_near_hashes_are_those_that_comparing_with_all_finds(hashes, wanted, distance, data):
    flipped = data.draw(st.lists(st.integers(0, 63), max_size=14, unique=True))
    near = wanted
    for bit in flipped:
        near ^= 1 << bit
    hashes = [*hashes, near]
    expected = any((each ^ wanted).bit_count() <= distance for each in hashes)
    assert _Near(np.array(hashes, np.uint64), distance).has(wanted) == expected


def test_no_hash_is_near_none():
    assert not _Near(np.array([], np.uint64), MAX_DISTANCE).has(1)


@pytest.mark.parametrize("captions", [["a", "b"], [["a", "c"], []]])
def test_pairs_come_from_parquet(tmp_path, captions):
    pq.write_table(pa.table({"jpg": [b"1", b"2"], "caption": captions}), tmp_path / "a.parquet")
    expected = [(text,) if isinstance(text, str) else tuple(text) for text in captions]
    pairs = list(parquet_pairs([tmp_path / "a.parquet"]))
    assert [pair.captions for pair in pairs] == expected
    assert [pair.image for pair in pairs] == [b"1", b"2"]


def test_names_are_found_word_by_word():
    assert names_within(["cat", "fire truck"], ["a category", "the fire truck"]) == ["fire truck"]
