"""A contender's process: one way to download a list of pairs, and as little else as can be.

``python -m benchmarks.download.contender FOLDER NAME`` downloads FOLDER/requests.parquet from the
hosts in FOLDER/hosts.json, and leaves `Report` in FOLDER/report.json, last of all. It is started by
``benchmarks.download.measure``.
"""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
from pydantic import BaseModel, TypeAdapter

from benchmarks.download.case import (
    CONNECTIONS,
    IMAGE_SIZE,
    JPEG_QUALITY,
    MAX_ASPECT_RATIO,
    MAX_BYTES,
    MAX_SECONDS,
    RESIZE_MODE,
    RETRIES,
    TIMEOUT,
)
from benchmarks.download.site import PICTURES

if TYPE_CHECKING:  # each contender imports what is its own
    from workers.base.settings import DownloadSettings

REQUESTS, HOSTS, REPORT = "requests.parquet", "hosts.json", "report.json"
#: What both say that they are.
AGENT = "benchmark"


class Report(BaseModel):
    """What a contender has done."""

    began: float  # to fetch, as far as it knows; seconds since the epoch
    ended: float  # with all files written
    kept: dict[str, str]  # sha256 of what was fetched, by URL


def ours(folder: Path) -> Report:
    """The project's download, with every protection on."""
    from workers.base.opt_outs import Kind, OptOuts
    from workers.fetch.download import download_shard
    from workers.fetch.images_before import ShardFiles
    from workers.fetch.img2dataset_parts import img2dataset_parts

    img2dataset_parts()  # so that its import is not counted as fetching
    opt_outs = [OptOuts.of([(Kind.URL, "http://nobody.invalid/x.jpg"), (Kind.SHA256, "0" * 64)])]
    files = ShardFiles(folder / "images.parquet", folder / "without.parquet")
    began = time.time()
    download_shard(folder / REQUESTS, files, _settings(folder), opt_outs)
    ended = time.time()
    return Report(began=began, ended=ended, kept=_kept(files.images))


def fetch(folder: Path) -> Report:
    """Our fetching alone: what comes is thrown away."""
    from workers.fetch.fetch_each import fetch_each

    urls = pq.read_table(folder / REQUESTS, columns=["url"])["url"].to_pylist()
    began = time.time()
    came = {url: fetched.sha256 for url, fetched in fetch_each(urls, _settings(folder))}
    ended = time.time()
    return Report(began=began, ended=ended, kept={url: sha for url, sha in came.items() if sha})


def img2dataset(folder: Path) -> Report:
    """Stock img2dataset, as its users call it; EXIF is not asked for, since ours keeps none."""
    from img2dataset import download

    out = folder / "out"
    began = time.time()
    download(
        url_list=str(folder / REQUESTS),
        output_folder=str(out),
        input_format="parquet",
        output_format="parquet",
        url_col="url",
        caption_col="caption",
        processes_count=1,
        thread_count=CONNECTIONS,
        number_sample_per_shard=10_000,
        image_size=IMAGE_SIZE,
        resize_mode=RESIZE_MODE,
        resize_only_if_bigger=True,
        encode_quality=JPEG_QUALITY,
        max_aspect_ratio=MAX_ASPECT_RATIO,
        extract_exif=False,
        timeout=TIMEOUT,
        retries=RETRIES,
        user_agent_token=AGENT,
    )
    # Its processes end some time after the last shard is written, which is not fetching.
    stats = sorted(out.glob("*_stats.json"))
    ended = max(path.stat().st_mtime for path in stats)
    kept = {url: sha for path in out.glob("*.parquet") for url, sha in _kept(path).items()}
    return Report(began=began, ended=ended, kept=kept)


def resize_ours(folder: Path) -> Report:
    """Decoding and resizing alone, as our download does it, on all cores."""
    from workers.fetch.img2dataset_parts import img2dataset_parts

    return _resized(folder, img2dataset_parts().Resizer)


def resize_stock(folder: Path) -> Report:
    """Decoding and resizing alone by img2dataset's own Resizer, on all cores."""
    from img2dataset.resizer import Resizer

    return _resized(folder, Resizer)


#: The contenders, by what the table calls them.
CONTENDERS: dict[str, Callable[[Path], Report]] = {
    "ours": ours,
    "img2dataset": img2dataset,
    "ours, fetching alone": fetch,
    "ours, resizing alone": resize_ours,
    "img2dataset, resizing alone": resize_stock,
}


def _settings(folder: Path) -> DownloadSettings:
    from workers.base.settings import DownloadSettings

    hosts = TypeAdapter(tuple[str, ...]).validate_json((folder / HOSTS).read_text())
    return DownloadSettings(
        connections=CONNECTIONS,
        timeout=TIMEOUT,
        max_seconds=MAX_SECONDS,
        max_bytes=MAX_BYTES,
        retries=RETRIES,
        image_size=IMAGE_SIZE,
        resize_mode=RESIZE_MODE,
        jpeg_quality=JPEG_QUALITY,
        max_aspect_ratio=MAX_ASPECT_RATIO,
        user_agent=AGENT,
        allow_private_hosts=hosts,
    )


def _kept(path: Path) -> dict[str, str]:
    table = pq.read_table(path, columns=["url", "status", "sha256"])
    return {row["url"]: row["sha256"] for row in table.to_pylist() if row["status"] == "success"}


def _resized(folder: Path, kind: Callable[..., object]) -> Report:
    resizer = kind(
        IMAGE_SIZE, RESIZE_MODE, True, encode_quality=JPEG_QUALITY,
        max_aspect_ratio=MAX_ASPECT_RATIO,
    )  # fmt: skip
    urls = pq.read_table(folder / REQUESTS, columns=["url"])["url"].to_pylist()
    pictures = [path.read_bytes() for path in sorted((folder / PICTURES).iterdir())]

    def resized(number: int) -> bool:
        jpg, *_ = resizer(io.BytesIO(pictures[number % len(pictures)]))  # type: ignore[operator]
        return jpg is not None

    began = time.time()
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        good = list(threads.map(resized, range(len(urls))))
    ended = time.time()
    return Report(began=began, ended=ended, kept=dict(_good(urls, good)))


def _good(urls: Iterable[str], good: Iterable[bool]) -> Iterable[tuple[str, str]]:
    return ((url, "") for url, is_good in zip(urls, good, strict=True) if is_good)


def main(folder: Path, name: str) -> None:
    """Run one of them."""
    (folder / REPORT).write_text(CONTENDERS[name](folder).model_dump_json())


if __name__ == "__main__":  # img2dataset starts processes that import this again
    main(Path(sys.argv[1]), sys.argv[2])
