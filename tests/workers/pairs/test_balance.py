from __future__ import annotations

import math
import random
from collections import defaultdict

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from workers.pairs.balance import POLICIES, Cap, MetaClip, Policy, QueryLimits
from workers.pairs.query_draws import QueryDraws, SmallestDraws, bucket_matches
from workers.sampling import draw

# Pairs as {number: (draw, queries)}; few different draws, so that ties happen.
PAIRS = st.dictionaries(
    st.integers(0, 50),
    st.tuples(st.sampled_from([n / 16 for n in range(16)]), st.sets(st.integers(0, 5), min_size=1)),
    max_size=30,
)
Pairs = dict[int, tuple[float, set[int]]]


def matches(pairs: Pairs) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows = [
        (row, query, draw)
        for row, (draw, queries) in enumerate(pairs.values())
        for query in sorted(queries)
    ]
    columns = zip(*rows, strict=True) if rows else [(), (), ()]
    row, queries, draws = columns
    return np.array(row, np.int64), np.array(queries, np.int64), np.array(draws, float)


def combined(pairs: Pairs, policy: Policy, parts: int, buckets: int = 2) -> QueryLimits:
    """The limits by the CombineFn, the pairs dealt to ``parts`` shards."""
    combine = SmallestDraws(policy.draws_needed)
    accumulators = defaultdict(list)
    for part in range(parts):
        mine = {number: pair for number, pair in pairs.items() if number % parts == part}
        for bucket, draws in bucket_matches(*matches(mine)[1:], buckets, policy.draws_needed):
            empty = combine.create_accumulator()
            accumulators[bucket].append(combine.add_input(empty, draws))
    merged = [combine.merge_accumulators(some) for some in accumulators.values()]
    return QueryLimits.join([policy.limits(combine.extract_output(some)) for some in merged])


def naive(pairs: Pairs, cap: int) -> set[tuple[int, int]]:
    """(pair, query) that are kept by the definition, ties across the threshold dropped."""
    kept = set()
    for query in {query for _, queries in pairs.values() for query in queries}:
        mine = sorted((draw, number) for number, (draw, q) in pairs.items() if query in q)
        limit = mine[cap][0] if len(mine) > cap else 1.0
        kept |= {(number, query) for draw, number in mine if draw < limit}
    return kept


def kept_by(policy: Policy, pairs: Pairs, parts: int) -> set[tuple[int, int]]:
    keeps = policy.keeps(combined(pairs, policy, parts), *matches(pairs)).tolist()
    every = [(number, query) for number, (_, queries) in pairs.items() for query in sorted(queries)]
    return {row for row, keep in zip(every, keeps, strict=True) if keep}


@settings(deadline=None)
@given(PAIRS, st.integers(1, 6), st.integers(1, 5))
@example({}, 1, 1)
@example({1: (0.5, {0}), 2: (0.5, {0})}, 1, 2)
def test_cap_is_its_definition_however_the_pairs_are_dealt(pairs, cap, parts):
    assert kept_by(Cap(cap), pairs, parts) == naive(pairs, cap)


@settings(deadline=None)
@given(PAIRS, st.integers(1, 6), st.integers(1, 5))
def test_the_cap_is_never_exceeded(pairs, cap, parts):
    kept = kept_by(Cap(cap), pairs, parts)
    for query in range(6):
        count = sum(query in queries for _, queries in pairs.values())
        assert sum(q == query for _, q in kept) <= min(cap, count)


@settings(deadline=None)
@given(PAIRS, st.integers(1, 6), st.integers(1, 5))
@example({}, 1, 1)
def test_metaclip_is_its_definition_however_the_pairs_are_dealt(pairs, t, parts):
    count = {q: sum(q in queries for _, queries in pairs.values()) for q in range(6)}
    expected = set()
    for number, (draw_of_pair, queries) in pairs.items():
        none = math.prod(1 - min(1.0, t / count[query]) for query in sorted(queries))
        if draw_of_pair < 1 - none:
            expected |= {(number, query) for query in queries}
    assert kept_by(MetaClip(t), pairs, parts) == expected


@settings(deadline=None)
@given(PAIRS, st.sampled_from(sorted(POLICIES)), st.randoms())
def test_order_does_not_matter(pairs: Pairs, policy: str, order: random.Random) -> None:
    items = list(pairs.items())
    order.shuffle(items)
    rule = POLICIES[policy](2)
    one, two = combined(pairs, rule, 3), combined(dict(items), rule, 3)
    assert one.limits.tolist() == two.limits.tolist()
    assert one.counts.tolist() == two.counts.tolist()
    assert kept_by(rule, pairs, 3) == kept_by(rule, dict(items), 1)


def test_metaclip_keeps_pairs_as_often_as_its_coins_would():
    """Queries 0, 1 and 2 have 30,000, 15,000 and 7,500 pairs: p of 0.1, 0.2 and 0.4."""
    queries = [{0, *([1] if n % 2 else []), *([2] if n % 4 == 3 else [])} for n in range(30_000)]
    pairs = {n: (draw(7, n), some) for n, some in enumerate(queries)}
    kept = {number for number, _ in kept_by(MetaClip(3_000), pairs, 3)}
    for residue, chance in {0: 0.1, 1: 1 - 0.9 * 0.8, 3: 1 - 0.9 * 0.8 * 0.6}.items():
        share = sum(n % 4 == residue for n in kept) / 7_500
        assert abs(share - chance) < 0.025, "over four standard deviations"


def test_metaclip_is_no_cap_and_keeps_every_query_of_a_pair():
    rare = {n: (n / 200, {0, 1 + n}) for n in range(100)}
    assert kept_by(MetaClip(1), rare, 2) == {(n, q) for n in range(100) for q in (0, 1 + n)}
    assert sum(query == 0 for _, query in kept_by(Cap(1), rare, 2)) == 1


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
