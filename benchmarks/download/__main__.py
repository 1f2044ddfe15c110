"""Downloading a list of pairs: images a second, against stock img2dataset at the same site.

``python -m benchmarks.download`` starts a site of many hosts at addresses of loopback, and has the
project's download and img2dataset's fetch its pictures, one after the other, each in a process of
its own. Both have the same connections, timeout, tries, size and quality; ours obeys robots.txt and
opt-outs, checks addresses, and has two requests at a time at a host, as always.

A row is a case and a contender: pictures in files that can be read; images a second and seconds,
from the first request at the site to the last file written; seconds until the last picture of a
healthy host was sent; processor seconds of the same time and peak memory, of all of the
contender's processes; the requests that one host had in hand at most; processor seconds of the
site, which has the same cores. The rows of one picture have what it takes to start: all seconds,
and processor seconds until the first request. img2dataset is ended after
--limit seconds, and counted with the pictures that it had been sent by then, though its file cannot
be read. Below them: what fetching and resizing take alone.

Prints the table, ratios, and as its last line the same as JSON; exits 1 where the two have not kept
the same pictures of healthy hosts.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path

from PIL import Image

from benchmarks.download.case import (
    CONNECTIONS,
    MAX_BYTES,
    MAX_SECONDS,
    RETRIES,
    START,
    TIMEOUT,
    Case,
    cases,
)
from benchmarks.download.link import linked
from benchmarks.download.measure import Measured, measure
from benchmarks.download.site import PICTURES
from benchmarks.photographs import photographs

OURS, STOCK = "ours", "img2dataset"
ALONE = ("ours, fetching alone", "ours, resizing alone", "img2dataset, resizing alone")
#: Bytes that a picture has at least; small ones are as thumbnails are.
_LEAST_BYTES, _SMALL = 60_000, (200, 160)


def pictures(count: int, *, are_small: bool) -> Iterator[bytes]:
    """So many JPEGs, no two the same, and the same in each run."""
    # More than enough: two of five photographs have so many bytes.
    made = photographs(20 * count) if not are_small else photographs(count)
    for content in islice((one for one in made if are_small or len(one) >= _LEAST_BYTES), count):
        yield _thumbnail(content) if are_small else content


def _thumbnail(content: bytes) -> bytes:
    file = io.BytesIO()
    Image.open(io.BytesIO(content)).resize(_SMALL).save(file, "JPEG", quality=85)
    return file.getvalue()


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve, download, and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.download",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--images", type=int, default=2000, help="of a case (%(default)s)")
    add("--shard", type=int, default=10_000, help="small images of the last case (%(default)s)")
    add("--hosts", type=int, default=50, help="a tenth misbehave in some cases (%(default)s)")
    add("--pictures", type=int, default=100, help="that are not the same (%(default)s)")
    add("--limit", type=float, default=90.0, help="seconds for a contender's case (%(default)s)")
    add("--only", default="", metavar="REGEX", help="cases whose name matches it")
    options = parser.parse_args(arguments)
    chosen = [
        case
        for case in cases(options.images, options.shard, options.hosts)
        if re.search(options.only, case.name)
    ]
    if not chosen:
        parser.error("--only: there is no such case")
    load = os.getloadavg()[0]
    rows: list[Measured] = []
    for row in _measured(chosen, options.pictures, options.limit):
        rows.append(row)
        sys.stderr.write(f"{row.case}, {row.contender}: {row.wall_seconds:.1f} s\n")
    found_wrong = list(problems(rows))
    sys.stdout.write(f"{os.cpu_count()} cores, with a load of {load:.1f} at the beginning\n")
    sys.stdout.writelines(f"{line}\n" for line in [*table(rows), "", *ratios(rows), *found_wrong])
    cells = [{**asdict(row), "pictures": len(row.pictures)} for row in rows]
    found = {"rows": cells, "ratios": _ratios(rows), "problems": found_wrong}
    machine = {"cores": os.cpu_count(), "load": load}
    sys.stdout.write(json.dumps(found | machine) + "\n")
    return 1 if found_wrong else 0


def _measured(chosen: Sequence[Case], count: int, limit: float) -> Iterator[Measured]:
    """All rows, the contenders of a case one after the other."""
    large = list(pictures(count, are_small=False))
    small = list(pictures(count, are_small=True))
    alone = (
        Case("healthy hosts", max(case.images for case in chosen if not case.is_small))
        if any(not case.is_small for case in chosen)
        else None
    )
    plan = [(case, name) for case in (START, *chosen) for name in (OURS, STOCK)]
    plan += [(alone, name) for name in ALONE if alone]
    for case, name in plan:
        with tempfile.TemporaryDirectory(prefix="download-") as at, linked(case.round_trip) as link:
            folder = Path(at)
            (folder / PICTURES).mkdir()
            for number, content in enumerate(small if case.is_small else large):
                (folder / PICTURES / f"{number:05d}.jpg").write_bytes(content)
            yield measure(case, name, link, folder, limit)


def _pairs(rows: Iterable[Measured]) -> Iterator[tuple[Measured, Measured]]:
    """Ours and stock img2dataset, by case."""
    by_name = {(row.case, row.contender): row for row in rows}
    for (case, name), row in by_name.items():
        if name == OURS and case != START.name:
            yield row, by_name[case, STOCK]


def _rate(row: Measured) -> float:
    return row.fetched / row.seconds


def _thrift(row: Measured) -> float:
    """Images a processor second; the system counts hundredths of these."""
    return row.fetched / max(row.cpu_seconds, 0.01)


def _ratios(rows: Sequence[Measured]) -> dict[str, float]:
    """Images a second, ours by stock img2dataset's."""
    return {ours.case: _rate(ours) / _rate(stock) for ours, stock in _pairs(rows)}


