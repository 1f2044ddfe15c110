"""Which candidates get the places of the query list: each term once, each source its share."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from query_builder.rejections import reject
from query_builder.settings import KINDS, QuerySettings
from workers.base.tally import Tally


def fill(candidates: Mapping[str, pa.Table], settings: QuerySettings, tally: Tally) -> pa.Table:
    """The query list, in no particular order.

    ``candidates`` has a table for each of ``KINDS``, best first, all with the same columns. A
    term that several sources have is a candidate of the first. Those that are not chosen are
    rejected in ``tally``.
    """
    terms = pa.concat_tables([candidates[kind] for kind in KINDS])
    distinct = _first_of_each(terms, tally)
    of_kind = {kind: distinct.filter(pc.field("kind") == kind) for kind in KINDS}
    places = allot({kind: len(rows) for kind, rows in of_kind.items()}, settings)
    for kind in KINDS:
        over = of_kind[kind].slice(places[kind])
        reject(tally, f"{kind}_over_max_queries", over, by=_rank(kind), note={"kind": kind})
    return pa.concat_tables([of_kind[kind].slice(0, places[kind]) for kind in KINDS])


def allot(available: Mapping[str, int], settings: QuerySettings) -> dict[str, int]:
    """How many of the ``available`` candidates of each kind get a place.

    Each kind fills its share, rounded down, as far as it can. The places that are left go to
    the kinds that have more candidates, in the order of ``KINDS``.
    """
    own = {kind: int(settings.shares.exact(kind) * settings.max_queries) for kind in KINDS}
    places = {kind: min(available[kind], own[kind]) for kind in KINDS}
    for kind in KINDS:
        left = settings.max_queries - sum(places.values())
        places[kind] += min(left, available[kind] - places[kind])
    return places


def _rank(kind: str) -> str:
    return "views" if kind == "title" else "count"


def _first_of_each(terms: pa.Table, tally: Tally) -> pa.Table:
    """The first of each term, in the same order; the others are rejected."""
    ids = terms["query"].combine_chunks().dictionary_encode().indices.to_numpy()
    first, of_id = np.unique(ids, return_index=True)[1], ids
    is_first = np.zeros(len(terms), bool)
    is_first[first] = True
    kept_as = terms["kind"].take(pa.array(first[of_id])) if len(terms) else terms["kind"]
    again = terms.append_column("kept_as", kept_as).filter(pa.array(~is_first))
    for kind in KINDS:
        for kept in KINDS:
            same = again.filter((pc.field("kind") == kind) & (pc.field("kept_as") == kept))
            reject(tally, f"{kind}_already_{kept}", same, by=_rank(kind), note={"kind": kind})
    return terms.filter(pa.array(is_first))
