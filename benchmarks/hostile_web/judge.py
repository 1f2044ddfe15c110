"""What has come of each case, held against what must."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.hostile_web.case import AT_ONCE, CONNECTIONS, MAX_BYTES, PATIENCE, Case
from benchmarks.hostile_web.fetching import Memory
from benchmarks.hostile_web.server import INSIDE, Seen
from benchmarks.hostile_web.shard import Row

#: Bytes beside what is on its way: a picture that is decoded on each core, and the shard itself.
_BESIDE = 192 * 2**20
#: What the process may take: all connections with as much as is allowed, as it comes and as it is
#: decoded.
MOST_GROWTH = 2 * CONNECTIONS * MAX_BYTES + _BESIDE


@dataclass(frozen=True)
class Verdict:
    """What a case has come to, and what is wrong with that."""

    name: str
    expected: str
    got: str
    seconds: float  # of the longest exchange at its host
    requests: int  # for its pictures, at all hosts
    problems: Sequence[str]


def judge(case: Case, rows: Sequence[Row], seen: Seen) -> Verdict:
    """Hold the rows of a case, and what was seen at the servers, against what must be."""
    visits = seen.of(case)
    now = time.monotonic()
    spent = [(visit.ended or now) - visit.began for visit in (*visits, *seen.at_host_of(case))]
    got = Counter(row.reason for row in rows)
    return Verdict(
        case.name,
        " or ".join(case.reasons),
        ", ".join(f"{name} {count}" if count > 1 else name for name, count in got.most_common()),
        max(spent, default=0.0),
        len(visits),
        list(_problems(case, rows, seen, max(spent, default=0.0))),
    )


def _problems(case: Case, rows: Sequence[Row], seen: Seen, seconds: float) -> Iterator[str]:
    asked = case.urls * case.captions
    if len(rows) != asked:
        yield f"{len(rows)} of {asked} rows"
    yield from sorted({row.reason for row in rows} - set(case.reasons))
    if case.looks:
        found = {case.looks.problem(row.jpg) for row in rows if row.jpg is not None}
        yield from sorted(found - {""})
    number, (least, most) = len(seen.of(case)), case.requests
    if not least <= number <= most:
        wanted = f"{least}" if least == most else f"{least} to {most}"
        yield f"{number} requests, not {wanted}"
    if seconds > case.within + PATIENCE:
        yield f"{seconds:.1f} s, not {case.within:.0f}"
    if trespasses := seen.trespasses(case):
        yield f"{trespasses} requests where none may go"
    if (at_once := seen.most_at_once(case)) > AT_ONCE:
        yield f"{at_once} requests at a time"
    if len(rows) == asked and case.check and seen.of(case) and (problem := case.check(case, seen)):
        yield problem


def of_memory(memory: Memory | None) -> list[str]:
    """What is wrong with the process as a whole."""
    if memory is None:
        return ["the process has not ended by itself"]
    if (grown := memory.peaks[-1] - memory.peaks[0]) > MOST_GROWTH:
        return [f"it grew by {grown / 1e6:,.0f} MB, not at most {MOST_GROWTH / 1e6:,.0f}"]
    return []


def of_inside(seen: Seen) -> list[str]:
    """What is wrong with where it has connected to."""
    number = seen.connections.count(INSIDE)
    return [f"{number} connections where none may go"] if number else []


def table(verdicts: Sequence[Verdict]) -> Iterator[str]:
    """A line for each case."""
    yield "| case | expected | got | s | requests | ok |"
    yield "|---|---|---|--:|--:|---|"
    for one in verdicts:
        ok = "; ".join(one.problems) if one.problems else "yes"
        cells = [one.name, one.expected, one.got, f"{one.seconds:.1f}", str(one.requests), ok]
        yield f"| {' | '.join(cells)} |"
