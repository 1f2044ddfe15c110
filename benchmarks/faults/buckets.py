"""A bucket that is busy, away, refused, gone or somebody else's while a run lives in it."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from typing import Any

from benchmarks.faults.fault import Fault, Place
from benchmarks.faults.inputs import CSV, DUMP, text_run
from benchmarks.small_sample import free_port
from tests.object_store import Answer, ObjectStore, Start, refuse
from tests.object_store import Fault as StoreFault
from workers.base.bucket import Bucket
from workers.base.lease import NAME, Lease, acquire

_RUN = "nightly/text"
#: What holds of a run that came to its end, whatever its store did meanwhile.
_DONE = "pairs: 1 of 1 shards, "


def _store(place: Place) -> ObjectStore:
    """A server of the fault's own, which its command reaches."""
    store = ObjectStore()
    place.stack.callback(store.close)
    place.environment.update(store.environment())
    return store


def _in_bucket(
    make: Callable[[ObjectStore, str], StoreFault | None] = lambda *_: None,
    before: Callable[[Place, Bucket], object] = lambda *_: None,
) -> Callable[[Place], list[str]]:
    """The stages of text in a bucket whose server does what ``make`` gives."""

    def prepare(place: Place) -> list[str]:
        store = _store(place)
        url = f"{store.new_bucket()}/{_RUN}"
        with store.reached():
            before(place, Bucket(url))
        store.fault = make(store, url)
        return text_run(place, DUMP, CSV.encode(), "--run-dir", url)

    return prepare


def _writes(environ: dict[str, Any], part: str) -> bool:
    return environ["REQUEST_METHOD"] == "PUT" and part in environ["PATH_INFO"]


def _busy(*_: object) -> StoreFault:
    """503 on every fifth request."""
    numbers = itertools.count(1)

    def fault(_environ: Any, start: Start, _application: Any) -> Answer | None:
        return refuse("503 Slow Down", start) if next(numbers) % 5 == 0 else None

    return fault


def _away(seconds: float) -> Callable[[ObjectStore, str], StoreFault]:
    """The server ends in the middle of an upload, and is there again after a while."""

    def make(store: ObjectStore, _url: str) -> StoreFault:
        begun = threading.Event()

        def fault(environ: Any, start: Start, _application: Any) -> Answer | None:
            if _writes(environ, "/queries/") and not begun.is_set():
                begun.set()
                threading.Thread(target=store.away, args=(seconds,), daemon=True).start()
                time.sleep(0.5)
                return refuse("500 Internal Server Error", start)
            return None

        return fault

    return make


def _truncating(*_: object) -> StoreFault:
    """Every answer with a content breaks off in its middle, the first time that it is asked for."""
    seen: set[str] = set()

    def fault(environ: Any, start: Start, application: Any) -> Answer | None:
        key = f"{environ['PATH_INFO']}?{environ['QUERY_STRING']}"
        if environ["REQUEST_METHOD"] != "GET" or key in seen or environ["QUERY_STRING"]:
            return None
        seen.add(key)
        answers: list[str] = []

        def begin(status: str, headers: Any, *more: Any) -> Any:
            answers.append(status)
            return start(status, headers, *more)

        content = b"".join(application(environ, begin))
        return [content[: len(content) // 2] if answers[0].startswith("200") else content]

    return fault


def _read_only(*_: object) -> StoreFault:
    def fault(environ: Any, start: Start, _application: Any) -> Answer | None:
        return None if environ["REQUEST_METHOD"] in ("GET", "HEAD") else refuse("403 No", start)

    return fault


def _deleted(*_: object) -> StoreFault:
    """The bucket is deleted while a shard is sent."""
    gone = threading.Event()
    missing = (
        b'<?xml version="1.0"?><Error><Code>NoSuchBucket</Code>'
        b"<Message>The specified bucket does not exist</Message></Error>"
    )

    def fault(environ: Any, start: Start, _application: Any) -> Answer | None:
        if _writes(environ, "/queries/"):
            gone.set()
        if not gone.is_set():
            return None
        start("404 Not Found", [("Content-Length", str(len(missing)))])
        return [missing]

    return fault


def _held(place: Place, bucket: Bucket) -> None:
    lease = acquire(bucket)
    place.stack.callback(lease.release)


def _overtaken(store: ObjectStore, url: str) -> StoreFault:
    """Somebody else takes the lease while a shard is sent, as when its owner slept too long."""
    taken: list[Lease] = []

    def fault(environ: Any, _start: Start, _application: Any) -> Answer | None:
        if _writes(environ, "/queries/") and not taken:
            store.fault = None
            with store.reached():
                bucket = Bucket(url)
                bucket.delete([NAME])
                taken.append(acquire(bucket))
        return None

    return fault


def _no_server(place: Place) -> list[str]:
    place.environment |= {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}",
        "AWS_ACCESS_KEY_ID": "somebody",
        "AWS_SECRET_ACCESS_KEY": "S3CRET",
    }
    return text_run(place, DUMP, CSV.encode(), "--run-dir", "s3://runs/x")


def _no_bucket(place: Place) -> list[str]:
    _store(place)
    return text_run(place, DUMP, CSV.encode(), "--run-dir", "s3://absent/x")


FAULTS = [
    Fault("no server", _no_server, "--run-dir s3://runs/x cannot be reached"),
    Fault("no such bucket", _no_bucket, "The specified bucket does not exist"),
    Fault("that is read-only", _in_bucket(_read_only), "cannot be reached or written to"),
    Fault("busy: every fifth request", _in_bucket(_busy), _DONE, (0,)),
    Fault("away for 20 s in an upload", _in_bucket(_away(20)), _DONE, (0,)),
    Fault("answers that break off", _in_bucket(_truncating), _DONE, (0,)),
    Fault("deleted in an upload", _in_bucket(_deleted), "does not exist", (3,)),
    Fault("held by another", _in_bucket(before=_held), "is held by process", (75,)),
    Fault("overtaken in an upload", _in_bucket(_overtaken), "was stopped or cut off", (75,)),
    Fault("a lease that is none",
          _in_bucket(before=lambda _, bucket: bucket.write(NAME, b"{", None)), _DONE, (0,)),
    Fault("a receipt that is none", _in_bucket(
        before=lambda _, bucket: bucket.write("_receipts/pairs/all.json", b"{", None)),
        _DONE, (0,)),
    Fault("data of somebody else", _in_bucket(
        before=lambda _, bucket: bucket.write("pairs/mine.parquet", b"PAR1", None)),
        "is not the run's"),
]  # fmt: skip
