"""`python -m query_builder` on dumps and options that cannot be used."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from benchmarks.commands import fill, worker_of
from benchmarks.faults.fault import Fault, Place
from benchmarks.faults.inputs import DUMP, compressed_dump, flipped
from benchmarks.small_sample import free_port


def _build(
    *more: str,
    content: bytes = DUMP,
    name: str = "dump.xml",
    before: Callable[[Place], None] = lambda _: None,
    out: str = "out",
) -> Callable[[Place], list[str]]:
    """The list of a dump with these bytes; `{folder}` is where it is."""

    def prepare(place: Place) -> list[str]:
        (place.folder / name).write_bytes(content)
        before(place)
        where = out if "://" in out else str(place.folder / out)
        options = [option.replace("{folder}", str(place.folder)) for option in more]
        command = [sys.executable, "-m", "query_builder", str(place.folder / name)]
        return [*command, "--out", where, "--min-count", "2", *options]

    return prepare


def _not_empty(place: Place) -> None:
    (place.folder / "out").mkdir()
    (place.folder / "out" / "notes.md").touch()


def _a_file(place: Place) -> None:
    (place.folder / "out").touch()


def _full(place: Place) -> None:
    fill(place.disk("1m"))


def _read_only(place: Place) -> None:
    (place.folder / "fixed").mkdir()
    place.read_only(place.folder / "fixed")


def _views(place: Place) -> None:
    (place.folder / "views.gz").write_bytes(b"\x1f\x8b\x08 no gzip")


def _wordnet(place: Place) -> None:
    (place.folder / "dict").mkdir()
    for kind in ("adj", "adv", "noun", "verb"):
        (place.folder / "dict" / f"data.{kind}").write_text("no synset\n")


def _while_it_reads(action: Callable[[subprocess.Popen[bytes]], None]) -> Callable[[Place], None]:
    def before(place: Place) -> None:
        def disturb(process: subprocess.Popen[bytes]) -> None:
            while process.poll() is None and not (place.folder / "out").exists():
                time.sleep(0.05)
            time.sleep(0.2)
            action(process)

        place.disturb = disturb

    return before


def _kill_worker(process: subprocess.Popen[bytes]) -> None:
    for worker in worker_of(psutil.Process(process.pid)):
        worker.kill()


def _terminate(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)


def _interrupt(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGINT)


def _no_list(place: Place, _: str) -> str:
    return "it has left a list" if Path(place.folder / "out/00000.parquet").exists() else ""


#: Long enough to be met while it is read.
_LONG = DUMP.replace(b"</mediawiki>", DUMP.partition(b"</siteinfo>")[2][:-13] * 400)

FAULTS = [
    Fault("a dump that breaks off", _build(content=compressed_dump()[:-2000], name="d.bz2"),
          "truncated", (3,)),
    Fault("a byte of a dump flipped", _build(content=flipped(compressed_dump()), name="d.bz2"),
          "d.bz2: ", (3,)),
    Fault("a dump that is none", _build(content=b"no dump"), "", (3, 4)),
    Fault("an empty dump", _build(content=b""), "", (3, 4)),
    Fault("a stub dump", _build(content=b"<mediawiki><page><text bytes='9' /></page></mediawiki>"),
          "is a stub dump"),
    Fault("a dump that is absent", _build("{folder}/absent.bz2"), "there is no file"),
    Fault("a dump on the web that is away", _build(f"http://127.0.0.1:{free_port()}/x.bz2"),
          "there is no file http://127.0.0.1"),
    Fault("a dump in a store without its client",
          _build("s3://bucket/x.bz2", before=lambda place: place.without_module("s3fs")),
          "Install s3fs"),
    Fault("no query", _build("--min-count", "999", "--titles", "none"), "the list is empty", (4,)),
    Fault("--out is not empty", _build(before=_not_empty), "is not an empty directory"),
    Fault("--out is a file", _build(before=_a_file), "out"),
    Fault("--out on a server of files", _build(out="ftp://host/out"), "only a local or mounted"),
    Fault("--out on a full disk", _build(before=_full, out="disk/out"), "No space left", (3,)),
    Fault("--out in a read-only folder", _build(before=_read_only, out="fixed/out"),
          "Read-only file system"),
    Fault("damaged views", _build("--views", "{folder}/views.gz", before=_views), "views.gz", (3,)),
    Fault("a damaged WordNet", _build("--wordnet", "{folder}/dict", before=_wordnet),
          "line 1: ", (3,)),
    Fault("shares above 1", _build("--share-word", "0.9"), "and 1 is all of the list"),
    Fault("a measure that is none", _build("--bigram-measure", "chi2"), "'pmi' or 'npmi'"),
    Fault("a Beam runner that is none", _build("--beam=--runner=Nosuch"), "Nosuch"),
    Fault("an option of Beam that is none", _build("--beam=runner=Nosuch"), "runner=Nosuch"),
    Fault("SIGTERM", _build(content=_LONG, before=_while_it_reads(_terminate)), "", (143,),
          check=_no_list),
    Fault("SIGINT", _build(content=_LONG, before=_while_it_reads(_interrupt)), "interrupted",
          (130,), check=_no_list),
    Fault("the worker killed", _build(content=_LONG, before=_while_it_reads(_kill_worker)),
          "was killed by SIGKILL", (70,), check=_no_list),
]  # fmt: skip
