"""Inputs to balanced pairs in this process: what the stages of a run do in shards, in turn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from workers.base.tally import Tally
from workers.extract.inputs import Input
from workers.pairs.balance import POLICIES
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
    if settings.max_urls_per_caption:
        captions = [work / f"captions-{number}" for number in range(len(ranges))]
        for between, path in zip(ranges, captions, strict=True):
            write_captions(candidates, between, path)
        surplus = [work / f"surplus-{number}" for number in range(len(ranges))]
        for between, path in zip(ranges, surplus, strict=True):
            write_surplus(captions, between, settings.max_urls_per_caption, path)
        candidates = Candidates(
            candidates.files, settings.max_captions_per_url, surplus=tuple(surplus)
        )
    policy = POLICIES[settings.balance](settings.pairs_per_query)
    counts = [work / f"counts-{number}" for number in range(len(ranges))]
    for between, path in zip(ranges, counts, strict=True):
        count_queries(candidates, between, path)
    add_counts(counts, work / "counts")
    known = read_counts(work / "counts")
    drawn = [work / f"draws-{number}" for number in range(len(ranges))]
    for between, path in zip(ranges, drawn, strict=True):
        write_draws(candidates, between, known, policy, seed, path)
    limits = []
    for number, some in enumerate(merged_together(known, policy)):
        limits.append(work / f"limits-{number}")
        write_limits(drawn, some, known, policy, limits[-1])
    balancing = None if queries is None else (policy, all_limits(known, limits, policy))
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
