from __future__ import annotations

import math
import random
from collections import Counter, defaultdict

import numpy as np
import pyarrow as pa
from hypothesis import example, given, settings
from hypothesis import strategies as st

from workers.base import contracts
from workers.base.sampling import draw
from workers.pairs.balance import POLICIES, Cap, MetaClip, Policy, QueryLimits
from workers.pairs.pipeline import counts_of_shard, draws_of_shard
from workers.pairs.query_draws import (
    QueryDraws,
    SmallestDraws,
    bucket_counts,
    bucket_matches,
    count,
    places,
)
from workers.pairs.tables import ShardTable
from workers.pairs.writer import balance

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


def merged(elements: list[tuple[int, QueryDraws]], limit: int) -> list[QueryDraws]:
    """What the CombineFn makes of (bucket, part), each part in an accumulator of its own."""
    combine = SmallestDraws(limit)
    accumulators = defaultdict(list)
    for bucket, part in elements:
        accumulators[bucket].append(combine.add_input(combine.create_accumulator(), part))
    whole = [combine.merge_accumulators(some) for some in accumulators.values()]
    return [combine.extract_output(some) for some in whole]


def combined(pairs: Pairs, policy: Policy, parts: int, buckets: int = 2) -> QueryLimits:
    """The limits as the pipeline makes them, the pairs dealt to ``parts`` shards."""
    dealt = [{n: pair for n, pair in pairs.items() if n % parts == part} for part in range(parts)]
    shards = [matches(mine)[1:] for mine in dealt]
    counted = merged([one for ids, _ in shards for one in bucket_counts(ids, buckets)], 0)
    over = [known.queries[policy.needs_draws(known)] for known in counted]
    elements = []
    for queries, draws in shards:
        needed = np.isin(queries, np.concatenate([[], *over]))
        some = queries[needed], draws[needed], buckets, policy.draws_needed
        elements += bucket_matches(*some)
    by_draw = map(policy.limits, merged(elements, policy.draws_needed))
    return QueryLimits.join([*map(policy.limits_by_count, counted), *by_draw])


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


@given(st.lists(st.integers(-3, 2**31 - 1) | st.integers(0, 50)))
def test_counts_and_places_of_ids_however_large(ids):
    queries = np.array(ids, np.int64)
    distinct, counts = count(queries)
    assert dict(zip(distinct.tolist(), counts.tolist(), strict=True)) == Counter(ids)
    assert distinct.tolist() == sorted(set(ids))
    assert distinct[places(distinct, queries)].tolist() == ids


def test_only_draws_that_decide_are_sent():
    """Three queries, one of them with more pairs than may stay."""
    rows = [
        {"pair_id": f"{n:032x}", "url": "u", "caption": "c", "source": "s", "query_ids": ids}
        for n, ids in enumerate([[1], [1, 2], [2], [2], [3]])
    ]
    table = pa.Table.from_pylist(rows, contracts.PAIRS)
    shard, policy = ShardTable(0, table), Cap(2)
    counted = merged(counts_of_shard(shard), 0)
    elements = draws_of_shard(shard, counted, policy, 0)
    assert [part.draw_queries.tolist() for _, part in elements] == [[2, 2, 2]]
    by_draw = map(policy.limits, merged(elements, policy.draws_needed))
    limits = QueryLimits.join([*map(policy.limits_by_count, counted), *by_draw])
    assert limits.queries.tolist() == [1, 2, 3]
    assert np.isinf(limits.limits).tolist() == [True, False, True]
    kept, tally = balance(table, policy, limits, 0)
    assert sum(2 in ids for ids in kept["query_ids"].to_pylist()) == 2
    assert tally.counts()["in"] == 5
