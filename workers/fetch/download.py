"""Download: a list of pairs to a shard of images, by img2dataset's downloader and our fetching.

img2dataset writes its rows in the order in which the downloads end, failed ones among them.
Here the rows are sorted by ``pair_id``, failed ones are kept in a table with their reasons, and a
row that img2dataset has lost is found out.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from workers.base.contracts import IMAGES, WITHOUT_IMAGE
from workers.base.opt_outs import OptOuts
from workers.base.settings import DownloadSettings
from workers.base.storage import write_table
from workers.base.tally import Tally
from workers.fetch import image_fetch
from workers.fetch.image_fetch import ImageFetcher
from workers.fetch.img2dataset_parts import img2dataset_parts

#: The columns that img2dataset is given and hands on.
COLUMNS = ["pair_id", "url", "caption"]

#: Digits of a row's number in a key.
KEY_DIGITS = 5

#: What its resizing says of images that we do not want; the rest of its texts are OpenCV's.
REJECTIONS = {
    "image too small": "too_small",
    "image area too large": "too_large",
    "aspect ratio too large": "aspect_ratio",
}
#: The texts of `ImageError`.
NO_IMAGE = re.compile(r"^(?:not an image|truncated|broken): ")
TOO_LARGE = re.compile(r"^too large: ")


@dataclass(frozen=True)
class ShardFiles:
    """What a download writes."""

    images: Path  # the columns of ``contracts.IMAGES``
    without: Path  # those of ``contracts.WITHOUT_IMAGE``


def download_shard(
    requests: Path,
    out: ShardFiles,
    settings: DownloadSettings,
    opt_outs: Sequence[OptOuts] = (),
) -> dict[str, Tally]:
    """Download the images of a list of pairs.

    Args:
        requests: Parquet file with the columns of ``contracts.REQUESTS``.
        out: files to write.
        opt_outs: what is not to be asked for.

    Returns:
        The tally of the images: every pair is kept, rejected or failed.
    """
    asked = pq.read_table(requests, columns=[*COLUMNS, "tries"])
    with tempfile.TemporaryDirectory(dir=out.images.parent) as scratch:
        fetcher = ImageFetcher(settings, opt_outs)
        results = _run_img2dataset(asked.select(COLUMNS), Path(scratch), settings, fetcher)
    good = results.filter(pc.equal(results["status"], "success")).select(IMAGES.names)
    images = _with_keys(good.cast(IMAGES).sort_by("pair_id"), asked, out.images.stem)
    without = _without_image(asked, results).sort_by("pair_id")
    write_table(images, out.images)
    write_table(without, out.without)
    return {"images": _tally(images, without)}


def _tally(images: pa.Table, without: pa.Table) -> Tally:
    tally = Tally()
    tally.keep(images.num_rows)
    for row in without.to_pylist():
        drop = tally.reject if row.pop("rejected") else tally.fail
        drop(row.pop("reason"), row["pair_id"], row)
    return tally


def _with_keys(images: pa.Table, asked: pa.Table, shard: str) -> pa.Table:
    """Keys that are different in all shards; img2dataset's are places in one."""
    places = pc.index_in(images["pair_id"], value_set=asked["pair_id"].combine_chunks())
    keys = [f"{shard}-{place:0{KEY_DIGITS}d}" for place in places.to_pylist()]
    at = IMAGES.get_field_index("key")
    return images.set_column(at, IMAGES.field(at), pa.array(keys, pa.string()))


def _run_img2dataset(
    asked: pa.Table, scratch: Path, settings: DownloadSettings, fetcher: ImageFetcher
) -> pa.Table:
    """What img2dataset makes of the rows: one row each, with status, error and JPEG bytes."""
    parts = img2dataset_parts()
    parts.downloader.download_image_with_retry = fetcher.img2dataset_fetch
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
        timeout=None,  # this and what else is about fetching: ImageFetcher has it
        number_sample_per_shard=max(1, asked.num_rows),
        oom_shard_count=KEY_DIGITS,
        compute_hash="sha256",
        verify_hash_type=None,
        encode_format="jpg",
        retries=0,
        user_agent_token=None,
        disallowed_header_directives=None,
    )
    downloader.download_shard((0, str(source)))
    return pq.read_table(scratch / "00000.parquet")


def _without_image(asked: pa.Table, results: pa.Table) -> pa.Table:
    """The rows that did not become an image, and why.

    img2dataset prints an error of its own handling of a row and goes on without it: such a row is
    lost.
    """
    bad = results.filter(pc.not_equal(results["status"], "success"))
    answered = pc.is_in(asked["pair_id"], value_set=results["pair_id"].combine_chunks())
    rows = bad.select([*COLUMNS, "status", "error_message"]).to_pylist()
    tries = dict(zip(*(asked[name].to_pylist() for name in ("pair_id", "tries")), strict=True))
    for row in rows:
        row["tries"] = tries[row["pair_id"]]
        why = _rejection_or_failure(row.pop("status"), row["error_message"])
        row["reason"], row["rejected"] = why
    for row in asked.filter(pc.invert(answered)).to_pylist():  # with its tries
        rows.append({**row, "rejected": False, "reason": "lost_by_img2dataset"})
    return pa.Table.from_pylist(rows, schema=WITHOUT_IMAGE)


def _rejection_or_failure(status: str, text: str) -> tuple[str, bool]:
    """The reason for a row without an image, and whether it is a rejection."""
    if status == "failed_to_download":  # "REASON: text", of ``image_fetch``
        reason = text.partition(":")[0]
        return reason, reason in image_fetch.REJECTIONS
    if text in REJECTIONS:
        return REJECTIONS[text], True
    if TOO_LARGE.search(text):
        return "too_large", False
    return ("not_an_image" if NO_IMAGE.search(text) else "other"), False
