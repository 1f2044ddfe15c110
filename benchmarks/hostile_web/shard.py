"""The cases' rows as a shard: written as requests, downloaded by a process, and read again."""

from __future__ import annotations

import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.hostile_web.addresses import REBINDING
from benchmarks.hostile_web.case import (
    AGENT,
    CONNECTIONS,
    FORMATS,
    KEPT,
    MAX_BYTES,
    MAX_SECONDS,
    RETRIES,
    TIMEOUT,
    Case,
)
from benchmarks.hostile_web.fetching import MEMORY, TASK, Memory, Task, files_of
from benchmarks.hostile_web.server import INSIDE, Web
from workers.base.contracts import REQUESTS
from workers.base.opt_outs import Kind, normal_entry
from workers.base.settings import DownloadSettings

#: Seconds after which the process is ended, whatever it is doing.
LIMIT = 180.0
#: A public address that nothing is asked of: one of those that exist to answer nobody (RFC 7534).
_PUBLIC = "192.175.48.1"
#: The lists: a picture alone, and all others.
_FIRST, _ALL = "first", "all"


@dataclass(frozen=True)
class Row:
    """What has become of a pair."""

    reason: str  # KEPT, or why not
    jpg: bytes | None = None


def download(
    web: Web, first: Case, cases: Sequence[Case], folder: Path
) -> tuple[dict[str, list[Row]], Memory | None]:
    """The rows of the cases, by slug; None of memory where the process has not ended by itself.

    ``first`` is downloaded alone before them, so that what is imported for it is no part of what
    they take.
    """
    pq.write_table(requests(web, [first]), folder / f"{_FIRST}.parquet")
    pq.write_table(requests(web, cases), folder / f"{_ALL}.parquet")
    (folder / TASK).write_text(_task(web).model_dump_json())
    command = [sys.executable, "-m", "benchmarks.hostile_web.fetching", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        process.wait(LIMIT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    left = folder / MEMORY
    memory = Memory.model_validate_json(left.read_text()) if left.exists() else None
    return _rows(folder), memory


def _task(web: Web) -> Task:
    allowed = sorted({web.authority(case) for case in web.cases})
    listed = [url for case in web.cases if case.is_listed for url in web.urls(case)]
    return Task(
        lists=(_FIRST, _ALL),
        settings=DownloadSettings(
            connections=CONNECTIONS,
            timeout=TIMEOUT,
            max_seconds=MAX_SECONDS,
            max_bytes=MAX_BYTES,
            retries=RETRIES,
            formats=FORMATS,
            user_agent=AGENT,
            allow_private_hosts=(*allowed, f"rebinding.test:{web.port}"),
        ),
        listed=tuple(normal_entry(Kind.URL, url) for url in listed),
        names={
            "inside.test": ((INSIDE,),),
            "both.test": ((_PUBLIC, INSIDE),),
            "nowhere.test": ((),),
            "rebinding.test": ((web.addresses.get(REBINDING, INSIDE),), (INSIDE,)),
        },
    )


def requests(web: Web, cases: Sequence[Case]) -> pa.Table:
    """The pairs of the cases, as `contracts.REQUESTS`; `pair_id` is SLUG/URL/CAPTION, by number."""
    rows = [
        {
            "pair_id": f"{case.slug}/{number}/{caption}",
            "url": url,
            "caption": f"{case.name} {caption}",
            "tries": 0,
            "failed_in": None,
            "failed_for": None,
        }
        for case in cases
        for number, url in enumerate(web.urls(case))
        for caption in range(case.captions)
    ]
    return pa.Table.from_pylist(rows, schema=REQUESTS)


def _rows(folder: Path) -> dict[str, list[Row]]:
    """What is there of the second list; nothing where the process has not got so far."""
    rows = defaultdict[str, list[Row]](list)
    out = files_of(folder, _ALL)
    if out.images.exists() and out.answers.exists():
        for row in pq.read_table(out.images, columns=["pair_id", "jpg"]).to_pylist():
            rows[row["pair_id"].partition("/")[0]].append(Row(KEPT, row["jpg"]))
        for row in pq.read_table(out.answers, columns=["pair_id", "reason"]).to_pylist():
            if row["reason"] is not None:
                rows[row["pair_id"].partition("/")[0]].append(Row(row["reason"]))
    return dict(rows)
