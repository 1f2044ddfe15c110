"""Which terms become queries: frequent words, bigrams by PMI, titles and synsets, each once.

Every candidate ends in a ``Tally``: kept, or rejected for one reason. The sample of a reason is
its most frequent terms, the ones that came nearest.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from query_builder.counts import Counts
from query_builder.names import synset_names, title_names
from query_builder.rejections import most_frequent, reject
from query_builder.settings import QuerySettings
from query_builder.shares import fill
from workers.base.arrays import Float32s, Float64s, Int64s
from workers.base.contracts import QUERIES
from workers.base.tally import Tally

_WORDS = pa.schema([("query", pa.string()), ("count", pa.int64())])
_BIGRAMS = pa.schema([*_WORDS, ("left", pa.string()), ("right", pa.string())])

#: A candidate, as it is in the query list but for its number.
_TERMS = pa.schema([field for field in QUERIES if field.name != "query_id"])

_BY_COUNT = [("count", "descending"), ("query", "ascending")]


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
    reject(tally, "word_below_min_count", rare, note={"kind": "word"})

    frequent = counts.bigram_counts >= settings.bigrams.min_count
    nearest = most_frequent(counts.bigram_counts, np.flatnonzero(~frequent))
    rare = _bigrams(counts, nearest)
    reject(
        tally,
        "bigram_below_min_count",
        rare,
        total=int((~frequent).sum()),
        note={"kind": "bigram"},
    )
    return Frequent(
        words.filter(pc.field("count") >= min(settings.min_count, settings.bigrams.min_count)),
        _bigrams(counts, np.flatnonzero(frequent)),
        int(counts.word_counts.sum()),
        int(counts.bigram_counts.sum()),
        tally,
    )


def select(
    parts: Sequence[Frequent], titles: pa.Table, lemmas: Iterable[str], settings: QuerySettings
) -> tuple[pa.Table, Tally]:
    """The query list, sorted by query, and the tally of all candidates.

    ``titles`` has the schema ``names.TITLES``; ``lemmas`` a name of WordNet once for each of its
    synsets. Ties are settled by the terms' own bytes, so the result does not depend on the
    order of ``parts``, ``titles`` or ``lemmas``.
    """
    tally = Tally.total(part.tally for part in parts)
    words = pa.concat_tables([_WORDS.empty_table(), *(part.words for part in parts)])
    candidates = {
        "word": words.filter(pc.field("count") >= settings.min_count).sort_by(_BY_COUNT),
        "bigram": _unusual(_with_pmi(parts, words), settings, tally),
        "title": title_names(titles, settings, tally),
        "synset": synset_names(lemmas, settings, tally),
    }
    terms = {kind: _as_terms(table, kind) for kind, table in candidates.items()}
    chosen = fill(terms, settings, tally)
    tally.keep(len(chosen))
    return _numbered(chosen), tally


def pmi(both: Float64s, left: Float64s, right: Float64s) -> Float32s:
    """Pointwise mutual information in bits: log2(p(x y) / (p(x) p(y))).

    0 is chance; each bit more is twice as often. ``both`` are shares of all bigrams, ``left``
    and ``right`` shares of all words.
    """
    bits: Float64s = np.log2(both / (left * right))
    return bits.astype(np.float32)


def npmi(both: Float64s, left: Float64s, right: Float64s) -> Float32s:
    """Normalised PMI (Bouma 2009): log2(p(x y) / (p(x) p(y))) / -log2 p(x y), in [-1, 1].

    0 is chance, 1 never apart. Here ``both`` are shares of all words too (as gensim has it):
    there are fewer bigrams than words, and with two totals the bound of 1 would not hold.
    """
    surprise = -np.log2(both)
    bits = np.log2(both / (left * right))
    ratio: Float64s = np.divide(bits, surprise, out=np.ones_like(both), where=surprise > 0)
    return ratio.astype(np.float32)


def _with_pmi(parts: Sequence[Frequent], words: pa.Table) -> pa.Table:
    """All bigrams with their PMI and NPMI; ``words`` has every word that is in one."""
    bigrams = pa.concat_tables([_BIGRAMS.empty_table(), *(part.bigrams for part in parts)])
    word_total = sum(part.word_total for part in parts)
    bigram_total = sum(part.bigram_total for part in parts)

    def share(side: str) -> Float64s:
        found = pc.index_in(bigrams[side], words["query"])
        counts: Int64s = words["count"].take(found).to_numpy()
        return counts / max(1, word_total)

    counts, left, right = bigrams["count"].to_numpy(), share("left"), share("right")
    bits = pmi(counts / max(1, bigram_total), left, right)
    bigrams = bigrams.append_column("pmi", pa.array(bits, pa.float32()))
    normalised = npmi(counts / max(1, word_total), left, right)
    return bigrams.append_column("npmi", pa.array(normalised, pa.float32()))


def _unusual(bigrams: pa.Table, settings: QuerySettings, tally: Tally) -> pa.Table:
    """The bigrams that reach the threshold of the measure in use, the highest first."""
    measure = settings.bigrams.measure
    limit = {"pmi": settings.bigrams.min_pmi, "npmi": settings.bigrams.min_npmi}[measure]
    unusual = pc.field(measure) >= limit
    common = bigrams.filter(~unusual)
    reject(tally, f"bigram_below_min_{measure}", common, note={"kind": "bigram"})
    return bigrams.filter(unusual).sort_by([(measure, "descending"), *_BY_COUNT])


def _bigrams(counts: Counts, chosen: Int64s) -> pa.Table:
    """The chosen bigrams, spelt out."""
    left = counts.words.take(counts.left[chosen])
    right = counts.words.take(counts.right[chosen])
    spelt = pc.binary_join_element_wise(left, right, " ")
    return pa.table([spelt, counts.bigram_counts[chosen], left, right], schema=_BIGRAMS)


def _as_terms(table: pa.Table, kind: str) -> pa.Table:
    """A kind's candidates in the common columns; what a kind does not have is null."""
    table = table.append_column("kind", pa.array([kind] * len(table), pa.string()))
    missing = [field for field in _TERMS if field.name not in table.column_names]
    for field in missing:
        table = table.append_column(field, pa.nulls(len(table), field.type))
    return table.select(_TERMS.names).cast(_TERMS)


def _numbered(terms: pa.Table) -> pa.Table:
    """Sorted by the queries' bytes in UTF-8; ``query_id`` is the place."""
    terms = terms.sort_by("query").combine_chunks()
    ids = pa.array(np.arange(len(terms), dtype=np.int32))
    return pa.table([ids, *terms.columns], schema=QUERIES)
