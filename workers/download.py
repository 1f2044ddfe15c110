"""Download: a shard of pairs to a shard of pictures, by img2dataset's own downloader.

img2dataset writes its rows in the order in which the downloads end, failed ones among them.
Here the rows are sorted by ``pair_id``, failed ones are counted by reason, and a row that
img2dataset has lost is found out.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from workers.contracts import IMAGES
from workers.img2dataset_parts import img2dataset_parts
from workers.settings import DownloadSettings
from workers.storage import write_table
from workers.tally import Tally

#: The columns that img2dataset is given and hands on.
COLUMNS = ["pair_id", "url", "caption"]

#: Answers with one of these X-Robots-Tag directives do not want their pictures used.
OPT_OUTS = ["noai", "noimageai", "noindex", "noimageindex", "noml"]

#: img2dataset's error texts: which ones are a decision of ours, not a failure.
REJECTIONS = {
    "image too small": "too_small",
    "image area too large": "too_large",
    "aspect ratio too large": "aspect_ratio",
    "Use of image disallowed by X-Robots-Tag directive": "opted_out",
}

#: The rest, by what they contain; the texts are urllib's, http.client's and OpenCV's.
FAILURES = (
    (re.compile(r"infinite loop"), "redirect_loop"),
    (re.compile(r"HTTP Error (\d{3})"), r"http_\1"),
    (re.compile(r"IncompleteRead"), "cut_off"),
    (re.compile(r"timed out"), "timeout"),
    (re.compile(r"Name or service not known|getaddrinfo|No address associated"), "unknown_host"),
    (re.compile(r"Connection|Remote end closed|Errno"), "connection"),
    (re.compile(r"decoding error|imdecode|!buf.empty"), "not_an_image"),
)


def download_shard(pairs: Path, out: Path, settings: DownloadSettings) -> dict[str, Tally]:
    """Download the pictures of a shard of pairs.

    Args:
        pairs: Parquet file with the columns of ``contracts.PAIRS``.
        out: file to write, with the columns of ``contracts.IMAGES``.

    Returns:
        The account of the pictures: every pair is kept, rejected or failed.
    """
    asked = pq.read_table(pairs, columns=COLUMNS)
    tally = Tally()
    with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
        results = _run_img2dataset(asked, Path(scratch), shard_id=_shard_id(out), settings=settings)
    good = results.filter(pc.equal(results["status"], "success")).sort_by("pair_id")
    tally.keep(good.num_rows)
    _count_bad(results.filter(pc.not_equal(results["status"], "success")), tally)
    _count_lost(asked, results, tally)
    write_table(good.select(IMAGES.names).cast(IMAGES), out)
    return {"images": tally}


def _shard_id(out: Path) -> int:
    return int(out.stem) if out.stem.isdigit() else 0


def _run_img2dataset(
    asked: pa.Table, scratch: Path, shard_id: int, settings: DownloadSettings
) -> pa.Table:
    """What img2dataset makes of the rows: one row each, with status, error and JPEG bytes."""
    parts = img2dataset_parts()
    source = scratch / "pairs.feather"
    with pa.ipc.new_file(source, asked.schema) as writer:
        writer.write_table(asked)
    downloader = parts.Downloader(
        sample_writer_class=parts.ParquetSampleWriter,
        resizer=parts.Resizer(
            image_size=settings.image_size,
            resize_mode=settings.resize_mode,
            resize_only_if_bigger=settings.resize_only_if_bigger,
            encode_quality=settings.jpeg_quality,
            min_image_size=settings.min_image_size,
            max_aspect_ratio=settings.max_aspect_ratio,
        ),
        thread_count=settings.threads,
        save_caption=False,
        extract_exif=False,
        output_folder=str(scratch),
        column_list=COLUMNS,
        timeout=settings.timeout,
        number_sample_per_shard=max(1, asked.num_rows),
        oom_shard_count=5,
        compute_hash="sha256",
        verify_hash_type=None,
        encode_format="jpg",
        retries=settings.retries,
        user_agent_token=settings.user_agent,
        disallowed_header_directives=OPT_OUTS,
    )
    downloader.download_shard((shard_id, str(source)))
    return pq.read_table(scratch / f"{shard_id:05d}.parquet")


def _count_bad(bad: pa.Table, tally: Tally) -> None:
    columns = ["pair_id", "url", "caption", "error_message"]
    for row in bad.select(columns).to_pylist():
        text = row["error_message"]
        if text in REJECTIONS:
            tally.reject(REJECTIONS[text], row["pair_id"], row)
        else:
            tally.fail(failure_reason(text), row["pair_id"], row)


def failure_reason(text: str) -> str:
    """A short reason for one of img2dataset's free error texts; ``other`` if it is new."""
    for pattern, reason in FAILURES:
        if match := pattern.search(text):
            return match.expand(reason)
    return "other"


def _count_lost(asked: pa.Table, results: pa.Table, tally: Tally) -> None:
    """img2dataset prints the error and goes on when handling a row fails: count such rows."""
    answered = pc.is_in(asked["pair_id"], value_set=results["pair_id"].combine_chunks())
    rows: list[dict[str, Any]] = asked.filter(pc.invert(answered)).to_pylist()
    for row in rows:
        tally.fail("lost_by_img2dataset", row["pair_id"], row)
