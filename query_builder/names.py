"""Names as queries: the titles of articles and the names of WordNet's synsets.

A title loses what tells articles apart, "Mercury (planet)", and every name loses superfluous
white space; a name without a letter or digit is none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

from query_builder.rejections import reject
from query_builder.settings import QuerySettings
from query_builder.words import visible
from workers.base.tally import Tally

#: A title as the dump has it, with its page views: null where there are no view files.
TITLES = pa.schema([("query", pa.string()), ("views", pa.int64())])

#: "Mercury (planet)": what tells articles apart is no part of the name.
_QUALIFIER = re.compile(r"(?<=\S)\s+\([^()]*\)\s*$")


def normal_titles(titles: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Titles as MediaWiki writes them: single spaces, the first letter a capital."""
    spaced = pc.replace_substring(titles, "_", " ")
    if pc.any(pc.match_substring(spaced, "  ")).as_py():
        spaced = pc.replace_substring_regex(spaced, " {2,}", " ")
    spaced = pc.utf8_trim(spaced, " ")
    first = pc.utf8_upper(pc.utf8_slice_codeunits(spaced, 0, 1))
    normal = pc.binary_join_element_wise(first, pc.utf8_slice_codeunits(spaced, 1), "")
    return normal.combine_chunks() if isinstance(normal, pa.ChunkedArray) else normal


def index_titles(titles: Iterable[str]) -> pa.Array:
    """The distinct titles as ``normal_titles`` writes them."""
    return normal_titles(pa.array(titles, pa.string())).unique()


def title_names(titles: pa.Table, settings: QuerySettings, tally: Tally) -> pa.Table:
    """The names of the articles (schema ``TITLES``), the most viewed first.

    Titles below ``min_views`` and those without a letter or digit are rejected. Articles that
    differ in what is in brackets have one name, here once for each of them.
    """
    note = {"kind": "title"}
    views = pc.fill_null(titles["views"], settings.min_views)  # unknown is no reason to reject
    seen = pc.greater_equal(views, settings.min_views)
    unseen = titles.filter(pc.invert(seen))
    reject(tally, "title_below_min_views", unseen, by="views", note=note)
    titles = titles.filter(seen)
    names = [query_of(_QUALIFIER.sub("", title), settings) for title in titles["query"].to_pylist()]
    named = pa.array([name is not None for name in names], pa.bool_())
    reject(tally, "title_without_word", titles.filter(pc.invert(named)), by="views", note=note)
    table = pa.table([pa.array(names, pa.string()), titles["views"]], schema=TITLES).filter(named)
    return table.sort_by([("views", "descending"), ("query", "ascending")])


def synset_names(lemmas: Iterable[str], settings: QuerySettings, tally: Tally) -> pa.Table:
    """The distinct names (query) with their number of synsets (senses), most of these first.

    ``lemmas`` has a name once for each synset that it is in.
    """
    names = []
    for lemma in lemmas:
        if name := query_of(lemma, settings):
            names.append(name)
        else:
            tally.reject("synset_without_word", lemma, {"kind": "synset", "query": lemma})
    counted = pa.array(names, pa.string()).value_counts()
    table = pa.table({"query": counted.field("values"), "senses": counted.field("counts")})
    return table.sort_by([("senses", "descending"), ("query", "ascending")])


def query_of(text: str, settings: QuerySettings) -> str | None:
    """A name as captions are searched for it, or None if it has no letter or digit."""
    if not any(map(str.isalnum, text)):
        return None
    name = " ".join(visible(text).replace("’", "'").split())
    return name.lower() if settings.lower_case else name
