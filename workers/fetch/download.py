"""Download: a list of pairs to a shard of images, fetched by us, made small by img2dataset.

A URL is fetched, and its image resized, once, however many captions it has, and also where they
come on different nights: a row whose URL's image another shard has is given that one.
img2dataset's writer has the rows in the order in which the images come; here they are sorted by
``pair_id``. What came of every row, one without an image as well, is in a table beside them.
"""

from __future__ import annotations

import io
import re
import tempfile
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clip_model.image_files import ImageError, format_of
from workers.base.contracts import ANSWERS, IMAGES
from workers.base.cores import usable_cores
from workers.base.opt_outs import OptOuts
from workers.base.settings import DownloadSettings
from workers.base.storage import write_table
from workers.base.tally import Tally
from workers.fetch import image_fetch
from workers.fetch.fetch_each import fetch_each
from workers.fetch.image_fetch import Fetched
from workers.fetch.images_before import ShardFiles, images_before
from workers.fetch.img2dataset_parts import img2dataset_parts
from workers.fetch.requests import read_requests
from workers.web.leases import Book

#: The columns that are handed on, and all that img2dataset's writer is given; it adds the image's.
COLUMNS = ["pair_id", "url", "caption"]
FORMAT = "jpg"
_WRITTEN = pa.schema([field.with_nullable(True) for field in IMAGES if field.name != FORMAT])

#: Digits of a row's number in a key.
KEY_DIGITS = 5

_WRITER_FILE = f"{0:0{KEY_DIGITS}d}.parquet"

#: What is shown of a pair without an image.
_SHOWN = ["pair_id", "url", "caption", "reason", "rejected", "error_message", "tries"]

#: What its resizing says of images that we do not want; the rest of its texts are OpenCV's.
REJECTIONS = {
    "image too small": "too_small",
    "image area too large": "too_large",
    "aspect ratio too large": "aspect_ratio",
}
#: The texts of `ImageError`.
NO_IMAGE = re.compile(r"^(?:not an image|truncated|broken): ")
TOO_LARGE = re.compile(r"^too large: ")

#: Threads that resize, at most: a machine has a task for each of its cores, and more than these
#: would wait for what one event loop fetches.
RESIZING = 4

NOTHING_BEFORE: Mapping[str, ShardFiles] = {}

_Resized = tuple[bytes | None, dict[str, Any]]


def download_shard(
    requests: Path,
    out: ShardFiles,
    settings: DownloadSettings,
    opt_outs: Sequence[OptOuts] = (),
    book: Book | None = None,
    before: Mapping[str, ShardFiles] = NOTHING_BEFORE,
) -> dict[str, Tally]:
    """Download the images of a list of pairs.

    Args:
        requests: Parquet file with the columns of ``contracts.REQUESTS``.
        out: files to write.
        opt_outs: what is not to be asked for.
        book: what downloads at the same time have in common; None: there is only this one.
        before: shards that the list says to have images of some URLs. One that they do not have,
            or that is not to be used any more, is asked for.

    Returns:
        The tally of the images: every pair is kept, rejected or failed.
    """
    asked = read_requests(requests)
    images_had, answers_had = images_before(asked, before, opt_outs)
    to_fetch = asked.filter(pc.invert(pc.is_in(asked["pair_id"], answers_had["pair_id"])))
    with tempfile.TemporaryDirectory(dir=out.images.parent) as scratch:
        rows_of = defaultdict[str, list[dict[str, Any]]](list)
        for row in to_fetch.select([*COLUMNS, "tries"]).to_pylist():
            rows_of[row["url"]].append(row)
        with closing(fetch_each(list(rows_of), settings, opt_outs, book)) as fetching:
            answers = _answers(fetching, rows_of, Path(scratch), settings)
        fetched = pq.read_table(Path(scratch) / _WRITER_FILE).cast(IMAGES)
    images = pa.concat_tables([fetched, images_had]).sort_by("pair_id")
    answers = pa.concat_tables([answers, answers_had]).sort_by("pair_id")
    write_table(_with_keys(images, asked, out.images.stem), out.images)
    write_table(answers, out.answers)
    return {"images": _tally(answers)}


