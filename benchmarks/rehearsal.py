"""A crawl's text through queries, candidates and pairs, killed at random moments: what each costs.

``python -m benchmarks.rehearsal`` makes a crawl of captions in 200 inputs of five formats (WARC,
Parquet, CSV, TSV, JSON lines), seeded, runs the three stages once undisturbed, then again and again
while all processes of a run are killed with SIGKILL at random moments, and the same command is
given again. Every run that completes must have the bytes of the undisturbed one. Of each kill it
prints the shards that were open, passes' among them, and the seconds that had gone into them: what
is lost, for a shard with a receipt is never done again. No more may be open than there are workers.
The last line is JSON; exits 1 where something is not so.
"""

from __future__ import annotations

import argparse
import bz2
import csv
import html
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from benchmarks.commands import everything, signal_to
from benchmarks.query_builder import SAMPLE
from workers.base.cores import usable_cores
from workers.base.settings import resolve_path
from workers.base.storage import file_hash

STAGES = ("queries", "candidates", "pairs")
#: Images of a page of the crawl.
_PER_PAGE = 20

Rows = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Kill:
    """What one cost."""

    after: float  # seconds from the command's start
    open_shards: int
    lost: float  # seconds that had gone into them


def write_warc(rows: Rows, path: Path) -> None:
    with path.open("wb") as file:
        for first in range(0, len(rows), _PER_PAGE):
            images = "".join(
                f'<img src="{url}" alt="{html.escape(caption)}">'
                for url, caption in rows[first : first + _PER_PAGE]
            )
            body = f"<!doctype html><title>a page</title>{images}".encode()
            answer = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n" + body
            file.write(
                b"WARC/1.0\r\nWARC-Type: response\r\n"
                b"WARC-Target-URI: http://%b/%d.html\r\n"
                b"Content-Type: application/http; msgtype=response\r\n"
                b"Content-Length: %d\r\n\r\n" % (path.stem.encode(), first, len(answer))
            )
            file.write(answer + b"\r\n\r\n")


def write_parquet(rows: Rows, path: Path) -> None:
    urls, captions = zip(*rows, strict=True)
    pq.write_table(pa.table({"url": urls, "caption": captions}), path, row_group_size=5_000)


