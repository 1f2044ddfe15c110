"""Balancing: which of the pairs that match frequent queries stay. Two policies, by name.

``cap``, CLIP's rule: at most t pairs a query. A query keeps the t pairs with the smallest draws
among those that match it. A pair stays if any of its queries keeps it, and its ``query_ids`` are
then only the queries that keep it, so no query is ever listed by more than t pairs.

``metaclip``, MetaCLIP's rule: each query flips a coin for each pair that matches it, heads with
p = min(1, t / count of the query), and a pair stays if any coin shows heads: with probability
1 - prod(1 - p). Its ``query_ids`` are all queries that it matches, so t is no cap: a frequent
query is also listed by pairs that its neighbours kept. Only whether a pair stays can be seen, not
the coins, so one draw, kept if it is below that probability, is the same distribution.

A pair has one draw, a hash of the seed and its pair_id. So nothing depends on order, on sharding
or on which machine does it, and the pairs of a smaller t are among those of a larger one.

Either way a query comes down to one number, small enough to send to every worker: no join. The
t smallest draws are those below the (t+1)-th. If two pairs of a query have equal draws on both
sides of it (once in 2^53), both go: the cap holds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from workers.base.arrays import Bools, Float64s, Int64s
from workers.base.tally import LostRowsError
from workers.pairs.query_draws import QueryCounts, QueryDraws, join, places


@dataclass(frozen=True)
class QueryLimits:
    """What a policy decided for some queries."""

    queries: Int64s  # distinct, sorted
    counts: Int64s  # pairs that match queries[i], before balancing
    limits: Float64s  # cap: draws must be below it, infinite within the cap; metaclip: p

    @classmethod
    def join(cls, parts: Sequence[QueryLimits]) -> QueryLimits:
        """Those of queries that no two parts share."""
        queries = join(part.queries for part in parts)
        order = np.argsort(queries)
        counts = join(part.counts for part in parts)
        limits = np.concatenate([np.empty(0), *(part.limits for part in parts)])
        return cls(queries[order], counts[order], limits[order])

    def of(self, queries: Int64s) -> Float64s:
        return self.limits[places(self.queries, queries)]


@dataclass(frozen=True)
class Policy(ABC):
    """A rule of balancing with its t."""

    pairs_per_query: int

    #: Why a pair goes, as the tally names it.
    reason: ClassVar[str]

    @property
    @abstractmethod
    def draws_needed(self) -> int:
        """How many of the smallest draws of a query decide its limit; 0: its count alone does."""

    #: The limit of a query all of whose pairs stay.
    no_limit: ClassVar[float]

    def needs_draws(self, known: QueryCounts) -> Bools:
        """For each query with its count whether its smallest draws decide its limit."""
        over: Bools = known.counts >= max(1, self.draws_needed)
        return over & (self.draws_needed > 0)

    @abstractmethod
    def limits_by_count(self, known: QueryCounts) -> QueryLimits:
        """The limits of the queries whose count alone decides."""

    @abstractmethod
    def limits_by_draw(self, known: QueryCounts, smallest: QueryDraws) -> QueryLimits:
        """Those of the others, from all their counts and ``draws_needed`` draws of each."""

    @abstractmethod
    def keeps(self, limits: QueryLimits, rows: Int64s, queries: Int64s, draws: Float64s) -> Bools:
        """For each (row of a pair, query that it matches, the pair's draw): whether it stays.

        ``rows`` is sorted. A pair whose matches all go is dropped. The draw of a pair without a
        limited query does not matter.
        """


class Cap(Policy):
    reason = "over_cap"
    no_limit = np.inf

    @property
    def draws_needed(self) -> int:
        return self.pairs_per_query + 1

    def limits_by_count(self, known: QueryCounts) -> QueryLimits:
        few = ~self.needs_draws(known)
        limits = np.full(few.sum(), np.inf)
        return QueryLimits(known.queries[few], known.counts[few], limits)

    def limits_by_draw(self, known: QueryCounts, smallest: QueryDraws) -> QueryLimits:
        over = self.needs_draws(known)
        queries = known.queries[over]
        draws = smallest.of(queries).draws
        if len(draws) != len(queries) * self.draws_needed:
            raise LostRowsError(f"{len(queries)} queries have {len(draws)} draws")
        limits = draws[self.pairs_per_query :: self.draws_needed]
        return QueryLimits(queries, known.counts[over], limits)

    def keeps(
        self,
        limits: QueryLimits,
        rows: Int64s,  # noqa: ARG002
        queries: Int64s,
        draws: Float64s,
    ) -> Bools:
        below: Bools = draws < limits.of(queries)
        return below


class MetaClip(Policy):
    reason = "not_drawn"
    no_limit = 1.0

    @property
    def draws_needed(self) -> int:
        return 0

    def limits_by_count(self, known: QueryCounts) -> QueryLimits:
        p = np.minimum(1.0, self.pairs_per_query / known.counts)
        return QueryLimits(known.queries, known.counts, p)

    def limits_by_draw(self, known: QueryCounts, smallest: QueryDraws) -> QueryLimits:  # noqa: ARG002
        return QueryLimits.join([])

    def keeps(self, limits: QueryLimits, rows: Int64s, queries: Int64s, draws: Float64s) -> Bools:
        if not len(rows):
            return np.zeros(0, bool)
        changes = np.diff(rows, prepend=rows[0] - 1) != 0
        # A product, query by query: exact to the bit on every machine, which logarithms are not.
        tails = np.multiply.reduceat(1.0 - limits.of(queries), np.flatnonzero(changes))
        below: Bools = draws < (1.0 - tails)[np.cumsum(changes) - 1]
        return below


POLICIES: dict[str, type[Policy]] = {"cap": Cap, "metaclip": MetaClip}
