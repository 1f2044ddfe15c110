"""Page views of a dump's articles, summed from Wikimedia's files.

Redirects have views of their own, not those of the article they lead to. A file is read in
blocks of lines; lines of other projects and of titles that the dump does not have are dropped at
once, so memory is that of the dump's titles.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from query_builder.names import TITLES, normal_titles
from query_builder.rejections import most_frequent, reject
from query_builder.sources import Part, read_stored
from query_builder.view_lines import Codes, parse_lines, reject_others
from workers.base.arrays import Int64s
from workers.base.compressed import Chunk, decompressed
from workers.base.tally import Tally

#: Bytes of lines worked on at a time.
BLOCK_BYTES = 1 << 23

#: Rows wait until they are this many, or as many as the titles, to be looked up: every look-up
#: makes a hash table of the titles.
PENDING_ROWS = 1 << 20


class ViewCounter:
    """The views of some titles, summed over all lines that are added."""

    def __init__(self, titles: pa.Array, tally: Tally) -> None:
        """``titles``: distinct, as ``normal_titles`` writes them."""
        self._titles = titles
        self._tally = tally
        self._sums = np.zeros(len(titles), np.int64)
        self._pending: list[pa.Table] = []
        self._rows = 0

    def add(self, rows: pa.Table) -> None:
        """Add rows of the schema ``TITLES``."""
        self._pending.append(rows)
        self._rows += len(rows)
        if self._rows >= max(PENDING_ROWS, len(self._titles)):
            self._look_up()

    def sums(self) -> Int64s:
        """The views of each title, in their order."""
        self._look_up()
        return self._sums

    def _look_up(self) -> None:
        rows = pa.concat_tables([TITLES.empty_table(), *self._pending]).combine_chunks()
        self._pending, self._rows = [], 0
        places = pc.index_in(normal_titles(rows["query"]), value_set=self._titles)
        views: Int64s = rows["views"].to_numpy()
        found = places.is_valid().to_numpy(zero_copy_only=False)
        np.add.at(self._sums, places.drop_null().to_numpy(), views[found])
        self._tally.keep(int(found.sum()))
        missing = np.flatnonzero(~found)
        nearest = rows.take(pa.array(most_frequent(views, missing)))
        reject(self._tally, "not_in_dump", nearest, by="views", total=len(missing))


def read_views(path: Path, titles: pa.Array, projects: Sequence[str], tally: Tally) -> Int64s:
    """The views of each of ``titles`` in one file; count its lines in ``tally``.

    ``titles`` are distinct, as ``normal_titles`` writes them. Kept are the lines that were
    added to a title; lines of other projects and of no such title are rejected, malformed ones
    have failed, and so has the damage to a file that cannot be read to its end.
    """
    counter, codes = ViewCounter(titles, tally), Codes.of(projects)
    with path.open("rb") as file:
        chunks = decompressed(read_stored(file, Part(str(path))))
        for block in _blocks(chunks, path, tally):
            lines, others = codes.lines_of(block)
            reject_others(tally, others)
            if lines:
                counter.add(parse_lines(lines, codes, tally))
    return counter.sums()


def _blocks(chunks: Iterable[Chunk], path: Path, tally: Tally) -> Iterator[bytes]:
    """Whole lines, about ``BLOCK_BYTES`` at a time; a last line without an end gets one.

    Damage has failed in ``tally`` and costs the lines that it touches.
    """
    rest, lost = bytearray(), False  # lost: after damage, in the midst of a line
    for chunk in chunks:
        if chunk.damage:
            _fail(path, chunk, tally)
            if end := rest.rfind(b"\n") + 1:
                yield bytes(rest[:end])
            rest, lost = bytearray(), True
        elif lost:
            _, found, after = chunk.data.partition(b"\n")
            rest, lost = bytearray(after), not found
        else:
            rest += chunk.data
        if len(rest) >= BLOCK_BYTES:
            end = rest.rfind(b"\n") + 1
            if not end:  # no line is that long
                rest += b"\n"
                end = len(rest)
            yield bytes(rest[:end])
            del rest[:end]
    if rest:
        yield bytes(rest) + (b"" if rest.endswith(b"\n") else b"\n")


def _fail(path: Path, chunk: Chunk, tally: Tally) -> None:
    error = f"{chunk.damage} (at byte {chunk.offset} of the file)"
    row = {"file": str(path), "offset": chunk.offset, "error": error}
    tally.fail("damaged_views", f"{path}@{chunk.offset:015d}", row)