def write_separated(rows: Rows, path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writerow(["url", "caption"])
        writer.writerows(rows)


def write_json_lines(rows: Rows, path: Path) -> None:
    with path.open("w") as file:
        file.writelines(
            json.dumps({"url": url, "caption": caption}) + "\n" for url, caption in rows
        )


FORMATS: dict[str, Callable[[Rows, Path], None]] = {
    ".warc": write_warc,
    ".parquet": write_parquet,
    ".csv": write_separated,
    ".tsv": write_separated,
    ".jsonl": write_json_lines,
}


def words_of(dump: Path) -> list[str]:
    """The most frequent words of a dump, so that captions match its queries."""
    words = Counter(re.findall(r"[a-z]{3,}", bz2.decompress(dump.read_bytes()).decode().lower()))
    return [word for word, _ in words.most_common(8_000)]


def make_crawl(folder: Path, captions: int, inputs: int, seed: int) -> None:
    """Inputs of all formats; a caption in twenty is there in two of them."""
    folder.mkdir()
    draw = np.random.default_rng(seed)
    words = np.array(words_of(resolve_path(SAMPLE)))
    each = captions // inputs
    urls = draw.permutation(captions + captions // 20)[:captions] % captions
    for number in range(inputs):
        # Few words are frequent: a cube of what is even.
        places = (draw.random((each, 6)) ** 3 * len(words)).astype(int)
        texts = [" ".join(some) for some in words[places]]
        some = urls[number * each : (number + 1) * each]
        rows = [
            (f"http://images.example/{url}.jpg", text)
            for url, text in zip(some.tolist(), texts, strict=True)
        ]
        suffix = list(FORMATS)[number % len(FORMATS)]
        FORMATS[suffix](rows, folder / f"{number:05d}{suffix}")


def write_config(folder: Path, captions: int) -> Path:
    config = folder / "config.yaml"
    settings = {
        "name": "rehearsal",
        "queries": {"dumps": [SAMPLE], "min_count": 20, "bigrams": {"min_count": 10}},
        "pairs": {
            "inputs": [str(folder / "crawl")],
            "pairs_per_query": max(20, captions // 2_000),
            "shards": max(4, captions // 250_000),
        },
        "text": {"bytes_per_shard": 16_000_000},
    }
    config.write_text(yaml.safe_dump(settings))
    return config


def command(config: Path, run_dir: Path) -> list[str]:
    stages = [word for stage in STAGES for word in ("--stage", stage)]
    options = [str(config), "--run-dir", str(run_dir), "--stage", "pages", *stages]
    return [sys.executable, "-m", "pipelines.build_dataset", *options]


def hashes(run_dir: Path) -> dict[str, str]:
    files = sorted(path for stage in STAGES for path in (run_dir / stage).glob("*.parquet"))
    return {str(path.relative_to(run_dir)): file_hash(path) for path in files}


def open_shards(run_dir: Path, since: float) -> Iterator[float]:
    """The moment at which each shard was begun that is worked on."""
    for glob in ("_work/*/*-*", "_passes/_work/*/*-*"):
        for path in run_dir.glob(glob):
            if path.is_dir() and (began := path.stat().st_ctime) >= since:
                yield began


def kill(config: Path, run_dir: Path, after: float, log: Path) -> Kill | None:
    """Give the command and end all its processes so many seconds after it has begun to work; None
    if it was faster."""
    began = time.time()
    with log.open("ab") as output:
        process = subprocess.Popen(
            command(config, run_dir), stdout=output, stderr=output, start_new_session=True
        )
        while process.poll() is None and not any(open_shards(run_dir, began)):
            time.sleep(0.05)
        try:
            process.wait(after)
        except subprocess.TimeoutExpired:
            processes = everything(psutil.Process(process.pid))
            signal_to(processes, signal.SIGSTOP)
            now = time.time()
            ages = [now - start for start in open_shards(run_dir, began)]
            signal_to(processes, signal.SIGKILL)
            process.wait()
            return Kill(round(now - began, 1), len(ages), round(sum(ages), 1))
    if process.returncode:
        raise RuntimeError(
            f"the command ended with {process.returncode}: {log.read_text()[-3000:]}"
        )
    return None


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.rehearsal", description=__doc__.splitlines()[0]
    )
    add = parser.add_argument
    add("--captions", type=int, default=5_000_000, help="of the crawl (default: 5000000)")
    add("--inputs", type=int, default=200, help="files that have them (default: 200)")
    add("--kills", type=int, default=20, help="random moments (default: 20)")
    add("--seed", type=int, default=0, help="of the crawl and of the moments (default: 0)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        return rehearse(Path(name), options)


def rehearse(folder: Path, options: argparse.Namespace) -> int:
    say = sys.stderr.write
    make_crawl(folder / "crawl", options.captions, options.inputs, options.seed)
    config = write_config(folder, options.captions)
    undisturbed = folder / "undisturbed"
    began = time.perf_counter()
    subprocess.run(command(config, undisturbed), check=True, capture_output=True)
    seconds = time.perf_counter() - began
    expected = hashes(undisturbed)
    say(f"undisturbed: {seconds:.0f} s, {len(expected)} files\n")

    chance = random.Random(options.seed)
    kills: list[Kill] = []
    runs, differ = 0, []
    while len(kills) < options.kills or runs == 0:
        run_dir = folder / f"run{runs}"
        while True:
            # Some ten of them in a run, if each goes on where the one before was.
            is_last = len(kills) == options.kills
            after = 86_400.0 if is_last else chance.uniform(0, seconds / 6)
            found = kill(config, run_dir, after, folder / "log.txt")
            if found is None:
                break
            kills.append(found)
            say(f"killed after {found.after} s: {found.open_shards} open, {found.lost} s lost\n")
        made = hashes(run_dir)
        differ += sorted(
            file for file in made.keys() | expected.keys() if made.get(file) != expected.get(file)
        )
        runs += 1
    return show(kills, runs, differ, seconds, options.captions)


def show(
    kills: Sequence[Kill], runs: int, differ: Sequence[str], seconds: float, captions: int
) -> int:
    """The table, and the same as JSON."""
    write, workers = sys.stdout.write, usable_cores()
    write("| killed after, s | open shards | s lost |\n|--:|--:|--:|\n")
    for one in kills:
        write(f"| {one.after} | {one.open_shards} | {one.lost} |\n")
    most = max((one.open_shards for one in kills), default=0)
    write(
        f"{captions:,} captions, undisturbed {seconds:.0f} s; {len(kills)} kills in {runs} runs, "
        f"{sum(one.lost for one in kills):.0f} s lost; never more than {most} shards open, with "
        f"{workers} workers; {len(differ)} files differ\n"
    )
    is_good = not differ and most <= workers
    write(
        json.dumps(
            {
                "captions": captions,
                "undisturbed_seconds": seconds,
                "kills": [asdict(one) for one in kills],
                "runs": runs,
                "differ": list(differ),
                "workers": workers,
                "cores": os.cpu_count(),
            }
        )
        + "\n"
    )
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
