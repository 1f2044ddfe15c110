"""Which queries occur in a caption, as whole words.

The rule, in words: put a space around each of ``, . ; : ? ! ` `` in the caption, turn every
white-space character into a space, add a space at both ends; a query occurs if " query " is a
substring. Nothing is done to the queries. ``naive_match`` is that rule; ``Matcher`` gives the
same answer without looking at every query.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence

WHITE_SPACE = "".join(filter(str.isspace, map(chr, range(sys.maxunicode + 1))))
SPACED_PUNCTUATION = ",.;:?!`"

_SPACING = str.maketrans(
    {**dict.fromkeys(WHITE_SPACE, " "), **{mark: f" {mark} " for mark in SPACED_PUNCTUATION}}
)


def space_out(caption: str) -> str:
    """The caption with marks set apart and white space made spaces; not padded at the ends."""
    return caption.translate(_SPACING)


def naive_match(caption: str, queries: Iterable[tuple[int, str]]) -> list[int]:
    """The ids of the queries in ``caption`` by the rule itself, sorted: slow, the reference."""
    padded = f" {space_out(caption)} "
    return sorted({query_id for query_id, query in queries if f" {query} " in padded})


class Matcher:
    """A set of queries, ready to be looked up in many captions.

    Between spaces a padded caption is a list of words, and a query occurs exactly where its
    own words (split at the space, too) are a run of them. So only runs that begin with the
    first word of a query, and are as long as such a query, are looked up. Immutable and safe
    to share between threads.
    """

    def __init__(self, queries: Iterable[tuple[int, str]], *, lowercase: bool = False) -> None:
        """``lowercase``: captions are matched in lower case; the queries are taken as they are."""
        ids: defaultdict[str, list[int]] = defaultdict(list)
        lengths: defaultdict[str, set[int]] = defaultdict(set)
        for query_id, query in queries:
            words = query.split(" ")
            ids[query].append(query_id)
            lengths[words[0]].add(len(words))
        self._ids = {query: tuple(sorted(set(found))) for query, found in ids.items()}
        # Almost every first word has the same lengths as many others: share the tuples.
        shared: dict[tuple[int, ...], tuple[int, ...]] = {}
        self._lengths = {
            word: shared.setdefault(key, key)
            for word, found in lengths.items()
            for key in (tuple(sorted(found)),)
        }
        self._lowercase = lowercase

    def match(self, captions: Sequence[str]) -> list[list[int]]:
        """For each caption the ids of the queries that occur in it, sorted, each once."""
        return [self._match(caption) for caption in captions]

    def _match(self, caption: str) -> list[int]:
        words = space_out(caption.lower() if self._lowercase else caption).split(" ")
        found: set[int] = set()
        lengths, ids = self._lengths, self._ids
        for start, word in enumerate(words):
            for length in lengths.get(word, ()):
                run = word if length == 1 else " ".join(words[start : start + length])
                if run in ids:
                    found.update(ids[run])
        return sorted(found)
