"""The speed of extraction beside that of a loop of warcio and BeautifulSoup, in one run.

``python -m benchmarks.extract`` makes pages from a seed, writes them into a WARC and a WAT file,
and reads the (image, text) pairs out of both: with ``extract_pairs``, as the stage ``pairs`` does,
and as short scripts do. It counts how many pairs agree, prints pages a second of processor time,
and from these what a large crawl costs. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urljoin

from bs4 import BeautifulSoup
from warcio.archiveiterator import ArchiveIterator

from benchmarks.web_pages import write_files
from workers.extract.dispatch import extract_pairs
from workers.extract.inputs import find_inputs
from workers.tally import Tally

Pairs = Counter[tuple[str, str]]


@dataclass(frozen=True)
class Speed:
    """Medians over the rounds, for one core: seconds are of processor time."""

    name: str
    pages: int
    pages_per_second: float
    megabytes_per_second: float  # of the compressed file, 10^6 bytes


def ours(path: Path) -> Pairs:
    (source,) = find_inputs([str(path)])
    pairs: Pairs = Counter()
    for table in extract_pairs(source, Tally(), Tally()):
        pairs.update(zip(table["url"].to_pylist(), table["caption"].to_pylist(), strict=True))
    return pairs


def warcio_and_soup(path: Path) -> Pairs:
    """What a short script does, with the same rules."""
    pairs: Pairs = Counter()
    with path.open("rb") as file:
        for record in ArchiveIterator(file):
            if record.rec_type == "response":
                url = record.rec_headers.get_header("WARC-Target-URI")
                soup = BeautifulSoup(record.content_stream().read(), "html.parser")
                pairs.update(_soup_pairs(soup, url))
    return pairs


def _soup_pairs(soup: Any, url: str) -> Iterator[tuple[str, str]]:
    base = soup.find("base", href=True)
    base_url = urljoin(url, base["href"]) if base else url
    for image in soup.find_all("img"):
        reference = _soup_reference(image)
        figure = image.find_parent("figure")
        caption = figure.find("figcaption") if figure else None
        texts = [image.get("alt"), caption.get_text() if caption else "", image.get("title")]
        for text in dict.fromkeys(filter(None, texts)):
            if reference and text.strip():
                yield urljoin(base_url, reference), text


def _soup_reference(image: Any) -> str:
    if image.get("srcset"):
        candidates = [entry.split() for entry in image["srcset"].split(",")]
        return str(max(candidates, key=lambda entry: float(entry[-1][:-1]))[0])
    return str(image.get("data-src") or image.get("src") or "")


def warcio_and_json(path: Path) -> Pairs:
    """What a short script does with WAT files."""
    pairs: Pairs = Counter()
    with path.open("rb") as file:
        for record in ArchiveIterator(file):
            if record.rec_type == "metadata":
                envelope = json.loads(record.content_stream().read())["Envelope"]
                url = envelope["WARC-Header-Metadata"]["WARC-Target-URI"]
                response = envelope["Payload-Metadata"]["HTTP-Response-Metadata"]
                for link in response["HTML-Metadata"]["Links"]:
                    if link["path"] == "IMG@/src" and link.get("alt", "").strip():
                        pairs[urljoin(url, link["url"]), link["alt"]] += 1
    return pairs


def measure(work: Callable[[Path], Pairs], path: Path) -> tuple[float, Pairs]:
    """Processor seconds of one round, and what it found."""
    start = time.process_time()
    pairs = work(path)
    return time.process_time() - start, pairs


def compare(
    names: tuple[str, str], works: tuple[Callable[[Path], Pairs], ...], paths: list[Path],
    pages: list[int], rounds: int,
) -> tuple[list[Speed], dict[str, int]]:  # fmt: skip
    """The speeds of two ways to read a file, and how far they agree on the smaller one."""
    seconds: list[list[float]] = [[], []]
    for _ in range(rounds):
        for taken, work, path in zip(seconds, works, paths, strict=True):
            taken.append(measure(work, path)[0])
    speeds = [
        Speed(name, count, count / median(taken), path.stat().st_size / 1e6 / median(taken))
        for name, count, taken, path in zip(names, pages, seconds, paths, strict=True)
    ]
    mine, theirs = (measure(work, paths[1])[1] for work in works)
    same = (mine & theirs).total()
    return speeds, {
        "same": same, "only_ours": mine.total() - same, "only_theirs": theirs.total() - same
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.extract", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--pages", type=int, default=600, help="for ours (default: 600)")
    parser.add_argument("--baseline-pages", type=int, default=60, help="for soup (default: 60)")
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
        counts = [options.pages, options.baseline_pages]
        results = {
            "WARC": compare(
                ("extract_pairs", "warcio + BeautifulSoup"), (ours, warcio_and_soup),
                [warc, small_warc], counts, options.rounds,
            ),
            "WAT": compare(
                ("extract_pairs", "warcio + json"), (ours, warcio_and_json),
                [wat, wat], [options.pages] * 2, options.rounds,
            ),
        }  # fmt: skip
    crawl = {"WARC": options.warc, "WAT": options.wat}
    show(results, size / options.pages, crawl, options.price)
    return 0


def show(
    results: dict[str, tuple[list[Speed], dict[str, int]]],
    page_bytes: float,
    crawl: dict[str, float],
    price: float,
) -> None:
    """The tables, and the same as JSON."""
    write = sys.stdout.write
    write(f"{page_bytes / 1e3:.0f} kB of HTML a page; one core, processor time\n")
    write(f"{'':6}{'':26}{'pages':>7}{'pages/s':>10}{'MB/s':>8}{'ratio':>8}\n")
    output: dict[str, Any] = {"page_bytes": page_bytes}
    soup = results["WARC"][0][1].pages_per_second
    for kind, (speeds, agreement) in results.items():
        for speed in speeds:
            ratio = speeds[0].pages_per_second / speed.pages_per_second
            write(f"{kind:6}{speed.name:26}{speed.pages:7}{speed.pages_per_second:10.1f}")
            write(f"{speed.megabytes_per_second:8.2f}{ratio:8.1f}\n")
        write(f"{kind:6}pairs: {json.dumps(agreement)}\n")
        hours = crawl[kind] * 1e6 / speeds[0].megabytes_per_second / 3600
        output[kind] = {
            "speeds": [asdict(speed) for speed in speeds],
            "ratio": speeds[0].pages_per_second / speeds[1].pages_per_second,
            "ratio_to_soup": speeds[0].pages_per_second / soup,
            "pairs": agreement,
            "core_hours": hours,
            "cost": hours * price,
        }
        write(f"{kind:6}{crawl[kind]:g} TB: {hours:,.0f} core hours, {hours * price:,.0f} at ")
        write(f"{price} a core hour\n")
    write(f"WAT is {output['WAT']['ratio_to_soup']:.0f} times WARC with warcio + BeautifulSoup\n")
    write(json.dumps(output) + "\n")


if __name__ == "__main__":
    sys.exit(main())