def problems(rows: Sequence[Measured]) -> Iterator[str]:
    """What must not be."""
    for row in rows:
        if row.contender == OURS and row.was_ended:
            yield f"{row.case}: ours had not ended after {row.wall_seconds:.0f} s"
    for ours, stock in _pairs(rows):
        if stock.was_ended or ours.was_ended:
            continue
        apart = len(ours.pictures ^ stock.pictures)
        if apart and ours.case not in _MAY_DIFFER:
            yield f"{ours.case}: {apart} pictures were kept by one of the two alone"


#: Where hosts misbehave, it is a matter of patience what is kept of them.
_MAY_DIFFER = {case.name for case in cases(100, 100, 50) if case.conduct}


def table(rows: Sequence[Measured]) -> Iterator[str]:
    """A line for each."""
    yield (
        f"{CONNECTIONS} connections, timeout {TIMEOUT:g} s, {RETRIES} further try; ours alone: "
        f"{MAX_SECONDS:g} s and {MAX_BYTES / 2**20:g} MiB an image"
    )
    yield (
        "| case | contender | kept | images/s | s | healthy done, s | CPU s "
        "| images/CPU s | peak MB "
        "| at one host | site's CPU s |"
    )
    yield "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
    for row in rows:
        kept = f"{row.kept:,} of {row.images:,}"
        if row.was_ended:
            kept = f"none (ended; {row.served:,} were sent)"
        cpu = row.start_cpu_seconds if row.case == START.name else row.cpu_seconds
        seconds = f"{row.seconds:.1f}" if row.case != START.name else f"{row.wall_seconds:.1f}, all"
        cells = [
            row.case + (f" ({row.link})" if row.link else ""), row.contender, kept,
            f"{_rate(row):.0f}" if row.case != START.name else "",
            seconds, f"{row.good_seconds:.1f}" if row.requests else "",
            f"{cpu:.1f}", f"{_thrift(row):.0f}" if row.case != START.name else "",
            f"{row.peak_bytes / 1e6:.0f}",
            str(row.at_once or ""), f"{row.site_cpu_seconds:.1f}" if row.requests else "",
        ]  # fmt: skip
        yield f"| {' | '.join(cells)} |"


def ratios(rows: Sequence[Measured]) -> Iterator[str]:
    """A line for each case."""
    for ours, stock in _pairs(rows):
        least = "at least " if stock.was_ended else ""
        times = _thrift(ours) / _thrift(stock)
        yield (
            f"{ours.case}: {least}{_rate(ours) / _rate(stock):.2f} times img2dataset's images/s, "
            f"{times:.2f} times its images/CPU s"
        )


if __name__ == "__main__":
    sys.exit(main())