def _tally(answers: pa.Table) -> Tally:
    tally = Tally()
    tally.keep(answers["reason"].null_count)
    for row in answers.filter(pc.is_valid(answers["reason"])).select(_SHOWN).to_pylist():
        drop = tally.reject if row.pop("rejected") else tally.fail
        drop(row.pop("reason"), row["pair_id"], row)
    return tally


def _with_keys(images: pa.Table, asked: pa.Table, shard: str) -> pa.Table:
    """Keys that are different in all shards; img2dataset's are places in one."""
    places = pc.index_in(images["pair_id"], value_set=asked["pair_id"].combine_chunks())
    keys = [f"{shard}-{place:0{KEY_DIGITS}d}" for place in places.to_pylist()]
    at = IMAGES.get_field_index("key")
    return images.set_column(at, IMAGES.field(at), pa.array(keys, pa.string()))


def _answers(
    fetching: Iterable[tuple[str, Fetched]],
    rows_of: Mapping[str, Sequence[dict[str, Any]]],
    scratch: Path,
    settings: DownloadSettings,
) -> pa.Table:
    """What came of each row, by URL; the images are written into ``scratch``."""
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
    answers = []
    for url, fetched, (jpg, about) in _each_resized(fetching, resizer, settings.formats):
        answer = _about_answer(fetched)
        for row in rows_of[url]:
            if jpg is None:
                answers.append({**row, **answer, **about})
            else:
                answers.append({**row, **answer})
                writer.write(jpg, "", None, {**row, **about})
    writer.close()
    return pa.Table.from_pylist(answers, schema=ANSWERS)


def _each_resized(
    fetching: Iterable[tuple[str, Fetched]], resizer: Any, formats: tuple[str, ...]
) -> Iterator[tuple[str, Fetched, _Resized]]:
    """URLs with what came of them, made small by several threads, in their order.

    No more than two contents a thread are taken before they are worked on.
    """
    threads = min(usable_cores(), RESIZING)
    waiting = deque[tuple[str, Fetched, Future[_Resized]]]()
    with ThreadPoolExecutor(threads, "resize") as pool:
        for url, fetched in fetching:
            waiting.append((url, fetched, pool.submit(_resized, fetched, resizer, formats)))
            while len(waiting) > 2 * threads or (waiting and waiting[0][2].done()):
                first, content, result = waiting.popleft()
                yield first, content, result.result()
        for url, fetched, result in waiting:
            yield url, fetched, result.result()


def _resized(fetched: Fetched, resizer: Any, formats: tuple[str, ...]) -> _Resized:
    """The JPEG that is stored, and columns of ``IMAGES``; or None, and columns of ``ANSWERS``."""
    if fetched.content is None:
        is_rejected = fetched.reason in image_fetch.REJECTIONS
        return None, _dropped(fetched.reason, is_rejected, fetched.text or None)
    try:
        original_format = format_of(fetched.content, formats)
    except ImageError as refusal:
        return None, _dropped(_reason(str(refusal)), False, str(refusal))
    jpg, *sides, error = resizer(io.BytesIO(fetched.content))
    if error is not None:
        return None, _dropped(_reason(error), error in REJECTIONS, error)
    names = ("width", "height", "original_width", "original_height")
    return jpg, dict(zip(names, sides, strict=True)) | {
        "status": "success",
        "error_message": None,
        "final_url": fetched.answer.url,
        "original_bytes": len(fetched.content),
        "original_format": original_format,
        "sha256": fetched.sha256,
    }


def _dropped(reason: str, is_rejected: bool, text: str | None) -> dict[str, Any]:
    return {"reason": reason, "rejected": is_rejected, "error_message": text}


def _reason(error: str) -> str:
    """The reason for what the resizing says of an image."""
    if error in REJECTIONS:
        return REJECTIONS[error]
    if TOO_LARGE.search(error):
        return "too_large"
    if NO_IMAGE.search(error):
        return "not_an_image"
    return "other"


def _about_answer(fetched: Fetched) -> dict[str, Any]:
    """The columns of ``ANSWERS`` for an image that came, if it came."""
    last = fetched.answer
    return {
        "final_url": last.url,
        "http_status": last.status,
        "last_modified": last.last_modified,
        "etag": last.etag,
        "attempts": fetched.attempts,
        "ended_at": datetime.fromtimestamp(round(fetched.ended, 3), UTC),
    }
