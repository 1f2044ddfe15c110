from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from workers.pairs.match import WHITE_SPACE, Matcher, naive_match

# Few letters, so that queries do occur; every kind of mark and space that the rule speaks of,
# and code points that share their first bytes with white space.
LETTERS = (
    "aab  ,.;:?!`-'\t\n\r\x00\x0b\x1c\x7f\x85"
    "\u00a0\u2003\u2010\u3000\u3001\u200b\u1680ÄßİΣσς\u0301𝔸"
)
TEXT = st.text(alphabet=LETTERS + "AB", max_size=30)
QUERY = st.text(alphabet=LETTERS + "A", max_size=8)


@pytest.fixture(scope="module", autouse=True)
def _loaded() -> None:
    """Machine code is compiled or loaded once, so that no example waits for it."""
    Matcher([]).match([""])


def assert_naive(queries: list[str], captions: list[str], *, lowercase: bool = False) -> None:
    numbered = list(enumerate(queries))
    seen = [caption.lower() if lowercase else caption for caption in captions]
    found = Matcher(numbered, lowercase=lowercase).match(captions)
    assert found.to_lists() == [naive_match(caption, numbered) for caption in seen]


@given(st.lists(QUERY, max_size=12), st.lists(TEXT, max_size=8), st.booleans())
@example(["", " ", "  ", "a", ".", ". ", " . "], ["", " ", "  ", "a.", "a. a", ".."], False)
@example(["st. louis", "st .  louis"], ["st. louis", "st.louis", "St. Louis"], True)
@example(["σας", "σασ", "i\u0307"], ["ΣΑΣ", "ΣΑΣ Σ", "İ"], True)
@example(["\u00a0", "a\u2003b"], ["\u3000", "a b", "a\u3000b", "aã\x80", "\u2003"], False)
@example(["a a a", "a a"], ["a a a a", "a  a"], False)
def test_equal_to_the_naive_rule(queries, captions, lowercase):
    assert_naive(queries, captions, lowercase=lowercase)


@given(st.lists(st.text(max_size=5), max_size=9), st.lists(st.text(), max_size=5), st.booleans())
def test_equal_to_the_naive_rule_for_any_text(queries, captions, lowercase):
    """Queries that do occur are cut out of the captions."""
    cut = [caption[start : start + 7] for caption in captions for start in range(0, 20, 3)]
    assert_naive(queries + cut, captions, lowercase=lowercase)


@pytest.mark.parametrize("space", [*WHITE_SPACE])
def test_every_white_space_parts_words(space):
    assert_naive(["new york", "new", f"new{space}york"], [f"in new{space}york", f"new{space}"])
    assert Matcher([(0, "new york")]).match([f"new{space}york"]).to_lists() == [[0]]


@pytest.mark.parametrize(
    ("query", "caption", "occurs"),
    [
        ("cat", "a cat", True),
        ("cat", "cat", True),
        ("cat", "concatenate", False),
        ("cat", "cat, dog", True),
        ("cat", "cat-like", False),
        ("cat", "the cat's", False),
        ("cat", "Cat", False),
        ("new york", "in new\u00a0york!", True),
        ("new york", "in new\nyork", True),
        ("new york", "new, york", False),
        ("o'clock", "ten o'clock?", True),
        ("st. louis", "in st. louis, missouri", True),
        ("st. louis", "in st.louis", False),
        ("washington, d.c.", "washington, d.c.", True),
        ("dr. no", "dr.\u2003no", True),
    ],
)
def test_examples(query, caption, occurs):
    assert Matcher([(7, query)]).match([caption]).to_lists() == [[7] if occurs else []]


def test_ids_are_sorted_and_equal_queries_all_count():
    matcher = Matcher([(9, "cat"), (3, "a cat"), (5, "cat"), (5, "cat"), (-2, "and")])
    assert matcher.match(["a cat and a cat"]).to_lists() == [[-2, 3, 5, 9]]


def test_lower_case_setting_finds_capitals():
    matcher = Matcher([(0, "eiffel tower"), (1, "köln"), (2, "Köln")], lowercase=True)
    assert matcher.match(["The Eiffel Tower.", "KÖLN"]).to_lists() == [[0], [1]]


def test_words_of_every_length():
    """Short words and long ones are kept in two ways; a NUL is a letter as any other."""
    words = [letters * n for letters in ("\0", "A", "é", "\0a", "a" * 15 + "B") for n in range(36)]
    longer = [f"{word}{letter}" for word in words for letter in "\0ab"]
    queries = [word.lower() for word in words]
    pairs = [f"{one} {other}" for one, other in pairwise(queries)]
    captions = [*words, *longer, *map(str.upper, pairs[::2]), " ".join(words), ",".join(longer)]
    assert_naive([*queries, *pairs, *queries[::5]], captions, lowercase=True)


def test_more_than_a_block_of_captions_and_long_ones():
    words = [f"w{n}" for n in range(300)]
    long = " ".join(words[n * n % 300] + "." * (n % 3) for n in range(30_000))
    captions = [" ".join(words[n % 7 : n % 300 : 5]) for n in range(500)]
    queries = [*words[::2], "w4 w9", "w0 w1 w4", "w16. w25.. w36", "x"]
    assert_naive(queries, [*captions, long, "", long[:70_000], *captions])


def test_columns():
    matcher = Matcher([(4, "cat"), (5, "dog")])
    column = pa.array(["dog", "a cat", "", "cat dog"])
    matches = matcher.match(column)
    assert matches.offsets.tolist() == [0, 1, 2, 2, 4]
    assert matches.offsets.dtype == np.int64
    assert matches.query_ids.dtype == np.int32
    assert (len(matches), matches[3].tolist()) == (4, [4, 5])
    assert matches.to_arrow() == pa.array([[5], [4], [], [4, 5]], pa.list_(pa.int32()))
    chunks = pa.chunked_array([column[1:2], column[3:]])
    for same in (column[1:].filter(pa.array([True, False, True])), chunks, column.take([1, 3])):
        assert matcher.match(same).to_lists() == [[4], [4, 5]]
    assert matcher.match(pa.array([], pa.string())).to_lists() == []
    assert Matcher([]).match(["cat", ""]).to_lists() == [[], []]


def test_bad_input_is_an_error():
    with pytest.raises(ValueError, match="1 captions of 2 are null"):
        Matcher([]).match(pa.array(["cat", None]))
    with pytest.raises(OverflowError):
        Matcher([(2**31, "cat")])


def test_threads_and_other_processes_can_share_it():
    matcher = pickle.loads(pickle.dumps(Matcher([(n, f"w{n} w{n + 1}") for n in range(99)])))
    captions = [[f"w{n} w{n + 1} w{n + 2}"] * 300 for n in range(40)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(matcher.match, captions))
    assert [one.to_lists() for one in found] == [[[n, n + 1]] * 300 for n in range(40)]
