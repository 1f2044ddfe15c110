"""Inputs to candidate pairs: one function for every kind of input."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pyarrow as pa

from workers.base.credentials import shown
from workers.base.tally import Tally
from workers.extract.candidates import Candidate, candidate_tables
from workers.extract.html_folders import read_html
from workers.extract.inputs import LISTS, Input, InputKind
from workers.extract.pages import page_pairs
from workers.extract.pair_lists import read_pair_list
from workers.extract.warc_pages import read_warc
from workers.extract.wat import wat_pairs


def extract_pairs(
    source: Input, pages: Tally, images: Tally, agents: tuple[str, ...] = ()
) -> Iterator[pa.Table]:
    """The candidate pairs of an input as tables in CANDIDATES, in the input's order.

    Counts into ``pages`` every page, and into ``images`` every (image, text), every image
    without a text and every row of a list; ``images.kept`` is the number of candidates given.
    ``agents`` are the product tokens by which a page may address us in its robots directives.

    Raises OSError if the input cannot be opened.
    """
    if source.kind in LISTS:
        return read_pair_list(source, images)
    return candidate_tables(_from_pages(source, pages, images, agents))


#: Reasons for which a page that may have been there is lost.
_LOST = ("bad_encoding", "bad_json", "not_http", "page_error", "too_large")


def _from_pages(
    source: Input, pages: Tally, images: Tally, agents: tuple[str, ...]
) -> Iterator[Candidate]:
    kept, lost = pages.kept, _lost(pages)
    yield from _all_pages(source, pages, images, agents)
    if pages.kept == kept and source.kind is not InputKind.HTML:
        _say_empty(source, pages, _lost(pages) - lost)


def _lost(pages: Tally) -> Counter[str]:
    return Counter({reason: pages.failed[reason] for reason in _LOST})


def _say_empty(source: Input, pages: Tally, lost: Counter[str]) -> None:
    """Count a file without a page by itself: damaged if each that was there could not be read."""
    row = {"source": shown(source.url)}
    if lost:
        reasons = ", ".join(f"{reason} {number}" for reason, number in sorted(lost.items()))
        row["error"] = f"not one of its pages could be read: {reasons}"
        pages.fail("damaged_file", source.name, row)
    else:
        pages.reject("no_pages", source.name, row)


def _all_pages(
    source: Input, pages: Tally, images: Tally, agents: tuple[str, ...]
) -> Iterator[Candidate]:
    if source.kind is InputKind.WAT:
        yield from wat_pairs(source, pages, images, agents)
        return
    read = read_warc if source.kind is InputKind.WARC else read_html
    for page in read(source, pages):
        yield from page_pairs(page, pages, images, agents)
