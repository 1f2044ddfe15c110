"""Words and counts: the word rule against a regular expression, sums against a Counter."""

from collections import Counter
from itertools import pairwise

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from query_builder.counts import Counter as TermCounter
from query_builder.counts import Counts, count, merge, partition

#: What nobody sees: it is taken out of the reference's text before.
UNSEEN = regex.compile(r"[\p{Default_Ignorable_Code_Point}&&\p{Cf}]|[\ufe00-\ufe0f]", regex.V1)
WORD = regex.compile(r"[\p{L}\p{M}\p{N}]+(?:['’‐‑\-\u200c\u200d][\p{L}\p{M}\p{N}]+)*")
SPACES = regex.compile(r"[\t\p{Zs}]+")

some_text = st.text(
    st.sampled_from("abcÉßİΣσ’'-‐ \t\u00a0\n.,_1٣ि中𝒳\u200d\u0301\u00ad\u200b\ufe0f")
    | st.characters(exclude_categories=["Cs", "Cn"]),
    max_size=50,
)


def reference(text: str, lower_case: bool = False) -> tuple[Counter[str], Counter[str]]:
    """Words and bigrams, the slow way: one Python object a word."""
    bigrams: Counter[str] = Counter()
    text = UNSEEN.sub(lambda c: c[0] if c[0] in "\u200c\u200d" else "", text)
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
    assert len(set(zip(counts.left.tolist(), counts.right.tolist(), strict=True))) == len(
        counts.left
    )
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
        (
            "auto\u00admobil zero\u200bwidth word\u2060joiner mark\ufefford",
            ["automobil", "zerowidth", "wordjoiner", "markord"],
        ),
        (
            "\u00adsoft- well-\u00adknown don\u200b't \u200eright\u200f",
            ["soft", "well-known", "don't", "right"],
        ),
        ("\u2764\ufe0f 1\ufe0f\u20e3 \u00ad\u200b", ["1\u20e3"]),
    ],
)
def test_words(text, words):
    assert count(text, lower_case=False).words.to_pylist() == words


def test_what_nobody_sees_parts_no_neighbours():
    bigrams = spelt_out(count("new\u200b york\u00ad \ufeffcity", lower_case=True))[1]
    assert bigrams == {"new york": 1, "york city": 1}


@settings(deadline=None)
@given(some_text, st.booleans())
def test_counts_equal_the_reference(text, lower_case):
    assert spelt_out(count(text, lower_case=lower_case)) == reference(text, lower_case)


@settings(deadline=None)
@given(some_text, st.integers(1, 5))
def test_partitions_sum_to_the_whole(text, partitions):
    whole = count(text, lower_case=True)
    parts = list(partition(whole, partitions))
    assert len(parts) == partitions
    assert spelt_out(merge(parts)) == spelt_out(whole)
    counted = [word for part in parts for word in spelt_out(part)[0]]
    assert len(set(counted)) == len(counted)


def test_tables_grow_and_can_be_emptied():
    """More words, letters and bigrams than the first tables hold, twice."""
    text = " ".join(f"{'long' * (i % 50)}word{i} a{i % 1000}" for i in range(40_000))
    counter = TermCounter(lower_case=True)
    for _ in range(2):
        counter.add_text(text)
        counter.add_text(text)
        assert counter.words == 41_000
        words, bigrams = spelt_out(counter.take())
        once = reference(text)
        assert words == {word: 2 * n for word, n in once[0].items()}
        assert bigrams == {bigram: 2 * n for bigram, n in once[1].items()}
        assert len(counter.take()) == 0


def test_a_word_of_a_million_letters():
    text = f"a {'é' * 1_000_000} b"
    assert spelt_out(count(text, lower_case=True)) == reference(text)


def test_partition_is_a_function_of_the_word():
    first = list(partition(count("alpha beta gamma", lower_case=True), 16))
    second = list(partition(count("gamma delta alpha", lower_case=True), 16))
    place = [
        {word: i for i, part in enumerate(parts) for word in spelt_out(part)[0]}
        for parts in (first, second)
    ]
    assert {word: place[0][word] for word in ("alpha", "gamma")}.items() <= place[1].items()
