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
        words: defaultdict[str, list[int]] = defaultdict(list)
        runs: defaultdict[str, list[int]] = defaultdict(list)
        lengths: defaultdict[str, set[int]] = defaultdict(set)
        for query_id, query in queries:
            first, *rest = query.split(" ")
            (runs if rest else words)[query].append(query_id)
            lengths[first] |= {len(rest) + 1} if rest else set()
        self._runs = {query: tuple(ids) for query, ids in runs.items()}
        # For each first word of a query: its own ids as a query, and how long runs from it are.
        self._firsts = {
            word: (tuple(words.get(word, ())), tuple(sorted(found)))
            for word, found in lengths.items()
        }
        self._lowercase = lowercase

    def match(self, captions: Sequence[str]) -> list[list[int]]:
        """For each caption the ids of the queries that occur in it, sorted, each once."""
        return [self._match(caption) for caption in captions]

    def _match(self, caption: str) -> list[int]:
        words = space_out(caption.lower() if self._lowercase else caption).split(" ")
        found: set[int] = set()
        firsts, runs = self._firsts, self._runs
        for start, word in enumerate(words):
            if word in firsts:
                ids, lengths = firsts[word]
                found.update(ids)
                for length in lengths:
                    found.update(runs.get(" ".join(words[start : start + length]), ()))
        return sorted(found)
