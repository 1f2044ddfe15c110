"""The speed of extraction beside that of what people use, in one run.

``python -m benchmarks.extract`` makes pages from a seed, writes them into a WARC and a WAT file,
and reads the (image, text) pairs out of both: with ``extract_pairs``, as the stage ``pairs`` does,
and as short scripts do. It prints pages a second of processor time and how many pairs agree; what
the parts of our way take alone; what hostile pages of two sizes take a byte; and what a large crawl
costs. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.page_scripts import (
    Pairs,
    fastwarc_and_lexbor,
    fastwarc_and_resiliparse,
    lexbor_images,
    resiliparse_images,
    warcio_and_json,
    warcio_and_soup,
)
from benchmarks.web_pages import HOSTILE, write_files
from workers.base.tally import Tally
from workers.extract.dispatch import extract_pairs
from workers.extract.inputs import find_inputs
from workers.extract.page import parse_page
from workers.extract.page_images import images_of
from workers.extract.pages import Page
from workers.extract.warc_pages import read_warc

#: Ways to read a file by their names; ours is the first.
Ways = dict[str, Callable[[Path], Pairs]]

#: Sizes of hostile pages, bytes.
HOSTILE_BYTES = (50_000, 100_000)


@dataclass(frozen=True)
class Speed:
    """Medians over the rounds, for one core: seconds are of processor time."""

    name: str
    pages_per_second: float
    megabytes_per_second: float  # of the compressed file, 10^6 bytes
    only_ours: int  # pairs
    only_theirs: int


def ours(path: Path) -> Pairs:
    (source,) = find_inputs([str(path)])
    pairs: Pairs = Counter()
    for table in extract_pairs(source, Tally(), Tally()):
        pairs.update(zip(table["url"].to_pylist(), table["caption"].to_pylist(), strict=True))
    return pairs


WARC: Ways = {
    "extract_pairs": ours,
    "fastwarc + lexbor": fastwarc_and_lexbor,
    "fastwarc + resiliparse": fastwarc_and_resiliparse,
    "warcio + BeautifulSoup": warcio_and_soup,
}
WAT: Ways = {"extract_pairs": ours, "warcio + json": warcio_and_json}

#: Contenders that take long are given fewer pages.
SLOW = frozenset({"warcio + BeautifulSoup"})


def seconds_of(work: Callable[[], object]) -> float:
    """Processor seconds of one round."""
    start = time.process_time()
    work()
    return time.process_time() - start


def compare(
    ways: Ways, large: Path, small: Path, pages: tuple[int, int], rounds: int
) -> list[Speed]:
    """The speeds of several ways to read a file, and how far they agree on the smaller one."""
    files = {name: (small, pages[1]) if name in SLOW else (large, pages[0]) for name in ways}
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, work in ways.items():
            taken[name].append(seconds_of(partial(work, files[name][0])))
    mine, speeds = ours(small), []
    for name, work in ways.items():
        (path, count), seconds, theirs = files[name], median(taken[name]), work(small)
        size = path.stat().st_size / 1e6
        lost, found = (mine - theirs).total(), (theirs - mine).total()
        speeds.append(Speed(name, count / seconds, size / seconds, lost, found))
    return speeds


def parts(path: Path, rounds: int) -> dict[str, float]:
    """Microseconds a page of what our way cannot do without: a ceiling of its speed."""
    (source,) = find_inputs([str(path)])
    pages: list[Page] = list(read_warc(source, Tally()))
    works: dict[str, Callable[[], object]] = {
        "reading the WARC alone": lambda: sum(1 for _ in read_warc(source, Tally())),
        "scanning alone": lambda: [parse_page(page.body, page.content_type) for page in pages],
    }
    return {
        name: median(seconds_of(work) for _ in range(rounds)) / len(pages) * 1e6
        for name, work in works.items()
    }


def our_images(html: bytes) -> int:
    return sum(1 for _ in images_of(parse_page(html, "text/html; charset=utf-8")))


def hostile(rounds: int) -> dict[str, dict[str, list[float]]]:
    """Nanoseconds a byte of hostile pages, by kind and parser, at HOSTILE_BYTES."""
    parsers = {"ours": our_images, "lexbor": lexbor_images, "resiliparse": resiliparse_images}
    return {
        kind: {
            name: [
                median(seconds_of(partial(work, page)) for _ in range(rounds)) / len(page) * 1e9
                for page in (make(size).encode() for size in HOSTILE_BYTES)
            ]
            for name, work in parsers.items()
        }
        for kind, make in HOSTILE.items()
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.extract", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--pages", type=int, default=600, help="for ours (default: 600)")
    parser.add_argument(
        "--baseline-pages", type=int, default=60, help="for slow ones (default: 60)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="interleaved; the median counts")
    parser.add_argument("--seed", type=int, default=0, help="of the pages (default: 0)")
    parser.add_argument("--warc", type=float, default=100, help="TB of WARC to cost (default: 100)")
    parser.add_argument("--wat", type=float, default=20, help="TB of WAT to cost (default: 20)")
    parser.add_argument("--price", type=float, default=0.04, help="of a core hour, any currency")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        large, small = Path(folder) / "large", Path(folder) / "small"
        for path in (large, small):
            path.mkdir()
        warc, wat, size = write_files(large, options.pages, options.seed)
        small_warc, _, _ = write_files(small, options.baseline_pages, options.seed)
        for path in (warc, wat):
            ours(path)  # compiles the scanner
        pages = (options.pages, options.baseline_pages)
        results = {
            "WARC": compare(WARC, warc, small_warc, pages, options.rounds),
            "WAT": compare(WAT, wat, wat, pages, options.rounds),
        }
        alone = parts(warc, options.rounds)
    output = {"page_bytes": size / options.pages, **show(results, options)}
    output |= {"parts": alone, "hostile": hostile(options.rounds)}
    show_parts(alone, output["WARC"]["speeds"][0]["pages_per_second"])
    show_hostile(output["hostile"])
    sys.stdout.write(json.dumps(output) + "\n")
    return 0


def show(results: dict[str, list[Speed]], options: argparse.Namespace) -> dict[str, Any]:
    """The table of speeds; the same as a dictionary."""
    write, output = sys.stdout.write, dict[str, Any]()
    write("one core, processor time; pairs that only one of the two found\n")
    write(f"{'':6}{'':26}{'pages/s':>10}{'MB/s':>8}{'ratio':>8}{'ours':>8}{'theirs':>8}\n")
    crawl = {"WARC": options.warc, "WAT": options.wat}
    for kind, (mine, *others) in results.items():
        for speed in (mine, *others):
            ratio = mine.pages_per_second / speed.pages_per_second
            write(f"{kind:6}{speed.name:26}{speed.pages_per_second:10.1f}")
            write(f"{speed.megabytes_per_second:8.2f}{ratio:8.2f}")
            write(f"{speed.only_ours:8}{speed.only_theirs:8}\n")
        hours = crawl[kind] * 1e6 / mine.megabytes_per_second / 3600
        cost = hours * options.price
        write(f"{kind:6}{crawl[kind]:g} TB: {hours:,.0f} core hours, {cost:,.0f} at ")
        write(f"{options.price} a core hour\n")
        fastest = max(other.pages_per_second for other in others)
        output[kind] = {
            "speeds": [asdict(speed) for speed in (mine, *others)],
            "ratio_to_fastest": mine.pages_per_second / fastest,
            "core_hours": hours,
            "cost": cost,
        }
    return output


def show_parts(alone: dict[str, float], pages_per_second: float) -> None:
    write, whole = sys.stdout.write, 1e6 / pages_per_second
    write(f"microseconds a page: {whole:.0f} in all")
    write("".join(f", {name} {taken:.0f}" for name, taken in alone.items()))
    write(f" ({sum(alone.values()) / whole:.0%} of all)\n")


def show_hostile(found: dict[str, dict[str, list[float]]]) -> None:
    write = sys.stdout.write
    write(
        f"hostile pages, ns a byte at {' and '.join(f'{size:,}' for size in HOSTILE_BYTES)} bytes\n"
    )
    for kind, taken in found.items():
        write(f"{kind:32}")
        write("".join(f"{name:>14} {a:8.0f} {b:8.0f}" for name, (a, b) in taken.items()) + "\n")


if __name__ == "__main__":
    sys.exit(main())
