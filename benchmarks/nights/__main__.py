"""A run that grows: the sample's site over ten nights, each brought in by the real command.

``python -m benchmarks.nights`` lets a site grow (new, changed and gone pages and images,
corrected captions, images that come late) and gives `pipelines.build_dataset` every night; with
``--kills`` it is killed at a random moment of every night and given again. On one night a host is
down, on one no host answers when its images are asked for, and on one no name is known (where
this user may mount a hosts file): the last two must end as an outage and lose nothing, and the next
command brings what they could not. No image that is there may be asked for again, counted at the
server; in the end the data set must be that of a run from nothing. Then a threshold and a label set
are changed, and a host is taken down.

Prints a table, and as its last line the same as JSON; exits 1 where a goal is missed. Ten nights
take a quarter of an hour on two cores.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from benchmarks.nights.commands import Names, NightlySample
from benchmarks.nights.nights import CHANGES, Nights
from benchmarks.nights.site import GrowingSite
from benchmarks.small_sample import IMAGES, free_port
from workers.base.supervisor import interrupt


def of_sample(folder: Path, nights: int, images: int, kills: int | None = None) -> Nights:
    """Nights of a small sample in a folder; ``kills`` is a seed, None kills nothing."""
    names = Names(folder)
    sample = NightlySample(free_port(), images, names if names.work() else None)
    site = GrowingSite(sample.port, nights, images, sample.names)
    chance = None if kills is None else random.Random(kills)
    return Nights(site, sample, folder, lambda text: sys.stderr.write(f"{text}\n"), chance)


def go(nights: Nights) -> None:
    """Everything that is held against a run that grows."""
    nights.grow()
    nights.kills = None
    nights.from_nothing()
    for change in CHANGES:
        nights.change(*change)
    nights.take_down()


def table(nights: Nights) -> Iterator[str]:
    """A line for each command."""
    yield "| night | | exit code | s | pages | 304 | images | new | again | rows |"
    yield "|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|"
    for night in nights.nights:
        counts = (night.pages, night.unchanged, night.images, night.new, len(night.again))
        cells = [night.night, night.what, night.code, f"{night.seconds:.1f}", *counts, night.rows]
        yield f"| {' | '.join(map(str, cells))} |"


def main() -> int:
    """Parse the options, grow, print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.nights",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--nights", type=int, default=10, metavar="N", help="default: 10")
    add("--images", type=int, default=IMAGES, metavar="N", help=f"default: {IMAGES}")
    add("--kills", action="store_true", help="kill every command once, at a random moment")
    add("--seed", type=int, default=0, metavar="S", help="of these moments")
    options = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell's background ignores the first
        signal.signal(number, interrupt)
    with tempfile.TemporaryDirectory(prefix="nights-") as folder:
        seed = options.seed if options.kills else None
        nights = of_sample(Path(folder), options.nights, options.images, seed)
        if not nights.sample.dns:
            sys.stderr.write("this user may not mount a hosts file: no night without DNS\n")
        go(nights)
    write = sys.stdout.write
    write("\n".join(table(nights)) + "\n\n")
    for what, figures in nights.figures.items():
        write(f"{what}: " + ", ".join(f"{name} {value}" for name, value in figures.items()) + "\n")
    write("\n".join([f"{len(nights.faults)} faults", *nights.faults]) + "\n")
    commands = [asdict(night) for night in nights.nights]
    summary = {"commands": commands, **nights.figures, "faults": nights.faults}
    write(json.dumps(summary) + "\n")
    return bool(nights.faults)


if __name__ == "__main__":
    sys.exit(main())
