from __future__ import annotations

import random
from collections import defaultdict

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from workers.balance import Cap, QueryDraws, SmallestDraws, bucket_matches

# Pairs as {number: (draw, queries)}; few different draws, so that ties happen.
PAIRS = st.dictionaries(
    st.integers(0, 50),
    st.tuples(st.sampled_from([n / 16 for n in range(16)]), st.sets(st.integers(0, 5), min_size=1)),
    max_size=30,
)
Pairs = dict[int, tuple[float, set[int]]]


def matches(pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
    rows = [(query, draw) for draw, queries in pairs.values() for query in sorted(queries)]
    queries = np.array([query for query, _ in rows], np.int64)
    return queries, np.array([draw for _, draw in rows], float)


def combined(pairs: Pairs, cap: int, parts: int, buckets: int = 2) -> Cap:
    """The cap by the CombineFn, the pairs dealt to ``parts`` shards."""
    combine = SmallestDraws(cap + 1)
    accumulators = defaultdict(list)
    for part in range(parts):
        mine = {number: pair for number, pair in pairs.items() if number % parts == part}
        for bucket, draws in bucket_matches(*matches(mine), buckets, cap + 1):
            empty = combine.create_accumulator()
            accumulators[bucket].append(combine.add_input(empty, draws))
    merged = [combine.merge_accumulators(some) for some in accumulators.values()]
    return Cap.join([combine.extract_output(some).capped(cap) for some in merged])


def naive(pairs: Pairs, cap: int) -> set[tuple[int, int]]:
    """(pair, query) that are kept by the definition, ties across the threshold dropped."""
    kept = set()
    for query in {query for _, queries in pairs.values() for query in queries}:
        mine = sorted((draw, number) for number, (draw, q) in pairs.items() if query in q)
        limit = mine[cap][0] if len(mine) > cap else 1.0
        kept |= {(number, query) for draw, number in mine if draw < limit}
    return kept


def kept_by(rule: Cap, pairs: Pairs) -> set[tuple[int, int]]:
    keeps = rule.keeps(*matches(pairs)).tolist()
    every = [(number, query) for number, (_, queries) in pairs.items() for query in sorted(queries)]
    return {row for row, keep in zip(every, keeps, strict=True) if keep}


@given(PAIRS, st.integers(1, 6), st.integers(1, 5))
@example({}, 1, 1)
@example({1: (0.5, {0}), 2: (0.5, {0})}, 1, 2)
def test_equal_to_the_definition_however_the_pairs_are_dealt(pairs, cap, parts):
    assert kept_by(combined(pairs, cap, parts), pairs) == naive(pairs, cap)


@given(PAIRS, st.integers(1, 6), st.integers(1, 5))
def test_the_cap_is_never_exceeded_and_never_missed_without_ties(pairs, cap, parts):
    kept = kept_by(combined(pairs, cap, parts), pairs)
    for query in range(6):
        count = sum(query in queries for _, queries in pairs.values())
        assert sum(q == query for _, q in kept) <= min(cap, count)


@given(PAIRS, st.randoms())
def test_order_does_not_matter(pairs: Pairs, order: random.Random) -> None:
    items = list(pairs.items())
    order.shuffle(items)
    one, two = combined(pairs, 2, 3), combined(dict(items), 2, 3)
    assert one.thresholds.tolist() == two.thresholds.tolist()
    assert one.counts.tolist() == two.counts.tolist()


def test_accumulators_stay_bounded():
    """However many parts are added, no more than a few times the limit is held."""
    combine = SmallestDraws(limit=10)
    parts = combine.create_accumulator()
    random_draws = np.random.default_rng(0)
    for _ in range(200):
        draws = random_draws.random(100)
        part = QueryDraws.of_matches(np.zeros(100, np.int64), draws, limit=10)
        parts = combine.add_input(parts, part)
        assert sum(len(some.draws) for some in parts) <= 160
    assert combine.extract_output(parts).counts.tolist() == [20_000]
