"""Which terms become queries: frequent words, bigrams by PMI and titles, each term once.

Every candidate ends in a ``Tally``: kept, or rejected for one reason. The sample of a reason is
its most frequent terms, the ones that came nearest.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from query_builder.counts import Counts, Ints
from query_builder.settings import QuerySettings
from workers.contracts import QUERIES
from workers.tally import SAMPLES_PER_REASON, Tally

Shares = npt.NDArray[np.float64]

_WORDS = pa.schema([("query", pa.string()), ("count", pa.int64())])
_BIGRAMS = pa.schema([*_WORDS, ("left", pa.string()), ("right", pa.string())])

#: A candidate, as it is in the query list but for its number.
_TERMS = pa.schema([field for field in QUERIES if field.name != "query_id"])

#: Greater than any count.
_DESCENDING = 10**15

_BY_COUNT = [("count", "descending"), ("query", "ascending")]

#: "Mercury (planet)": what tells articles apart is no part of the name.
_QUALIFIER = re.compile(r"(?<=\S)\s+\([^()]*\)\s*$")


@dataclass(frozen=True, slots=True)
class Frequent:
    """What is left of a partition's counts once the rare terms are gone."""

    words: pa.Table
    bigrams: pa.Table
    word_total: int  # occurrences, those of the rare words included
    bigram_total: int
    tally: Tally


def prune(counts: Counts, settings: QuerySettings) -> Frequent:
    """Drop the words and bigrams that are too rare to be queries.

    A word that is too rare to be a query itself stays if it may be in a bigram that is not:
    the bigram's PMI needs its count.
    """
    tally = Tally()
    words = pa.table([counts.words, counts.word_counts], schema=_WORDS)
    words = words.filter(pc.field("count") > 0)  # those with 0 are counted in other partitions
    rare = words.filter(pc.field("count") < settings.min_count)
    _reject(tally, "word_below_min_count", "word", rare)

    frequent = counts.bigram_counts >= settings.bigrams.min_count
    nearest = _most_frequent(counts.bigram_counts, np.flatnonzero(~frequent))
    rare = _bigrams(counts, nearest)
    _reject(tally, "bigram_below_min_count", "bigram", rare, total=int((~frequent).sum()))
    return Frequent(
        words.filter(pc.field("count") >= min(settings.min_count, settings.bigrams.min_count)),
        _bigrams(counts, np.flatnonzero(frequent)),
        int(counts.word_counts.sum()),
        int(counts.bigram_counts.sum()),
        tally,
    )


def select(
    parts: Sequence[Frequent], titles: Iterable[str], settings: QuerySettings
) -> tuple[pa.Table, Tally]:
    """The query list, sorted by query, and the account of all candidates.

    Ties are settled by the terms' own bytes, so the result depends neither on the order of
    ``parts`` nor on that of ``titles``.
    """
    tally = Tally.total(part.tally for part in parts)
    words = pa.concat_tables([_WORDS.empty_table(), *(part.words for part in parts)])
    bigrams = _with_pmi(parts, words)
    unusual = pc.field("pmi") >= settings.bigrams.min_pmi
    _reject(tally, "bigram_below_min_pmi", "bigram", bigrams.filter(~unusual))

    words = words.filter(pc.field("count") >= settings.min_count).sort_by(_BY_COUNT)
    bigrams = bigrams.filter(unusual).sort_by([("pmi", "descending"), *_BY_COUNT])
    names = pa.table({"query": _names(titles, settings, tally)}).sort_by("query")
    terms = pa.concat_tables([_as_terms(words, "word"), _as_terms(bigrams, "bigram")])
    terms = pa.concat_tables([terms, _as_terms(names, "title")])
    terms = _cap(_distinct(terms, tally), settings.max_queries, tally)
    tally.keep(len(terms))
    return _numbered(terms), tally


def pmi(both: Shares, left: Shares, right: Shares) -> npt.NDArray[np.float32]:
    """Pointwise mutual information in bits: log2(p(x y) / (p(x) p(y))).

    0 is chance; each bit more is twice as often. ``both`` are shares of all bigrams, ``left``
    and ``right`` shares of all words.
    """
    bits: npt.NDArray[np.float64] = np.log2(both / (left * right))
    return bits.astype(np.float32)


