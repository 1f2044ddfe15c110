"""Inputs to balanced pairs in this process: what the stages of a run do in shards, in turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from workers.base.ranges import Range
from workers.base.tally import Tally
from workers.extract.inputs import Input
from workers.pairs.balance import POLICIES, Policy, QueryLimits
from workers.pairs.candidates import Candidates, find_candidates
from workers.pairs.caption_limit import write_captions, write_surplus
from workers.pairs.query_draws import QueryCounts
from workers.pairs.query_limits import (
    add_counts,
    all_limits,
    count_queries,
    merged_together,
    read_counts,
    write_draws,
    write_limits,
)
from workers.pairs.reader import PairReader
from workers.pairs.settings import PairSettings
from workers.pairs.tables import id_ranges
from workers.pairs.writer import write_pairs, write_query_counts

#: Where the counts of queries are, in the folder of pairs.
QUERY_COUNTS_FILE = "_tables/query_counts.parquet"


def on_ranges(
    folder: Path, name: str, ranges: Sequence[Range], write: Callable[[Range, Path], None]
) -> list[Path]:
    """A pass over all ranges; its files."""
    files = [folder / f"{name}-{number}" for number in range(len(ranges))]
    for between, path in zip(ranges, files, strict=True):
        write(between, path)
    return files


def limits_in_files(
    folder: Path, candidates: Candidates, ranges: Sequence[Range], policy: Policy, seed: int
) -> tuple[QueryCounts, QueryLimits]:
    """The counts and limits of all queries, by the passes and their files."""
    counts = folder / "counts"
    add_counts(on_ranges(folder, "counts", ranges, partial(count_queries, candidates)), counts)
    known = read_counts(counts)
    write = partial(write_draws, candidates, counts, policy, seed)
    draws = on_ranges(folder, "draws", ranges, write)
    limits = []
    for number, some in enumerate(merged_together(known, policy)):
        limits.append(folder / f"limits-{number}")
        write_limits(draws, counts, policy, some, limits[-1])
    return known, all_limits(known, limits, policy)


def build_pairs(
    inputs: Sequence[Input],
    queries: Sequence[Path] | None,
    out: Path,
    settings: PairSettings,
    seed: int,
    groups: int = 1,
    **reading: Any,
) -> dict[str, Tally]:
    """``pairs/`` in ``out``; the inputs are dealt to so many groups."""
    work = out.with_name(f"{out.name}_work")
    for folder in (out, work):
        folder.mkdir(parents=True, exist_ok=True)
    reader = PairReader(queries, settings.captions, **reading)
    found = [
        find_candidates(inputs[number::groups], reader, work, f"found-{number}")
        for number in range(groups)
    ]
    tallies = {name: Tally.total(some[name] for some in found) for name in found[0]}
    ranges = id_ranges(settings.shards)
    candidates = Candidates(tuple(sorted(work.glob("found-*"))), settings.max_captions_per_url)
    if most := settings.max_urls_per_caption:
        captions = on_ranges(work, "captions", ranges, partial(write_captions, candidates))
        surplus = on_ranges(work, "surplus", ranges, partial(write_surplus, captions, most))
        candidates = replace(candidates, surplus=tuple(surplus))
    policy = POLICIES[settings.balance](settings.pairs_per_query)
    known, limits = limits_in_files(work, candidates, ranges, policy, seed)
    balancing = None if queries is None else (policy, limits)
    pairs = [
        write_pairs(
            candidates, between, balancing, seed, settings.max_rows_per_file, out, f"{number:05d}"
        )
        for number, between in enumerate(ranges)
    ]
    shards = sorted(out.glob("*.parquet"))
    before = QueryCounts.total([]) if queries is None else known
    write_query_counts(queries or [], before, shards, out / QUERY_COUNTS_FILE)
    balanced = Tally.total(pairs)
    assert balanced.rows_in == tallies["pairs"].kept
    # Of what was found and of what stayed, as one.
    tallies["pairs"].rows_in -= balanced.rows_in
    tallies["pairs"].kept = 0
    tallies["pairs"] = Tally.total([tallies["pairs"], balanced])
    return tallies
