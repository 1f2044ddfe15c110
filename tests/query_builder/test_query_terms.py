"""Selection: PMI by hand, thresholds, order of kinds, ties, and the tally of it all."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from query_builder.counts import count, merge, partition
from query_builder.names import TITLES
from query_builder.settings import BigramSettings, QuerySettings, ShareSettings
from query_builder.terms import npmi, pmi, prune, select
from workers.base.contracts import QUERIES
from workers.base.tally import Tally


def settings_with(
    min_count: int = 1, bigram_count: int = 1, min_pmi: float = -99.0, **options: Any
) -> QuerySettings:
    bigrams = BigramSettings(min_count=bigram_count, min_pmi=min_pmi)
    return QuerySettings(min_count=min_count, **{"bigrams": bigrams, **options})


def title_table(titles: Mapping[str, int] | Iterable[str]) -> pa.Table:
    """Titles with their views, or without."""
    views = list(titles.values()) if isinstance(titles, Mapping) else [None] * len(list(titles))
    return pa.table([list(titles), views], schema=TITLES)


def select_from(
    text: str,
    settings: QuerySettings,
    titles: Mapping[str, int] | Iterable[str] = (),
    lemmas: Iterable[str] = (),
    partitions: int = 3,
) -> tuple[dict[str, dict[str, Any]], Tally]:
    parts = partition(count(text, lower_case=settings.lower_case), partitions)
    pruned = [prune(part, settings) for part in parts]
    table, tally = select(pruned, title_table(titles), lemmas, settings)
    tally.check()
    assert table.schema == QUERIES
    assert table["query_id"].to_pylist() == list(range(len(table)))
    queries = table["query"].to_pylist()
    assert queries == sorted(queries, key=str.encode)
    return {row["query"]: row for row in table.to_pylist()}, tally


def test_pmi_of_shares():
    both, left, right = (np.array([share]) for share in (0.25, 0.25, 0.25))
    assert pmi(both, left, right)[0] == 2.0  # 4 times more often than 1 in 16: 2 bits


def test_npmi_is_one_for_words_that_are_never_apart_and_zero_by_chance():
    shares = np.array([0.25, 0.5, 1.0])
    assert npmi(shares, shares, shares).tolist() == [1, 1, 1]
    assert npmi(np.array([0.25]), np.array([0.5]), np.array([0.5]))[0] == 0
    assert npmi(np.array([2**-20]), np.array([0.9]), np.array([0.9]))[0] < -0.95


def test_pmi_by_hand():
    # 7 words: new 3, york 2, day 2. 4 bigrams: "new york" twice, "york day", "new day".
    rows, _ = select_from("new york, new york day. new day", settings_with())
    assert rows["new york"]["count"] == 2
    assert rows["new york"]["pmi"] == pytest.approx(math.log2((2 / 4) / ((3 / 7) * (2 / 7))))
    assert rows["york day"]["pmi"] == pytest.approx(math.log2((1 / 4) / ((2 / 7) * (2 / 7))))
    assert rows["york day"]["npmi"] == pytest.approx(math.log2((1 / 7) * 49 / 4) / math.log2(7))
    assert rows["new"] == {
        "query_id": 1, "query": "new", "kind": "word", "count": 3, "pmi": None, "npmi": None,
        "views": None,
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


def test_npmi_can_rank_and_choose_in_place_of_pmi():
    # Both are never apart: an NPMI of 1, and the more frequent one comes first.
    text = "rare pair. " + "hong kong. " * 8 + "the " * 30
    ranked = {}
    for measure in ("pmi", "npmi"):
        bigrams = BigramSettings(min_count=1, measure=measure, min_pmi=-99, min_npmi=-1)
        shares = ShareSettings(word=0, bigram=1, title=0, synset=0)
        settings = QuerySettings(min_count=1, max_queries=1, bigrams=bigrams, shares=shares)
        (ranked[measure],), _ = select_from(text, settings)
    assert ranked == {"pmi": "rare pair", "npmi": "hong kong"}
    bigrams = BigramSettings(min_count=1, measure="npmi", min_pmi=99, min_npmi=0.95)
    rows, tally = select_from(text, settings_with(bigrams=bigrams))
    assert {query for query, row in rows.items() if row["kind"] == "bigram"} == {
        "rare pair",
        "hong kong",
    }
    assert tally.rejected == {"bigram_below_min_npmi": 1}


def test_a_term_is_there_once_in_the_order_word_bigram_title_synset():
    titles = ["Paris", "New York", "Paris (mythology)", "Berlin", "Berlin (Band)", "Berlin", "!?"]
    lemmas = ["Paris", "paris", "New York", "Berlin", "Paris Green", "..."]
    rows, tally = select_from("new york paris", settings_with(), titles, lemmas)
    assert rows["paris"]["kind"] == "word"
    assert rows["new york"]["kind"] == "bigram"
    assert rows["berlin"]["kind"] == "title"
    assert rows["berlin"]["count"] is None
    assert rows["paris green"]["kind"] == "synset"
    assert tally.rejected == {
        "title_already_word": 2,
        "title_already_bigram": 1,
        "title_already_title": 2,
        "title_without_word": 1,
        "synset_already_word": 1,
        "synset_already_bigram": 1,
        "synset_already_title": 1,
        "synset_without_word": 1,
    }
    (sample,) = tally.samples["synset_already_title"].values()
    assert sample["query"] == "berlin"
    assert sample["kind"] == "synset"
    assert sample["kept_as"] == "title"


def test_titles_and_synsets_are_without_what_nobody_sees():
    titles = ["Auto\u00admobil", "\u200eZero\u200bwidth", "\u2764\ufe0f"]
    rows, tally = select_from("", settings_with(), titles, ["soft\u00adware"])
    assert list(rows) == ["automobil", "software", "zerowidth"]
    assert tally.rejected == {"title_without_word": 1}


def test_titles_need_views_where_views_are_known():
    titles = {"Cat": 70, "Dog": 69, "Mercury (planet)": 900, "Mercury (element)": 90, "?": 99}
    rows, tally = select_from("", settings_with(min_views=70), titles)
    assert {query: row["views"] for query, row in rows.items()} == {"cat": 70, "mercury": 900}
    assert tally.rejected == {
        "title_below_min_views": 1,
        "title_already_title": 1,
        "title_without_word": 1,
    }
    assert tally.samples["title_below_min_views"].popitem()[1]["views"] == 69


def test_case_can_be_kept():
    rows, _ = select_from("New new", settings_with(lower_case=False), ["Old (thing)"], ["Thing"])
    assert set(rows) == {"New", "new", "New new", "Old", "Thing"}


def test_nothing_in_gives_an_empty_list():
    rows, tally = select_from("", settings_with())
    assert rows == {}
    assert tally.rows_in == 0


PAGES = ["a b c", "b c. a", "c c c\na b", "d", "A B", ""]


@hypothesis_settings(deadline=None, max_examples=40)
@given(
    st.lists(st.sampled_from(PAGES), max_size=8),
    st.lists(st.sampled_from(PAGES)),
    st.integers(1, 4),
    st.integers(1, 12),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_the_result_depends_on_the_input_alone(pages, lemmas, partitions, cap, viewed, random):
    settings = settings_with(bigram_count=2, max_queries=cap, min_views=3)
    views = {page: len(page) for page in pages}
    titles: Any = views if viewed else pages
    expected = select_from("\n".join(pages), settings, titles, lemmas)
    shuffled = random.sample(pages, len(pages))
    counted = [partition(count(page, lower_case=True), partitions) for page in ["", *shuffled]]
    parts = [prune(merge(same), settings) for same in zip(*counted, strict=True)]
    titles = {page: views[page] for page in dict.fromkeys(shuffled)} if viewed else shuffled
    table, tally = select(
        random.sample(parts, len(parts)),
        title_table(titles),
        random.sample(lemmas, len(lemmas)),
        settings,
    )
    assert ({row["query"]: row for row in table.to_pylist()}, tally) == expected