def _with_pmi(parts: Sequence[Frequent], words: pa.Table) -> pa.Table:
    """All bigrams with their PMI; ``words`` has every word that is in one."""
    bigrams = pa.concat_tables([_BIGRAMS.empty_table(), *(part.bigrams for part in parts)])
    word_total = sum(part.word_total for part in parts)
    bigram_total = sum(part.bigram_total for part in parts)

    def share(side: str) -> Shares:
        found = pc.index_in(bigrams[side], words["query"])
        counts: Ints = words["count"].take(found).to_numpy()
        return counts / max(1, word_total)

    both = bigrams["count"].to_numpy() / max(1, bigram_total)
    values = pmi(both, share("left"), share("right"))
    return bigrams.append_column("pmi", pa.array(values, pa.float32()))


def _bigrams(counts: Counts, chosen: Ints) -> pa.Table:
    """The chosen bigrams, spelt out."""
    left = counts.words.take(counts.left[chosen])
    right = counts.words.take(counts.right[chosen])
    spelt = pc.binary_join_element_wise(left, right, " ")
    return pa.table([spelt, counts.bigram_counts[chosen], left, right], schema=_BIGRAMS)


def _names(titles: Iterable[str], settings: QuerySettings, tally: Tally) -> list[str]:
    """The titles without their qualifiers; those without a letter or digit are rejected."""
    names = []
    for title in titles:
        name = " ".join(_QUALIFIER.sub("", title).replace("’", "'").split())
        if any(character.isalnum() for character in name):
            names.append(name.lower() if settings.lower_case else name)
        else:
            tally.reject("title_without_word", title, {"query": title, "kind": "title"})
    return names


def _as_terms(table: pa.Table, kind: str) -> pa.Table:
    """A kind's candidates in the common columns; what a kind does not have is null."""
    table = table.append_column("kind", pa.array([kind] * len(table), pa.string()))
    missing = [field for field in _TERMS if field.name not in table.column_names]
    for field in missing:
        table = table.append_column(field, pa.nulls(len(table), field.type))
    return table.select(_TERMS.names).cast(_TERMS)


def _distinct(terms: pa.Table, tally: Tally) -> pa.Table:
    """The first of each term, in the same order: a title that is also a word is a word."""
    ids = terms["query"].combine_chunks().dictionary_encode().indices.to_numpy()
    first = np.zeros(len(terms), bool)
    first[np.unique(ids, return_index=True)[1]] = True
    _reject(tally, "duplicate", "title", terms.filter(pa.array(~first)))
    return terms.filter(pa.array(first))


def _cap(terms: pa.Table, max_queries: int, tally: Tally) -> pa.Table:
    over = terms.slice(max_queries)
    for kind in over["kind"].unique().to_pylist():
        _reject(tally, f"{kind}_over_max_queries", kind, over.filter(pc.field("kind") == kind))
    return terms.slice(0, max_queries)


def _numbered(terms: pa.Table) -> pa.Table:
    """Sorted by the queries' bytes in UTF-8; ``query_id`` is the place."""
    terms = terms.sort_by("query").combine_chunks()
    ids = pa.array(np.arange(len(terms), dtype=np.int32))
    return pa.table([ids, *terms.columns], schema=QUERIES)


def _most_frequent(counts: Ints, candidates: Ints) -> Ints:
    """The candidates that may be in a sample: the most frequent ones and their ties."""
    if len(candidates) <= SAMPLES_PER_REASON:
        return candidates
    candidate_counts = counts[candidates]
    threshold = np.partition(candidate_counts, -SAMPLES_PER_REASON)[-SAMPLES_PER_REASON]
    chosen: Ints = candidates[candidate_counts >= threshold]
    return chosen


def _reject(
    tally: Tally, reason: str, kind: str, terms: pa.Table, total: int | None = None
) -> None:
    """Reject ``terms``, or ``total`` of which ``terms`` are the most frequent, in one go."""
    rejected = len(terms) if total is None else total
    if not rejected:
        return
    tally.rows_in += rejected
    tally.rejected[reason] += rejected
    order = [key for key in _BY_COUNT if key[0] in terms.column_names]
    nearest = terms.sort_by(order).slice(0, SAMPLES_PER_REASON)
    shown = [name for name in ("query", "count", "pmi") if name in terms.column_names]
    tally.samples[reason] = {
        # Ascending keys are descending counts, so that samples can be merged.
        f"{_DESCENDING - (row['count'] or 0):016d} {row['query']}": {"kind": kind, **row}
        for row in nearest.select(shown).to_pylist()
    }
