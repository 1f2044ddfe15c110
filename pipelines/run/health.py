"""Health over time: a night's work on a stage, held against that of the nights before.

A night is a command that worked on the stage. What is looked for: a reason far above its earlier
shares, and a source, a host or a file, that has given rows and gives none any more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import nlargest
from math import sqrt
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.run.config import HealthSettings
from pipelines.run.history import Entry, Sources, Work

#: Stages that ask a source for other rows each night, so that chance has its part in none coming.
OTHER_ROWS = frozenset({"images"})
#: Sources of a stage that the history names.
NAMED = 500
#: Nights without which nothing is said.
FEWEST_NIGHTS = 3
#: Standard deviations that are beyond chance: one in millions, and a night has hundreds of counts.
SIGMAS = 5.0


@dataclass(frozen=True)
class Night:
    """The work of a command on a stage."""

    configuration_hash: str | None
    work: Work


def findings(
    entries: Sequence[Entry], settings: HealthSettings, stages: Container[str] | None = None
) -> list[str]:
    """How the last work on each stage is unlike that before it, a line each.

    Args:
        stages: those that are looked at; none: all.
    """
    nights: dict[str, list[Night]] = {}
    for entry in entries:
        for stage, work in entry.stages.items():
            if work.sources or any(counts["in"] for counts in work.rows.values()):
                known = entry.start.configuration_hash if entry.start else None
                nights.setdefault(stage, []).append(Night(known, work))
    return [
        f"{stage}: {line}"
        for stage, works in nights.items()
        if stages is None or stage in stages
        for line in _findings(stage, works, settings)
    ]


def _findings(stage: str, nights: Sequence[Night], settings: HealthSettings) -> Iterator[str]:
    *before, last = nights
    # A changed configuration may change every share; what it is held against is its like, if any.
    alike = [night for night in before if night.configuration_hash == last.configuration_hash]
    before = (alike if len(alike) >= FEWEST_NIGHTS else before)[-settings.nights :]
    if len(before) >= FEWEST_NIGHTS:
        works = [night.work for night in before]
        yield from _reasons(last.work, works, settings)
        yield from _sources(
            last.work.sources, [work.sources for work in works], stage in OTHER_ROWS
        )


def _reasons(work: Work, before: Sequence[Work], settings: HealthSettings) -> Iterator[str]:
    """Reasons for which far more rows were dropped than on the nights before."""
    for kind, counts in work.rows.items():
        earlier = [other.rows[kind] for other in before if kind in other.rows]
        for how in ("rejected", "failed"):
            for reason, number in counts[how].items():
                past = [(c[how].get(reason, 0), c["in"]) for c in earlier if c["in"]]
                if len(past) >= FEWEST_NIGHTS and _is_far_above(
                    number, counts["in"], past, settings
                ):
                    yield (
                        f"{number:,} of {counts['in']:,} {kind} {how} for {reason} "
                        f"({number / counts['in']:.2%}); on the {len(past)} nights before, "
                        f"{_median_share(past):.2%} at the median"
                    )


def _median_share(past: Iterable[tuple[int, int]]) -> float:
    return median(number / rows for number, rows in past)


def _is_far_above(
    number: int, rows: int, past: Sequence[tuple[int, int]], settings: HealthSettings
) -> bool:
    """Whether a count among rows is beyond its history, and beyond chance.

    Args:
        past: the counts of the nights before, each with its rows.
    """
    usual = _median_share(past)
    # A night that was itself far above is no measure of the others.
    most = settings.factor * usual
    calm = [(n, of) for n, of in past if n < settings.min_rows or n <= most * of] or past
    known, known_rows = (sum(numbers) for numbers in zip(*calm, strict=True))
    # The median of small nights is rough: what they have together counts as well.
    most = settings.factor * max(usual, known / known_rows)
    is_beyond_history = number >= settings.min_rows and number > most * rows
    return is_beyond_history and number > most_by_chance(rows, known, known_rows)


def most_by_chance(rows: int, known: int, known_rows: int) -> float:
    """The count that is hardly ever exceeded among ``rows``, as ``known`` of ``known_rows`` were.

    The upper end of the score interval (Wilson, 1927) of the known share, and as many standard
    deviations of the binomial distribution above its mean.
    """
    z2 = SIGMAS**2
    share = known / known_rows
    spread = SIGMAS * sqrt(share * (1 - share) / known_rows + z2 / (4 * known_rows**2))
    share = min(1.0, (share + z2 / (2 * known_rows) + spread) / (1 + z2 / known_rows))
    return rows * share + SIGMAS * sqrt(rows * share * (1 - share))


def _sources(last: Sources, before: Sequence[Sources], by_chance: bool) -> Iterator[str]:
    """Hosts and files that gave rows whenever they were last asked, and give none now."""
    for name, (kept, failed) in sorted(last.items()):
        past = [sources[name] for sources in before if name in sources]
        if kept or len(past) < FEWEST_NIGHTS or not all(n for n, _ in past[-FEWEST_NIGHTS:]):
            continue
        came, missed = (sum(numbers) for numbers in zip(*past, strict=True))
        if by_chance and failed <= most_by_chance(failed, missed, came + missed):
            continue
        yield (
            f"{name} has given nothing ({failed:,} rows failed); on the {len(past)} nights before "
            f"that it was asked, {median(n for n, _ in past):,.0f} rows at the median"
        )


def rows_of(
    files: Iterable[Path], column: str, pattern: str, filters: list[Any] | None = None
) -> Counter[str]:
    """How many rows of Parquet files have which source.

    Args:
        pattern: what of the column's texts names it, as the group ``source``.
        filters: the rows that count, as Parquet's readers take them; none: all.
    """
    found: Counter[str] = Counter()
    for file in files:
        texts = pq.read_table(file, columns=[column], filters=filters)[column].combine_chunks()
        names = pc.struct_field(pc.extract_regex(texts, pattern), "source")
        for row in pa.array(pc.value_counts(names)).to_pylist():
            found[row["values"] or ""] += row["counts"]
    return found


def largest(kept: Mapping[str, int], failed: Mapping[str, int], fewest: int = 0) -> Sources:
    """Rows kept and failed of the sources that have the most of both together, by name.

    Args:
        fewest: rows of a source that is named.
    """
    both = {name: (kept.get(name, 0), failed.get(name, 0)) for name in {*kept, *failed}}
    most = nlargest(NAMED, both.items(), key=lambda item: (sum(item[1]), item[0]))
    return dict(sorted(item for item in most if sum(item[1]) >= fewest))
