"""Lines of Wikimedia's page view files, in columns: a block of bytes to titles and views.

Two formats, told apart line by line, so that files of both may be mixed:

- monthly and daily (``pageviews-YYYYMM-user``): project, title, page id, access, views, views by
  day or hour; ``en.wikipedia Cat 6678 desktop 93 A3B90``. Lines from before page ids have one
  field less. Access is desktop, mobile-web or mobile-app.
- hourly (``pageviews-YYYYMMDD-HHMMSS``): project, title, views, bytes; ``en.m Cat 12 0``, with
  ``.m`` (and once ``.zero``) for the mobile site.

Fields are separated by single spaces, nothing is quoted. A title has underscores for spaces. It
may be percent-encoded: that is undone, and safely, for MediaWiki allows no title that has a
percent sign before two hexadecimal digits.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from query_builder.names import TITLES
from query_builder.settings import PROJECT_SUFFIXES
from workers.base.arrays import Bools, Int64s
from workers.base.tally import Tally

_ACCESS = pa.array([b"desktop ", b"mobile-web ", b"mobile-app "])
_PERCENT = re.compile(rb"%[0-9A-Fa-f]{2}")
_SPACE, _LINE_END = b" \n"


@dataclass(frozen=True, slots=True)
class Codes:
    """How the files write the projects that are counted: with the space that follows."""

    daily: pa.Array  # and monthly
    hourly: pa.Array

    @classmethod
    def of(cls, projects: Sequence[str]) -> Codes:
        """The codes of projects such as ``en.wikipedia``."""
        hourly = []
        for project in projects:
            language, _, family = project.partition(".")
            for site in ("", ".m", ".zero"):
                hourly.append(f"{language}{site}{PROJECT_SUFFIXES[family]} ".encode())
        daily = [f"{project} ".encode() for project in projects]
        return cls(pa.array(daily, pa.binary()), pa.array(hourly, pa.binary()))

    def lines_of(self, block: bytes) -> tuple[bytes, int]:
        """The part of a block that has all lines of these projects; lines in the rest of it."""
        codes = pa.concat_arrays([self.daily, self.hourly]).to_pylist()
        data = np.frombuffer(block, np.uint8)
        starts = np.concatenate(([0], np.flatnonzero(data == _LINE_END) + 1))
        likely = starts[:-1]
        for place, letters in enumerate(zip(*codes, strict=False)):
            if len(set(letters)) == 1:
                likely = likely[data[np.minimum(likely + place, len(data) - 1)] == letters[0]]
        if not len(likely):
            return b"", len(starts) - 1
        first, last = np.searchsorted(starts, [likely[0], likely[-1]])
        rest = len(starts) - 1 - (last + 1 - first)
        return block[starts[first] : starts[last + 1]], int(rest)


def parse_lines(lines: bytes, codes: Codes, tally: Tally) -> pa.Table:
    """The titles and views of whole lines, each with its line end, of the schema ``TITLES``."""
    fields, first, width = _split(lines)
    project = fields.take(pa.array(first))
    hourly = _is_in(project, codes.hourly)
    daily = _is_in(project, codes.daily)
    reject_others(tally, int((~hourly & ~daily).sum()))

    def field(place: Int64s) -> pa.Array:
        return fields.take(pa.array(np.clip(place, 0, len(fields) - 1)))

    # From the end of the line: a daily line may lack the page id, third from the start.
    last = first + width - 1
    access = _is_in(field(last - 2), _ACCESS)
    valid = (hourly & (width == 4)) | (daily & access & ((width == 5) | (width == 6)))
    titles = _decode(field(first + 1))
    views, numeric = _numbers(field(last - 1))
    valid &= numeric & bools(titles.is_valid())
    for line in np.flatnonzero((hourly | daily) & ~valid):
        text = b"".join(fields[first[line] : last[line] + 1].to_pylist()).decode(errors="replace")
        tally.fail("malformed_line", text, {"line": text.rstrip("\r\n")})
    chosen = pa.array(valid)
    return pa.table([titles.filter(chosen), views.filter(chosen)], schema=TITLES)


def reject_others(tally: Tally, lines: int) -> None:
    """Count lines of projects that are not counted."""
    if lines:
        tally.rows_in += lines
        tally.rejected["other_project"] += lines


def _split(lines: bytes) -> tuple[pa.Array, Int64s, Int64s]:
    """All fields, each with what ends it; the first one of each line, and how many it has."""
    data = np.frombuffer(lines, np.uint8)
    ends = np.flatnonzero((data == _SPACE) | (data == _LINE_END))
    offsets = np.concatenate(([0], ends + 1)).astype(np.int32)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(lines)]
    fields = pa.Array.from_buffers(pa.binary(), len(ends), buffers)
    last = np.flatnonzero(data[ends] == _LINE_END)
    first = np.concatenate(([0], last[:-1] + 1))
    return fields, first, last - first + 1


def _is_in(fields: pa.Array, values: pa.Array) -> Bools:
    return bools(pc.is_in(fields, value_set=values))


def bools(values: pa.Array) -> Bools:
    result: Bools = values.to_numpy(zero_copy_only=False)
    return result


def _decode(fields: pa.Array) -> pa.Array:
    """Titles without the space that ends them or percent-encoding; null where not UTF-8."""
    titles = pc.binary_slice(fields, 0, -1)
    if pc.any(pc.match_substring(titles, b"%")).as_py():
        titles = _replace(titles, pc.match_substring(titles, b"%"), _unquoted)
    try:
        return titles.cast(pa.string())
    except pa.ArrowInvalid:
        return pa.array(map(_utf8, titles.to_pylist()), pa.string())


def _replace(values: pa.Array, chosen: pa.Array, change: Callable[[bytes], bytes]) -> pa.Array:
    changed = pa.array([change(value) for value in values.filter(chosen).to_pylist()], values.type)
    return pc.replace_with_mask(values, chosen, changed)


def _unquoted(title: bytes) -> bytes:
    return unquote_to_bytes(title) if _PERCENT.search(title) else title


def _utf8(text: bytes) -> str | None:
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _numbers(fields: pa.Array) -> tuple[pa.Array, Bools]:
    """Whole numbers, each with the space that ends it, and which of the fields are one."""
    numeric = pc.match_substring_regex(fields, "^[0-9]{1,15} $")
    digits = pc.if_else(numeric, pc.binary_slice(fields, 0, -1), b"0")
    return digits.cast(pa.string()).cast(pa.int64()), bools(numeric)
