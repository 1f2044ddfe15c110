"""Words and counts: the word rule against a regular expression, sums against a Counter."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from query_builder.build import PARTITIONS, SumCounts
from query_builder.counts import Counts, count, merge, partition
from query_builder.words import split_words

WORD = regex.compile(r"[\p{L}\p{M}\p{N}]+(?:['’‐‑\-\u200c\u200d][\p{L}\p{M}\p{N}]+)*")
SPACES = regex.compile(r"[\t\p{Zs}]+")

some_text = st.text(
    st.sampled_from("abcÉßİΣσ’'-‐ \t\u00a0\n.,_1٣ि中𝒳\u200d\u0301")
    | st.characters(exclude_categories=["Cs", "Cn"]),
    max_size=50,
)


def reference(text: str, lower_case: bool = False) -> tuple[Counter[str], Counter[str]]:
    """Words and bigrams, the slow way: one Python object a word."""
    bigrams: Counter[str] = Counter()
    found = list(WORD.finditer(text))
    spelt = [match.group().replace("’", "'") for match in found]
    if lower_case:
        spelt = [word.lower() for word in spelt]
    for (left, first), (right, second) in pairwise(zip(found, spelt, strict=True)):
        if SPACES.fullmatch(text, left.end(), right.start()):
            bigrams[f"{first} {second}"] += 1
    return Counter(spelt), bigrams


def spelt_out(counts: Counts) -> tuple[dict[str, int], dict[str, int]]:
    words = counts.words.to_pylist()
    assert len(set(words)) == len(words)
    assert np.all(np.diff(counts.bigrams) > 0)
    pairs = zip(counts.left, counts.right, counts.bigram_counts.tolist(), strict=True)
    return (
        {word: n for word, n in zip(words, counts.word_counts.tolist(), strict=True) if n},
        {f"{words[left]} {words[right]}": n for left, right, n in pairs},
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("don't well-known naïve हिन्दी 1990", ["don't", "well-known", "naïve", "हिन्दी", "1990"]),
        ("snake_case C++ AT&T", ["snake", "case", "C", "AT", "T"]),
        ("it’s 'quoted' -dash- a--b", ["it's", "quoted", "dash", "a", "b"]),
        ("", []),
        ("a", ["a"]),
        ("-", []),
        ("می\u200cخواهم", ["می\u200cخواهم"]),
    ],
)
def test_words(text, words):
    assert split_words(text).words.to_pylist() == words


@settings(deadline=None)
@given(some_text, st.booleans())
def test_counts_equal_the_reference(text, lower_case):
    assert spelt_out(count(text, lower_case=lower_case)) == reference(text, lower_case)


@settings(deadline=None)
@given(some_text, st.integers(1, 5))
def test_partitions_sum_to_the_whole(text, partitions):
    whole = count(text, lower_case=True)
    parts = partition(whole, partitions)
    assert spelt_out(merge(parts)) == spelt_out(whole)
    counted = [word for part in parts for word in spelt_out(part)[0]]
    assert len(set(counted)) == len(counted)


@settings(deadline=None)
@given(st.lists(some_text, min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_sums_do_not_depend_on_bundles(texts, random):
    """Beam may add in any order, in any number of accumulators, compacted at any time."""
    combine = SumCounts()
    accumulators = [combine.create_accumulator() for _ in range(3)]
    shuffled = random.sample(texts, len(texts))
    for text in shuffled:
        chosen = random.randrange(3)
        added = combine.add_input(accumulators[chosen], count(text, lower_case=True))
        accumulators[chosen] = combine.compact(added) if random.random() < 0.5 else added
    total = combine.extract_output(combine.merge_accumulators(accumulators))
    assert spelt_out(total) == reference("\n".join(texts), lower_case=True)


def test_pending_counts_are_summed_before_they_fill_the_memory(monkeypatch):
    monkeypatch.setattr("query_builder.build.PENDING_ENTRIES", 100)
    combine = SumCounts()
    pending = combine.create_accumulator()
    part = count(" ".join(f"w{i}" for i in range(100)), lower_case=True)
    longest = 0
    for _ in range(50):
        pending = combine.add_input(pending, part)
        longest = max(longest, len(pending))
    assert longest <= 3
    assert set(spelt_out(combine.extract_output(pending))[0].values()) == {50}


def test_partition_is_a_function_of_the_word():
    first = partition(count("alpha beta gamma", lower_case=True), PARTITIONS)
    second = partition(count("gamma delta alpha", lower_case=True), PARTITIONS)
    place = [
        {word: i for i, part in enumerate(parts) for word in spelt_out(part)[0]}
        for parts in (first, second)
    ]
    assert {word: place[0][word] for word in ("alpha", "gamma")}.items() <= place[1].items()
