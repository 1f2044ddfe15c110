"""Download: a list of pairs to a shard of images, fetched by us, made small by img2dataset.

A URL is fetched, and its image resized, once, however many captions it has. img2dataset's writer
has the rows in the order in which the images come, failed ones among them; here they are sorted by
``pair_id``, and failed ones are kept in a table with their reasons.
"""

from __future__ import annotations

import io
import re
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from workers.base.contracts import IMAGES, WITHOUT_IMAGE
from workers.base.opt_outs import OptOuts
from workers.base.settings import DownloadSettings
from workers.base.storage import write_table
from workers.base.tally import Tally
from workers.fetch import image_fetch
from workers.fetch.fetch_each import fetch_each
from workers.fetch.image_fetch import Fetched
from workers.fetch.img2dataset_parts import img2dataset_parts

#: The columns that are handed on, and all that img2dataset's writer is given; it adds the image's.
COLUMNS = ["pair_id", "url", "caption"]
FORMAT = "jpg"
_WRITTEN = pa.schema([field.with_nullable(True) for field in IMAGES if field.name != FORMAT])

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
        results = _fetched(asked.select(COLUMNS), Path(scratch), settings, opt_outs)
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


def _fetched(
    asked: pa.Table, scratch: Path, settings: DownloadSettings, opt_outs: Sequence[OptOuts]
) -> pa.Table:
    """A row for each that is asked for, with the columns of ``contracts.IMAGES``."""
    parts = img2dataset_parts()
    resizer = parts.Resizer(
        image_size=settings.image_size,
        resize_mode=settings.resize_mode,
        resize_only_if_bigger=settings.resize_only_if_bigger,
        encode_quality=settings.jpeg_quality,
        min_image_size=settings.min_image_size,
        max_aspect_ratio=settings.max_aspect_ratio,
    )
    writer = parts.ParquetSampleWriter(0, str(scratch), False, KEY_DIGITS, _WRITTEN, FORMAT)
    rows_of = defaultdict[str, list[dict[str, Any]]](list)
    for row in asked.to_pylist():
        rows_of[row["url"]].append(row)
    for url, fetched in fetch_each(list(rows_of), settings, opt_outs):
        jpg, result = _resized(fetched, resizer)
        for row in rows_of[url]:
            writer.write(jpg, "", None, {**row, **result})
    writer.close()
    return pq.read_table(scratch / f"{0:0{KEY_DIGITS}d}.parquet")


def _resized(fetched: Fetched, resizer: Any) -> tuple[bytes | None, dict[str, Any]]:
    """The JPEG that is stored, and the columns that img2dataset has beside it."""
    about: dict[str, Any] = {**dict.fromkeys(_WRITTEN.names[len(COLUMNS) :]), "key": ""}
    if fetched.content is None:
        text = f"{fetched.reason}: {fetched.text}" if fetched.text else fetched.reason
        return None, about | {"status": "failed_to_download", "error_message": text}
    jpg, *sides, error = resizer(io.BytesIO(fetched.content))
    if error is not None:
        return None, about | {"status": "failed_to_resize", "error_message": error}
    names = ("width", "height", "original_width", "original_height")
    about |= dict(zip(names, sides, strict=True))
    return jpg, about | {"status": "success", "sha256": fetched.sha256}


def _without_image(asked: pa.Table, results: pa.Table) -> pa.Table:
    """The rows that did not become an image, and why."""
    bad = results.filter(pc.not_equal(results["status"], "success"))
    rows = bad.select([*COLUMNS, "status", "error_message"]).to_pylist()
    tries = dict(zip(*(asked[name].to_pylist() for name in ("pair_id", "tries")), strict=True))
    for row in rows:
        row["tries"] = tries[row["pair_id"]]
        why = _rejection_or_failure(row.pop("status"), row["error_message"])
        row["reason"], row["rejected"] = why
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
