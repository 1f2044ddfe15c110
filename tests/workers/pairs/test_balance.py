from __future__ import annotations

import hashlib
import math
import random
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.workers.pairs.local_build import limits_in_files
from workers.base import contracts
from workers.base.sampling import draw
from workers.base.tally import LostRowsError
from workers.pairs.balance import POLICIES, Cap, MetaClip, Policy, QueryLimits
from workers.pairs.candidates import Candidates
from workers.pairs.query_draws import QueryCounts, QueryDraws, count, places
from workers.pairs.tables import id_ranges
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


def combined(pairs: Pairs, policy: Policy, parts: int) -> QueryLimits:
    """The limits as the passes make them, the pairs dealt to ``parts`` ranges."""
    dealt = [{n: pair for n, pair in pairs.items() if n % parts == part} for part in range(parts)]
    ranges = [matches(mine)[1:] for mine in dealt]
    known = QueryCounts.total(QueryCounts.of(queries) for queries, _ in ranges)
    over = known.queries[policy.needs_draws(known)]
    given = [
        QueryDraws.smallest(queries[mine], draws[mine], policy.draws_needed)
        for queries, draws in ranges
        for mine in [np.isin(queries, over)]
    ]
    queries = np.concatenate([part.queries for part in given])
    draws = np.concatenate([part.draws for part in given])
    smallest = QueryDraws.smallest(queries, draws, policy.draws_needed)
    by_draw = policy.limits_by_draw(known, smallest)
    return QueryLimits.join([policy.limits_by_count(known), by_draw])


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


@given(st.lists(st.integers(-3, 2**31 - 1) | st.integers(0, 50)))
def test_counts_and_places_of_ids_however_large(ids):
    queries = np.array(ids, np.int64)
    distinct, counts = count(queries)
    assert dict(zip(distinct.tolist(), counts.tolist(), strict=True)) == Counter(ids)
    assert distinct.tolist() == sorted(set(ids))
    assert distinct[places(distinct, queries)].tolist() == ids


def write_candidates(path: Path, rows: Sequence[Sequence[int]]) -> Candidates:
    """Candidates with these queries, each a pair of its own."""
    numbers = [{"pair_id": draw_id(n), "query_ids": ids} for n, ids in enumerate(rows)]
    whole = [row | {"url": "u", "caption": "c", "source": "s"} for row in numbers]
    table = pa.Table.from_pylist(whole, contracts.PAIRS).sort_by("pair_id")
    pq.write_table(table, path)
    return Candidates((path,))


def draw_id(number: int) -> str:
    return hashlib.blake2b(str(number).encode(), digest_size=16).hexdigest()


def test_only_draws_that_decide_are_written(tmp_path):
    """Three queries, one of them with more pairs than may stay."""
    candidates = write_candidates(tmp_path / "c", [[1], [1, 2], [2], [2], [3]])
    policy = Cap(2)
    _, limits = limits_in_files(tmp_path, candidates, id_ranges(3), policy, 7)
    drawn = [pq.read_table(tmp_path / f"draws-{n}")["query_id"].to_pylist() for n in range(3)]
    assert sorted(chain.from_iterable(drawn)) == [2, 2, 2]
    assert limits.queries.tolist() == [1, 2, 3]
    assert np.isinf(limits.limits).tolist() == [True, False, True]
    table = pq.read_table(tmp_path / "c")
    kept, dropped = balance(table, policy, limits, 7)
    assert sum(2 in ids for ids in kept["query_ids"].to_pylist()) == 2
    assert len(kept) + len(dropped) == 5


def test_few_draws_of_many_are_written_and_the_limits_are_the_same(tmp_path, monkeypatch):
    """20,000 pairs of one query and 10,000 of two others, of which 50 may stay."""
    rows = [[1, 2, 5] if n % 2 else [1] for n in range(20_000)]
    candidates = write_candidates(tmp_path / "c", rows)
    monkeypatch.setattr("workers.pairs.query_limits._DRAWS_TOGETHER", 300)
    _, limits = limits_in_files(tmp_path, candidates, id_ranges(3), Cap(50), 7)
    drawn = sum(pq.read_metadata(tmp_path / f"draws-{n}").num_rows for n in range(3))
    assert 153 <= drawn < 600
    assert limits.queries.tolist() == [1, 2, 5]
    assert len([*tmp_path.glob("limits-*")]) == 2
    ids = pq.read_table(tmp_path / "c")
    for query, limit in zip(limits.queries, limits.limits, strict=True):
        mine = [
            p
            for p, q in zip(*(ids[n].to_pylist() for n in ("pair_id", "query_ids")), strict=True)
            if query in q
        ]
        assert limit == sorted(draw(7, one) for one in mine)[50]


def test_too_few_draws_are_an_error():
    known = QueryCounts(np.array([1]), np.array([5]))
    with pytest.raises(LostRowsError):
        Cap(2).limits_by_draw(known, QueryDraws(np.array([1, 1]), np.array([0.1, 0.2])))
