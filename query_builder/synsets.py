"""The names of WordNet's synsets, from the files of its ``dict`` folder (format: wndb(5WN)).

A line of ``data.noun``, ``data.verb``, ``data.adj`` or ``data.adv`` is a synset, its fields
separated by single spaces: offset, number of the lexicographer's file, type (n, v, a, s or r),
number of words (two hexadecimal digits), then each word with its lexical id (one hexadecimal
digit), then pointers and the gloss, which are not read. The licence at the head of a file is in
lines that begin with two spaces. A word has underscores for spaces, and in ``data.adj`` it may
end in a marker of its place in a sentence: (a), (p) or (ip).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from query_builder import progress
from workers.base.tally import Tally

_HEAD = re.compile(r"[0-9]{8} [0-9]{2} [nvasr] ([0-9a-fA-F]{2}) ")
_WORD = re.compile(r"(\S+) [0-9a-fA-F]{1,2} ")
_MARKER = re.compile(r"\((?:a|p|ip)\)$")


class MalformedSynsetError(ValueError):
    """A line that is not a synset in WordNet's format."""


def read_synsets(path: str) -> tuple[list[str], Tally]:
    """The names of the synsets in a data file, and the tally of its synsets.

    A name is there once for each synset that has it. A line that cannot be read is counted as
    failed, with its number.
    """
    tally = Tally()
    return [name for names in _synsets(Path(path), tally) for name in names], tally


def _synsets(path: Path, tally: Tally) -> Iterator[list[str]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            progress.advance(len(line))
            if line.startswith(b"  "):
                continue
            try:
                names = parse_synset(line.decode("utf-8"))
            except ValueError as error:
                row = {"file": str(path), "line": number, "error": str(error)}
                tally.fail("malformed_synset", f"{path.name}@{number:09d}", row)
                continue
            tally.keep()
            yield names


def parse_synset(line: str) -> list[str]:
    """The distinct names of a synset, as written but for the underscores and the marker.

    Raises MalformedSynsetError.
    """
    head = _HEAD.match(line)
    if head is None:
        raise MalformedSynsetError("no offset, file number, type and number of words")
    names = []
    position = head.end()
    for _ in range(int(head[1], 16)):
        word = _WORD.match(line, position)
        if word is None:
            raise MalformedSynsetError(f"fewer than {int(head[1], 16)} words with a lexical id")
        names.append(_MARKER.sub("", word[1]).replace("_", " "))
        position = word.end()
    return list(dict.fromkeys(names))
