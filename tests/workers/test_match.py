from __future__ import annotations

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from workers.match import Matcher, naive_match

# Few letters, so that queries do occur; every kind of mark and space that the rule speaks of.
TEXT = st.text(alphabet="aab  ,.;:?!`-'\t\n\r\x0b\x1c\x85\u00a0\u2003\u3000\u200bÄß", max_size=30)
QUERY = st.text(alphabet="aab  ,.-'\u00a0ß", max_size=6)


@given(st.lists(QUERY, max_size=12), st.lists(TEXT, max_size=8))
@example(["", " ", "  ", "a", ".", ". ", " . "], ["", " ", "  ", "a.", "a. a", ".."])
@example(["st. louis", "st .  louis"], ["st. louis", "st.louis"])
def test_equal_to_the_naive_rule(queries, captions):
    numbered = list(enumerate(queries))
    expected = [naive_match(caption, numbered) for caption in captions]
    assert Matcher(numbered).match(captions) == expected


@given(st.lists(QUERY, max_size=12), st.lists(TEXT, max_size=8))
def test_lower_case_is_of_the_captions_alone(queries, captions):
    numbered = list(enumerate(queries))
    expected = [naive_match(caption.lower(), numbered) for caption in captions]
    assert Matcher(numbered, lowercase=True).match(captions) == expected


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
    ],
)
def test_examples(query, caption, occurs):
    assert Matcher([(7, query)]).match([caption]) == [[7] if occurs else []]


def test_ids_are_sorted_and_equal_queries_all_count():
    matcher = Matcher([(9, "cat"), (3, "a cat"), (5, "cat"), (5, "cat")])
    assert matcher.match(["a cat and a cat"]) == [[3, 5, 9]]


def test_lower_case_setting_finds_capitals():
    assert Matcher([(0, "eiffel tower")], lowercase=True).match(["The Eiffel Tower."]) == [[0]]


def test_fast_enough_for_a_crawl():
    """10,000 queries: a floor far under what it does, so that only a slip of the rule trips it."""
    words = [f"{a}{b}{c}" for a in "bcdfghjklm" for b in "aeiou" for c in "nprstvwxyz"]
    singles = [(n, word) for n, word in enumerate(words)]
    doubles = [(1_000 + n, f"{words[n % 500]} {words[n * 7 % 499]}") for n in range(9_000)]
    matcher = Matcher([*singles, *doubles])
    captions = [" ".join(words[(n * k) % 500] for k in range(1, 11)) for n in range(5_000)]
    started = time.perf_counter()
    matcher.match(captions)
    assert len(captions) / (time.perf_counter() - started) > 10_000
