"""The three ways of finding duplicates against comparing all with all, and in many files."""

from collections import defaultdict

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.selection import (
    duplicates,
    exact_duplicates,
    perceptual_duplicates,
    semantic_duplicates,
)

SIMILARITIES = st.sampled_from([0.1, 0.2, 0.3])


def tables_of(rows, column, kind, cut):
    """Two tables of (similarity, value), as often as they are asked for."""
    ids = [f"{number * 7 % 1_000:03d}" for number in range(len(rows))]
    similarity = pa.array([row[0] for row in rows], pa.float32())
    values = pa.array([row[1] for row in rows], kind)
    table = pa.table({"pair_id": pa.array(ids), "similarity": similarity, column: values})
    return lambda: iter([table.slice(cut), table.slice(0, cut)])


def by_brute_force(tables, column, are_duplicates):
    """The pair_ids of the rows that are a duplicate of any earlier one, the best being first."""
    rows = pa.concat_tables(tables()).to_pylist()
    rows.sort(key=lambda row: (-row["similarity"], row["pair_id"]))
    return sorted(
        row["pair_id"]
        for number, row in enumerate(rows)
        if any(are_duplicates(row[column], earlier[column]) for earlier in rows[:number])
    )


@settings(max_examples=100, deadline=None)
@given(
    rows=st.lists(st.tuples(SIMILARITIES, st.sampled_from(["x", "y", "z", None])), max_size=20),
    cut=st.integers(0, 20),
    files=st.sampled_from([1, 5, 1_000]),
)
def test_exact_duplicates_are_all_but_the_best_of_a_file(rows, cut, files):
    tables = tables_of(rows, "sha256", pa.string(), cut)
    found = exact_duplicates.exact_duplicates(tables, files * exact_duplicates.ROWS_PER_FILE)
    assert found.to_pylist() == by_brute_force(tables, "sha256", lambda a, b: a and a == b)


@settings(max_examples=150, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.sampled_from(["x", "y", None]), st.integers(0, 4), st.integers(0, 4)),
        max_size=30,
    ),
    cut=st.integers(0, 30),
    files=st.sampled_from([1, 1_000]),
    min_urls=st.integers(2, 4),
)
def test_a_placeholder_has_many_urls_and_many_captions(rows, cut, files, min_urls):
    pairs = list(dict.fromkeys(rows))
    table = pa.table(
        {
            "pair_id": pa.array([f"{number:02d}" for number in range(len(pairs))], pa.string()),
            "similarity": pa.array([0.1] * len(pairs), pa.float32()),
            "sha256": pa.array([file for file, _, _ in pairs], pa.string()),
            "url": pa.array([f"https://a.example/{url}" for _, url, _ in pairs], pa.string()),
            "caption": pa.array([f"caption {text}" for _, _, text in pairs], pa.string()),
        }
    )
    urls, texts = defaultdict(set), defaultdict(set)
    for file, url, text in pairs:
        urls[file].add(url)
        texts[file].add(text)
    expected = [
        f"{number:02d}"
        for number, (file, _, _) in enumerate(pairs)
        if file and min(len(urls[file]), len(texts[file])) >= min_urls
    ]
    count = files * exact_duplicates.ROWS_PER_FILE_WITH_TEXTS
    found = exact_duplicates.placeholders(
        lambda: iter([table.slice(cut), table.slice(0, cut)]), count, min_urls
    )
    assert found.to_pylist() == expected


@st.composite
def near_hashes(draw):
    """Hashes a few bits from a few others."""
    base = draw(st.sampled_from([0, 0xFFFFFFFF, 0x0123456789ABCDEF, (1 << 64) - 1]))
    for bit in draw(st.lists(st.integers(0, 63), max_size=7)):
        base ^= 1 << bit
    return base


@settings(max_examples=150, deadline=None)
@given(
    rows=st.lists(st.tuples(SIMILARITIES, near_hashes()), max_size=25),
    cut=st.integers(0, 25),
    files=st.sampled_from([1, 5, 1_000]),
    max_distance=st.sampled_from([0, 1, 2, 4, 5, 8, 12]),
)
def test_bands_miss_no_pair_of_near_hashes(rows, cut, files, max_distance):
    tables = tables_of(rows, "image_hash", pa.uint64(), cut)
    count = files * perceptual_duplicates.ROWS_PER_FILE
    found = perceptual_duplicates.perceptual_duplicates(tables, count, max_distance)

    def near(one, other):
        return one and other and (one ^ other).bit_count() <= max_distance

    assert found.to_pylist() == by_brute_force(tables, "image_hash", near)


@pytest.mark.parametrize("files", [1, 3, 100])
def test_files_and_the_buffer_change_nothing(files, monkeypatch):
    rng = np.random.default_rng(0)
    centres = rng.integers(0, 1 << 63, 300, np.uint64)
    hashes = rng.choice(centres, 2_000) ^ (1 << rng.integers(0, 64, 2_000, np.uint64))
    directions = rng.normal(size=(50, 8))[rng.integers(0, 50, 2_000)]
    embeddings = (directions + rng.normal(0, 0.01, (2_000, 8))).astype(np.float16)
    table = pa.table(
        {
            "pair_id": [f"{number:05d}" for number in rng.permutation(2_000)],
            "similarity": rng.integers(0, 9, 2_000).astype(np.float32),
            "sha256": [f"{value:x}" for value in rng.choice(centres, 2_000)],
            "image_hash": hashes,
            "image_embedding": pa.FixedSizeListArray.from_arrays(embeddings.ravel(), 8),
        }
    )

    def found():
        def tables():
            return (table.slice(start, 300) for start in range(0, 2_000, 300))

        return (
            exact_duplicates.exact_duplicates(tables, 2_000),
            perceptual_duplicates.perceptual_duplicates(tables, 2_000, 4),
            semantic_duplicates.semantic_duplicates(tables, 2_000, 0.99, 200),
        )

    in_one = found()
    assert all(1_000 < len(names) < 2_000 for names in in_one)
    monkeypatch.setattr(duplicates, "_BUFFER", 10_000)
    for module in (exact_duplicates, perceptual_duplicates, semantic_duplicates):
        monkeypatch.setattr(module, "ROWS_PER_FILE", -(-2_000 // files))
    assert found() == in_one


def test_a_file_at_a_time_is_in_memory():
    """A file's rows are what is compared at once, and none is there twice."""
    rows = [(0.1, f"{number % 400}") for number in range(1_000)]
    sizes = []

    def compare(some, starts):
        sizes.append(len(some))
        return exact_duplicates._others(some, starts)

    tables = tables_of(rows, "sha256", pa.string(), 500)
    spilled = exact_duplicates._by_hash(tables(), 10)
    assert len(duplicates.find_duplicates(spilled, "sha256", compare)) == 600
    assert len(sizes) == 10
    assert max(sizes) < 200
