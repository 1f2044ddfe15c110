"""Selection: PMI by hand, order of kinds, ties, the cap, and the account of it all."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from query_builder.counts import count, merge, partition
from query_builder.settings import BigramSettings, QuerySettings
from query_builder.terms import pmi, prune, select
from workers.contracts import QUERIES
from workers.tally import Tally


def settings_with(
    min_count: int = 1, bigram_count: int = 1, min_pmi: float = -99.0, **options: Any
) -> QuerySettings:
    bigrams = BigramSettings(min_count=bigram_count, min_pmi=min_pmi)
    return QuerySettings(min_count=min_count, bigrams=bigrams, **options)


def select_from(
    text: str, settings: QuerySettings, titles: Iterable[str] = (), partitions: int = 3
) -> tuple[dict[str, dict[str, Any]], Tally]:
    parts = partition(count(text, lower_case=settings.lower_case), partitions)
    table, tally = select([prune(part, settings) for part in parts], titles, settings)
    tally.check()
    assert table.schema == QUERIES
    assert table["query_id"].to_pylist() == list(range(len(table)))
    queries = table["query"].to_pylist()
    assert queries == sorted(queries, key=str.encode)
    return {row["query"]: row for row in table.to_pylist()}, tally


def test_pmi_of_shares():
    both, left, right = (np.array([share]) for share in (0.25, 0.25, 0.25))
    assert pmi(both, left, right)[0] == 2.0  # 4 times more often than 1 in 16: 2 bits


def test_pmi_by_hand():
    # 7 words: new 3, york 2, day 2. 4 bigrams: "new york" twice, "york day", "new day".
    rows, _ = select_from("new york, new york day. new day", settings_with())
    assert rows["new york"]["count"] == 2
    assert rows["new york"]["pmi"] == pytest.approx(math.log2((2 / 4) / ((3 / 7) * (2 / 7))))
    assert rows["york day"]["pmi"] == pytest.approx(math.log2((1 / 4) / ((2 / 7) * (2 / 7))))
    assert rows["new"] == {
        "query_id": 1, "query": "new", "kind": "word", "count": 3, "pmi": None, "views": None,
    }  # fmt: skip


def test_rare_words_still_count_in_the_pmi_of_their_bigrams():
    text = "a b. a b. c"
    rows, tally = select_from(text, settings_with(min_count=3, bigram_count=2))
    assert list(rows) == ["a b"]
    assert rows["a b"]["pmi"] == pytest.approx(math.log2(1 / ((2 / 5) * (2 / 5))))
    assert tally.rejected == {"word_below_min_count": 3}


def test_thresholds_and_reasons():
    text = "the cat. " * 4 + "the dog. the end. " + "the " * 8 + "\n" + "big end"
    rows, tally = select_from(text, settings_with(min_count=2, bigram_count=2, min_pmi=1.0))
    assert set(rows) == {"the", "cat", "end", "the cat"}
    assert tally.rejected["bigram_below_min_pmi"] == 1  # "the the"
    assert tally.rejected["word_below_min_count"] == 2  # dog, big
    assert tally.samples["bigram_below_min_pmi"].popitem()[1]["query"] == "the the"


def test_a_term_is_there_once_in_the_order_word_bigram_title():
    titles = ["Paris", "New York", "Paris (mythology)", "Berlin", "Berlin (Band)", "Berlin", "!?"]
    rows, tally = select_from("new york paris", settings_with(), titles)
    assert rows["paris"]["kind"] == "word"
    assert rows["new york"]["kind"] == "bigram"
    assert rows["berlin"]["kind"] == "title"
    assert rows["berlin"]["count"] is None
    assert tally.rejected == {"duplicate": 5, "title_without_word": 1}


def test_case_can_be_kept():
    rows, _ = select_from("New new", settings_with(lower_case=False), ["Old (thing)"])
    assert set(rows) == {"New", "new", "New new", "Old"}


def test_cap_takes_words_then_bigrams_then_titles_and_settles_ties_by_name():
    text = "b a. c a"
    titles = ["z", "y"]
    for cap, expected in [(1, {"a"}), (2, {"a", "b"}), (4, {"a", "b", "c", "b a"})]:
        rows, tally = select_from(text, settings_with(max_queries=cap), titles)
        assert set(rows) == expected
        assert tally.kept == cap
    assert tally.rejected == {"bigram_over_max_queries": 1, "title_over_max_queries": 2}
    assert [row["query"] for row in tally.samples["title_over_max_queries"].values()] == ["y", "z"]


def test_nothing_in_gives_an_empty_list():
    rows, tally = select_from("", settings_with())
    assert rows == {}
    assert tally.rows_in == 0


@hypothesis_settings(deadline=None, max_examples=40)
@given(
    st.lists(st.sampled_from(["a b c", "b c. a", "c c c\na b", "d", "A B", ""]), max_size=8),
    st.integers(1, 4),
    st.integers(1, 12),
    st.randoms(use_true_random=False),
)
def test_the_result_depends_on_the_pages_alone(pages, partitions, cap, random):
    settings = settings_with(bigram_count=2, max_queries=cap)
    expected = select_from("\n".join(pages), settings, pages)
    shuffled = random.sample(pages, len(pages))
    counted = [partition(count(page, lower_case=True), partitions) for page in ["", *shuffled]]
    parts = [prune(merge(same), settings) for same in zip(*counted, strict=True)]
    table, tally = select(random.sample(parts, len(parts)), shuffled, settings)
    assert ({row["query"]: row for row in table.to_pylist()}, tally) == expected
