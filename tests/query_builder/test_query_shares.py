"""The places of the list: the cap, each source's share, and one fate for every candidate."""

from collections import Counter
from collections.abc import Mapping, Sequence

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import ValidationError

from query_builder.settings import KINDS, QuerySettings, ShareSettings
from query_builder.shares import allot, fill
from workers.base.tally import Tally


def settings_with(max_queries: int, **shares: float) -> QuerySettings:
    given = {**dict.fromkeys(KINDS, 0.0), **shares}
    return QuerySettings(max_queries=max_queries, shares=ShareSettings(**given))


def candidates(terms: Mapping[str, Sequence[str]]) -> dict[str, pa.Table]:
    def table(kind: str) -> pa.Table:
        names = pa.array(terms.get(kind, []), pa.string())
        kinds = pa.array([kind] * len(names), pa.string())
        nothing = pa.nulls(len(names), pa.int64())
        return pa.table({"query": names, "kind": kinds, "count": nothing, "views": nothing})

    return {kind: table(kind) for kind in KINDS}


def test_each_kind_has_its_share_and_what_is_left_goes_on_in_order():
    settings = settings_with(100, word=0.5, bigram=0.2, title=0.1, synset=0.2)
    plenty = dict.fromkeys(KINDS, 1_000)
    assert allot(plenty, settings) == {"word": 50, "bigram": 20, "title": 10, "synset": 20}
    # Words leave 45 places: bigrams have use for 5 of them, titles for the rest.
    some = {"word": 5, "bigram": 25, "title": 1_000, "synset": 1_000}
    assert allot(some, settings) == {"word": 5, "bigram": 25, "title": 50, "synset": 20}


def test_without_shares_words_come_first_then_bigrams_titles_and_synsets():
    available = {"word": 3, "bigram": 2, "title": 9, "synset": 9}
    places = allot(available, settings_with(7))
    assert places == {"word": 3, "bigram": 2, "title": 2, "synset": 0}


def test_shares_are_the_decimals_that_were_written():
    places = allot(dict.fromkeys(KINDS, 1_000), settings_with(100, bigram=0.29, synset=0.71))
    assert places == {"word": 0, "bigram": 29, "title": 0, "synset": 71}  # 0.29 * 100 < 29
    assert ShareSettings(word=0.1, bigram=0.2, title=0.3, synset=0.4).exact("title") * 10 == 3


def test_shares_over_all_are_refused_and_told():
    with pytest.raises(ValidationError, match=r"add up to 1\.375, and 1 is all of the list"):
        ShareSettings(word=0.875)
    with pytest.raises(ValidationError, match="less than or equal to 1"):
        ShareSettings(word=1.5)


def test_the_best_of_each_kind_are_chosen_and_the_others_accounted_for():
    terms = {"word": ["w1", "w2", "w3"], "title": ["t1", "w2", "t2"], "synset": ["t1", "s1"]}
    tally = Tally()
    chosen = fill(
        candidates(terms), settings_with(3, word=0.34, title=0.34, synset=0.34 - 0.02), tally
    )
    assert chosen["query"].to_pylist() == ["w1", "w2", "t1"]
    assert tally.rejected == {
        "word_over_max_queries": 1,
        "title_already_word": 1,
        "title_over_max_queries": 1,
        "synset_already_title": 1,
        "synset_over_max_queries": 1,
    }


TERMS = st.lists(st.sampled_from([f"t{i}" for i in range(12)]), max_size=15)
TENTHS = st.lists(st.integers(0, 10), min_size=4, max_size=4).filter(lambda t: sum(t) <= 10)


@hypothesis_settings(deadline=None, max_examples=80)
@given(st.fixed_dictionaries(dict.fromkeys(KINDS, TERMS)), TENTHS, st.integers(1, 60))
def test_cap_shares_and_fates(terms, tenths, cap):
    shares = {kind: tenth / 10 for kind, tenth in zip(KINDS, tenths, strict=True)}
    tally = Tally()
    chosen = fill(candidates(terms), settings_with(cap, **shares), tally)
    queries, kinds = chosen["query"].to_pylist(), chosen["kind"].to_pylist()

    distinct = {term for kind in KINDS for term in terms[kind]}
    assert len(queries) == min(cap, len(distinct))  # never more, and no place is left empty
    assert len(set(queries)) == len(queries)

    own = {term: kind for kind in reversed(KINDS) for term in terms[kind]}
    assert all(own[query] == kind for query, kind in zip(queries, kinds, strict=True))
    places, available = Counter(kinds), Counter(own.values())
    for kind, tenth in zip(KINDS, tenths, strict=True):
        assert places[kind] >= min(available[kind], tenth * cap // 10)
        best = [term for term in dict.fromkeys(terms[kind]) if own[term] == kind]
        assert [query for query in queries if own[query] == kind] == best[: places[kind]]

    # Every candidate has exactly one fate.
    fates = Counter(reason.partition("_")[0] for reason in tally.rejected.elements())
    for kind in KINDS:
        assert places[kind] + fates[kind] == len(terms[kind])
    assert tally.rows_in == tally.rejected.total()
