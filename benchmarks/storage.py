"""What a run in a bucket costs: the sample's stages and one shard's way there and back.

``python -m benchmarks.storage`` starts an S3-compatible server on loopback (moto, in memory), runs
`pipelines.build_dataset` on the small sample into a folder and into a bucket by turns, and sends
and fetches a shard of random bytes through ``workers.base.copies``, beside writing and reading it
as a local run does (with fsync) and beside a bare PUT and GET of the same client. Both data sets
must have the same bytes. Prints two tables, and as its last line the same as JSON.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.small_sample import SmallSample
from pipelines.run.directory import RECORD
from pipelines.stages import DATASET_STAGES
from tests.object_store import ObjectStore, serving_objects
from workers.base.bucket import Bucket
from workers.base.copies import open_copy
from workers.base.storage import replacing

BUILD = "pipelines.build_dataset"


def stage_seconds(record: Mapping[str, Any]) -> dict[str, float]:
    """What each stage took, as a run's record has it."""
    return {name: record["stages"][name]["wall_seconds"] for name in DATASET_STAGES}


def built(sample: SmallSample, place: Path | str) -> float:
    """Seconds of a whole command."""
    start = time.perf_counter()
    result = sample.run(BUILD, place)
    if result.returncode:
        raise RuntimeError(f"{BUILD} ended with {result.returncode}:\n{result.stderr}")
    return time.perf_counter() - start


def compare(folder: Path, bucket: Bucket) -> int:
    """The number of shards, which must be the same in both."""
    files = [path for stage in DATASET_STAGES for path in (folder / stage).glob("*.parquet")]
    for path in files:
        if bucket.read(str(path.relative_to(folder)))[0] != path.read_bytes():
            raise RuntimeError(f"{path.name} differs in the bucket")
    return len(files)


def of_stages(store: ObjectStore, rounds: int, folder: Path) -> Iterator[dict[str, Any]]:
    """The seconds of each round, here and there."""
    sample = SmallSample()
    for number in range(rounds):
        url = f"{store.make_bucket(f'round{number}')}/run"
        here, bucket = folder / str(number), Bucket(url)
        seconds = built(sample, here), built(sample, url)
        shards = compare(here, bucket)
        records = (here / RECORD).read_bytes(), bucket.read(RECORD)[0]
        stages = [stage_seconds(json.loads(record)) for record in records]
        yield {"command": seconds, "shards": shards, "stages": stages}


def seconds_of(work: Callable[[], object], rounds: int) -> float:
    """The median of some rounds."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return median(times)


def of_shard(store: ObjectStore, megabytes: int, rounds: int, folder: Path) -> dict[str, float]:
    """MB/s of a shard's way to the bucket and back, of a local one's, and of the client alone."""
    content = os.urandom(megabytes * 1_000_000)
    copy = open_copy(f"{store.make_bucket('shards')}/run")
    with copy.owned():
        sent, bare, local = copy.root / "shard", "bare", folder / "local"
        sent.write_bytes(content)

        def write_local() -> None:
            with replacing(local) as temporary:
                temporary.write_bytes(content)

        def fetch() -> None:
            sent.unlink()
            copy.bring(sent)

        def put() -> None:
            copy.bucket.delete([bare])
            copy.bucket.write(bare, content, None)

        works: dict[str, Callable[[], object]] = {
            "write local": write_local,
            "write bucket": lambda: copy.publish(sent),
            "bare PUT": put,
            "read local": local.read_bytes,
            "read bucket": fetch,
            "bare GET": lambda: copy.bucket.read(bare),
        }
        return {name: megabytes / seconds_of(work, rounds) for name, work in works.items()}


def tables(rounds: Sequence[Mapping[str, Any]], speeds: Mapping[str, float]) -> Iterator[str]:
    """Both tables."""
    yield "| stage | folder, s | bucket, s |"
    yield "|---|--:|--:|"
    for stage in DATASET_STAGES:
        here, there = (median(one["stages"][side][stage] for one in rounds) for side in (0, 1))
        yield f"| {stage} | {here:.1f} | {there:.1f} |"
    here, there = (median(one["command"][side] for one in rounds) for side in (0, 1))
    yield f"| the command | {here:.1f} | {there:.1f} ({there / here - 1:+.0%}) |"
    yield ""
    yield "| one shard | MB/s |"
    yield "|---|--:|"
    yield from (f"| {name} | {speed:.0f} |" for name, speed in speeds.items())


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.storage",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=3, help="runs of each kind (default: 3)")
    parser.add_argument("--megabytes", type=int, default=100, help="of the shard (default: 100)")
    options = parser.parse_args()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="storage-") as name, serving_objects() as store:
        folder = Path(name) / secrets.token_hex(4)
        folder.mkdir()
        rounds = list(of_stages(store, options.rounds, folder))
        speeds = of_shard(store, options.megabytes, 5, folder)
    sys.stdout.writelines(f"{line}\n" for line in tables(rounds, speeds))
    sys.stdout.write(json.dumps({"rounds": rounds, "megabytes_per_second": speeds}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
